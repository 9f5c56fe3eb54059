"""Files that were written with earlier weights of a preset are decoded with those weights."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import trifocal
import trifocal.pillow
from helpers.cli import run
from helpers.fixed_point import in_arithmetic
from helpers.images import fixed_pattern
from trifocal.api import Detector
from trifocal.errors import Damaged, WeightsError
from trifocal.presets import PRESETS, Preset, load, load_for
from trifocal.weights import WEIGHTS_FOLDER

GOLDEN = Path(__file__).parent / "golden" / "compact-0.1.tri"  # `drawing` by compact of 0.1, quality 40
EARLIER = WEIGHTS_FOLDER / "compact-0.1.safetensors"
MARK = 0x1B77
WITH_EARLIER = [preset for preset in PRESETS if preset.earlier_weights]


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """The image that the weights of 0.1 decode, loaded by their file, uint8 [72, 100, 3]."""
    codec = load("compact", weights=EARLIER)
    return codec.decode(trifocal.Bitstream.open(GOLDEN)).picture.rgb


def test_golden_file_has_the_fingerprint_of_the_earlier_weights() -> None:
    data = GOLDEN.read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith("170b53834fa31377")
    header = trifocal.Bitstream.from_bytes(data).header
    assert (header.preset_id, header.fingerprint, header.quality) == (1, MARK, 40)


def test_the_earlier_weights_never_change() -> None:
    digest = hashlib.sha256(EARLIER.read_bytes()).hexdigest()
    assert digest == "16f9ddc590f703c61d67fc4a16aa92a58fa3b14bb98517502258ece6fe6bcb88"


@pytest.mark.parametrize("preset", WITH_EARLIER, ids=lambda preset: preset.name)
@pytest.mark.parametrize("version", [1, 2])
def test_fingerprints_of_earlier_weights_differ_from_current_ones(preset: Preset, version: int) -> None:
    """In version 1 a fingerprint has 16 bits; new weights with that of earlier ones would be confused with
    them.
    """
    marks = [
        load(preset.name, weights=WEIGHTS_FOLDER / name).fingerprint_in(version)
        for name in preset.earlier_weights
    ]
    assert load(preset.name).fingerprint_in(version) not in marks and None not in marks


def test_compact_and_taco_compact_decode_files_of_the_earlier_weights() -> None:
    assert {preset.name for preset in WITH_EARLIER if EARLIER.name in preset.earlier_weights} >= {
        "compact",
        "taco-compact",
    }


def test_golden_file_decodes_to_its_original_pixels(pixels: NDArray[np.uint8]) -> None:
    """Byte for byte those of the same weights loaded by name; and, up to rounding on another processor, those
    of 0.1.
    """
    assert np.array_equal(trifocal.decode(GOLDEN).picture.rgb, pixels)
    assert np.abs(pixels.astype(int) - fixed_pattern()).mean() == pytest.approx(11.015, abs=0.01)
    expected = [[126, 0, 0], [77, 0, 93], [235, 252, 174], [0, 0, 218]]
    assert np.abs(pixels[0, ::33].astype(int) - expected).max() <= 1


def test_region_of_the_golden_file_is_decoded(pixels: NDArray[np.uint8]) -> None:
    region = trifocal.decode(GOLDEN, region=(30, 20, 40, 30)).picture.rgb.astype(int)
    assert np.abs(region - pixels[20:50, 30:70]).max() <= 1


def test_earlier_weights_still_write_the_golden_file() -> None:
    """Up to latent values that another processor rounds differently."""
    stream = in_arithmetic(load("compact", weights=EARLIER), 1).encode(
        trifocal.Picture(fixed_pattern()), quality=40
    )
    written = trifocal.Bitstream.open(GOLDEN)
    header = replace(stream.header, version=1, fingerprint=MARK)
    assert header == written.header and stream.size == pytest.approx(written.size, rel=0.01)


def test_files_of_taco_compact_are_decoded_with_the_earlier_weights() -> None:
    old = in_arithmetic(load("taco-compact", weights=EARLIER), 1)
    stream = old.encode(trifocal.Picture(fixed_pattern()), quality=40)
    stream = replace(stream, header=replace(stream.header, version=1, fingerprint=MARK))
    assert stream.header.preset_id == 3
    decoded = trifocal.decode(trifocal.Bitstream.from_bytes(stream.to_bytes()))
    assert np.array_equal(decoded.picture.rgb, old.decode(stream).picture.rgb)


def test_pillow_opens_the_golden_file(pixels: NDArray[np.uint8]) -> None:
    with Image.open(GOLDEN) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_detect_decodes_the_golden_file_with_the_earlier_weights(pixels: NDArray[np.uint8]) -> None:
    found = Detector(notify=lambda notice: None)(GOLDEN)
    assert np.array_equal(found.render().rgb, pixels)


def test_command_line_decodes_and_describes_the_golden_file(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    whole, part = tmp_path / "whole.png", tmp_path / "part.png"
    assert run("decode", GOLDEN, "-o", whole).exit_code == 0
    assert run("decode", GOLDEN, "--region", "30,20,40,30", "-o", part).exit_code == 0
    with Image.open(whole) as image:
        assert np.array_equal(np.asarray(image), pixels)
    with Image.open(part) as image:
        assert np.abs(np.asarray(image).astype(int) - pixels[20:50, 30:70]).max() <= 1
    facts = json.loads(run("info", GOLDEN, "--json").stdout)
    assert (facts["preset"], facts["fingerprint"]) == (1, "1b77")


def test_damaged_golden_file_is_refused() -> None:
    data = bytearray(GOLDEN.read_bytes())
    data[-2] ^= 0x55
    with pytest.raises(Damaged):
        trifocal.decode(bytes(data))


def test_error_for_unknown_fingerprints_names_an_available_one() -> None:
    header = replace(trifocal.Bitstream.open(GOLDEN).header, fingerprint=MARK + 1)
    current = f"{load('compact').fingerprint_in(1):04x}"
    with pytest.raises(WeightsError, match=f"weights 1b78 of the preset compact; here are {current}"):
        load_for(header)


def test_custom_weights_are_not_replaced_by_earlier_ones() -> None:
    header = trifocal.Bitstream.open(GOLDEN).header
    with pytest.raises(WeightsError, match="weights 1b77 of the preset compact"):
        load_for(header, weights=WEIGHTS_FOLDER / "compact.safetensors")
    assert load_for(header, weights=EARLIER).fingerprint_in(1) == MARK
