"""The commands of docs/training.md for the papers: from data to a table, on small forms of their networks."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.cli import run
from helpers.clip import make_clip
from helpers.diffusion import FOLDER, make_stable_diffusion, tiny_discover
from helpers.dual_layer import DETECTOR, TEXT_CHANNELS, small_dual_layer
from helpers.images import random_rgb
from helpers.scripts import load_script
from trifocal import presets
from trifocal.codecs.codec import Codec
from trifocal.codecs.cross_modal import cross_modal
from trifocal.codecs.taco import taco
from trifocal.codecs.ug_icm import ug_icm
from trifocal.entropy.mlic import MlicWidths
from trifocal.losses.cross_modal import second_stage
from trifocal.presets import Preset

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
LAUNCH = "accelerate launch -m trifocal "
WIDTHS = MlicWidths(channel=(8, 6), parameters=(10, 8, 6), residual=(8, 6))
SMALL: dict[str, Callable[[], Codec]] = {
    "taco": lambda: taco(12, (4, 4, 8), (12, 8), 1, text_channels=TEXT_CHANNELS, heads=4),
    "cross-modal": lambda: cross_modal(3, 12, 6, 1, TEXT_CHANNELS),
    "dual-layer": small_dual_layer,
    "ug-icm": lambda: ug_icm(8, 12, 3, WIDTHS, 16),
    "discover": tiny_discover,
}
TABLES = {  # the files of results, and what each measures
    "TACO": {"taco.csv": ["mine:best", "compact", "avif"]},
    "Cross-modal": {"cross-modal.csv": ["mine:true", "mine:none", "mine:mismatched", "compact", "avif"]},
    "Dual-layer": {"machines.csv": ["mine:base"], "people.csv": ["mine:true", "compact", "avif"]},
    "UG-ICM": {"ug-icm.csv": ["mine:0", "mine:1", "compact", "avif"]},
    "DISCOVER": {
        "boxes.csv": ["mine:1", "mine:objects:1", "compact", "avif"],
        "masks.csv": ["mine:1", "mine:objects:1", "compact", "avif"],
        "classes.csv": ["mine:1", "mine:objects:1", "compact", "avif"],
        "fidelity.csv": ["mine:0", "mine:objects:0", "compact", "avif"],
    },
}
SCORES = {  # of the machine tasks, by table
    "machines.csv": "ap:fasterrcnn_resnet50_fpn",
    "ug-icm.csv": "ap:fasterrcnn_resnet50_fpn",
    "boxes.csv": "ap:fasterrcnn_resnet50_fpn",
    "masks.csv": "ap:maskrcnn_resnet50_fpn",
    "classes.csv": "top1:resnet50",
}
METRICS = ("psnr", "ms-ssim", "lpips-unscaled", "lpips", "dists", "fid", "kid")


def commands(paper: str) -> list[list[str]]:
    """The words of each command in the first block of a paper's section, after `trifocal`."""
    section = PAGE.read_text("utf-8").split(f"\n### {paper}\n")[1]
    block = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[0]
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    assert all(line.startswith((f"{LAUNCH}train ", "trifocal evaluate ")) for line in lines)
    return [shlex.split(line.removeprefix(LAUNCH).removeprefix("trifocal ")) for line in lines]


def small(words: list[str]) -> list[str]:
    """The same command with one step or one quality, and metrics that need no download."""
    words = ["psnr" if word == "lpips-unscaled" and words[n - 1] == "--best-by" else word
             for n, word in enumerate(words)]  # fmt: skip
    if words[0] == "train":
        words[words.index("--steps") + 1] = "1"
        return [*words, "--threads", "1"]
    kept = [{"768": "64"}.get(word, word) for word in words if word not in METRICS[1:]]
    return [*kept, "--qualities", "50", "--threads", "1"]


def small_form(preset: Preset, clip: str) -> Preset:
    """The classes of a paper's preset at small widths, on crops of 64 pixels, with a small CLIP."""
    if preset.name not in SMALL:
        return preset
    options: dict[str, Any] = {"perceptual": "tower"}
    if preset.name in ("taco", "dual-layer"):
        options["tower"] = clip
    if preset.name == "ug-icm":
        options = {"tower": clip, "objects": "boxes", "local_side": 32}
    if preset.name == "discover":
        options = {}
    stages = preset.stages
    if preset.name == "cross-modal":
        adversary = partial(second_stage, latent_channels=12, text_channels=TEXT_CHANNELS)
        stages = (adversary,)
    recipes = [
        replace(recipe, batch=2, crop=64, objective={**recipe.objective, **options})
        for recipe in (preset.recipe, *preset.stage_recipes)
    ]
    return replace(
        preset,
        build=SMALL[preset.name],
        recipe=recipes[0],
        stages=stages,
        stage_recipes=tuple(recipes[1:]),
        text_encoder=clip if preset.text_encoder else "",
    )


