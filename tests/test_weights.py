"""Weights: checks of their values, fingerprints, and how they are found."""

import copy
import csv
import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import trifocal
from helpers.codecs import small_codec
from helpers.images import fixed_pattern, random_rgb
from trifocal.codecs.codec import Codec
from trifocal.codecs.loading import GENERATIONS
from trifocal.entropy.integer_arithmetic import ARITHMETIC
from trifocal.errors import PresetError, WeightsError
from trifocal.pictures import Picture
from trifocal.presets import PRESETS, load, load_for, shared_codec
from trifocal.weights import WEIGHTS_FOLDER, decodable, fingerprint, write_weights

ROOT = Path(__file__).parent.parent
OLDER = (
    Path(__file__).parent / "golden" / "dual-layer-797a.tri"
)  # `drawing` by dual-layer-compact of c2e9311, quality 40
COMMIT, FILE = "c2e9311", "dual-layer-compact.safetensors"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The preset `compact` is a small codec; returns its weights."""
    tiny = replace(PRESETS[0], build=small_codec, earlier_weights=())
    monkeypatch.setattr("trifocal.presets.PRESETS", (tiny,))
    monkeypatch.setattr("trifocal.weights.WEIGHTS_FOLDER", tmp_path)
    write_weights(small_codec(seed=1).network, tmp_path / "compact.safetensors")
    return tmp_path / "compact.safetensors"


def picture(seed: int = 0) -> Picture:
    return Picture(random_rgb(64, 48, seed=seed))


# ── values ──


def spoil(weights: dict[str, Tensor], part: str, value: float) -> str:
    name = next(name for name, w in weights.items() if part in name and w.is_floating_point())
    weights[name].view(-1)[0] = value
    return name


@pytest.mark.parametrize("part", ["analysis", "synthesis", "context", "gain"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(small: Path, part: str, value: float) -> None:
    weights = load_file(small)
    name = spoil(weights, part, value)
    save_file(weights, small)
    with pytest.raises(WeightsError, match=f"values in {name} that are not finite"):
        load("compact")


def test_integer_tensors_instead_of_floats_are_refused(small: Path) -> None:
    weights = load_file(small)
    name = next(name for name in weights if "synthesis" in name)
    save_file({**weights, name: weights[name].to(torch.int32)}, small)
    with pytest.raises(WeightsError, match=f"hold whole numbers in {name} instead of floating-point numbers"):
        load("compact")
    save_file({**weights, "entropy.frequencies": weights["entropy.frequencies"].float()}, small)
    with pytest.raises(WeightsError, match="floating-point numbers in entropy.frequencies"):
        load("compact")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.fill_(0),
        lambda table: table[3, 1:3].copy_(torch.tensor([0, table[3, 1] + table[3, 2]])),
        lambda table: table[:, 0].add_(1),
        lambda table: table[0, -1].neg_(),
        lambda table: table[0, 300].add_(1),
    ],
    ids=["zeros", "an impossible symbol", "another total", "a negative escape", "beyond the radius"],
)
def test_invalid_frequency_tables_are_refused(small: Path, change: Callable[[Tensor], None]) -> None:
    weights = load_file(small)
    change(weights["entropy.frequencies"])
    save_file(weights, small)
    with pytest.raises(WeightsError, match="frequencies that the range coder cannot use"):
        load("compact")


def test_weights_too_large_for_exact_sums_are_refused(small: Path) -> None:
    weights = load_file(small)
    weights = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    name = next(name for name in weights if "hyper_synthesis" in name and name.endswith("weight"))
    weights[name] += 1e12
    save_file(weights, small)
    with pytest.raises(WeightsError, match="entropy model cannot be used"):
        load("compact").encode(picture())


# ── fingerprints ──


def test_a_fingerprint_covers_names_shapes_values_and_arithmetic() -> None:
    state = small_codec(seed=1).network.state_dict()

    def mark(weights: dict[str, Tensor], arithmetic: int = ARITHMETIC) -> int | None:
        return fingerprint(weights, 2, arithmetic)

    assert mark(state) == mark(dict(reversed(state.items())))
    name = next(name for name in state if "synthesis" in name)
    others = [
        state | {name: state[name] + 2**-20},
        state | {"entropy.frequencies": state["entropy.frequencies"] + 1},
        {**{n: w for n, w in state.items() if n != name}, name + "x": state[name]},
        state | {name: state[name][None]},
    ]
    marks = [mark(state), mark(state, ARITHMETIC + 1), *map(mark, others)]
    assert len(set(marks)) == len(marks) and all(m is not None and m < 1 << 32 for m in marks)


def test_weights_off_the_float16_grid_have_no_version_1_fingerprint(small: Path) -> None:
    """In version 1 such a file would have the fingerprint of its rounded weights, but decode differently."""
    codec = load("compact")
    mark = codec.fingerprint_in(1)
    assert mark is not None
    weights = {name: w.float() if w.is_floating_point() else w for name, w in load_file(small).items()}
    name = next(name for name in weights if "synthesis" in name)
    weights[name] *= 1 + 2**-20
    own = small.with_name("own.safetensors")
    save_file(weights, own)
    stream = codec.encode(picture())
    old = replace(stream, header=replace(stream.header, version=1, fingerprint=mark))
    assert load_for(old.header).fingerprint == codec.fingerprint
    with pytest.raises(WeightsError, match="here are others"):
        load_for(old.header, weights=own)
    with pytest.raises(WeightsError, match="here are"):
        load_for(stream.header, weights=own)


# ── what is written can be read ──


def train_a_little(codec: Codec) -> None:
    """Train by an optimiser that does not increment the version of tensors."""
    optimiser = torch.optim.Adam(codec.network.parameters(), lr=1e-2, fused=True)
    codec.network.train()
    output = codec.network(torch.rand(1, 3, 64, 64), torch.tensor([400]))
    (output.bits.sum() / 1000 + output.x_hat.square().mean()).backward()
    optimiser.step()


def test_training_a_loaded_codec_does_not_change_others(small: Path) -> None:
    before = trifocal.encode(picture().rgb, "compact").to_bytes()
    codec = load("compact")
    train_a_little(codec)
    assert codec is not load("compact") and shared_codec("compact") is shared_codec("compact")
    assert trifocal.encode(picture().rgb, "compact").to_bytes() == before


@pytest.mark.parametrize("training", [True, False])
def test_trained_codec_writes_files_that_its_weights_decode(small: Path, training: bool) -> None:
    codec = load("compact")
    codec.encode(picture())
    mark = codec.fingerprint
    train_a_little(codec)
    codec.network.train(training)
    stream = codec.encode(picture())
    assert stream.header.fingerprint == codec.fingerprint != mark
    with pytest.raises(WeightsError):
        trifocal.decode(stream)
    fresh = load("compact")
    fresh.network.load_state_dict(codec.network.state_dict())
    assert np.array_equal(fresh.decode(stream).picture.rgb, codec.decode(stream).picture.rgb)


def test_weights_changed_in_place_are_used(small: Path) -> None:
    codec = load("compact")
    before = codec.decode(codec.encode(picture())).picture.rgb
    for parameter in codec.network.entropy.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 30)
    stream = codec.encode(picture())
    fresh = load("compact")
    fresh.network.load_state_dict(codec.network.state_dict())
    after = fresh.decode(stream).picture.rgb
    assert np.array_equal(after, codec.decode(stream).picture.rgb) and not np.array_equal(after, before)


def test_gradients_work_after_an_encode(small: Path) -> None:
    codec = load("compact")
    codec.encode(picture())
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    codec.network(x, torch.tensor([400])).x_hat.sum().backward()
    train_a_little(codec)
    assert all(torch.isfinite(p.grad).all() for p in codec.network.parameters() if p.grad is not None)


def test_codec_refuses_files_of_other_weights_and_presets(small: Path) -> None:
    codec = load("compact")
    stream = codec.encode(picture())
    other = copy.deepcopy(codec)
    with torch.no_grad():
        next(other.network.synthesis.parameters()).mul_(1.5)
    with pytest.raises(WeightsError, match=f"weights {stream.header.fingerprint_hex}, and this codec has"):
        other.decode(stream)
    with pytest.raises(WeightsError, match="preset number 9"):
        codec.decode(replace(stream, header=replace(stream.header, preset_id=9)))
    with pytest.raises(PresetError):
        trifocal.decode(replace(stream, header=replace(stream.header, preset_id=9)))


# ── weights are found ──


def test_weights_are_found_in_a_folder(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"\x10" * 40)
    for seed in (2, 3):
        write_weights(small_codec(seed=seed).network, folder / f"{seed}.safetensors")
    stream = load("compact", weights=folder / "3.safetensors").encode(picture())
    with pytest.raises(WeightsError, match="Name its weights"):
        trifocal.decode(stream)
    expected = trifocal.decode(stream, weights=folder / "3.safetensors").picture.rgb
    assert np.array_equal(trifocal.decode(stream, weights=folder).picture.rgb, expected)
    with pytest.raises(WeightsError, match="is a folder"):
        load("compact", weights=folder)
    monkeypatch.setenv("TRIFOCAL_WEIGHTS", str(folder))
    assert np.array_equal(trifocal.decode(stream).picture.rgb, expected)


def test_table_of_generations_has_every_bundled_preset() -> None:
    """`python scripts/generations.py` writes it, once new weights are committed."""
    with open(GENERATIONS, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for preset in PRESETS:
        if preset.has_weights:
            codec = shared_codec(preset.name)
            (row,) = [
                row
                for row in rows
                if row["preset"] == preset.name and row["fingerprint_2.2"] == f"{codec.fingerprint:08x}"
            ]
            assert row["fingerprint_1"] == f"{codec.fingerprint_in(1):04x}"
            assert row["fingerprint_2"] == f"{codec.fingerprint_in(2, 1):08x}"
            if not preset.shared_weights:  # else the table may name an earlier file that held all of it
                assert (
                    row["sha256"]
                    == hashlib.sha256((WEIGHTS_FOLDER / preset.weights).read_bytes()).hexdigest()
                )


def test_error_names_weights_that_are_no_longer_bundled() -> None:
    with pytest.raises(
        WeightsError, match=rf"weights 797a of .*{FILE} of Trifocal 0.1.0 \(commit {COMMIT}, SHA-256 0cbff68"
    ):
        trifocal.decode(OLDER)


def test_file_of_an_earlier_generation_is_decoded_with_its_weights(tmp_path: Path) -> None:
    name = f"{COMMIT}:trifocal/weights/{FILE}"
    try:
        shown = subprocess.run(["git", "show", name], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if shown.returncode:
        pytest.skip(f"the history of this checkout does not reach {COMMIT}")
    (tmp_path / FILE).write_bytes(shown.stdout)
    decoded = trifocal.decode(OLDER, weights=tmp_path).picture.rgb
    assert np.abs(decoded.astype(int) - fixed_pattern()).mean() == pytest.approx(11.121, abs=0.01)
    expected = [[128, 0, 0], [75, 0, 98], [244, 253, 176], [0, 3, 225]]
    assert np.abs(decoded[0, ::33].astype(int) - expected).max() <= 1


# ── a better decoder for old files ──


@pytest.fixture
def later_decoder(small: Path) -> Path:
    """Weights whose synthesis alone differs from those of `small`, in the same folder."""
    network = load("compact").network
    with torch.no_grad():
        for parameter in network.synthesis.parameters():
            parameter.mul_(1.05)
    path = small.with_name("better.safetensors")
    write_weights(network, path, decodable_fingerprints=decodable(network, small, network.arithmetics))
    return path


def test_later_decoder_decodes_old_files(small: Path, later_decoder: Path) -> None:
    old = load("compact").encode(picture())
    assert load_for(old.header, weights=later_decoder).fingerprint != old.header.fingerprint
    first, second = (trifocal.decode(old, weights=weights).picture.rgb for weights in (small, later_decoder))
    assert not np.array_equal(first, second)


def test_later_decoder_is_found_in_a_folder(small: Path, later_decoder: Path, tmp_path: Path) -> None:
    old, folder = load("compact").encode(picture()), tmp_path / "folder"
    folder.mkdir()
    later_decoder.rename(folder / later_decoder.name)
    write_weights(small_codec(seed=2).network, small)
    with pytest.raises(WeightsError, match="here are"):
        load_for(old.header)
    assert load_for(old.header, weights=folder).can_decode(old.header)


def test_later_decoder_does_not_change_which_weights_are_needed(small: Path, later_decoder: Path) -> None:
    """Its own files need it, and it does not decode files of other weights."""
    new = load("compact", weights=later_decoder).encode(picture())
    with pytest.raises(WeightsError):
        load_for(new.header, weights=small)
    other = small_codec(seed=2).encode(picture())
    with pytest.raises(WeightsError):
        load_for(other.header, weights=later_decoder)


def test_decoder_for_other_latents_is_refused(small: Path, later_decoder: Path) -> None:
    network = load("compact").network
    with torch.no_grad():
        next(network.entropy.parameters()).add_(1)
    with pytest.raises(WeightsError, match="Train the synthesis alone"):
        decodable(network, small, network.arithmetics)
    old, codec = load("compact").encode(picture()), load("compact", weights=later_decoder)
    assert codec.can_decode(old.header)
    with torch.no_grad():
        next(codec.network.entropy.parameters()).add_(1)
    assert not codec.can_decode(old.header)
