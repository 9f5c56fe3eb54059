"""Batch runs without Ray: storage, journal, manifest, plans, and what a worker does with a segment."""

import errno
import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trifocal
from helpers.batch import manifest_in, reverse, reverse_task, write_texts
from helpers.cli import is_one_sentence, run
from helpers.images import random_rgb
from helpers.s3 import BUCKET, local_s3, s3_environment
from trifocal.batch.coding import (
    FIXED_MEMORY,
    MAX_STARTS,
    StorageFull,
    code_segment,
    output_key,
    pixel_limit,
)
from trifocal.batch.journal import Journal, Row, Segment
from trifocal.batch.manifest import Manifest, merged
from trifocal.batch.operations import Decode, Detect, Encode
from trifocal.batch.run import Plan, divided, plan, settings
from trifocal.batch.storage import Folder
from trifocal.errors import FormatError, OptionError, PresetError


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """An empty folder: on the disk, or in a file system of fsspec whose files cannot grow."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    urls = {"local": str(tmp_path / "batch"), "memory": "memory://batch", "s3": f"s3://{BUCKET}/batch"}
    found = Folder(urls[request.param])
    yield found
    found.remove()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with local_s3() as address:
        yield address


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs of S3 lead to the local server."""
    for name, value in s3_environment(server).items():
        monkeypatch.setenv(name, value)


def no_report(row: Row) -> None:
    pass


def test_files_are_found_by_suffix(folder: Folder) -> None:
    assert folder.find().keys == []
    for key in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.png", "plain"):
        folder.write(key, key.encode())
    flat, deep = folder.find(False, {".png", ".jpg"}), folder.find(True, {".png", ".jpg"})
    assert flat.keys == ["a.png", "b.JPG"] and deep.keys == ["a.png", "b.JPG", "sub/c.png"]
    assert deep.left_out == {".txt": 1, "hidden file": 1, "no suffix": 1}
    assert deep.notice() == "Files left out: 1 .txt, 1 hidden file, 1 no suffix."
    assert folder.read_all(deep.keys) == [key.encode() for key in deep.keys]
    assert folder.exists("sub/c.png") and not folder.exists("c.png")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder and copy.read("a.png") == b"a.png"
    folder.remove()
    assert folder.find().keys == [] and not folder.exists("a.png")


def test_files_grow(folder: Folder) -> None:
    folder.append("sub/log", b"", b"one\n")
    folder.append("sub/log", b"one\n", b"two\n")
    assert folder.read("sub/log") == b"one\ntwo\n"


def test_brackets_in_folder_names_are_no_patterns(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "a[1]*"))
    folder.write("x[2].png", b"1")
    assert folder.find(True, {".png"}).keys == ["x[2].png"] and folder.read_all(["x[2].png"]) == [b"1"]
    folder.remove()
    assert not (tmp_path / "a[1]*").exists()


@pytest.mark.parametrize("url", ["nonsense://bucket/x", "gs://bucket/x"])
def test_unknown_file_systems_are_one_sentence(url: str) -> None:
    with pytest.raises(OptionError) as caught:
        Folder(url)
    assert is_one_sentence(str(caught.value)) and url in str(caught.value)


def test_segment_survives_a_half_written_line(folder: Folder) -> None:
    segment = Segment(folder, "0001-0000000.jsonl")
    segment.start("a")
    segment.add(Row("a", bytes=3))
    segment.start("b")
    whole = folder.read("0001-0000000.jsonl")
    folder.write("0001-0000000.jsonl", whole + b'{"key": "b", "byt')
    again = Segment(folder, "0001-0000000.jsonl")
    assert [*again.rows] == ["a"] and again.starts == {"a": 1, "b": 1}
    assert Journal(folder).unfinished() == {"b"}
    again.add(Row("b", error="No."))
    rows = [*Journal(folder).rows(1)]
    assert rows == [Row("a", bytes=3), Row("b", error="No.")] and not Journal(folder).unfinished()


def test_manifest_keeps_rows_and_settings(folder: Folder) -> None:
    thing = {"label": "dog", "category": 18, "score": 0.5, "box": [0.0, 1.5, 2.0, 3.0]}
    rows = [Row("a", 10, 0.5, 50.0, 1.5, "00", [thing], None), Row("b", error="It is bad."), Row("c", 5)]
    manifest = Manifest(folder, "manifest.parquet")
    assert not manifest.exists()
    totals = manifest.write(rows, {"command": "encode"})
    assert (totals.images, totals.failed, totals.bytes) == (3, 1, 15)
    assert manifest.exists() and [*manifest.rows()] == rows and manifest.settings() == {"command": "encode"}


def test_other_parquet_files_are_no_manifests(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "manifest.parquet")
    with pytest.raises(FormatError, match="not a manifest"):
        manifest_in(tmp_path).settings()
    (tmp_path / "manifest.parquet").write_bytes(b"junk")
    with pytest.raises(FormatError, match="not a Parquet file"):
        manifest_in(tmp_path).settings()


