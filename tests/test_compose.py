"""Composed detail where a partial file lacks components."""

import copy
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import trifocal
from helpers.cli import run
from helpers.fixed_point import in_arithmetic
from trifocal.codecs.composition import TRAINED_FOR, WEIGHTS, load_composition
from trifocal.container import Bitstream, Component, Layer, Tag
from trifocal.container.components import SIDE, ComponentLayout
from trifocal.demo import PHOTOGRAPH
from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.options import DecodeOptions
from trifocal.pictures import Picture
from trifocal.types import LATENT_STRIDE
from trifocal.weights import metadata_of, read_arrays, write_weights

Pixels = NDArray[np.uint8]


def encoded(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Bitstream:
    """The demo's photograph, repeated up to that size, with a component for each box."""
    rgb = np.tile(Picture.open(PHOTOGRAPH).rgb, (4, 4, 1))[:height, :width].copy()
    components = [Component("face", box) for box in boxes]
    return trifocal.encode(Picture(rgb), quality=50, refinement=0, components=components)


def decoded(stream: Bitstream | bytes, **options: Any) -> Pixels:
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


def test_regions_are_composed_as_the_whole_image_is() -> None:
    """Two tiles that are not alike, and regions inside one of them and across both."""
    stream = encoded(1152, 128, (60, 1, 70, 6))
    rgb = decoded(stream)
    rgb[:, 1024:] = np.random.default_rng(0).integers(0, 256, rgb[:, 1024:].shape, np.uint8)
    stream = trifocal.encode(Picture(rgb), quality=50, refinement=0, components=list(stream.components))
    part = stream.only(components="face")
    plain, composed = decoded(part), decoded(part, compose=True)
    for x, y, width, height in ((100, 20, 300, 90), (900, 16, 240, 100)):
        region = decoded(part, compose=True, region=(x, y, width, height))
        assert np.abs(region.astype(int) - composed[y : y + height, x : x + width]).max() <= 2
    assert min(activity(composed[:, at]) / activity(plain[:, at]) for at in (np.s_[:900], np.s_[1130:])) > 1.2


def test_files_of_both_arithmetics_are_composed(whole: Bitstream) -> None:
    rgb = decoded(whole)
    old = in_arithmetic(trifocal.load("dual-layer-compact"), 1)
    file = old.encode(Picture(rgb), quality=50, refinement=0, components=list(whole.components))
    new = trifocal.encode(Picture(rgb), quality=50, refinement=0, components=list(whole.components))
    assert file.header.fingerprint != new.header.fingerprint
    one, other = (decoded(stream.only(components="face"), compose=True) for stream in (file, new))
    assert activity(one) == pytest.approx(activity(other), rel=0.05)
    assert activity(one) > 1.3 * activity(decoded(file.only(components="face")))


def side_chunk(stream: Bitstream) -> int:
    """The index of the side information of the only tile."""
    assert stream.layout is not None
    return stream.layout.chunks[SIDE, 0]


def test_nothing_is_composed_without_side_information(whole: Bitstream) -> None:
    side, notices = side_chunk(whole), list[str]()
    lost = whole.keep(lambda tag, index: tag != Tag.ENHANCEMENT or index != side)
    composed = trifocal.decode(lost, compose=True, notify=notices.append).picture.rgb
    assert np.array_equal(composed, decoded(lost))
    assert "These parts look as coarse as its base layer;" in notices[0]


@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: data + b"123456789", lambda data: data[:1]]
)
def test_malformed_side_information_counts_as_missing(
    whole: Bitstream, change: Callable[[bytes], bytes]
) -> None:
    """Its check sum is right, so only decoding shows that it is not valid."""
    side = side_chunk(whole)

    def changed(layer: Layer) -> Layer:
        chunks = [*layer.chunks]
        if layer.tag == Tag.ENHANCEMENT and (data := chunks[side]) is not None:
            chunks[side] = change(data)
        return replace(layer, chunks=tuple(chunks))

    forged = replace(whole, layers=tuple(changed(layer) for layer in whole.layers)).to_bytes()
    plain, composed = (decoded(forged, compose=one, best_effort=True) for one in (False, True))
    assert np.array_equal(plain, composed)


def test_weights_that_the_generator_does_not_know_are_refused(whole: Bitstream, tmp_path: Path) -> None:
    codec = trifocal.load("dual-layer-compact", engine="torch")
    network = copy.deepcopy(codec.network)
    parameter = dict(network.named_parameters())["entropy.exact_side.hyper_synthesis.body.3.bias"]
    with torch.no_grad():
        parameter[0] += 1
    write_weights(network, tmp_path / "own.safetensors")
    own = trifocal.load("dual-layer-compact", weights=tmp_path / "own.safetensors")
    stream = own.encode(Picture(decoded(whole)), quality=50, components=list(whole.components))
    part = stream.only(components="face")
    with pytest.raises(
        OptionError, match="compose works with the bundled weights of dual-layer-compact only"
    ):
        trifocal.decode(part, compose=True, weights=tmp_path / "own.safetensors")


def test_missing_weights_of_the_generator_are_named(
    whole: Bitstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_composition.cache_clear()
    monkeypatch.setattr("trifocal.codecs.composition.WEIGHTS", tmp_path / "composition.safetensors")
    with pytest.raises(WeightsError, match="The weights composition.safetensors are not installed"):
        trifocal.decode(whole.only(components="face"), compose=True)


def test_generator_is_trained_for_the_bundled_weights() -> None:
    mark = trifocal.load("dual-layer-compact").fingerprint_in(2)
    assert metadata_of(WEIGHTS)[TRAINED_FOR] == f"{mark:08x}"


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
    assert WEIGHTS.stat().st_size < 2.7e6
    measured = record["coco-val"]
    assert measured["composed"]["kernel distance"] < 0.3 * measured["partial"]["kernel distance"]
    with WEIGHTS.with_suffix(".csv").open(newline="") as log:
        *_, last = csv.DictReader(log)
    assert int(last["step"]) == record["steps"]
