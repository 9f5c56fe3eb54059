"""What `trifocal demo` does: a photograph that ships goes through the codec, and through Pillow's formats at equal bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream, Tag
from trifocal.evaluation import PillowCodec, pillow_codecs, psnr
from trifocal.evaluation.codecs.pillow_codecs import LOSSLESS
from trifocal.file_detection import THRESHOLD, drawn, json_objects, named
from trifocal.losses import Ssimulacra2, ssimulacra2_score
from trifocal.pictures import Picture
from trifocal.presets import DEFAULT, shared_codec

PHOTOGRAPH = Path(__file__).with_name("astronaut.png")
FULL = 0.99  # of the bytes that a rival may take
GROWTH = 0.04  # of the logarithm of a rival's bytes with its quality, roughly; a guess that saves encodings
MARGIN, LETTERS = 12, 16  # pixels: around panels, and of what stands under them


@dataclass(frozen=True)
class Row:
    """One format's file of the photograph: size in bytes, bits per pixel, SSIMULACRA2 (100 is the original),
    PSNR in dB, seconds each way."""

    name: str
    size: int
    bpp: float
    ssimulacra2: float
    psnr: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Demo:
    """What was measured, the bytes of each layer, and the files that were written."""

    rows: list[Row]
    layers: list[tuple[str, int]]
    files: list[Path]


def run(out: str | Path = ".", preset: str = DEFAULT, quality: float = 50.0) -> Demo:
    """Writes demo.tri and demo.png into the folder `out` (made if it is not there), and measures.

    For a preset with layers also demo-layers.png: the photograph with what a detector finds in the base layer, and the decoded
    picture. The first row is Trifocal's, from the files written; each other has the best quality that takes no more bytes,
    or its lowest where even that takes more. Raises PresetError, WeightsError, OptionError and OSError.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    photograph = Picture.open(PHOTOGRAPH, "colour")
    codec = shared_codec(preset)
    files = [folder / "demo.tri", folder / "demo.png"]
    begun = time.perf_counter()
    codec.encode(photograph, quality=quality).save(files[0])
    encoded = time.perf_counter()
    stream = Bitstream.open(files[0])
    decoded = codec.decode(stream).picture
    ended = time.perf_counter()
    decoded.save(files[1])
    ours = Row(
        f"Trifocal {preset}",
        stream.size,
        stream.bpp,
        *seen(decoded.rgb, photograph.rgb),
        encoded - begun,
        ended - encoded,
    )
    if isinstance(codec, ScalableCodec):
        files.append(folder / "demo-layers.png")
        layers_of(codec, stream, photograph, decoded).save(files[-1])
    layers = [(layer.name, layer.size) for layer in stream.layers]
    shown = [rival for rival in pillow_codecs() if rival.name != LOSSLESS and not rival.slower]
    return Demo(
        [ours, *(within(rival, photograph, stream.size) for rival in shown)],
        layers,
        files,
    )


def seen(decoded: NDArray[np.uint8], original: NDArray[np.uint8]) -> tuple[float, float]:
    """SSIMULACRA2 and PSNR of a decoded picture."""
    x_hat, x = (
        torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255 for rgb in (decoded, original)
    )
    with torch.inference_mode():
        score = float(ssimulacra2_score(Ssimulacra2()(x_hat, x)))
    return score, psnr(decoded, original)


def layers_of(codec: ScalableCodec, stream: Bitstream, photograph: Picture, decoded: Picture) -> Picture:
    """Side by side: the photograph, what a detector finds in the file's base layer, and the decoded picture."""
    base = stream.layer(Tag.BASE)
    assert base is not None
    found = json_objects(named(codec.detect(stream), THRESHOLD))
    objects = f"{len(found)} object{'s' * (len(found) != 1)}"
    return side_by_side(
        [photograph, drawn(photograph, found), decoded],
        [
            f"the photograph, {3 * photograph.width * photograph.height:,} bytes",
            f"what a detector finds in the base layer's {base.size:,} bytes: {objects}",
            f"the decoded picture: all {stream.size:,} bytes of the file",
        ],
    )


def side_by_side(pictures: Sequence[Picture], texts: Sequence[str]) -> Picture:
    """Pictures of one size in a row, each with its text under it."""
    wide, high = pictures[0].width, pictures[0].height
    sheet = Image.new(
        "RGB", (MARGIN + len(pictures) * (wide + MARGIN), high + 2 * LETTERS + 2 * MARGIN), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTERS)
    for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left = MARGIN + number * (wide + MARGIN)
        sheet.paste(Image.fromarray(picture.rgb), (left, MARGIN))
        draw.text((left, high + MARGIN + LETTERS // 2), text, fill="black", font=font)
    return Picture(np.asarray(sheet))


def within(rival: PillowCodec, picture: Picture, size: int) -> Row:
    """A rival at its best quality within `size` bytes (or nearly its best, once it fills them), or at quality 0."""
    low, high, quality = -1, 101, 50  # low is within, high is not
    while high - low > 1:
        begun = time.perf_counter()
        data = rival.encode(picture, quality)
        seconds = time.perf_counter() - begun
        if len(data) <= size or quality == 0:
            low, best, encode_s = quality, data, seconds
        else:
            high = quality
        if FULL * size <= len(data) <= size:
            break
        step = round(math.log(size / len(data)) / GROWTH)
        quality = min(high - 1, max(low + 1, quality + step))
    begun = time.perf_counter()
    decoded = rival.decode(best)
    decode_s = time.perf_counter() - begun
    bpp = 8 * len(best) / (picture.width * picture.height)
    return Row(rival.title, len(best), bpp, *seen(decoded, picture.rgb), encode_s, decode_s)
