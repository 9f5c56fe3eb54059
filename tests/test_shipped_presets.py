"""Every preset with bundled weights: files round-trip, regions equal parts of the whole image, damage is
refused or greyed out.
"""

from functools import partial

import numpy as np
import pytest

import trifocal
from helpers.images import random_rgb
from trifocal.container import Tag
from trifocal.errors import Damaged
from trifocal.evaluation import psnr
from trifocal.pictures import Picture, canvas
from trifocal.presets import PRESETS, load

SHIPPED = [preset.name for preset in PRESETS if preset.has_weights]
REGION = (100, 90, 60, 70)  # touches four tiles


decode = partial(trifocal.decode, notify=lambda notice: None)  # a text that is missing is a notice


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 128 pixels, so that a small image has several."""
    monkeypatch.setattr(canvas, "TILE", 128)


@pytest.mark.parametrize("preset", SHIPPED)
def test_files_regions_and_damaged_files_are_decoded(preset: str) -> None:
    """Of an image of 3 × 2 tiles; a base layer is in the files of layered presets only."""
    picture = Picture(random_rgb(300, 200, seed=5))
    data = trifocal.encode(picture, preset, quality=60).to_bytes()
    stream = trifocal.Bitstream.from_bytes(data)
    assert stream.header.fingerprint == load(preset).fingerprint
    layered = {Tag.BASE, Tag.ENHANCEMENT} <= {layer.tag for layer in stream.layers}
    assert layered == trifocal.presets.find(preset).has_base_layer
    whole = decode(data).picture.rgb
    assert whole.shape == picture.rgb.shape and psnr(whole, picture.rgb) > 25
    x, y, width, height = REGION
    part = decode(data, region=REGION).picture.rgb.astype(int)
    assert np.abs(part - whole[y : y + height, x : x + width]).max() <= 1

    damaged = bytearray(data)
    damaged[-2] ^= 0x55  # in the last tile
    with pytest.raises(Damaged) as refusal:
        decode(bytes(damaged))
    assert refusal.value.tiles == (5,)
    rest = decode(bytes(damaged), best_effort=True)
    assert rest.damaged == (5,) and (rest.picture.rgb[128:, 256:] == 128).all()
    receptive_field = load(preset).runtime.receptive_field
    assert np.array_equal(rest.picture.rgb[:, : 256 - receptive_field], whole[:, : 256 - receptive_field])