def test_merged_rows_are_sorted_and_each_image_has_one(folder: Folder) -> None:
    manifest = Manifest(folder / "out", "manifest.parquet")
    manifest.write([Row("a", 1), Row("c", error="First."), Row("e", error="First.")], {})
    for attempt, number, row in (
        (1, 0, Row("b", 1)),
        (1, 1, Row("c", error="Second.")),
        (2, 0, Row("c", 3)),
        (2, 0, Row("d", 4)),
        (2, 1, Row("e", error="Second.")),
        (3, 0, Row("d", error="Later.")),
    ):
        Segment(folder / "journal", Journal(folder).name(attempt, number)).add(row)
    rows = [*merged(manifest, Journal(folder / "journal"))]
    expected = [Row("a", 1), Row("b", 1), Row("c", 3), Row("d", 4), Row("e", error="Second.")]
    assert rows == expected


def test_a_segment_is_coded_once(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "abc", "b.txt": "bad", "c.txt": "bug", "d.txt": "d"})
    task, reported = reverse_task(source, tmp_path / "out"), list[Row]()
    keys = ["a.txt", "b.txt", "c.txt", "d.txt", "gone.txt"]
    code_segment(task, reverse, Segment(task.journal, "0001-0.jsonl"), keys, reported.append)
    a, b, c, d, gone = reported
    assert (a.key, a.bytes, a.bpp, a.quality, a.error) == ("a.txt", 3, 12.0, 50.0, None)
    assert (
        a.sha256 == hashlib.sha256(b"cba").hexdigest() and (tmp_path / "out" / "a.rev").read_bytes() == b"cba"
    )
    assert b.error == "It is bad." and c.error == "ZeroDivisionError: It divides by zero."
    assert d.error is None and "gone.txt" in str(gone.error) and gone.bytes is None

    def never(data: object) -> Any:
        raise AssertionError("It is done already.")

    code_segment(task, never, Segment(task.journal, "0001-0.jsonl"), keys, never)


def test_an_image_that_ends_its_worker_is_named(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "abc"})
    task, reported = reverse_task(source, tmp_path / "out"), list[Row]()

    def end(data: bytes) -> Any:
        raise KeyboardInterrupt

    for _ in range(MAX_STARTS):
        with pytest.raises(KeyboardInterrupt):
            code_segment(task, end, Segment(task.journal, "0001-0.jsonl"), ["a.txt"], reported.append)
    assert not reported
    code_segment(task, end, Segment(task.journal, "0001-0.jsonl"), ["a.txt"], reported.append)
    assert len(reported) == 1 and "3 times" in str(reported[0].error)
    assert is_one_sentence(str(reported[0].error))


@pytest.mark.parametrize("failing", ["write", "append"])
def test_a_full_disk_stops_the_run(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "abc", "b.txt": "abc"})
    task, reported = reverse_task(source, tmp_path / "out"), list[Row]()

    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StorageFull, match="No space left"):
        patched.setattr(Folder, failing, full)
        code_segment(
            task, reverse, Segment(task.journal, "0001-0.jsonl"), ["a.txt", "b.txt"], reported.append
        )
    assert not reported
    code_segment(task, reverse, Segment(task.journal, "0002-0.jsonl"), ["a.txt", "b.txt"], reported.append)
    assert [row.error for row in reported] == [None, None]


def finish(planned: Plan, only: int | None = None) -> None:
    """Code the first `only` images of a plan, as its workers would; then write the manifest, unless `only` is
    given."""
    task, journal = planned.task, Journal(planned.task.journal)
    journal.begin(settings(task))
    for name, keys in divided(planned, 1):
        code_segment(task, reverse, Segment(task.journal, name), keys[:only], no_report)
    if only is None:
        rows = merged(planned.manifest if planned.earlier else None, Journal(task.journal))
        planned.manifest.write(rows, settings(task))
        journal.folder.remove()


def test_resume_skips_what_is_done(tmp_path: Path) -> None:
    names = [f"{number:02}.txt" for number in range(40)]
    source = write_texts(tmp_path / "in", dict.fromkeys(names, "abc") | {"bad.txt": "bad"})
    task, manifest = reverse_task(source, tmp_path / "out"), manifest_in(tmp_path / "out")
    finish(plan(task, manifest), only=1)  # of each segment of two
    with pytest.raises(OptionError, match="--resume"):
        plan(task, manifest)
    resumed = plan(task, manifest, resume=True)
    assert resumed.pending == [*names[1::2], "bad.txt"] and resumed.number == 2
    finish(resumed)
    assert [row.key for row in manifest.rows()] == [*names, "bad.txt"] and not task.journal.find().keys
    write_texts(source, {"new.txt": "abc"})
    later = plan(task, manifest, resume=True)
    assert later.pending == ["bad.txt", "new.txt"] and later.earlier
    (source / "bad.txt").write_text("good")
    finish(later)
    rows = {row.key: row.error for row in manifest.rows()}
    assert len(rows) == 42 and not any(rows.values())
    with pytest.raises(OptionError, match="--force"):
        plan(task, manifest)
    assert plan(task, manifest, force=True).pending == sorted(rows)


