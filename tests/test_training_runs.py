"""Runs that are stopped, resumed, exported, refused, or that diverge; recipes of stages and single rates."""

import csv
import errno
import json
import os
import re
import signal
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cli import is_one_sentence, run
from helpers.images import random_rgb
from helpers.text import VowelEncoder, text_codec
from trifocal import load, presets
from trifocal.cli.options import parse_fields
from trifocal.data import CropRules, Crops, read_data, read_pictures, split
from trifocal.data.images import TrainingPicture
from trifocal.entropy import estimators
from trifocal.errors import OptionError, TrainingError
from trifocal.evaluation import EvaluateOptions, evaluate
from trifocal.evaluation.candidates.candidate import PresetCandidate
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.variant import parse_variant
from trifocal.evaluation.report.crops import largest_file_within
from trifocal.losses import CrossModalObjective, Objective, TacoObjective
from trifocal.pictures import Picture
from trifocal.preset_table import PRESETS
from trifocal.recipes import BASE_LAYER, COMPACT, Recipe, with_fields
from trifocal.training import export_run, train
from trifocal.training.checkpoint import save
from trifocal.training.optimisers import adam, step_decay
from trifocal.training.run import read_options
from trifocal.training.stages import make_objective, stage_recipe, with_clip
from trifocal.training.stopping import DivergenceCheck, stop_requests
from trifocal.training.tasks.codec import CodecTask
from trifocal.types import DEAD_ZONE
from trifocal.weights import QUANTISER, metadata_of, read_level


def log_rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def module_in(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "checkpoint.pt", weights_only=True)["module"]
    return state


def stop_at(step: int) -> Any:
    """A report that sends SIGTERM to this process at a step."""
    return lambda fraction, text: (
        os.kill(os.getpid(), signal.SIGTERM) if text.startswith(f"step {step} ") else None
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_ask_to_stop_once(number: signal.Signals) -> None:
    usual = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a background job ignores SIGINT
    try:
        with stop_requests() as stop:
            states = [stop.asked]
            signal.raise_signal(number)
            states.append(stop.asked)
            assert states == [False, True] and signal.getsignal(number) is signal.default_int_handler
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, usual)


