"""Images that are encoded at the same time: files, order of the output, errors, and the end of a run."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from helpers.cli import run
from helpers.images import random_rgb
from trifocal.api import Encoder
from trifocal.cli.console import Console, Progress, run_jobs
from trifocal.cli.main import MOST_AT_ONCE, images_at_once
from trifocal.cli.paths import Input, Job, Outputs
from trifocal.errors import TrifocalError
from trifocal.utils import threads

WAIT = 20.0  # seconds, at most, for another thread


def jobs(count: int) -> list[Job]:
    return [
        Job(
            Input(Path(f"{number}.png"), f"{number}.png", Path(f"{number}.png")),
            Outputs().add(Path("x"), True),
        )
        for number in range(count)
    ]


def test_images_at_once_give_the_same_files_and_lines(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        Image.fromarray(random_rgb(64, 48, seed=number)).save(tmp_path / "in" / f"{number}.png", comment="a")
    (tmp_path / "in" / "2.png").write_bytes((tmp_path / "in" / "2.png").read_bytes()[:100])
    options = "encode", tmp_path / "in", "--preset", "compact", "-o"
    one, three = (run(*options, tmp_path / count, "--jobs", count) for count in ("1", "3"))
    assert one.exit_code == three.exit_code == 1
    assert one.stdout.replace(f"{tmp_path / '1'}", f"{tmp_path / '3'}") == three.stdout
    assert one.stderr == three.stderr and "1 of 5 failed" in one.stderr
    made = {path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "3").iterdir()} and len(made) == 4


def test_as_many_jobs_run_as_asked_and_print_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    terminal, running, most = Console(), 0, 0
    lock, both = threading.Lock(), threading.Barrier(2)

    def work(job: Job, progress: Progress) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(WAIT)  # only two that run at the same time pass
        time.sleep(0.02 if job.source.stem in "024" else 0)
        terminal.print_result(job.source.name)
        with lock:
            running -= 1
        if job.source.stem == "3":
            raise TrifocalError("It is wrong.")

    assert run_jobs(terminal, jobs(6), work, at_once=2) == 1
    captured = capsys.readouterr()
    assert captured.out.split() == [f"{number}.png" for number in range(6)]
    assert captured.err.splitlines() == ["3.png: It is wrong.", "1 of 6 failed: 3.png"]
    assert most == 2


def test_interruption_ends_running_jobs_and_starts_no_others() -> None:
    started: list[str] = []
    ended: list[str] = []

    def work(job: Job, progress: Progress) -> None:
        started.append(job.source.stem)
        if job.source.stem == "0":
            while len(started) < 2:
                time.sleep(0.001)
            raise BrokenPipeError
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            progress(0.5)
            time.sleep(0.001)
        ended.append(job.source.stem)

    began = time.monotonic()
    with pytest.raises(BrokenPipeError):
        run_jobs(Console(), jobs(20), work, at_once=2)
    assert time.monotonic() - began < WAIT and not ended and len(started) < 20


def test_each_image_gets_its_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Event()

    def slow(preset: object, text: str, send: bool, notify: object) -> str:
        if text == "a":
            entered.set()
            time.sleep(0.05)
        return text

    encoder = Encoder("compact")
    monkeypatch.setattr("trifocal.text_conditioning.encoding_condition", slow)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(encoder.conditioning("a")))
    thread.start()
    assert entered.wait(WAIT)
    other: object = encoder.conditioning("b")
    assert other == "b"
    thread.join()
    assert found == ["a"]


def test_threads_are_limited_while_any_thread_needs_it() -> None:
    def blas_threads() -> set[int]:
        return {one["num_threads"] for one in threads.blas().info() if one["user_api"] == "blas"}

    before = blas_threads()
    first, second = threads.one_blas_thread(), threads.one_blas_thread()
    first.__enter__()
    second.__enter__()
    assert blas_threads() == {1}
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before


FORK = """
import os, threading
from trifocal.utils.threads import Background, pool
go = threading.Event()
for _ in range(os.cpu_count() or 1):
    pool().submit(go.wait)
value = Background(os.getpid)
child = os.fork()
if not child:
    os._exit(value.result() != os.getpid())
go.set()
assert os.waitpid(child, 0)[1] == 0
assert value.result() == os.getpid()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_background_values_are_computed_in_a_forked_process_too() -> None:
    """Also those that no thread has begun, since the threads are not in that process."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def test_number_of_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert images_at_once(None, None, 10) == 3
    assert images_at_once(None, 2, 10) == 2
    assert images_at_once(None, 16, 100) == MOST_AT_ONCE
    assert images_at_once(8, None, 5) == 5
    assert images_at_once(None, None, 0) == 1
