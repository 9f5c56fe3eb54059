"""What `trifocal demo` does: a photograph that ships goes through the codec, and through Pillow's formats at equal bytes."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from trifocal.container import Bitstream
from trifocal.evaluation import Rival, psnr, rivals
from trifocal.pictures import Picture
from trifocal.presets import load

PHOTOGRAPH = Path(__file__).parent / "demo" / "coffee.png"
FULL = 0.99  # of the bytes that a rival may take
GROWTH = 0.04  # of the logarithm of a rival's bytes with its quality, roughly; a guess that saves encodings


@dataclass(frozen=True)
class Row:
    """One format's file of the photograph: size in bytes, bits per pixel, PSNR in dB, seconds each way."""

    name: str
    size: int
    bpp: float
    psnr: float
    encode_s: float
    decode_s: float


def run(out: str | Path = ".", preset: str = "compact", quality: float = 50.0) -> list[Row]:
    """Writes demo.tri and demo.png into the folder `out` (made if it is not there), and measures.

    The first row is Trifocal's, from the files written; each other has the best quality that takes no more bytes, or
    its lowest where even that takes more. Raises PresetError, WeightsError, OptionError and OSError.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    photograph = Picture.open(PHOTOGRAPH)
    codec = load(preset)
    begun = time.perf_counter()
    codec.encode(photograph, quality=quality).save(folder / "demo.tri")
    encoded = time.perf_counter()
    stream = Bitstream.open(folder / "demo.tri")
    decoded = codec.decode(stream).picture
    ended = time.perf_counter()
    decoded.save(folder / "demo.png")
    bpp = 8 * stream.size / (photograph.width * photograph.height)
    ours = Row(
        f"Trifocal {preset}",
        stream.size,
        bpp,
        psnr(decoded.rgb, photograph.rgb),
        encoded - begun,
        ended - encoded,
    )
    return [ours, *(within(rival, photograph, stream.size) for rival in rivals())]


def within(rival: Rival, picture: Picture, size: int) -> Row:
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
    return Row(rival.title, len(best), bpp, psnr(decoded, picture.rgb), encode_s, decode_s)