def test_resume_needs_the_same_settings(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "abc"})
    task, manifest = reverse_task(source, tmp_path / "out"), manifest_in(tmp_path / "out")
    finish(plan(task, manifest))
    other = reverse_task(write_texts(tmp_path / "other", {"a.txt": "abc"}), tmp_path / "out")
    with pytest.raises(OptionError, match="had source .*same options"):
        plan(other, manifest, resume=True)


def test_outputs_of_others_are_kept(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in", {"a.txt": "abc", "b.txt": "abc"})
    task, manifest = reverse_task(source, tmp_path / "out"), manifest_in(tmp_path / "out")
    write_texts(tmp_path / "out", {"b.rev": "mine"})
    with pytest.raises(OptionError, match=r"b\.rev exists already"):
        plan(task, manifest)
    Segment(task.journal, Journal(task.journal).name(1, 0)).start("b.txt")  # and its worker was killed
    Journal(task.journal).begin(settings(task))
    assert plan(task, manifest, resume=True).pending == ["a.txt", "b.txt"]
    assert plan(task, manifest, force=True).pending == ["a.txt", "b.txt"]


def test_two_inputs_never_have_one_output(tmp_path: Path) -> None:
    task = reverse_task(write_texts(tmp_path / "in", {"a.txt": "1", "A.txt": "2"}), tmp_path / "out")
    if len(task.source.find().keys) < 2:
        pytest.skip("this disk ignores case")
    with pytest.raises(OptionError, match=r"A\.txt and a\.txt would both become"):
        plan(task, manifest_in(tmp_path / "out"))
    assert output_key(task, "sub/photo.small.jpg") == "sub/photo.small.rev"


def test_segments_divide_the_images_in_order(tmp_path: Path) -> None:
    task = reverse_task(tmp_path, tmp_path / "out")
    keys = [f"{number:06}" for number in range(10_000)]
    planned = Plan(task, task.source.find(), keys, manifest_in(tmp_path), False, 3)
    segments = [*divided(planned, 64)]
    assert [key for _, part in segments for key in part] == keys
    assert [name for name, _ in segments] == sorted(name for name, _ in segments)
    assert {len(part) for _, part in segments} == {9, 1} and segments[0][0].startswith("0003-")
    assert max(len(part) for _, part in divided(planned, 1)) == 64


def test_operations_give_what_the_library_gives(tmp_path: Path) -> None:
    pixels = random_rgb(80, 64)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    options = trifocal.api.EncodeOptions(quality=30)
    coded = Encode("compact", options).load()(path.read_bytes())
    assert coded.data == trifocal.encode(path, "compact", quality=30).to_bytes()
    assert (coded.pixels, coded.quality, coded.detections) == (80 * 64, 30, None)
    decoded = Decode().load()(coded.data)
    assert decoded.data is not None and (decoded.pixels, decoded.quality) == (80 * 64, 30)
    (tmp_path / "y.png").write_bytes(decoded.data)
    with Image.open(tmp_path / "y.png") as image:
        assert np.array_equal(np.asarray(image), trifocal.decode(coded.data).picture.rgb)
    found = Detect(0.1).load()(path.read_bytes())
    assert found.data is None and len(found.detections or ()) == len(trifocal.detect(path, threshold=0.1))


def test_options_are_checked_before_ray_starts() -> None:
    with pytest.raises(PresetError):
        Encode("compact", trifocal.api.EncodeOptions(base_quality=10))
    for wrong in (lambda: Decode(".xyz"), lambda: Detect(2.0)):
        with pytest.raises(trifocal.errors.TrifocalError):
            wrong()


def test_memory_limits_pixels() -> None:
    assert pixel_limit(FIXED_MEMORY["onnx"] + 20 * 12_000_000, None) == 12_000_000
    with pytest.raises(OptionError, match="--memory"):
        pixel_limit(FIXED_MEMORY["onnx"], "onnx")


LIMITED = """
import numpy as np
from trifocal.batch.coding import limit_memory
kept = np.ones(50 << 20, np.uint8)
limit_memory(400 << 20)
other = np.ones(200 << 20, np.uint8)
try:
    third = np.ones(400 << 20, np.uint8)
except MemoryError:
    print("limited")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_memory_of_a_process_is_limited() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.stdout == "limited\n", done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["encode", "EMPTY"], "no suitable files"),
        (["encode", "EMPTY", "--manifest", "x.csv"], "must end in .parquet"),
        (["encode", "EMPTY", "--memory", "100M"], "raise --memory"),
        (["encode", "EMPTY", "--preset", "nonsense"], "nonsense"),
        (["decode", "EMPTY", "--format", "xyz"], "xyz"),
        (["detect", "nonsense://EMPTY"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], text: str, tmp_path: Path) -> None:
    words = [word.replace("EMPTY", str(tmp_path)) for word in words]
    done = run("batch", *words)
    assert done.exit_code == 1 and text in done.stderr and is_one_sentence(done.stderr)


def test_force_and_resume_exclude_each_other(tmp_path: Path) -> None:
    done = run("batch", "encode", tmp_path, "--force", "--resume")
    assert done.exit_code == 2 and "--resume and --force" in done.stderr