def make_folders(root: Path, names: Sequence[str]) -> None:
    """Folders of six images each, with the class of each image."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random_rgb(96, 80, seed=number)).save(root / name / f"{number}.png")
        classes = {f"{number}.png": number for number in range(6)}
        (root / name / "labels.json").write_text(json.dumps(classes))


def make_coco(root: Path) -> None:
    """Images, captions and boxes in COCO's layout: train2014, val2014, train2017, val2017."""
    (root / "annotations").mkdir(parents=True)
    for name in ("train2014", "val2014", "train2017", "val2017"):
        (root / name).mkdir()
        count = 6 if name.startswith("train") else 2
        for number in range(count):
            Image.fromarray(random_rgb(96, 80, seed=number)).save(root / name / f"{number}.png")
        images = [{"id": n, "file_name": f"{n}.png", "width": 96, "height": 80} for n in range(count)]
        texts = [{"image_id": n, "caption": f"a dog {n} {word}"} for n in range(count) for word in "ab"]
        objects = [
            {"id": n, "image_id": n, "bbox": [8, 8, 60, 50], "category_id": 1, "iscrowd": 0, "area": 3000}
            for n in range(count)
        ]
        for kind, rows in (("captions", texts), ("instances", objects)):
            table = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
            (root / "annotations" / f"{kind}_{name}.json").write_text(json.dumps(table))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `coco`, in which the papers' presets are small and Faster R-CNN too."""
    pytest.importorskip("transformers")
    clip = str(make_clip(tmp_path / "clip", TEXT_CHANNELS, TEXT_CHANNELS))
    monkeypatch.setattr(presets, "PRESETS", tuple(small_form(one, clip) for one in presets.PRESETS))
    monkeypatch.setattr(
        "trifocal.evaluation.tasks.detectors.load_torchvision",
        lambda kind, name: (DETECTOR.network, lambda pixels: pixels.float() / 255),
    )
    monkeypatch.setattr(
        "trifocal.evaluation.tasks.task.load_classifier", lambda name, device: lambda pixels: pixels[0, :9, 0]
    )
    make_stable_diffusion(tmp_path / "networks" / FOLDER)
    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(tmp_path / "networks"))
    monkeypatch.setattr("trifocal.codecs.discover.STEPS", (3, 2))
    make_folders(tmp_path, ["openimages", "clic/train", "clic/test", "flickr2k", "div2k", "imagenet/val"])
    make_coco(tmp_path / "coco")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("paper", TABLES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_commands_of_a_paper_lead_from_data_to_a_table(paper: str, workplace: Path) -> None:
    for words in commands(paper):
        done = run(*small(words))
        assert done.exit_code == 0, f"{words}\n{done.output}"
    for name, measured in TABLES[paper].items():
        with (workplace / name.replace(".csv", "_summary.csv")).open() as file:
            rows = [*csv.DictReader(file)]
        rows = [row for row in rows if row["preset"] != "png"]  # the originals, of a task
        assert [row["preset"] for row in rows] == measured
        assert all(float(row["bpp"]) > 0 and float(row["psnr"]) > 0 for row in rows)
        if name in SCORES:
            assert all(0 <= float(row[SCORES[name]]) <= 1 for row in rows)


@pytest.mark.parametrize("paper", TABLES)
def test_the_table_of_gpu_hours_has_a_row_for_each_training(paper: str) -> None:
    script = load_script("scripts/gpu_hours.py")
    page = PAGE.read_text("utf-8")
    table = page.split(script.BEGIN)[1].split(script.END)[0]
    for words in commands(paper):
        if words[0] == "train":
            name = script.row(words[1:], script.StepOperations(1.0, 1)).split("|")[1]
            (row,) = (line for line in table.splitlines() if line.startswith(f"|{name}|"))
            assert f"| {int(script.option(words, '--steps', '0')):,} |" in row
