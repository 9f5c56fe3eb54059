"""Batch runs with Ray: folders and S3, killed workers and drivers, full disks, memory, and clusters."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trifocal
from helpers.batch import manifest_in, write_texts
from helpers.cli import is_one_sentence
from helpers.images import random_rgb
from helpers.s3 import BUCKET, local_s3, s3_environment
from trifocal.batch.journal import Row, parse
from trifocal.batch.manifest import Manifest
from trifocal.batch.storage import Folder
from trifocal.demo import PHOTOGRAPH

TESTS = Path(__file__).resolve().parent
WAIT = 300.0  # seconds, at most, for another process: Ray starts slowly on a busy machine
SCRIPT = """
import sys
from helpers.batch import manifest_in, reverse_task
from trifocal.batch.run import plan, run
planned = plan(reverse_task(*sys.argv[1:]), manifest_in(sys.argv[2]))
totals = run(planned, lambda fraction, text: None, lambda row: print(row.key, row.error), print, jobs=2)
print(totals.images, totals.failed)
"""


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def batch(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """`trifocal batch WORDS`, with these environment variables."""
    line = [sys.executable, "-m", "trifocal", "batch", *map(str, words)]
    return subprocess.run(line, env=environment(**more), capture_output=True, text=True, check=False)


def started(*words: str | Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "trifocal", "batch", *map(str, words)]
    return subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def write_images(folder: Path, count: int, side: int = 64, seed: int = 0) -> Path:
    """A folder of images: one is decoded from a small set and repeated, with its number in a corner."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = [random_rgb(side, side, seed + one) for one in range(min(count, 20))]
    for number in range(count):
        picture = pixels[number % len(pixels)].copy()
        picture[0, 0] = number // 65536, number // 256 % 256, number % 256
        Image.fromarray(picture).save(folder / f"{number:05}.png", compress_level=1)
    return folder


