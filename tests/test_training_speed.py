"""Faster training: prefetched batches, several processes, and runs in several sessions."""

import csv
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.images import random_rgb
from helpers.presets import small_codec_preset
from helpers.scripts import load_script
from trifocal import presets
from trifocal.cli import app
from trifocal.data import Crops
from trifocal.data.images import TrainingPicture
from trifocal.data.prefetching import Prefetcher
from trifocal.errors import OptionError, PictureError
from trifocal.training import in_processes, processes, train
from trifocal.training.optimisers import plateau_schedule
from trifocal.training.tasks import codec as codec_task
from trifocal.training.tasks.codec import CodecTask
from trifocal.training.trainer import Trainer
from trifocal.weights import read_weights

# ── batches ahead ──


class Counted(Prefetcher[int]):
    """0, 1, 2 … and an error instead of 3; keeps the threads that made them."""

    def __init__(self, depth: int) -> None:
        self.made, self.threads = 0, set[threading.Thread]()
        super().__init__(depth)

    def _make(self) -> int:
        self.threads.add(threading.current_thread())
        self.made += 1
        if self.made == 4:
            raise PictureError("The fourth cannot be read.")
        return self.made - 1


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetcher_keeps_the_order_of_batches_and_errors(depth: int) -> None:
    with Counted(depth) as source:
        assert [source.next() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(PictureError, match="fourth"):
            source.next()
        assert source.next() == 4
    (thread,) = source.threads
    assert thread is not threading.current_thread() and not thread.is_alive()
    assert source.made <= 5 + depth


def test_prefetched_crops_are_reproducible() -> None:
    pictures = [TrainingPicture(str(n), random_rgb(90, 80, seed=n)) for n in range(5)]
    rounds = []
    for seed in (0, 0, 1):
        with Crops(pictures, batch=3, size=64, seed=seed) as crops:
            rounds.append(np.stack([crops.next().rgb for _ in range(6)]))
    assert np.array_equal(rounds[0], rounds[1]) and not np.array_equal(rounds[0], rounds[2])


def test_unreadable_image_ends_the_run(small_preset: presets.Preset, tmp_path: Path) -> None:
    task = CodecTask(small_preset)
    broken = replace(TrainingPicture("a", random_rgb(80, 72)), kept=random_rgb(8, 8))
    threads = threading.active_count()
    with pytest.raises(ValueError, match="high <= 0"):
        task.training_images = [broken]
        list(Trainer(task, tmp_path, steps=9).train_steps())
    assert threading.active_count() == threads


# ── several processes ──


def train_in_one_of_two_processes(out: Path, *args: Any, report: Any, notify: Any, **options: Any) -> str:
    """Train the small preset, and write what this process drew, and its final weights."""
    presets.PRESETS = (small_codec_preset(),)  # type: ignore[assignment]
    drawn: list[Any] = []
    spread, make = codec_task.spread_levels, Crops._make

    def levels(*given: Any) -> torch.Tensor:
        drawn.append(spread(*given).tolist())
        return torch.tensor(drawn[-1])

    def crops(self: Crops) -> Any:
        made = make(self)
        drawn.append(made.rgb.astype(int).sum((1, 2, 3)).tolist())
        return made

    codec_task.spread_levels, Crops._make = levels, crops  # type: ignore[assignment, method-assign]
    ends: list[float] = []
    fit = Trainer.fit

    def fit_and_note(self: Trainer, *given: Any) -> None:
        fit(self, *given)
        ends.append(self.elapsed.step)
        ends.extend(float(p.detach().double().sum()) for p in self.unwrapped.parameters())

    Trainer.fit = fit_and_note  # type: ignore[assignment, method-assign]
    weights = train("small", *args, report=report, notify=notify, **options)
    facts = {"drawn": drawn, "ends": ends, "threads": torch.get_num_threads()}
    (out / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(facts))
    return str(weights)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_processes_share_gradients_and_use_different_crops(
    folder: Path, tmp_path: Path, two_threads: None
) -> None:
    """Each has other crops and levels and the same weights; one writes files; both resume, and the threads
    are divided.
    """
    run, said, notes = tmp_path / "run", list[float](), list[str]()
    for steps in (3, 5):
        weights = in_processes(
            2,
            train_in_one_of_two_processes,
            tmp_path,
            [folder],
            run,
            steps=steps,
            every=99.0,
            resume=steps == 5,
            report=lambda fraction, text: said.append(fraction) if text.startswith("step") else None,
            notify=notes.append,
        )
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one["threads"] == two["threads"] == 1
    assert not {tuple(row) for row in one["drawn"]} & {tuple(row) for row in two["drawn"]}
    assert one["ends"][0] == 5 and one["ends"] == two["ends"]
    assert said == [1 / 3, 2 / 3, 1, 4 / 5, 1] and len(notes) == 6
    assert "2 processes train on a total batch of 2, 1 each." in notes
    assert weights == str(run / "small.safetensors") and len(list(run.glob("*.safetensors"))) == 1
    record = json.loads((run / "small.json").read_text())
    assert (record["processes"], record["steps"], record["recipe"]["batch"]) == (2, 5, 2)
    assert record["read"]["images"] == 48 and record["batch"] == 2  # the total: a crop in each process
    with (run / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "5"]


def failing(error: Exception | None, *, report: Any, notify: Any) -> None:
    if error is None:
        raise SystemExit(3)
    report(0.5, "half")
    raise error


@pytest.mark.slow
def test_error_in_one_process_ends_all() -> None:
    said: list[object] = []
    with pytest.raises(OptionError, match="^No pictures.$"):
        in_processes(2, failing, OptionError("No pictures."), report=lambda *words: said.append(words))
    assert said in ([], [(0.5, "half")])  # the second may be the first to fail
    with pytest.raises(torch.multiprocessing.ProcessExitedException):
        in_processes(2, failing, None)


SLEEPERS = """
import os, sys, time
from pathlib import Path
from trifocal.training import in_processes

def sleep(folder, report, notify):
    Path(folder, os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(300)

if __name__ == "__main__":
    in_processes(2, sleep, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SLEEPERS)
    pids: list[int] = []
    with subprocess.Popen([sys.executable, script, tmp_path], stderr=subprocess.DEVNULL) as parent:
        try:
            wait_for(
                lambda: all((tmp_path / rank).exists() and (tmp_path / rank).read_text() for rank in "01")
            )
            pids = [int((tmp_path / rank).read_text()) for rank in "01"]
            parent.send_signal(number)
            assert parent.wait(60) != 0
            wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        finally:
            parent.kill()


def wait_for(done: Callable[[], bool]) -> None:
    """Wait for at most two minutes."""
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_invalid_numbers_of_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="must be 1 or more, not 0"):
        processes.check_count(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    processes.check_count(1)
    with pytest.raises(OptionError, match="set --processes to 1 at most"):
        processes.check_count(2)
    assert "ACCELERATE_USE_CPU" not in processes.environment(2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    processes.check_count(2)
    assert processes.environment(2)["ACCELERATE_USE_CPU"] == "1"
    monkeypatch.setenv("RANK", "0")
    processes.check_count(1)
    with pytest.raises(OptionError, match="leave out --processes"):
        processes.check_count(2)
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(OptionError, match="--multi_gpu --num_processes N"):
        processes.check_count(1)


# ── cooldown, and a run that is long enough already ──


def test_learning_rate_is_constant_without_a_cooldown() -> None:
    rates = [plateau_schedule(10**4, fraction, 100, 0.0) for fraction in (0.0, 0.5, 0.999, 1.0)]
    assert rates == [1.0] * 4 and plateau_schedule(0, 0.0, 100, 0.0) < 0.05
    assert plateau_schedule(10**4, 0.95, 100, 0.1) == pytest.approx(0.5)


def test_constant_rate_run_is_resumed_with_a_cooldown(
    small_preset: presets.Preset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def noted(*given: Any) -> float:
        rates.append(plateau_schedule(*given))
        return rates[-1]

    monkeypatch.setattr(codec_task, "plateau_schedule", noted)
    options: dict[str, Any] = {"every": 99}
    train("small", [folder], tmp_path, steps=4, cooldown=0.0, **options)
    weights = train("small", [folder], tmp_path, steps=8, cooldown=0.25, resume=True, **options)
    assert rates == pytest.approx([0.5, *[1.0] * 6, 0.5])
    assert json.loads(weights.with_suffix(".json").read_text())["recipe"]["cooldown"] == 0.25
    with pytest.raises(OptionError, match="from 0 to 1, not 1.5"):
        train("small", [folder], tmp_path / "other", steps=8, cooldown=1.5)


def test_finished_run_is_exported_at_once(small_preset: presets.Preset, folder: Path, tmp_path: Path) -> None:
    """Without a step, a row or another checkpoint."""
    weights = train("small", [folder], tmp_path, steps=4, cooldown=0.0, every=99)
    record, log = json.loads(weights.with_suffix(".json").read_text()), (tmp_path / "log.csv").read_text()
    before, written = (tmp_path / "checkpoint.pt").stat().st_mtime_ns, read_weights(weights)
    weights.unlink()
    said: list[tuple[float, str]] = []
    train("small", [folder], tmp_path, steps=2, resume=True, report=lambda *words: said.append(words))
    assert not any(text.startswith("step") for _, text in said) and max(said)[0] == 0
    assert (tmp_path / "log.csv").read_text() == log == weights.with_suffix(".csv").read_text()
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before
    again = json.loads(weights.with_suffix(".json").read_text())
    assert again["steps"] == 4 and again["held_out"] == record["held_out"]
    assert all(torch.equal(written[name], value) for name, value in read_weights(weights).items())


# ── the command, and the benchmark ──


def test_command_line_passes_all_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        "trifocal.training.in_processes", lambda *words, **options: given.append((words, options))
    )
    words = ["train", "compact", "--data", "a", "--steps", "9", "--processes", "2", "--precision", "bfloat16"]
    assert CliRunner().invoke(app, [*words, "--cooldown", "0"]).exit_code == 0
    assert CliRunner().invoke(app, ["train", "base", "--data", "a", "--steps", "9"]).exit_code == 0
    (one, options), (two, others) = given[:2]
    assert (
        one == (2, train, "compact", ["a"], "runs/compact")
        and two[0] == 1
        and two[2:] == (["a"], "runs/base")
    )
    assert (options["precision"], options["cooldown"]) == ("bfloat16", 0.0)
    assert others["precision"] is None and not {"cooldown", "stage", "teacher"} & others.keys()
    assert CliRunner().invoke(app, [*words, "--parts", "decoder,entropy"]).exit_code == 0
    assert given[-1][1]["parts"] == ["decoder", "entropy"] and "parts" not in options
    refused = CliRunner().invoke(app, ["train", "base", "--steps", "9", "--parts", "decoder"])
    assert refused.exit_code == 2 and "takes no --parts" in " ".join(refused.output.split())
    refused = CliRunner().invoke(app, ["train", "detector", "--steps", "9", "--cooldown", "0.1"])
    assert refused.exit_code == 2 and "takes no --cooldown" in " ".join(refused.output.split())


def test_benchmark_measures_and_writes_its_table(small_preset: presets.Preset, tmp_path: Path) -> None:
    script = load_script("benchmarks/training_speed.py")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    words = ["--preset", "small", "--threads", "1", "--steps", "2", "--warmup", "1", "--page", str(page)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["training_speed.py", *words, "--objective", "mse"])
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        script.main()
    lines = page.read_text().splitlines()
    assert [lines[0], lines[-1]] == ["before", "after"] and "old" not in lines
    rows = [line.split()[1].strip(",") for line in lines if line.startswith(("| float32", "| bfloat16"))]
    assert rows == ["float32", "bfloat16"]
    rows = [line.split()[1].strip(",") for line in lines if line.startswith(("| float32", "| bfloat16"))]
    assert rows == ["float32", "bfloat16"]
    assert (
        "| ×1.00 |" in page.read_text() and "with squared error, 2 steps after 1 warm-up" in page.read_text()
    )
    with pytest.raises(OptionError, match="needs a line"):
        script.with_table("nothing", "table")


def test_benchmark_counts_the_crops_of_all_processes() -> None:
    script = load_script("benchmarks/training_speed.py")
    timings = [script.Timing("float32", 1, 2, 4, 30.0), script.Timing("float32", 2, 1, 4, 22.5)]
    assert script.table(timings)[2:] == [
        "| float32 | 1 | 2 | 4 | 30.0 | 120 | ×1.00 |",
        "| float32 | 2 | 1 | 4 | 22.5 | 180 | ×1.50 |",
    ]
