"""The tutorial: its file and its commands run, and the files that it writes decode exactly."""

import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from helpers.cli import run
from helpers.codec_checks import check_forward_matches_decode
from helpers.summation_order import count_mismatches, random_images, with_reordered_sums
from trifocal import Bitstream, Picture, load, presets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
SMALLER = {"--steps 1500": "--steps 2 --threads 1 --batch 2 --set crop=64", "10,50,90": "50"}
INFO = "Metadata-Version: 2.1\nName: two-pass\nVersion: 0.1.0\n"


def block(language: str) -> str:
    """The only block of the page in that language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = (text for kind, text in blocks if kind == language)
    return str(found)


@pytest.fixture
def module(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file of the page, imported from the working folder, in which the images are."""
    (tmp_path / "two_pass.py").write_text(block("python"), "utf-8")
    folder.rename(tmp_path / "photos")
    for surplus in sorted((tmp_path / "photos").iterdir())[3:]:
        surplus.unlink()
    shutil.copy(tmp_path / "photos" / "0.png", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("trifocal.presets._registered", {})
    monkeypatch.delitem(sys.modules, "two_pass", raising=False)
    return import_module("two_pass")


def test_the_tutorial_leads_from_the_file_to_a_table(
    short_validation: None, module: ModuleType, tmp_path: Path
) -> None:
    presets.register(module.TWO_PASS)  # as the last lines of the file do
    commands = [shlex.split(line) for line in smaller(block("")).splitlines()]
    assert [words[2] for words in commands] == ["train", "export", "encode", "decode", "evaluate"]
    for program, file, *words in commands:
        assert (program, file) == ("python", "two_pass.py")
        done = run(*words)
        assert done.exit_code == 0, done.output
    assert Bitstream.open("photo.tri").header.preset_id == 48
    assert Picture.open("decoded.png").rgb.shape == (72, 80, 3)
    rows = (tmp_path / "results_summary.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["preset", "two-pass", "compact-psnr", "compact"]
    assert_exact(load("two-pass"))


def smaller(commands: str) -> str:
    """The commands with fewer steps, smaller crops and one quality."""
    for words, others in SMALLER.items():
        assert words in commands
        commands = commands.replace(words, others)
    return commands


def assert_exact(codec: Any) -> None:
    """Estimate, encoder and decoder agree, also where sums have another order; the context is not at its
    initial values."""
    with torch.no_grad():
        for parameter in codec.network.entropy.exact_side.context.heads.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    check_forward_matches_decode(codec)
    assert count_mismatches(codec, with_reordered_sums(codec), random_images(2)) == 0


def test_the_tutorials_package_adds_the_preset_to_every_process(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry point of the page, as an installed package has it."""
    heading, names = block("toml").split("[project.entry-points.")[1].split("]\n")
    installed = tmp_path / "two_pass-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(INFO)
    (installed / "entry_points.txt").write_text(f"[{heading.strip(chr(34))}]\n" + names.replace(chr(34), ""))
    presets._installed.cache_clear()
    try:
        assert presets.find("two-pass") is module.TWO_PASS
        assert "checkerboard context" in run("presets").stdout
    finally:
        presets._installed.cache_clear()