def waited(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds within WAIT seconds."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def rows_in(folder: Folder) -> dict[str, dict[str, Any]]:
    """The rows of the manifest in a folder by key, without seconds. Each image has one."""
    rows = [*Manifest(folder, "manifest.parquet").rows()]
    found = {row.key: facts(row) for row in rows}
    assert len(found) == len(rows)
    return found


def facts(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__slots__ if name != "seconds"}


def check_files(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Every row has its file, every file its row, and nothing else is left."""
    for key, row in rows.items():
        data = (out / key).with_suffix(".tri").read_bytes()
        assert row["error"] is None and (row["bytes"], row["sha256"]) == (
            len(data),
            hashlib.sha256(data).hexdigest(),
        )
    names = {path.name for path in out.iterdir() if not path.name.endswith(".tmp")}
    assert names == {"manifest.parquet", *(f"{Path(key).stem}.tri" for key in rows)}


def journal_rows(out: Path) -> set[str]:
    """The images that the journal has rows of."""
    folder = out / "manifest.parquet.journal"
    return {key for path in folder.glob("*.jsonl") for key in parse(path.read_bytes())[0]}


def descendants(pid: int, name: str) -> list[int]:
    """The processes below this one whose command line begins with a name."""
    children: dict[int, list[int]] = {}
    lines: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(path.name)] = (path / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(path.name))
    found, pending = [], [pid]
    while pending:
        below = children.get(pending.pop(), [])
        pending += below
        found += [one for one in below if lines[one].startswith(name)]
    return found


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    return descendants(process.pid, "ray::MapWorker")


def rows_or_end(process: subprocess.Popen[str], out: Path, count: int) -> bool:
    """Whether the journal has more than `count` images, or the process has ended."""
    return process.poll() is not None or len(journal_rows(out)) > count


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with local_s3() as address:
        found = s3_environment(address)
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield found


def test_a_bucket_is_encoded_and_an_unreadable_image_is_named(tmp_path: Path, s3: dict[str, str]) -> None:
    images, bucket = write_images(tmp_path / "in", 5), Folder(f"s3://{BUCKET}")
    (images / "bad.png").write_bytes(b"junk")
    for path in images.iterdir():
        (bucket / "in").write(path.name, path.read_bytes())
    words: list[str | Path] = [
        "encode",
        f"s3://{BUCKET}/in/",
        "--out",
        f"s3://{BUCKET}/tri/",
        "--preset",
        "compact",
    ]
    done = batch(*words, "--quality", "30", "--manifest", tmp_path / "run.parquet", **s3)
    assert done.returncode == 1 and "bad.png: This image cannot be read" in done.stderr, done.stderr
    assert "6 images" in done.stdout and "1 failed" in done.stdout
    rows = {row.key: facts(row) for row in Manifest(Folder(str(tmp_path)), "run.parquet").rows()}
    assert len(rows) == 6 and rows.pop("bad.png")["error"] and len(rows) == 5
    for key, row in rows.items():
        data = trifocal.encode(images / key, "compact", quality=30).to_bytes()
        assert (bucket / "tri").read(Path(key).with_suffix(".tri").name) == data
        assert row["sha256"] == hashlib.sha256(data).hexdigest() and row["quality"] == 30
        assert (row["bytes"], row["bpp"]) == (len(data), 8 * len(data) / 64**2)
    assert len((bucket / "tri").find().keys) == 5  # and no journal


@pytest.mark.slow
def test_decoding_and_detection(tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 4)
    assert batch("encode", images, "--preset", "compact").returncode == 0
    assert batch("decode", images, "--out", tmp_path / "png").returncode == 0
    for number in range(4):
        with Image.open(tmp_path / "png" / f"{number:05}.png") as image:
            expected = trifocal.decode(images / f"{number:05}.tri").picture.rgb
            assert np.array_equal(np.asarray(image), expected)
    shutil.copy(PHOTOGRAPH, tmp_path / "in" / "person.png")
    done = batch("detect", images, "--out", tmp_path / "detections.parquet")
    assert done.returncode == 0, done.stderr
    rows = {row.key: row for row in Manifest(Folder(str(tmp_path)), "detections.parquet").rows()}
    assert len(rows) == 9 and "person" in {one["label"] for one in rows["person.png"].detections or ()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "in", 300), tmp_path / "out"
    killed: list[int] = []
    with started("encode", images, "--out", out, "--preset", "compact", "--jobs", "2") as process:
        for _ in range(3):
            count = len(journal_rows(out)) + 20
            assert waited(partial(rows_or_end, process, out, count))
            for pid in workers_of(process):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        stdout, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 0 and len(set(killed)) >= 3, stderr
    rows = rows_in(Folder(str(out)))
    assert len(rows) == 300 and "300 images" in stdout
    check_files(out, rows)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_driver_is_resumed(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "in", 200), tmp_path / "out"
    words: list[str | Path] = ["encode", images, "--out", out, "--preset", "compact", "--jobs", "2"]
    with started(*words) as process:
        assert waited(partial(rows_or_end, process, out, 50))
        below = descendants(process.pid, "")
        process.kill()
    assert waited(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    before = {key: (out / key).with_suffix(".tri").stat().st_mtime_ns for key in journal_rows(out)}
    assert 50 < len(before) < 200 and not (out / "manifest.parquet").exists()
    done = batch(*words)
    assert done.returncode == 1 and "--resume" in done.stderr and is_one_sentence(done.stderr)
    done = batch(*words, "--resume")
    assert done.returncode == 0 and f"{len(before)} of 200 images are done already." in done.stderr
    after = {key: (out / key).with_suffix(".tri").stat().st_mtime_ns for key in before}
    assert after == before
    rows = rows_in(Folder(str(out)))
    assert len(rows) == 200
    check_files(out, rows)


@pytest.mark.slow
def test_images_that_end_their_worker_are_named(tmp_path: Path) -> None:
    texts = {f"{number:02}.txt": f"text {number}" for number in range(40)}
    source = write_texts(tmp_path / "in", texts | {"07.txt": "kill", "21.txt": "kill", "30.txt": "bug"})
    line = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "out")]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "40 3", done.stdout + done.stderr
    rows = {row.key: row.error for row in manifest_in(tmp_path / "out").rows()}
    failed = {key for key, error in rows.items() if error}
    assert len(rows) == 40 and failed == {"07.txt", "21.txt", "30.txt"}
    assert "3 times" in str(rows["07.txt"]) and "ZeroDivisionError" in str(rows["30.txt"])
    assert (tmp_path / "out" / "08.rev").read_text() == "8 txet"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, which a test may enlarge."""
    disk = tmp_path / "disk"
    disk.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    try:
        subprocess.run(line, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_it_is_resumed(tmp_path: Path, small_disk: Path) -> None:
    images, out = write_images(tmp_path / "in", 100), small_disk / "out"
    words: list[str | Path] = ["encode", images, "--out", out, "--preset", "compact", "--jobs", "2"]
    done = batch(*words)
    assert done.returncode == 1 and "No space left" in done.stderr and "--resume" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (out / "manifest.parquet").exists()
    before = len(journal_rows(out))
    assert 5 < before < 100
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    done = batch(*words, "--resume")
    assert done.returncode == 0 and f"{before} of 100 images are done already." in done.stderr, done.stderr
    rows = rows_in(Folder(str(out)))
    assert len(rows) == 100
    check_files(out, rows)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_memory_of_workers_is_bounded(tmp_path: Path) -> None:
    """Images that need more than --memory are refused by their size, and the peak of a worker is below it."""
    images, out, memory = write_images(tmp_path / "in", 2), tmp_path / "out", 900_000_000
    Image.fromarray(np.zeros((1500, 2500, 3), np.uint8)).save(images / "large.png")
    Image.fromarray(np.zeros((3000, 3000, 3), np.uint8)).save(images / "larger.png")
    words: list[str | Path] = ["encode", images, "--out", out, "--memory", str(memory), "--jobs", "1"]
    peak = 0
    with started(*words) as process:
        while process.poll() is None:
            for pid in workers_of(process):
                status = re.search(r"VmHWM:\s+(\d+)", read_or_nothing(Path(f"/proc/{pid}/status")))
                peak = max(peak, int(status[1]) << 10 if status else 0)
            time.sleep(0.1)
        stderr = process.communicate()[1]
    rows = rows_in(Folder(str(out)))
    assert [key for key, row in rows.items() if row["error"]] == ["larger.png"], stderr
    assert "Here --memory sets this limit." in rows["larger.png"]["error"] and 0 < peak < memory


def read_or_nothing(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.slow
def test_ten_thousand_small_images(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "in", 10_000), tmp_path / "out"
    done = batch("encode", images, "--out", out, "--preset", "compact")
    assert done.returncode == 0 and "10,000 images" in done.stdout, done.stderr
    rows = rows_in(Folder(str(out)))
    assert len(rows) == 10_000 and len({row["sha256"] for row in rows.values()}) > 20
    check_files(out, rows)


CLUSTER = """
import json, os, subprocess, sys
os.environ["RAY_worker_niceness"] = "0"
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
line = [sys.executable, "-m", "trifocal", "batch", *sys.argv[1:], "--address", cluster.address]
done = subprocess.run(line, capture_output=True, text=True)
cluster.shutdown()
print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""


@pytest.mark.slow
def test_a_cluster_of_two_machines_gives_the_same_manifest(tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 60)
    words = ["encode", str(images), "--preset", "compact", "--out"]
    assert batch(*words, tmp_path / "one").returncode == 0
    line = [sys.executable, "-c", CLUSTER, *words, str(tmp_path / "two")]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, _, stderr = json.loads(done.stdout.splitlines()[-1])
    assert status == 0 and "2 workers on 2 machines" in stderr, stderr
    one, two = (rows_in(Folder(str(tmp_path / name))) for name in ("one", "two"))
    assert one == two and len(one) == 60
    check_files(tmp_path / "two", two)


def test_no_cluster_is_one_sentence(tmp_path: Path) -> None:
    done = batch("encode", write_images(tmp_path / "in", 1), "--address", "127.0.0.1:1", "--quiet")
    assert done.returncode == 1 and "ray start --head" in done.stderr and is_one_sentence(done.stderr)
