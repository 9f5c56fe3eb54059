"""Files that were written with earlier weights of a preset are decoded with those weights."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trifocal
import trifocal.pillow
from trifocal.errors import WeightsError
from trifocal.presets import PRESETS, load, load_for
from trifocal.weights import FOLDER, fingerprint, read_weights

GOLDEN = (
    Path(__file__).parent / "golden" / "compact-0.1.tri"
)  # of `drawing`, preset compact, quality 40, weights 1b77


def drawing() -> np.ndarray:
    """Waves, a chessboard and a ramp in red, green and blue, uint8 [72, 100, 3]."""
    y, x = np.mgrid[0:72, 0:100]
    planes = 127 + 120 * np.sin(x / 9) * np.cos(y / 13), 255 * ((x // 12 + y // 12) % 2), (2.5 * x + y) % 256
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def test_the_golden_file_says_compact_and_the_old_fingerprint() -> None:
    header = trifocal.Bitstream.open(GOLDEN).header
    assert (header.preset, header.fingerprint) == (1, 0x1B77)
    assert load("compact").fingerprint != 0x1B77


@pytest.mark.parametrize(
    "preset", [preset for preset in PRESETS if preset.earlier], ids=lambda preset: preset.name
)
def test_earlier_weights_have_the_fingerprints_that_they_are_listed_with(
    preset: trifocal.presets.Preset,
) -> None:
    for mark, name in preset.earlier.items():
        assert fingerprint(read_weights(FOLDER / name)) == mark


def test_it_decodes_to_the_pixels_of_old() -> None:
    """Up to the rounding of another processor's floats."""
    stream = trifocal.Bitstream.open(GOLDEN)
    pixels = trifocal.decode(GOLDEN).picture.rgb
    assert np.array_equal(pixels, load("compact-psnr").decode(stream).picture.rgb)
    assert np.abs(pixels.astype(int) - drawing()).mean() == pytest.approx(11.015, abs=0.01)
    expected = [[126, 0, 0], [77, 0, 93], [235, 252, 174], [0, 0, 218]]
    assert np.abs(pixels[0, ::33].astype(int) - expected).max() <= 1
    region = load_for(stream.header).decode(stream, region=(30, 20, 40, 30)).picture.rgb
    assert np.array_equal(region, pixels[20:50, 30:70])


def test_files_of_taco_compact_are_decoded_with_them_too() -> None:
    old = load("taco-compact", weights=FOLDER / "compact-psnr.safetensors")
    stream = old.encode(trifocal.Picture(drawing()), quality=40)
    assert (stream.header.preset, stream.header.fingerprint) == (3, 0x1B77)
    assert load("taco-compact").fingerprint != 0x1B77
    assert np.array_equal(trifocal.decode(stream).picture.rgb, old.decode(stream).picture.rgb)


def test_pillow_and_the_command_line_open_it_too(tmp_path: Path) -> None:
    pixels = trifocal.decode(GOLDEN).picture.rgb
    with Image.open(GOLDEN) as image:
        assert np.array_equal(np.asarray(image), pixels)
    out = tmp_path / "out.png"
    command = [sys.executable, "-m", "trifocal", "decode", str(GOLDEN), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_other_fingerprints_are_refused_as_ever() -> None:
    header = replace(trifocal.Bitstream.open(GOLDEN).header, fingerprint=0x1B78)
    with pytest.raises(WeightsError, match="weights 1b78 of the preset compact"):
        load_for(header)


def test_weights_that_the_user_names_are_not_replaced() -> None:
    header = trifocal.Bitstream.open(GOLDEN).header
    with pytest.raises(WeightsError, match="weights 1b77 of the preset compact"):
        load_for(header, weights=FOLDER / "compact.safetensors")