def test_a_stopped_run_continues_as_if_it_had_not_been_stopped(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    """With the same crops, levels, noise and options; and its checkpoint can be exported."""
    options: dict[str, Any] = {"fields": {"learning_rate": 1e-3, "batch": 3}, "every": 99}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train("small", [folder], whole, steps=5, **options)
    with pytest.raises(TrainingError, match=r"after step [23] .*--resume.*trifocal export"):
        train("small", [folder], stopped, steps=5, report=stop_at(2), **options)
    assert not list(stopped.glob("*.safetensors"))
    weights = export_run(stopped)
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["steps"] in (2, 3) and record["recipe"]["learning_rate"] == 1e-3
    train("small", [], stopped, resume=True)
    one, other = module_in(whole), module_in(stopped)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_options(stopped)["steps"] == 5 and read_options(stopped)["data"] == [str(folder)]


def one_step(folder: Path, out: Path) -> list[str | Path]:
    """The command that trains the small preset for a step."""
    return ["train", "small", "--data", folder, "-o", out, "--steps", "1", "--threads", "1"]


def test_the_same_command_again_is_refused(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    words = one_step(folder, tmp_path / "run")
    assert run(*words).exit_code == 0
    again = run(*words)
    assert again.exit_code == 1 and is_one_sentence(again.stderr)
    assert "--resume" in again.stderr and "-o" in again.stderr
    assert len(log_rows(tmp_path / "run")) == 1
    assert run(*words, "--force").exit_code == 0 and len(log_rows(tmp_path / "run")) == 1
    with pytest.raises(OptionError, match="trains small, not base"):
        from trifocal.training import train_base_layer

        train_base_layer([folder], tmp_path / "run", steps=2, resume=True)
    exported = run("export", tmp_path / "run")
    assert exported.exit_code == 0 and exported.stdout.split() == [str(tmp_path / "run/small.safetensors")]
    assert run("export", tmp_path).exit_code == 1


def test_a_log_without_a_checkpoint_is_not_mixed_with_another_run(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    """A header alone is no run. The log is replaced by --force, once options and data have been read."""
    log, out = tmp_path / "run" / "log.csv", tmp_path / "run"
    out.mkdir()
    log.write_text("step,minutes,loss\r\n1,0.01,2.5\r\n")
    words = one_step(folder, out)
    refused = run(*words)
    assert refused.exit_code == 1 and is_one_sentence(refused.stderr)
    assert "-o" in refused.stderr and "--force" in refused.stderr and "--resume" not in refused.stderr
    assert run(*words, "--force", "--set", "batch=none").exit_code == 1 and "2.5" in log.read_text()
    elsewhere = [tmp_path / "nowhere" if word is folder else word for word in words]
    assert run(*elsewhere, "--force").exit_code == 1 and "2.5" in log.read_text()
    assert run(*words, "--force").exit_code == 0 and len(log_rows(out)) == 1 and "2.5" not in log.read_text()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "log.csv").write_text("step,minutes,loss\r\n")
    train("small", [folder], tmp_path / "new", steps=1)
    with pytest.raises(TypeError, match="no argument 'step'"):
        train("small", [folder], tmp_path / "other", step=1)  # type: ignore[call-arg]


def test_a_diverged_run_ends_without_weights(
    small_preset: presets.Preset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Huge(Objective):
        def losses(self, codec: Any, batch: Any, step: int) -> Any:
            for part, loss in super().losses(codec, batch, step):
                yield part, loss * 1e31

    monkeypatch.setattr(presets, "PRESETS", (replace(small_preset, objective=Huge),))
    result = run("train", "small", "--data", folder, "-o", tmp_path / "run", "--steps", "2", "--threads", "1")
    assert result.exit_code == 1 and "diverged" in result.stderr and "--learning-rate" in result.stderr
    assert not list((tmp_path / "run").glob("*.safetensors"))
    monkeypatch.setattr(presets, "PRESETS", (small_preset,))
    for every in (99, 0):  # NaN in the next step; and at a checkpoint before it
        with pytest.raises(TrainingError, match=r"diverged: .* no weights"):
            train("small", [folder], tmp_path / f"{every}", steps=14, learning_rate=1e30, every=every)
        assert not list((tmp_path / f"{every}").glob("*.safetensors"))
    check = DivergenceCheck()
    assert [check.add(loss) for loss in (1.0, float("nan"), 2.0)] == [
        (False, False),
        (True, False),
        (False, False),
    ]
    assert [check.add(1e10)[1] for _ in range(10)] == [False] * 9 + [True]


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"minutes": 0},
        {"steps": 1, "learning_rate": 0},
        {"steps": 1, "batch": 0},
        {"steps": 1, "fields": {"warmup": 0}},
    ],
)
def test_zeros_are_refused(
    small_preset: presets.Preset, folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match="above 0|from 1 to"):
        train("small", [folder], tmp_path / "run", **options)


