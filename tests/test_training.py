"""A small network is trained for a minute, stopped and resumed, and its export encodes an image."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal import presets
from trifocal.data import Crops, read_pictures, split
from trifocal.data.images import TrainingPicture
from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.losses import LAMBDA_RANGE, level_weight, quality_lambda, spread_levels
from trifocal.pictures import Picture
from trifocal.training import train
from trifocal.training.checkpoint import append_row, drop_rows_after
from trifocal.training.optimisers import plateau_schedule
from trifocal.training.task import LossTask
from trifocal.training.trainer import Trainer
from trifocal.weights import load_weights, read_decodable_fingerprints, read_weights


def held_out(run: Path) -> list[float]:
    with (run / "log.csv").open() as file:
        return [float(row["held_out"]) for row in csv.DictReader(file)]


def test_training_needs_no_range_coder():
    """The range coder may be missing on a machine that only trains."""
    script = """
import sys
sys.modules["constriction"] = None
import torch
from trifocal.losses import rate_distortion
from trifocal.presets import find
from trifocal.training import train
codec, x, level = find("compact").build(), torch.rand(1, 3, 64, 64), torch.tensor([300])
rate_distortion(codec.network(x, level), x, level).sum().backward()
assert float(codec.network.eval()(x, level).bits) > 0
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_training_lowers_the_loss_and_exports(small_preset, folder, tmp_path):
    seen: list[tuple[float, str]] = []
    out = tmp_path / "run"
    weights = train("small", [folder], out, steps=1, every=99)
    train(
        "small",
        [folder],
        out,
        steps=40,
        every=99,
        resume=True,
        report=lambda *said: seen.append(said),
    )
    first, last = held_out(out)
    assert last < 0.98 * first
    assert sum(text.startswith("step") for _, text in seen) == 39 and seen[-1][0] == 1
    assert sum(text.startswith("reading") for _, text in seen) == 48
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["steps"] == 40 and record["data"] == ["data"]
    assert record["held_out"]["held_out"] < record["held_out_before_calibration"]

    codec = small_codec()
    codec.network.load_state_dict(read_weights(weights))
    picture = Picture(random_rgb(100, 90, seed=99))
    decoded = codec.decode(codec.encode(picture, quality=50)).picture
    assert decoded.rgb.shape == picture.rgb.shape


def test_decoder_training_records_decodable_fingerprints(small_preset, folder, tmp_path):
    """The fingerprint of the start weights, and those that they list already; also after a resumed run."""
    first = train("small", [folder], tmp_path / "one", steps=1, every=99)
    assert read_decodable_fingerprints(first) == {}
    codec = small_codec()
    load_weights(codec.network, first)
    kinds = {"1": (1, 1), "2": (2, 1), "2.2": (2, 2)}  # version of the format and arithmetic
    own = {kind: frozenset({codec.fingerprint_in(*both)}) for kind, both in kinds.items()}
    options: dict[str, Any] = {"parts": ["decoder"], "every": 99}
    second = train(small_preset, [folder], tmp_path / "two", steps=1, start=first, **options)
    assert read_decodable_fingerprints(second) == own
    train("small", [folder], tmp_path / "two", steps=3, resume=True, **options)
    assert read_decodable_fingerprints(second) == own
    before, after = read_weights(first), read_weights(second)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"synthesis"}
    assert json.loads(second.with_suffix(".json").read_text())["parts"] == ["decoder"]
    load_weights(codec.network, second)
    third = train("small", [folder], tmp_path / "three", steps=1, start=second, **options)
    assert read_decodable_fingerprints(third) == {k: own[k] | {codec.fingerprint_in(*kinds[k])} for k in own}
    train("small", [], tmp_path / "two", steps=4, resume=True)  # with the parts and data of the checkpoint
    assert json.loads(second.with_suffix(".json").read_text())["parts"] == ["decoder"]


def test_weights_with_another_encoder_record_no_other_fingerprints(small_preset, folder, tmp_path):
    first = train("small", [folder], tmp_path / "one", steps=1, every=99)
    second = train("small", [folder], tmp_path / "two", steps=1, every=99, start=first, parts=["entropy"])
    assert read_decodable_fingerprints(second) == {}
    before, after = read_weights(first), read_weights(second)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"entropy"}


def test_parts_that_do_not_exist_or_are_frozen_are_refused(small_preset, folder, tmp_path):
    with pytest.raises(OptionError, match="no part 'head'; choose from encoder, entropy, decoder"):
        train("small", [folder], tmp_path, steps=1, parts=["head"])
    frozen = replace(small_preset, recipe=replace(small_preset.recipe, factors={"synthesis.": 0.0}))
    with pytest.raises(OptionError, match="freezes all parameters"):
        train(frozen, [folder], tmp_path, steps=1, parts=["decoder"])


def test_checkpoint_of_the_first_release_is_resumed(small_preset, folder, tmp_path):
    """It has one optimiser for each network, and calls the module "codec"."""
    train("small", [folder], tmp_path, steps=2, every=99)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    old = {"codec": state["module"], "averaged": state["averaged"], "partners": {}}
    old |= {"optimisers": {"codec": state["optimisers"]["codec"][0]}, "progress": state["progress"]}
    torch.save(old, path)
    weights = train("small", [folder], tmp_path, steps=3, every=99, resume=True)
    assert json.loads(weights.with_suffix(".json").read_text())["steps"] == 3


