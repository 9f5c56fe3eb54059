"""Requests that are refused, each with a sentence that says what to do."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import trifocal
from helpers.cli import is_one_sentence, run
from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal.container import parts
from trifocal.container.components import check_components
from trifocal.data import read_data
from trifocal.errors import OptionError, TrifocalError, WeightsError
from trifocal.options import DecodeOptions
from trifocal.pictures import Picture
from trifocal.presets import find
from trifocal.recipes import with_fields
from trifocal.training.checkpoint import load_start, restore
from trifocal.types import Condition
from trifocal.weights import write_weights


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train towers --set learning_rate=1", "towers takes no --set; presets and base do."),
        ("train compact --of dual-layer-compact", "--of is for base, not for compact."),
        ("train compact --keep-front", "--keep-front is for detector, not for compact."),
        ("train compact --teacher t.onnx", "compact takes no --teacher; towers, detector, base do."),
        ("encode a.png --engine jax", "--engine is onnx or torch, not jax."),
    ],
)
def test_options_of_other_commands_and_presets_are_refused(words: str, sentence: str) -> None:
    done = run(*words.split(), *(["--data", "d", "--steps", "1"] if words.startswith("train") else []))
    shown = " ".join(done.stderr.replace("│", " ").split())
    assert done.exit_code == 2 and sentence in shown


def small_stream() -> trifocal.Bitstream:
    return small_codec().encode(Picture(random_rgb(64, 64)), quality=20)


def both_condition_and_text() -> object:
    codec = trifocal.load("taco-compact")
    return codec.encode(random_rgb(64, 64), text="a dog", condition=Condition())


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (both_condition_and_text, "Give text or a condition, not both."),
        (lambda: check_components([], 64, 64), "A file has 1 to 255 components, not 0."),
        (
            lambda: parts.merge(*[small_stream()] * 3),
            "A file without components has two parts; merge its base and enhancement parts.",
        ),
        (
            lambda: DecodeOptions(base_only=True, text="a dog"),
            "base_only excludes region, best_effort, text, preference and compose.",
        ),
        (
            lambda: trifocal.encode(random_rgb(64, 64), "taco-compact", text=7),  # type: ignore[arg-type]
            "text must be a string, not int.",
        ),
        (
            lambda: with_fields(find("compact").recipe, {"crop": 100}),
            "crop is an integer from 64 to 16,384 in steps of 64, not 100.",
        ),
        (lambda: read_data([], 64), "Training needs images; name folders or shards with --data."),
    ],
)
def test_requests_that_cannot_be_met_are_refused(request_: Callable[[], object], sentence: str) -> None:
    with pytest.raises(TrifocalError) as refused:
        request_()
    assert str(refused.value) == sentence


# ── training data and weights ──


def test_images_that_are_left_out_are_named(tmp_path: Path) -> None:
    """An image in a file, one that is too small, and one that cannot be read."""
    for name, side in (("a", 80), ("b", 32)):
        Image.fromarray(random_rgb(side, side)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    found = read_data([tmp_path / "a.png", tmp_path], 64)
    assert [picture.key for picture in found.pictures] == ["a", "a"]
    assert "; 1 smaller than 64 pixels are left out; 1 cannot be read, such as c (" in found.sentence(64)
    assert found.record()["left_out_small"] == 1


@pytest.mark.parametrize("more", [0, 1])
def test_images_beyond_the_memory_are_read_again(
    more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second image is not decoded, or is decoded and not kept."""
    for name in "ab":
        Image.fromarray(random_rgb(80, 72, seed=ord(name))).save(tmp_path / f"{name}.png")
    monkeypatch.setattr("trifocal.data.images.DECODED", 80 * 72 * 3 + more)
    first, second = read_data([tmp_path], 64).pictures
    assert isinstance(first.kept, np.ndarray) and not isinstance(second.kept, np.ndarray)
    assert second.stored == (80, 72)
    for picture, name in ((first, "a"), (second, "b")):
        assert (picture.rgb == random_rgb(80, 72, seed=ord(name))).all()


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.txt")
    with pytest.raises(
        OptionError, match="s.tar is not an uncompressed tar file, as shards must be"
    ) as refused:
        read_data([tmp_path / "s.tar"], 64)
    assert is_one_sentence(str(refused.value))


def test_runs_start_from_weights_that_fit_and_resume_what_is_there(tmp_path: Path) -> None:
    write_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError, match=r"w.safetensors do not fit: the network has no 1\.(bias|weight)\.$"
    ):
        load_start(nn.Sequential(nn.Linear(2, 3)), tmp_path / "w.safetensors")
    with pytest.raises(OptionError, match="to resume; start anew without --resume.$"):
        restore(tmp_path / "checkpoint.pt", "codec")
    torch.save({"codec": {"w": torch.ones(2)}, "optimisers": [{"state": {}}]}, tmp_path / "checkpoint.pt")
    found = restore(tmp_path / "checkpoint.pt", "codec")  # of version 0.1
    assert found["optimisers"] == {"codec": [{"state": {}}]} and found["module"]["w"].tolist() == [1, 1]
    assert found["partners"] == found["task"] == {}


def test_weights_that_float16_cannot_hold_are_not_written(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, 1e6)
    with pytest.raises(WeightsError, match="^The weights of weight do not fit into float16; the run has div"):
        write_weights(network, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()