def test_a_full_disk_is_found_before_the_first_step(
    small_preset: presets.Preset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 10**4))
    result = run("train", "small", "--data", folder, "-o", tmp_path / "run", "--steps", "1", "--threads", "1")
    assert result.exit_code == 1 and "disk is full" in result.stderr and "--resume" in result.stderr
    with pytest.raises(OSError, match="disk is full") as caught:
        train("small", [folder], tmp_path / "other", steps=1)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint(
    small_preset: presets.Preset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check before the second checkpoint ends the run in one sentence, and the run can be resumed."""
    out = tmp_path / "run"
    usage = namedtuple("usage", "total used free")
    train("small", [folder], out, steps=2)
    before, rows = (out / "checkpoint.pt").read_bytes(), len(log_rows(out))
    checked: list[int] = []

    def shrinking(path: Path) -> Any:
        checked.append(1)
        return usage(10**12, 0, 10**12 if len(checked) == 1 else 10**4)

    words = ["train", "small", "-o", str(out), "--resume", "--steps", "4", "--threads", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", shrinking)
        full = run(*words)
    assert len(checked) == 2  # before the first step, and before the checkpoint
    last = full.stderr.splitlines()[-1]
    assert full.exit_code == 1 and is_one_sentence(last)
    assert "disk is full" in last and "--resume" in last and "Traceback" not in full.output
    assert (out / "checkpoint.pt").read_bytes() == before and not [*out.glob("*.tmp")]
    assert run(*words).exit_code == 0
    assert [row["step"] for row in log_rows(out)] == ["2", "4"] and rows == 1


def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_earlier_one(tmp_path: Path) -> None:
    """Files of at most 100 kB: the kernel refuses the rest, as on a disk that fills up during the write."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    save(path, {"module": torch.ones(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written: .*make room and continue with --resume"):
            save(path, {"module": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [*tmp_path.iterdir()] == [path]
    assert torch.equal(torch.load(path, weights_only=True)["module"], torch.ones(3))


def test_a_log_of_an_earlier_version_gets_the_new_columns(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    """And a checkpoint without options is resumed with those that are given."""
    train("small", [folder], tmp_path, steps=1, every=99)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["options"]
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "log.csv").write_bytes(b"step,minutes,loss,held_out\r\n1,0.01,2.5,1.5\r\n")
    with pytest.raises(OptionError, match="does not name what it trains"):
        export_run(tmp_path)
    train("small", [folder], tmp_path, steps=2, every=99, resume=True)
    first, second = log_rows(tmp_path)
    assert [*first][:4] == ["step", "minutes", "loss", "held_out"] and first["held_out"] == "1.5"
    assert (first["held_out_mse"], second["step"]) == ("", "2")
    assert all(float(second[name]) > 0 for name in ("bpp", "mse", "held_out_bpp", "held_out_mse"))


# ── texts ──


def coco(root: Path, captions: bool = True) -> Path:
    """A root of COCO: train2014/ with six images, val2014/ with one, annotations/."""
    names = [f"{number}.png" for number in range(6)]
    for name, images in (("train2014", names), ("val2014", ["v.png"])):
        (root / name).mkdir(parents=True)
        for seed, image in enumerate(images):
            Image.fromarray(random_rgb(160, 140, seed=seed)).save(root / name / image)
    (root / "annotations").mkdir()
    images_table = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    boxes = [{"image_id": n, "bbox": [0, 0, 150, 130], "category_id": 18, "iscrowd": 0} for n in range(6)]
    texts = [{"image_id": n, "caption": f"an aeiou {n}"} for n in range(6)]
    tables = {"instances": boxes} | ({"captions": texts} if captions else {})
    for kind, rows in tables.items():
        path = root / "annotations" / f"{kind}_train2014.json"
        path.write_text(json.dumps({"images": images_table, "annotations": rows}))
    return root


@pytest.fixture
def text_preset(monkeypatch: pytest.MonkeyPatch) -> presets.Preset:
    """A preset whose encoder reads text, as TACO's does: captions only."""
    recipe = replace(COMPACT, batch=2, crop=64, warmup=1, text="captions", wordless=0.0)
    preset = presets.Preset(
        "wordy",
        48,
        "for tests",
        lambda: text_codec("encoder"),
        recipe,
        "w",
        text_used_by="encoder",
        text_encoder="x",
    )
    monkeypatch.setattr(presets, "PRESETS", (preset,))
    monkeypatch.setattr("trifocal.training.tasks.codec.load_text_encoder", lambda *given: VowelEncoder())
    return preset


def test_captions_reach_training_in_cocos_layout(text_preset: presets.Preset, tmp_path: Path) -> None:
    """From the root; what was read is said and recorded, and the log has the share of crops with text."""
    said: list[str] = []
    weights = train("wordy", [coco(tmp_path / "coco")], tmp_path / "run", steps=2, notify=said.append)
    assert any("Read 6 images" in text and "6 with captions, 6 with boxes" in text for text in said)
    (row,) = log_rows(tmp_path / "run")
    assert float(row["text_caption"]) == 1 and float(row["text_names"]) == 0
    assert float(row["held_out_bpp"]) > 0
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["read"]["with_captions"] == 6 and record["recipe"]["text"] == "captions"


def test_a_text_preset_refuses_data_without_captions(text_preset: presets.Preset, tmp_path: Path) -> None:
    root = coco(tmp_path / "coco", captions=False)
    for data in (root, root / "train2014"):
        with pytest.raises(OptionError, match=r"put captions_train2014\.json into .*--set text=none"):
            train("wordy", [data], tmp_path / "run", steps=1)
    train("wordy", [root], tmp_path / "run", steps=1, fields={"text": "none"})
    for file in (*(root / "annotations").iterdir(), root / "annotations"):
        file.unlink() if file.is_file() else file.rmdir()
    with pytest.raises(OptionError, match=r"no folder .*annotations: put captions_train2014\.json into"):
        train("wordy", [root], tmp_path / "other", steps=1)
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    with pytest.raises(OptionError, match="train2014 and .*train2017"):
        read_pictures([root], 64)


def test_steps_without_text_count_as_such_in_the_log(text_preset: presets.Preset, tmp_path: Path) -> None:
    train("wordy", [coco(tmp_path / "coco")], tmp_path / "run", steps=8, fields={"wordless": 0.5})
    (row,) = log_rows(tmp_path / "run")
    assert 0 < float(row["text_caption"]) < 1


def test_the_recipe_says_which_text_a_crop_gets() -> None:
    boxes, labels = np.array([[20, 20, 80, 80]], np.float32), np.array([18])
    picture = TrainingPicture("a", random_rgb(100, 100), ("a caption",), boxes, labels)
    kinds = {}
    for rule in ("captions", "names", "visible", "none"):
        with Crops([picture], 8, 64, 0, CropRules(text=rule, mirrored=0.0)) as crops:
            kinds[rule] = {*crops.next().kinds}
    assert kinds == {"captions": {"caption"}, "names": {"names"}, "visible": {"names"}, "none": {""}}


def test_sampling_mirroring_and_held_out_images_can_be_switched_off() -> None:
    small, large = (TrainingPicture(str(side), random_rgb(side, side)) for side in (64, 640))
    samplings: list[tuple[Literal["uniform", "area"], float]] = [("uniform", 0.5), ("area", 10 / 11)]
    for sampling, share in samplings:
        with Crops([small, large], 4, 64, 0, CropRules(sampling=sampling)) as crops:
            assert crops.weights[1] == pytest.approx(share)
    with Crops([small], 8, 64, 0, CropRules(mirrored=0.0)) as crops:
        assert all(np.array_equal(crop, small.rgb) for crop in crops.next().rgb)
    pictures = [TrainingPicture(str(n), random_rgb(8, 8)) for n in range(60)]
    training, held_out = split(pictures, 0)
    assert len(training) == 60 and held_out


def test_batches_depend_on_their_number_and_unreadable_images_are_replaced(
    folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("trifocal.data.images.DECODED", 0)
    pictures = read_data([folder], 64).pictures
    with Crops(pictures, 4, 64, 7) as crops:
        batches = [crops.next().rgb for _ in range(3)]
    with Crops(pictures, 4, 64, 7, first=2) as crops:
        assert np.array_equal(crops.next().rgb, batches[2])
    (folder / "0.png").write_bytes(b"broken")
    with Crops(pictures[:2], 16, 64, 7) as crops:
        crops.next()
        assert crops.unreadable == {"0"}


# ── recipes ──


def test_a_single_rate_is_trained_recorded_and_the_only_one_to_encode(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = ["train", "small", "--data", folder, "--steps", "2", "--threads", "1"]
    assert run(*words, "-o", tmp_path / "q", "--quality", "25").exit_code == 0
    weights = tmp_path / "q" / "small.safetensors"
    record = json.loads(weights.with_suffix(".json").read_text())
    assert (record["level"], record["quality"], read_level(weights)) == (200, 25, 200)
    assert {"bpp_200", "psnr_200"} < {*log_rows(tmp_path / "q")[0]}
    codec, picture = load("small", weights=weights), Picture(random_rgb(64, 64))
    assert codec.encode(picture).header.level == codec.encode(picture, quality=25).header.level == 200
    for other in ({"quality": 50}, {"bpp": 0.5}, {"max_bytes": 999}):
        with pytest.raises(OptionError, match="single rate, quality 25"):
            codec.encode(picture, **other)
    assert run(*words, "-o", tmp_path / "l", "--lambda", "0.0123").exit_code == 0
    record = json.loads((tmp_path / "l" / "small.json").read_text())
    assert record["lambdas"] == [0.0123, 0.0123] and record["level"] == 400
    assert run(*words, "--quality", "2", "--lambda", "0.1").exit_code == 2
    with pytest.raises(OptionError, match="above 0"):
        train("small", [folder], tmp_path / "zero", steps=1, fields={"lambdas": [0, 0]})


def test_a_single_rate_is_measured_at_its_quality(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    """Whatever the qualities of the others; and crops of a report show it where it is small enough."""
    weights = train("small", [folder], tmp_path / "run", steps=1, fields={"quality": 25})
    shown = tmp_path / "shown"
    shown.mkdir()
    picture = Picture(random_rgb(64, 64))
    Image.fromarray(picture.rgb).save(shown / "a.png")
    name = f"mine=small:{weights}"
    found = evaluate([name, "jpeg"], shown, tmp_path / "results.csv", EvaluateOptions([10, 50]))
    measured = [(row.preset, row.quality) for row in found.rows]
    assert measured == [("mine", 25), ("jpeg", 10), ("jpeg", 50)]
    candidate = create_candidate(parse_variant(name))
    assert isinstance(candidate, PresetCandidate)
    size = found.rows[0].bytes
    assert len(largest_file_within(candidate, picture, size) or b"") == size
    assert largest_file_within(candidate, picture, size - 1) is None


def test_the_dead_zone_is_a_field_of_the_recipe_that_the_weights_keep(
    small_preset: presets.Preset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0 all values are rounded, in training and by `encode`; decoders need to know nothing of it."""
    zones: list[float] = []
    through = estimators.quantise_through

    def noted(residual: torch.Tensor, rows: torch.Tensor, dead_zone: float) -> torch.Tensor:
        zones.append(dead_zone)
        return through(residual, rows, dead_zone)

    monkeypatch.setattr(estimators, "quantise_through", noted)
    weights = train("small", [folder], tmp_path / "a", steps=1, fields={"dead_zone": 0})
    assert set(zones) == {0.0} and metadata_of(weights)[QUANTISER] == "0.0"
    again = export_run(tmp_path / "a")
    codec, picture = load("small", weights=again), Picture(random_rgb(192, 128))
    entropy = codec.network.entropy
    assert entropy.dead_zone == 0
    plain = codec.encode(picture, quality=80)
    y_hat = codec.decode_latents(plain).y
    level = torch.tensor([640])
    y = codec.network.analyse(torch.from_numpy(picture.rgb).permute(2, 0, 1)[None].float() / 255)
    mean, index = entropy.predicted_parameters(y, level)
    residual = (y * entropy.gain(level) - mean.to(y)).detach()
    coded = (torch.round(index) > 0) & (residual.abs() < 1e3)
    gained = torch.from_numpy(y_hat) * entropy.gain(level).detach() - mean.to(y)
    assert torch.allclose(gained[coded], residual.round()[coded], atol=1e-2)
    entropy.dead_zone = DEAD_ZONE
    wide = codec.encode(picture, quality=80)
    assert not np.array_equal(codec.decode_latents(wide).y, y_hat)
    assert np.array_equal(codec.decode_latents(plain).y, y_hat)
    assert QUANTISER not in metadata_of(train("small", [folder], tmp_path / "b", steps=1))


def test_fields_are_set_from_the_command_line_and_from_python() -> None:
    recipe: Recipe = with_fields(
        COMPACT, {"learning_rate": 1e-4, "k_p": 3.5, "decay": [[0.9, 0.1]], "batch": 8}
    )
    assert (recipe.learning_rate, recipe.batch, recipe.decay) == (1e-4, 8, ((0.9, 0.1),))
    assert recipe.objective == {"perceptual_weight": 3.5}
    assert with_fields(BASE_LAYER, {"bce": "classes"}).bce == "classes"
    for values in ({"batch": "many"}, {"text": "poems"}, {"cooldown": 2}, {"quality": 101}, {"decay": 3}):
        with pytest.raises(OptionError):
            with_fields(COMPACT, values)
    preset = next(preset for preset in PRESETS if preset.name == "compact-psnr")
    with pytest.raises(OptionError, match="no field 'k_z'; its recipe has learning_rate.*lambdas"):
        make_objective(preset, 1, with_fields(COMPACT, {"k_z": 1}))
    assert run("train", "compact", "--steps", "1", "--set", "batch").exit_code == 2


def test_lists_are_set_without_brackets() -> None:
    values = parse_fields(["stages=2,3,4", "lambdas=[0.1, 0.2]", "quality=50", "text=none", "bce=a,b", "x="])
    assert values == {
        "stages": [2, 3, 4],
        "lambdas": [0.1, 0.2],
        "quality": 50,
        "text": "none",
        "bce": "a,b",
        "x": "",
    }


@pytest.mark.parametrize(
    ("field", "value", "like"),
    [
        ("stages", "two", "a list of integers from 0 to 4"),
        ("stages", 2, "a list of integers from 0 to 4"),
        ("feature_weight", "high", "a number of 0 or more"),
        ("most_objects", 1.5, "an integer from 0 to 1,000"),
        ("cvvdp_share", "all", "a number from 0 to 1"),
    ],
)
def test_arguments_of_an_objective_are_checked_before_data_is_read(
    field: str, value: object, like: str, tmp_path: Path
) -> None:
    """Also those that it passes on to its parent."""
    with pytest.raises(OptionError, match=rf"{field} is {re.escape(like)}.*, not "):
        train("ug-icm-compact", [tmp_path / "nowhere"], tmp_path / "run", steps=1, fields={field: value})


def test_recipes_are_those_of_the_papers_by_stage() -> None:
    known = {preset.name: preset for preset in PRESETS}
    first, second = (stage_recipe(known["cross-modal"], stage) for stage in (1, 2))
    assert (first.batch, second.batch, first.weight_decay, first.text) == (8, 16, 1e-6, "captions")
    objective = make_objective(known["cross-modal"], 1, with_fields(first, {"perceptual": "tower"}))
    assert isinstance(objective, CrossModalObjective) and objective.rate.targets == (0.15, 0.30, 0.45)
    recipe = known["taco"].recipe
    assert [step_decay(f, recipe.decay) for f in (0, 0.89, 0.9, 0.95, 0.96, 1)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    assert recipe.objective == {"perceptual": "lpips-unscaled"} and recipe.text == "captions"
    optimiser = adam(torch.nn.Linear(2, 2), replace(COMPACT, factors={}, weight_decay=1e-6))
    assert optimiser.param_groups[0]["weight_decay"] == 1e-6


def test_a_folder_of_clip_is_that_of_the_preset_and_its_objective(tmp_path: Path) -> None:
    known = {preset.name: preset for preset in PRESETS}
    clips = str(tmp_path)
    for name, text_encoder, towers in (
        ("taco", clips, {"tower": clips}),
        ("dual-layer", clips, {"tower": clips}),
        ("cross-modal", clips, {}),
        ("ug-icm", "", {"tower": clips}),
    ):
        preset, recipe = with_clip(known[name], known[name].recipe, 1, clips)
        assert preset.text_encoder == text_encoder
        assert {key: value for key, value in recipe.objective.items() if key == "tower"} == towers
    with pytest.raises(OptionError, match="uses no CLIP"):
        with_clip(known["compact"], COMPACT, 1, clips)
    with pytest.raises(OptionError, match="no folder nowhere"):
        with_clip(known["taco"], known["taco"].recipe, 1, "nowhere")


def test_every_term_of_an_objective_is_kept() -> None:
    from helpers.codecs import small_codec
    from trifocal.types import Batch

    class Zero(torch.nn.Module):
        def forward(self, *x: torch.Tensor) -> torch.Tensor:
            return x[0].flatten(1).mean(1) if len(x) > 1 else x[0].flatten(1)[:, :4]

    objective = TacoObjective(perceptual=Zero(), images=Zero())
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([100, 500]))
    for _ in objective.losses(small_codec().network, batch, 0):
        pass
    assert objective.terms.keys() == {"bpp", "mse", "perceptual", "joint"}
    assert all(term.ndim == 0 and not term.requires_grad for term in objective.terms.values())


def test_the_batch_is_the_total_of_all_processes(small_preset: presets.Preset) -> None:
    task = CodecTask(small_preset, recipe=replace(small_preset.recipe, batch=6))
    task.use_processes(3)
    assert task.process_batch == 2 and "total batch of 6, 2 each" in task.batch_notice()
    with pytest.raises(OptionError, match="multiple of 4 with --batch"):
        task.use_processes(4)