def test_training_can_start_from_weights(small_preset, folder, tmp_path):
    weights = train("small", [folder], tmp_path / "one", steps=3, every=99)
    train("small", [folder], tmp_path / "two", steps=1, learning_rate=1e-9, every=99, start=weights)
    there = json.loads(weights.with_suffix(".json").read_text())["held_out"]["held_out"]
    assert held_out(tmp_path / "two")[0] == pytest.approx(there, rel=0.001)


@pytest.mark.parametrize("length", [{}, {"steps": 1, "minutes": 1}])
def test_run_needs_exactly_one_length(small_preset, folder, tmp_path, length):
    with pytest.raises(OptionError, match="either steps or minutes"):
        train("small", [folder], tmp_path, **length)


def test_missing_inputs_are_named(small_preset, folder, tmp_path):
    with pytest.raises(OptionError, match="no checkpoint"):
        train("small", [folder], tmp_path / "new", steps=1, resume=True)
    with pytest.raises(OptionError, match="There is no"):
        train("small", [tmp_path / "missing"], tmp_path / "new", steps=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="No image"):
        train("small", [tmp_path / "empty"], tmp_path / "new", steps=1)
    with pytest.raises(PresetError, match="there are: small"):
        train("large", [folder], tmp_path / "new", steps=1)


