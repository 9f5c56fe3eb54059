"""Inputs and outputs of commands: existing files, names, folders, pipes, stdout and stderr."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import trifocal
from trifocal.cli import app
from trifocal.cli.console import Console, progress_bar
from trifocal.cli.main import use_threads
from trifocal.cli.options import printable
from trifocal.cli.paths import Input, Inputs, Job, Outputs, find_inputs, plan
from trifocal.codecs.codec import Decoded
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.detection.detections import Detections
from trifocal.errors import OptionError, PictureError, Unsupported
from trifocal.pictures import Picture
from trifocal.utils.files import atomic_write, swept

FOUND = Detections(np.array([[1.0, 2.0, 30.0, 20.0]]), np.array([18]), np.array([0.5]))


def run(*words: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def one_sentence(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and text.strip().endswith(".") and "Traceback" not in text


def stream_of(width: int = 40, height: int = 30) -> Bitstream:
    return Bitstream(Header(width, height, 1, 400, 0xBEEF), (Layer(Tag.LATENT, (b"latent",)),))


class Fake:
    """A codec that does not code."""

    def encode_picture(self, picture: Picture, *options: Any, **more: Any) -> Bitstream:
        return stream_of(picture.width, picture.height)

    def decode(self, stream: Bitstream, *options: Any) -> Decoded:
        return Decoded(Picture(np.full((stream.header.height, stream.header.width, 3), 99, np.uint8)))


@pytest.fixture(autouse=True)
def codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake()
    monkeypatch.setattr("trifocal.presets.load_for", lambda header, *rest: fake)
    monkeypatch.setattr("trifocal.presets.shared_codec", lambda name, *rest: fake)
    monkeypatch.setattr("trifocal.codecs.scalable.detect_objects", lambda picture, **engine: FOUND)
    yield fake


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path: str | Path, shade: int = 200) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, shade, shade)).save(path)
    return path


def tri(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stream_of().save(path)
    return path


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ── no file is lost ──


@pytest.mark.parametrize(
    "words",
    [
        ("decode", "photos", "-o", "photos"),
        ("decode", "photos/a.tri", "-o", "photos"),
        ("decode", "photos/a.tri"),
        ("encode", "photos/a.png"),
        ("encode", "photos/a.png", "-o", "photos"),
        ("encode", "photos/a.png", "-o", "other.png"),
        ("encode", "photos/a.png", "-o", "photos/a.png"),
        ("encode", "photos/a.png", "-o", "other.NEF"),
        ("decode", "photos/a.tri", "-o", "photos/a.tri"),
        ("detect", "photos/a.tri", "--draw", "photos/a.png"),
        ("detect", "photos/a.tri", "--draw", "photos"),
        ("detect", "photos/a.png", "--draw", "photos/a.png"),
        ("detect", "photos/a.png", "--draw", "photos/link.png"),
        ("detect", "photos/a.png", "--draw", "photos/hard.png"),
        ("detect", "photos/a.png", "-o", "other.png"),
        ("detect", "photos/a.png", "-o", "photos/a.tri"),
        ("detect", "photos/a.png", "-o", "photos"),
        ("strip", "photos/two.tri", "--layers", "base"),
        ("strip", "photos/two.tri", "--layers", "base", "-o", "other.png"),
        ("merge", "photos/two-base.tri", "photos/two-enh.tri"),
        ("merge", "photos/two-base.tri", "photos/two-enh.tri", "-o", "photos"),
        ("merge", "photos/two-base.tri", "photos/two-enh.tri", "-o", "photos/two-enh.tri", "--force"),
        ("demo", "-o", "photos"),
        ("evaluate", "compact", "--data", "photos"),
        ("compare", "compact", "--data", "photos", "-o", "photos"),
        ("train", "compact", "--data", "photos", "--steps", "1", "-o", "photos"),
    ],
)
def test_files_that_were_not_named_are_not_replaced(working_folder: Path, words: tuple[str, ...]) -> None:
    photo("photos/a.png")
    photo("other.png", 10)
    os.link("photos/a.png", "photos/hard.png")
    Path("photos/link.png").symlink_to("a.png")
    tri("photos/a.tri")
    Path("photos/a.json").touch()
    Path("other.NEF").touch()
    for name in "demo.png", "index.html", "checkpoint.pt", "two-base.tri", "two-enh.tri":
        Path("photos", name).touch()
    Path("results.csv").touch()
    layers = (Layer(Tag.BASE, (b"base",)), Layer(Tag.ENHANCEMENT, (b"enhancement",)))
    Bitstream(Header(40, 30, 8, 400, 1), layers).save("photos/two.tri")
    before = {name: (working_folder / name).read_bytes() for name in files_in(working_folder)}
    result = run(*words)
    assert result.exit_code == 1 and one_sentence(result.stderr), result.output
    assert {name: (working_folder / name).read_bytes() for name in files_in(working_folder)} == before


def test_a_named_file_is_replaced_and_force_replaces_others(working_folder: Path) -> None:
    original = photo("photos/a.png").read_bytes()
    tri("photos/a.tri")
    assert run("decode", "photos/a.tri", "-o", "b.png").exit_code == 0
    for words in ("-o", "b.png"), ("-o", "photos", "--force"):
        assert run("decode", "photos/a.tri", *words).exit_code == 0
    assert Path("photos/a.png").read_bytes() == Path("b.png").read_bytes() != original
    assert run("detect", "photos/a.tri", "--draw", "photos/a.png", "--force").exit_code == 0


def test_folders_with_equal_names_of_files_keep_their_own_names(working_folder: Path) -> None:
    for name in "2023/a.png", "2024/a.png", "2024/deep/b.png", "x/2024/a.png":
        photo(name)
    assert run("encode", "2023", "2024", "x/2024", "-r", "-o", "out").exit_code == 0
    assert files_in(working_folder / "out") == {"2023/a.tri", "2024/a.tri", "2024/deep/b.tri", "x/2024/a.tri"}
    assert run("encode", "2024", "-r", "-o", "one").exit_code == 0
    assert files_in(working_folder / "one") == {"a.tri", "deep/b.tri"}
    os.chdir("2024")
    assert run("encode", ".", "../2023", "-o", "../dots").exit_code == 0
    assert files_in(working_folder / "dots") == {"2023/a.tri", "2024/a.tri"}


def test_second_run_into_a_folder_keeps_existing_files(working_folder: Path) -> None:
    photo("2023/a.png")
    photo("2024/a.png")
    assert run("encode", "2023/a.png", "-o", "out/").exit_code == 0
    assert run("encode", "2024/a.png", "-o", "out/").exit_code == 1
    both = run("encode", "2023/a.png", "2024/a.png", "-o", "both")
    assert both.exit_code == 1 and one_sentence(both.stderr) and "different output folders" in both.stderr


def test_a_file_that_appears_meanwhile_is_kept(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, codec: Fake
) -> None:
    encode_picture = codec.encode_picture

    def slow(picture: Picture, *options: Any, **more: Any) -> Bitstream:
        Path("a.tri").write_bytes(b"another program's")
        return encode_picture(picture, *options, **more)

    monkeypatch.setattr(codec, "encode_picture", slow)
    photo("a.png")
    result = run("encode", "a.png")
    assert result.exit_code == 1 and one_sentence(result.stderr)
    assert Path("a.tri").read_bytes() == b"another program's" and files_in(working_folder) == {
        "a.png",
        "a.tri",
    }


@pytest.mark.parametrize("words", [("-o", "b.png"), ("-o", "b.png", "--force"), ()])
def test_broken_links_are_not_written_through(working_folder: Path, words: tuple[str, ...]) -> None:
    tri("b.tri")
    Path("b.png").symlink_to(working_folder / "elsewhere.png")
    result = run("decode", "b.tri", *words)
    assert result.exit_code == 1 and one_sentence(result.stderr)
    assert files_in(working_folder) == {"b.tri"} and Path("b.png").is_symlink()


def test_outputs_that_differ_in_case_only_are_refused(working_folder: Path) -> None:
    photo("in/x.png")
    photo("in/X.png")
    if len(files_in(working_folder)) == 1:
        pytest.skip("this file system ignores case")
    result = run("encode", "in", "-o", "out")
    assert result.exit_code == 1 and one_sentence(result.stderr) and "case is ignored" in result.stderr
    assert not Path("out").exists()


def test_output_names_do_not_depend_on_other_files(working_folder: Path) -> None:
    photo("in/x.png")
    photo("in/x.bmp")
    refused = run("encode", "in", "-o", "out")
    assert refused.exit_code == 1 and one_sentence(refused.stderr) and "--keep-suffix" in refused.stderr
    assert run("encode", "in", "-o", "out", "--keep-suffix").exit_code == 0
    assert files_in(working_folder / "out") == {"x.png.tri", "x.bmp.tri"}


# ── names ──


def inputs_of(*files: str, folders: bool = False) -> Inputs:
    return Inputs([Input(Path(file), file, Path(Path(file).name)) for file in files], folders)


def names_of(found: Inputs, out: str | None, **options: Any) -> list[str]:
    return [job.output.path.as_posix() for job in plan(found, out, ".tri", Outputs(), **options)]


def test_outputs_are_next_to_their_inputs_or_in_out(tmp_path: Path) -> None:
    one, two = inputs_of("a/x.jpg"), inputs_of("a/x.jpg", "b/y.png")
    assert names_of(one, None) == ["a/x.tri"]
    assert names_of(one, "z.tri") == ["z.tri"]
    assert names_of(one, "new/") == ["new/x.tri"]
    assert names_of(one, str(tmp_path)) == [f"{tmp_path.as_posix()}/x.tri"]
    assert names_of(two, "out") == ["out/x.tri", "out/y.tri"]
    assert names_of(inputs_of("a/x.jpg", folders=True), "out") == ["out/x.tri"]
    assert names_of(two, None, keep_suffix=True) == ["a/x.jpg.tri", "b/y.png.tri"]


def test_inputs_are_recognised_by_identity(tmp_path: Path) -> None:
    outputs = Outputs([tmp_path / "gone.tri"], force=True)
    with pytest.raises(OptionError, match="written over"):
        outputs.add(tmp_path / "sub" / ".." / "gone.tri", named=True)
    with pytest.raises(OptionError, match="is a folder"):
        outputs.add(tmp_path, named=True)


def test_out_is_a_folder_for_a_folder_and_for_several_files(working_folder: Path) -> None:
    photo("in/a.png")
    assert run("encode", "in", "-o", "small").exit_code == 0
    assert files_in(working_folder / "small") == {"a.tri"}
    photo("in/b.png")
    assert run("encode", "in/a.png", "in/b.png", "-o", "pair").exit_code == 0
    assert files_in(working_folder / "pair") == {"a.tri", "b.tri"}
    for inputs in ("in/a.png", "in/b.png"), ("in",):
        for out in "two.tri", "two.png", "in/a.png", "-", "/dev/stdout":
            result = run("encode", *inputs, "-o", out)
            assert result.exit_code == 2 and "is one file" in result.stderr
    assert not Path("two.tri").exists()


# ── folders ──


def test_files_left_out_of_a_folder_are_reported(working_folder: Path) -> None:
    for name in (
        "a.png",
        "b.apng",
        "c.mpo",
        "d.jpx",
        "e.avifs",
        "notes.txt",
        "README",
        ".hidden.png",
        "deep/f.png",
    ):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Path("in", name).touch()
    Path("in/linked").symlink_to(working_folder / "in" / "deep")
    Path("in/broken.png").symlink_to("nowhere")
    found = find_inputs(["in"], False, [".png", ".apng", ".mpo", ".jpx", ".avifs"])
    assert [one.relative_output.name for one in found.files] == [
        "a.png",
        "b.apng",
        "c.mpo",
        "d.jpx",
        "e.avifs",
    ]
    for reason in ("1 .txt", "without a suffix", "1 hidden", "1 subfolder", "1 linked folder", "broken link"):
        assert reason in found.notice()
    assert "subfolder" not in find_inputs(["in"], True, [".png"]).notice()
    with pytest.raises(OptionError, match="no suitable files"):
        find_inputs(["in"], False, [".tri"])
    assert len(find_inputs(["in", "in/a.png"], False, [".png"]).files) == 1


def test_images_of_all_suffixes_are_found(working_folder: Path) -> None:
    for suffix in "mpo", "apng", "jpx", "avifs":
        image = Image.new("RGB", (40, 30), "red")
        image.save(
            f"{suffix}.{suffix}", {"apng": "PNG", "jpx": "JPEG2000", "avifs": "AVIF"}.get(suffix, "MPO")
        )
    result = run("encode", ".")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 4


def test_a_folder_that_cannot_be_read_fails(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("in/a.png")
    photo("in/locked/b.png")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = run("encode", "in", "-r", "-o", "out")
    assert result.exit_code == 1 and one_sentence(result.stderr) and "locked" in result.stderr
    assert files_in(working_folder / "out") == {"a.tri"}


def test_info_takes_folders(working_folder: Path) -> None:
    for name in "in/a.tri", "in/b.tri", "in/deep/c.tri":
        tri(name)
    result = run("info", "in", "-r", "--json")
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == [
        "in/a.tri",
        "in/b.tri",
        "in/deep/c.tri",
    ]


# ── pipes ──


def test_image_is_read_from_and_written_to_pipes(working_folder: Path) -> None:
    data = photo("a.png").read_bytes()
    encoded = run("encode", "-", stdin=data)
    assert encoded.exit_code == 0 and encoded.stdout_bytes == stream_of().to_bytes()
    assert "standard output" in encoded.stderr
    for options in ("-o", "-"), ("-o", "/dev/stdout"), ():
        decoded = run("decode", "-", "-f", "webp", *options, stdin=encoded.stdout_bytes)
        assert decoded.exit_code == 0, decoded.stderr
        with Image.open(io.BytesIO(decoded.stdout_bytes)) as image:
            assert (image.format, image.size) == ("WEBP", (40, 30))
    assert json.loads(run("info", "-", "--json", stdin=encoded.stdout_bytes).stdout)["file"] == "-"
    assert json.loads(run("detect", "-", stdin=data).stdout)["objects"]
    assert run("encode", "-", "-o", "b.tri", stdin=data).exit_code == 0
    assert run("encode", "a.png", "-", stdin=data).exit_code == 1
    assert files_in(working_folder) == {"a.png", "b.tri"}


@pytest.mark.skipif(os.name == "nt", reason="named pipes of POSIX")
def test_named_pipes_are_read_and_written(working_folder: Path) -> None:
    photo("a.png")
    os.mkfifo("pipe.tri")
    with subprocess.Popen(["cat", "pipe.tri"], stdout=subprocess.PIPE) as process:
        assert run("encode", "a.png", "-o", "pipe.tri").exit_code == 0
        assert process.communicate(timeout=20)[0] == stream_of().to_bytes()
    os.mkfifo("pipe.png")
    with subprocess.Popen(["dd", "if=a.png", "of=pipe.png", "status=none"]):
        assert run("encode", "pipe.png", "-o", "b.tri").exit_code == 0
    assert Path("b.tri").read_bytes() == stream_of().to_bytes()


def test_a_failing_job_writes_nothing_to_stdout(working_folder: Path) -> None:
    result = run("decode", "-", stdin=stream_of().to_bytes()[:-2])
    assert (result.exit_code, result.stdout_bytes) == (1, b"") and one_sentence(result.stderr)


# ── what is printed ──


def test_only_results_are_printed_to_stdout(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    photo("a.png")
    photo("b.png")
    result = run("detect", "a.png", "b.png")
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["a.png", "b.png"]
    assert "\x1b" not in result.stdout


def test_progress_bar_is_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Console()
    job = Job(Input(Path("[red]a\x1b.png"), "a", Path("a")), Outputs().add(Path("x"), True))
    with progress_bar(terminal, [job, job]) as progress_of_job:
        progress_of_job(0)(0.5)
        terminal.print_result("a result")
        progress_of_job(1)(1.0)
    printed = capsys.readouterr()
    assert printed.out == "a result\n"
    assert "[red]a\\x1b.png" in printed.err


def test_names_are_printed_without_control_characters(working_folder: Path) -> None:
    assert printable("a\x1b[31m\n\u202e\udce9é") == "a\\x1b[31m\\n\\u202e\\udce9é"
    photo("a\x1b[31m\n.png")
    result = run("encode", "a\x1b[31m\n.png")
    assert result.exit_code == 0 and result.stdout.startswith("a\\x1b[31m\\n.tri  ")
    gone = run("decode", "gone\x1b.tri")
    assert gone.exit_code == 1 and "\x1b" not in gone.stderr and one_sentence(gone.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_unprintable_name_does_not_stop_a_run(working_folder: Path, encoding: str) -> None:
    tri("a.tri")
    os.rename(b"a.tri", b"caf\xe9.tri")
    tri("é.tri")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    line = [sys.executable, "-m", "trifocal", "info", "."]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("file ") == 2
    assert "caf\\udce9.tri" in done.stdout


# ── features ──


def test_skip_existing_skips_existing_outputs(working_folder: Path) -> None:
    photo("in/a.png")
    assert run("encode", "in").exit_code == 0
    photo("in/b.png")
    Path("in/a.tri").write_bytes(b"kept")
    result = run("encode", "in", "--skip-existing")
    assert result.exit_code == 0 and "1 of 2 inputs" in result.stderr
    assert Path("in/a.tri").read_bytes() == b"kept" and Path("in/b.tri").exists()
    assert run("encode", "in", "--skip-existing").exit_code == 0


def test_keep_times_copies_modification_times(working_folder: Path) -> None:
    os.utime(photo("a.png"), ns=(10**18, 10**18 + 7))
    assert run("encode", "a.png", "--keep-times").exit_code == 0
    assert Path("a.tri").stat().st_mtime_ns == Path("a.png").stat().st_mtime_ns
    assert run("decode", "a.tri", "-o", "b.png", "--keep-times").exit_code == 0
    assert Path("b.png").stat().st_mtime_ns == Path("a.png").stat().st_mtime_ns


def test_encode_prints_json(working_folder: Path) -> None:
    photo("a.png")
    facts = json.loads(run("encode", "a.png", "--json").stdout)
    assert (facts["source"], facts["file"], facts["width"]) == ("a.png", "a.tri", 40)
    assert (facts["bytes"], facts["layers"]) == (stream_of().size, {"LATENT": 6})
    assert run("encode", "a.png", "--json", "-o", "-").exit_code == 2


def test_quiet_prints_only_errors(working_folder: Path) -> None:
    photo("in/a.png")
    Path("in/notes.txt").touch()
    result = run("encode", "in", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert one_sentence(run("encode", "in", "--quiet").stderr)
    assert json.loads(run("detect", "in/a.png", "--quiet").stdout)


def test_detect_prints_results_in_cocos_format(working_folder: Path) -> None:
    for name in "000000000139.png", "street.png":
        photo(name)
    result = run("detect", ".", "--format", "coco")
    one = {"category_id": 18, "bbox": [1.0, 2.0, 29.0, 18.0], "score": 0.5}
    assert json.loads(result.stdout) == [{"image_id": 139} | one, {"image_id": "street"} | one]
    assert run("detect", ".", "--format", "coco", "-o", "found.json").exit_code == 0
    assert Path("found.json").read_text() == result.stdout
    photo("139.png")
    clash = run("detect", ".", "--format", "coco")
    assert clash.exit_code == 1 and one_sentence(clash.stderr) and "image_id" in clash.stderr


def test_coco_results_are_loaded_by_pycocotools(working_folder: Path) -> None:
    coco = pytest.importorskip("faster_coco_eval").COCO
    photo("7.png")
    assert run("detect", "7.png", "--format", "coco", "-o", "found.json").exit_code == 0
    truth = {
        "images": [{"id": 7, "width": 40, "height": 30}],
        "annotations": [],
        "categories": [{"id": 18, "name": "dog"}],
    }
    Path("truth.json").write_text(json.dumps(truth))
    loaded = coco("truth.json").loadRes("found.json")
    (one,) = loaded.anns.values()
    assert (one["image_id"], one["area"]) == (7, 29 * 18)


# ── temporary files ──


def test_old_temporary_files_are_removed_and_recent_ones_kept(tmp_path: Path) -> None:
    old, young, other = (
        tmp_path / f".{name}.tmp" for name in ("trifocal-" + "a" * 16, "trifocal-" + "b" * 16, "x")
    )
    for path in old, young, other:
        path.touch()
    for path in old, other:
        os.utime(path, (time.time() - 90_000,) * 2)
    swept.discard(tmp_path)
    with atomic_write(tmp_path / "file") as stream:
        stream.write(b"1")
    assert files_in(tmp_path) == {young.name, other.name, "file"}


# ── limits ──


def test_pixel_limit_can_be_lowered_and_raised(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("a.png")
    tri("b.tri")
    for words in ("encode", "a.png", "-o", "c.tri"), ("detect", "a.png"):
        assert run(*words, "--max-pixels", "1200").exit_code == 0
        refused = run(*words, "--max-pixels", "1199")
        assert refused.exit_code == 1 and one_sentence(refused.stderr) and "--max-pixels" in refused.stderr
    wide = Header(1 << 16, 1 << 12, 1, 400, 0xBEEF)
    with pytest.raises(Unsupported, match="limit_pixels"):
        wide.check_pixels()
    with trifocal.limit_pixels(1 << 28):
        wide.check_pixels()
        with trifocal.limit_pixels(1199), pytest.raises(PictureError, match="1199"):
            Picture.open("a.png")
    with pytest.raises(OptionError), trifocal.limit_pixels(0):
        pass


def test_threads_are_limited_to_the_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    use_threads(100_000)
    use_threads(1)
    use_threads(None)
    assert asked == [os.cpu_count(), 1]


def test_run_over_several_images_prints_total_bytes(working_folder: Path) -> None:
    photo("in/a.png")
    photo("in/b.png")
    told = run("encode", "in", "-o", "out")
    before, after = (
        sum(one.stat().st_size for one in (working_folder / name).iterdir()) for name in ("in", "out")
    )
    assert f"2 images, {before:,} bytes before and {after:,} bytes after." in told.stderr
    assert "before" not in run("encode", "in/a.png", "-o", "out", "--force").stderr
