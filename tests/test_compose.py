"""Composed detail where a partial file lacks components."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import trifocal
from helpers.cli import run
from trifocal.codecs.composition import WEIGHTS, side_features
from trifocal.codecs.scalable import ScalableCodec
from trifocal.codecs.tile_coding import TileCoder, tile_parts
from trifocal.container import Bitstream, Component, Tag
from trifocal.container.components import SIDE, ComponentLayout
from trifocal.demo import PHOTOGRAPH
from trifocal.errors import OptionError, PresetError
from trifocal.options import DecodeOptions
from trifocal.pictures import Picture
from trifocal.types import LATENT_STRIDE
from trifocal.utils.timing import Stopwatch
from trifocal.weights import read_arrays

Pixels = NDArray[np.uint8]


def encoded(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Bitstream:
    """The demo's photograph, repeated up to that size, with a component for each box."""
    rgb = np.tile(Picture.open(PHOTOGRAPH).rgb, (4, 4, 1))[:height, :width].copy()
    components = [Component("face", box) for box in boxes]
    return trifocal.encode(Picture(rgb), quality=50, refinement=0, components=components)


def decoded(stream: Bitstream, **options: Any) -> Pixels:
    return trifocal.decode(stream, notify=lambda notice: None, **options).picture.rgb


def activity(rgb: Pixels) -> float:
    """The mean difference of neighbouring pixels in grey levels."""
    return float(np.abs(np.diff(rgb.astype(np.int16), axis=1)).mean())


@pytest.fixture(scope="module")
def whole() -> Bitstream:
    return encoded(256, 192, (5, 3, 11, 9))


def test_composed_detail_is_where_components_are_missing(whole: Bitstream) -> None:
    part = whole.only(components="face")
    original, plain, composed = decoded(whole), decoded(part), decoded(part, compose=True)
    inside = np.s_[4 * LATENT_STRIDE : 8 * LATENT_STRIDE, 6 * LATENT_STRIDE : 10 * LATENT_STRIDE]
    assert np.abs(plain[inside].astype(int) - composed[inside]).max() <= 1
    missing = np.s_[10 * LATENT_STRIDE :, :]
    assert activity(plain[missing]) < 0.7 * activity(original[missing])
    assert activity(composed[missing]) > 0.75 * activity(original[missing])


def test_whole_files_decode_as_they_do_without(whole: Bitstream) -> None:
    assert np.array_equal(decoded(whole), decoded(whole, compose=True))


def test_both_engines_compose_the_same_detail(whole: Bitstream) -> None:
    part = whole.only(components="face")
    one, other = (decoded(part, compose=True, engine=engine).astype(int) for engine in ("onnx", "torch"))
    assert np.abs(one - other).max() <= 2


def test_regions_and_tiles_are_composed_as_the_whole_image_is() -> None:
    stream = encoded(1152, 128, (60, 1, 70, 6)).only(components="face")
    composed = decoded(stream, compose=True)
    region = decoded(stream, compose=True, region=(900, 16, 240, 100))
    assert np.abs(region.astype(int) - composed[16:116, 900:1140]).max() <= 2
    plain = decoded(stream)
    assert min(activity(composed[:, at]) / activity(plain[:, at]) for at in (np.s_[:900], np.s_[1130:])) > 1.3


def test_features_are_alike_in_both_arithmetics(whole: Bitstream) -> None:
    codec = trifocal.load("dual-layer-compact")
    layer = whole.layer(Tag.ENHANCEMENT)
    assert isinstance(codec, ScalableCodec) and layer is not None
    layout = ComponentLayout(whole.components, 256, 192)
    found = []
    for arithmetic in (1, 2):
        coder = TileCoder(codec.runtime, arithmetic)
        y = np.random.default_rng(0).normal(0, 50, (1, 12, 16, 385)).astype(np.float32)

        chunks = coder.write_parts(y, 400, tile_parts(layout, 0), Stopwatch())
        found.append(side_features(coder, chunks[SIDE], 400, (12, 16)))
    assert np.abs(found[0] - found[1]).max() < 0.8 and found[0].std() > 0.8


def test_damaged_side_information_leaves_the_preview(whole: Bitstream) -> None:
    layer = whole.layer(Tag.ENHANCEMENT)
    assert layer is not None
    side = ComponentLayout(whole.components, 256, 192).chunks[SIDE, 0]
    lost = whole.keep(lambda tag, index: tag != Tag.ENHANCEMENT or index != side)
    assert np.array_equal(decoded(lost, compose=True), decoded(lost))


def test_damaged_component_is_composed_with_best_effort(whole: Bitstream) -> None:
    """A damaged component counts as missing, and so does the rest, which needs it."""
    layer = whole.layer(Tag.ENHANCEMENT)
    assert layer is not None
    chunk = layer.chunks[ComponentLayout(whole.components, 256, 192).chunks[1, 0]]
    assert chunk is not None
    data = bytearray(whole.to_bytes())
    data[bytes(data).index(chunk)] ^= 255
    given: dict[str, Any] = {"best_effort": True, "notify": lambda notice: None}
    composed = trifocal.decode(bytes(data), compose=True, **given)
    assert composed.missing == ("face", "the rest")
    plain = trifocal.decode(bytes(data), **given).picture.rgb
    assert activity(composed.picture.rgb) > 1.3 * activity(plain)


def test_compose_is_refused_where_nothing_composes(whole: Bitstream) -> None:
    stream = trifocal.encode(np.zeros((64, 64, 3), np.uint8), "compact")
    with pytest.raises(PresetError, match="Files of compact are decoded without compose."):
        trifocal.decode(stream, compose=True)
    with pytest.raises(OptionError, match="base_only excludes .* and compose"):
        DecodeOptions(base_only=True, compose=True)


def test_command_composes(whole: Bitstream, tmp_path: Path) -> None:
    part = whole.only(components="face")
    part.save(tmp_path / "face.tri")
    done = run("decode", tmp_path / "face.tri", "--compose", "-o", tmp_path / "a.png")
    assert (
        done.exit_code == 0 and "the rest. These parts look sharper than its base layer, but" in done.stderr
    )
    assert np.array_equal(Picture.open(tmp_path / "a.png").rgb, decoded(part, compose=True))


def test_bundled_weights_are_packed_and_have_a_record() -> None:
    record = json.loads(WEIGHTS.with_suffix(".json").read_text())
    weights = read_arrays(WEIGHTS)
    assert record["parameters"] == sum(w.size for w in weights.values()) <= 6_000_000
    assert WEIGHTS.stat().st_size < 2.3e6
    measured = record["coco-val"]
    assert measured["composed"]["kernel distance"] < 0.3 * measured["partial"]["kernel distance"]
    with WEIGHTS.with_suffix(".csv").open(newline="") as log:
        *_, last = csv.DictReader(log)
    assert int(last["step"]) == record["steps"]