def test_shards_and_folders_give_the_same_images(folder, tmp_path):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for path in sorted(folder.iterdir()):
            for name, content in ((path.name, path.read_bytes()), (f"{path.stem}.json", b"{}")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    one, other = read_pictures([folder], 64), read_pictures([shard], 64)
    assert {p.key for p in one} == {p.key for p in other} and len(one) == 48
    assert np.array_equal(one[0].rgb, next(p for p in other if p.key == one[0].key).rgb)


def test_images_are_read_like_those_of_the_codec(folder):
    """Rotated by their EXIF orientation; unreadable files are left out and named."""
    wide = random_rgb(100, 70)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(wide).save(folder / "turned.png", exif=exif)
    (folder / "broken.png").write_bytes((folder / "turned.png").read_bytes()[:500])
    said: list[str] = []
    pictures = {p.key: p.rgb for p in read_pictures([folder], 64, said.append)}
    assert np.array_equal(pictures["turned"], np.rot90(wide, -1))
    assert "broken" not in pictures and any("broken, left out" in text for text in said)


def test_validation_split_is_by_key():
    pictures = [TrainingPicture(str(n), random_rgb(8, 8)) for n in range(400)]
    training, held = split(pictures)
    assert len(training) + len(held) == 400 and 2 <= len(held) <= 25
    assert {p.key for p in split(pictures[::-1])[1]} == {p.key for p in held}


def test_few_images_are_split():
    few = [TrainingPicture(f"picture {number}", np.zeros((1, 1, 3), np.uint8)) for number in range(5)]
    training, held = split(few)
    assert len(held) == 1 and len(training) == 4
    with pytest.raises(OptionError, match="held out"):
        split(few[:1])


def test_crops_are_within_their_images():
    picture = TrainingPicture("a", random_rgb(70, 66))
    with Crops([picture], batch=6, size=64, seed=0) as crops:
        batch = crops.next().rgb
    assert batch.shape == (6, 64, 64, 3)
    windows = np.lib.stride_tricks.sliding_window_view(picture.rgb, (64, 64), axis=(0, 1)).transpose(
        0, 1, 3, 4, 2
    )
    places = windows.reshape(-1, 64, 64, 3)
    for crop in batch:
        assert any(np.array_equal(p, crop) or np.array_equal(p[:, ::-1], crop) for p in places)


def test_learning_rate_schedule_and_quality_levels():
    recipe = presets.find("compact").recipe
    schedule = partial(plateau_schedule, warmup=recipe.warmup, cooldown=recipe.cooldown)
    assert schedule(0, 0.0) < 0.05 and schedule(10**4, 0.3) == 1 and schedule(10**4, 0.999) == 0.02
    torch.manual_seed(0)
    levels = spread_levels(8, torch.device("cpu"))
    assert sorted((levels // 100.2).long().tolist()) == list(range(8))
    assert (spread_levels(64, torch.device("cpu"), power=2.0) <= 200).sum() == 32
    ends = quality_lambda(torch.tensor([0, 800]))
    assert ends.tolist() == pytest.approx(LAMBDA_RANGE)
    assert level_weight(torch.tensor([400])).item() == 1


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trifocal.weights.WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="not installed"):
        load_weights(small_codec().network, "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(small_codec().network, "bad.safetensors")


class Square(nn.Module):
    """Two linear layers, one with a frozen bias, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.look = nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(1, 1, 3)
        self.second.bias.requires_grad_(False)


class SquareTask(LossTask):
    """`Square`, whose second layer has half of the learning rate."""

    name, weights, validation_batches = "square", {"error": 1.0}, 0
    learning_rate, matrix_rate, weight_decay = 0.01, 0.04, 0.1

    def factor(self, name: str) -> float:
        return 0.5 if "second" in name else 1.0

    def batches(self, seed: int, first: int) -> Any:
        raise NotImplementedError

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        raise NotImplementedError


class NoBatches:
    def next(self) -> Any:
        raise NotImplementedError

    def close(self) -> None: ...


def test_muon_trains_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW trains all other parameters, and matrices too if there is no `matrix_rate`. Biases have no weight
    decay.
    """
    module = Square()
    adamw, muon = SquareTask(module, NoBatches()).optimisers()["square"]
    rows = [(g["factor"], g["weight_decay"], [*map(id, g["params"])]) for g in muon.param_groups]
    assert rows == [(4.0, 0.1, [id(module.first.weight)]), (2.0, 0.1, [id(module.second.weight)])]
    rows = [(g["factor"], g["weight_decay"], [*map(id, g["params"])]) for g in adamw.param_groups]
    assert rows == [
        (1.0, 0.0, [id(module.first.bias), id(module.look.bias)]),
        (1.0, 0.1, [id(module.look.weight)]),
    ]
    monkeypatch.setattr(SquareTask, "matrix_rate", None)
    (adamw,) = SquareTask(module, NoBatches()).optimisers()["square"]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 5


def test_learning_rate_option_scales_both_optimisers(tmp_path: Path) -> None:
    trainer = Trainer(SquareTask(Square(), NoBatches(), learning_rate=0.002), tmp_path, steps=1)
    record = trainer.record()
    assert record["learning_rate"] == 0.002 and record["matrix_rate"] == pytest.approx(0.008)
    assert SquareTask.learning_rate == 0.01
    factors = [g["factor"] for optimiser in trainer.optimisers["square"] for g in optimiser.param_groups]
    assert factors == [1.0, 1.0, 4.0, 2.0]


TOGETHER = """
import os, sys, time
from pathlib import Path
import torch
from torch import nn
from torch.multiprocessing import start_processes
from trifocal.training.checkpoint import on_main_process
from trifocal.training.task import LossTask
from trifocal.training.trainer import Trainer

class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Linear(1, 1, bias=False)

    def forward(self, x, y):
        return {"error": (self.slope(x) - y).square().mean()}

class Batches:
    rank = 0

    def next(self):
        time.sleep(0.02 * self.rank)
        return torch.ones(4, 1), torch.full((4, 1), 1.0 + 2 * self.rank)

    def close(self):
        pass

class LineTask(LossTask):
    name, file_name, batch = "line", "line.safetensors", 8
    weights, learning_rate, weight_decay, warmup, validation_batches = {"error": 1.0}, 0.3, 0.0, 1, 1

    def batches(self, seed, first):
        return Batches()

    def export(self, average, path):
        time.sleep(0.5)
        path.with_name(f"{Batches.rank}.weights").touch()
        return {}

def work(rank, out):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torch.manual_seed(0)
    trainer = Trainer(LineTask(Line(), Batches()), out, minutes=0.04)
    Batches.rank = trainer.accelerator.process_index
    trainer.fit(1.0, lambda fraction, text: None)
    again = Trainer(LineTask(Line(), Batches()), out, minutes=0.04)
    again.resume()
    assert again.elapsed == trainer.elapsed
    assert again.unwrapped.slope.weight == trainer.unwrapped.slope.weight
    slope = float(trainer.unwrapped.slope.weight)
    text = f"{trainer.accelerator.num_processes} {trainer.elapsed.step} {slope:.5f}"
    (out / f"{rank}.txt").write_text(text)
    trainer.export()
    assert (out / "0.weights").exists()

start_processes(work, (Path(sys.argv[1]),), nprocs=2, start_method="fork")
"""


def test_two_processes_train_one_network(tmp_path):
    """Gradients are averaged, a run limited in minutes ends at the same step in both, both resume it, and one
    exports while the other waits. The processes are forked, so that torch is imported once.
    """
    script = tmp_path / "script.py"
    script.write_text(TOGETHER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, **address, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
        capture_output=True,
    )
    one, two = ((tmp_path / f"{rank}.txt").read_text().split() for rank in (0, 1))
    assert one == two and one[0] == "2" and int(one[1]) > 20
    assert float(one[2]) == pytest.approx(2.0, abs=0.2)  # between the targets of the two
    assert not (tmp_path / "1.weights").exists()


def test_resumed_log_drops_rows_after_the_checkpoint(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    drop_rows_after(log, 5)
    for step in 5, 10, 15:
        append_row(log, {"step": step, "loss": 0.5})
    whole = log.read_bytes()
    drop_rows_after(log, 15)
    assert log.read_bytes() == whole
    with log.open("a") as file:
        file.write("2")  # a row that the run did not finish
    drop_rows_after(log, 10)
    append_row(log, {"step": 15, "loss": 0.25})
    assert log.read_text().split() == ["step,loss", "5,0.5", "10,0.5", "15,0.25"]
