"""The demo: a sample photograph, encoded by Trifocal and by other formats at the same size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trifocal.api import Decoder, Encoder
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream, Tag
from trifocal.evaluation import PillowCodec, pillow_codecs, psnr
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS
from trifocal.file_detection import THRESHOLD, draw_detections, filter_and_name, json_objects
from trifocal.options import EncodeOptions
from trifocal.pictures import Picture
from trifocal.presets import DEFAULT

PHOTOGRAPH = Path(__file__).with_name("astronaut.png")
MARGIN, FONT_SIZE = 12, 16  # pixels: around panels, and of their captions


@dataclass(frozen=True)
class DemoRow:
    """Results of one format: size in bytes, bits per pixel, SSIMULACRA2 (100 is the original; None without
    torch), PSNR in dB, seconds.
    """

    name: str
    size: int
    bpp: float
    ssimulacra2: float | None
    psnr: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Demo:
    """The results, the bytes of each layer, and the files that were written."""

    rows: list[DemoRow]
    layers: list[tuple[str, int]]
    files: list[Path]


def run(out: str | Path = ".", preset: str = DEFAULT, quality: float = 50.0) -> Demo:
    """Write demo.tri and demo.png to the folder `out`, which is created, and measure them.

    For a scalable preset also writes demo-layers.png: the photograph with the objects detected in the base
    layer, and the decoded image. The first row is Trifocal's. The others have the highest quality that takes
    no more bytes, or quality 0 if even that takes more.

    Raises:
        PresetError, WeightsError, OptionError, OSError.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    photograph = Picture.open(PHOTOGRAPH, "colour")
    encoder = Encoder(preset, EncodeOptions(quality=quality))
    decoder = Decoder(codec=encoder.codec)
    files = [folder / "demo.tri", folder / "demo.png"]
    start = time.perf_counter()
    encoder(photograph).save(files[0])
    encoded = time.perf_counter()
    stream = Bitstream.open(files[0])
    decoded = decoder(stream).picture
    ended = time.perf_counter()
    decoded.save(files[1])
    ours = DemoRow(
        f"Trifocal {preset}",
        stream.size,
        stream.bpp,
        *scores(decoded.rgb, photograph.rgb),
        encoded - start,
        ended - encoded,
    )
    if isinstance(encoder.codec, ScalableCodec):
        files.append(folder / "demo-layers.png")
        draw_layers(encoder.codec, stream, photograph, decoded).save(files[-1])
    layers = [(layer.name, layer.size) for layer in stream.layers]
    others = [codec for codec in pillow_codecs() if codec.name != LOSSLESS and not codec.slower]
    return Demo(
        [ours, *(best_within(codec, photograph, stream.size) for codec in others)],
        layers,
        files,
    )


def scores(decoded: NDArray[np.uint8], original: NDArray[np.uint8]) -> tuple[float | None, float]:
    """SSIMULACRA2, which needs torch, and PSNR of a decoded image, uint8 [H, W, 3]."""
    if find_spec("torch") is None:
        return None, psnr(decoded, original)
    import torch

    from trifocal.losses import Ssimulacra2, ssimulacra2_score

    x_hat, x = (
        torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255 for rgb in (decoded, original)
    )
    with torch.inference_mode():
        score = float(ssimulacra2_score(Ssimulacra2()(x_hat, x)))
    return score, psnr(decoded, original)


def draw_layers(codec: ScalableCodec, stream: Bitstream, photograph: Picture, decoded: Picture) -> Picture:
    """Side by side: the photograph, the objects detected in the file's base layer, and the decoded image."""
    base = stream.layer(Tag.BASE)
    assert base is not None
    found = json_objects(filter_and_name(codec.detect(stream), THRESHOLD))
    objects = f"{len(found)} object{'s' * (len(found) != 1)}"
    return side_by_side(
        [photograph, draw_detections(photograph, found), decoded],
        [
            f"the photograph, {3 * photograph.width * photograph.height:,} bytes",
            f"detected in the base layer's {base.size:,} bytes: {objects}",
            f"the decoded image: all {stream.size:,} bytes of the file",
        ],
    )


def side_by_side(images: Sequence[Picture], texts: Sequence[str]) -> Picture:
    """Images of one size in a row, each with its caption below."""
    width, height = images[0].width, images[0].height
    sheet = Image.new(
        "RGB", (MARGIN + len(images) * (width + MARGIN), height + 2 * FONT_SIZE + 2 * MARGIN), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        left = MARGIN + number * (width + MARGIN)
        sheet.paste(Image.fromarray(image.rgb), (left, MARGIN))
        draw.text((left, height + MARGIN + FONT_SIZE // 2), text, fill="black", font=font)
    return Picture(np.asarray(sheet))


def best_within(codec: PillowCodec, picture: Picture, size: int) -> DemoRow:
    """Another codec at about its highest quality within `size` bytes, or at quality 0."""
    _, quality = codec.encode_within(picture, size)
    start = time.perf_counter()
    best = codec.encode(picture, quality)
    encoded = time.perf_counter()
    decoded = codec.decode(best)
    ended = time.perf_counter()
    bpp = 8 * len(best) / (picture.width * picture.height)
    values = *scores(decoded, picture.rgb), encoded - start, ended - encoded
    return DemoRow(codec.title, len(best), bpp, *values)
