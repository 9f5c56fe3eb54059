"""Files, output and exit status of the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import trifocal
from helpers.cli import Recorder, is_one_sentence, run
from trifocal import demo, evaluation
from trifocal.cli.options import parse_qualities, parse_region, parse_size
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.demo import PHOTOGRAPH
from trifocal.utils.threads import thread_count


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The installed program in a separate process."""
    line = [sys.executable, "-m", "trifocal", *map(str, words)]
    return subprocess.run(line, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    with Image.open(PHOTOGRAPH) as image:
        image.crop((200, 100, 360, 220)).save(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A .tri file with a valid container."""
    path = tmp_path / "sound.tri"
    layers = (Layer(Tag.LATENT, (b"abc", b"defgh")), Layer(Tag.ICC, (b"profile",)))
    Bitstream(Header(768, 512, preset_id=1, level=400, fingerprint=0x1234), layers).save(path)
    return path


# ── encode and decode ──


def test_encode_and_decode_an_image(photo: Path) -> None:
    encoded = run("encode", photo)
    stream = Bitstream.open(photo.with_suffix(".tri"))
    assert encoded.exit_code == 0
    assert encoded.stdout.split() == [
        str(photo.with_suffix(".tri")),
        f"{stream.size:,}",
        "bytes",
        f"{8 * stream.size / (160 * 120):.3f}",
        "bpp",
        "quality",
        "50",
        f"{stream.layers[0].size:,}",
        "bytes",
        "of",
        "base",
        "layer",
    ]
    photo.unlink()
    assert run("decode", photo.with_suffix(".tri")).exit_code == 0
    with Image.open(photo) as image:
        assert image.size == (160, 120)


def test_rate_options_and_output_formats(photo: Path, tmp_path: Path) -> None:
    small, low = tmp_path / "small.tri", tmp_path / "low.tri"
    assert run("encode", photo, "--bytes", "1.5k", "-o", small).exit_code == 0
    assert 1500 * 0.97 - 1 <= small.stat().st_size <= 1500
    assert run("encode", photo, "--bpp", "1.5", "-o", low).exit_code == 0
    assert low.stat().st_size <= 1.5 * 160 * 120 / 8
    part = tmp_path / "part.webp"
    assert run("decode", low, "--region", "10,20,70,50", "-o", part).exit_code == 0
    with Image.open(part) as image:
        assert (image.format, image.size) == ("WEBP", (70, 50))


def test_unreachable_rate_is_an_error(photo: Path) -> None:
    result = run("encode", photo, "--bytes", "20")
    assert result.exit_code == 1
    assert is_one_sentence(result.stderr)
    assert not photo.with_suffix(".tri").exists()
    result = run("encode", photo, "--bytes", "50M", "--force")
    assert result.exit_code == 0 and "fewer bytes than were allowed" in result.stderr


def test_threads_do_not_change_the_file(photo: Path, tmp_path: Path) -> None:
    """Encoded with the threads of this process, and with another number in a process of its own."""
    here, there = tmp_path / "here.tri", tmp_path / "there.tri"
    assert run("encode", photo, "-o", here).exit_code == 0
    done = command("encode", photo, "--threads", "2" if thread_count() == 1 else "1", "-o", there)
    assert done.returncode == 0, done.stderr
    assert run("decode", here, there).exit_code == 0
    assert here.with_suffix(".png").read_bytes() == there.with_suffix(".png").read_bytes()


def test_folders_are_encoded_and_failed_files_are_listed(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in "a.png", "b.png", "deep/c.png":
        (tmp_path / "in" / name).write_bytes(photo.read_bytes())
    (tmp_path / "in" / "broken.png").write_bytes(photo.read_bytes()[:100])
    done = run("encode", tmp_path / "in", "-r", "-o", tmp_path / "out")
    assert done.exit_code == 1
    made = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.tri")}
    assert made == {"a.tri", "b.tri", "deep/c.tri"}
    assert len(done.stdout.splitlines()) == 3
    assert f"1 of 4 failed: {tmp_path / 'in' / 'broken.png'}" in done.stderr


def test_decode_keeps_existing_files_that_were_not_named(photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    run("encode", photo)
    refused = run("decode", photo.with_suffix(".tri"))
    assert refused.exit_code == 1
    assert is_one_sentence(refused.stderr)
    assert photo.read_bytes() == before
    assert run("decode", photo.with_suffix(".tri"), "--force").exit_code == 0
    assert photo.read_bytes() != before
    assert run("decode", photo.with_suffix(".tri"), "-o", photo).exit_code == 0


def test_existing_file_is_replaced_if_named_or_forced(photo: Path) -> None:
    file = photo.with_suffix(".tri")
    assert run("encode", photo, "-q", "80").exit_code == 0
    larger = file.read_bytes()
    refused = run("encode", photo, "-q", "10")
    assert refused.exit_code == 1 and is_one_sentence(refused.stderr) and "--force" in refused.stderr
    assert file.read_bytes() == larger
    assert run("encode", photo, "-q", "10", "--force").exit_code == 0
    small = file.read_bytes()
    assert len(small) < len(larger)
    assert run("encode", photo, "-q", "80", "-o", file).exit_code == 0
    assert file.read_bytes() == larger


def test_conversion_notices_are_printed_to_stderr(tmp_path: Path) -> None:
    Image.new("CMYK", (40, 30), (0, 100, 200, 20)).save(tmp_path / "print.tif")
    result = run("encode", tmp_path / "print.tif")
    assert result.exit_code == 0
    assert "print.tif" in result.stderr and "CMYK" in result.stderr
    assert "CMYK" not in result.stdout


@pytest.mark.parametrize("kind", ["truncated", "flipped", "foreign", "empty", "missing"])
def test_damaged_file_gives_a_one_line_error(photo: Path, tmp_path: Path, kind: str) -> None:
    run("encode", photo)
    data = photo.with_suffix(".tri").read_bytes()
    bad = tmp_path / "bad.tri"
    spoilt = {"truncated": data[:-9], "flipped": data[:-9] + bytes([data[-9] ^ 4]) + data[-8:]}
    if kind != "missing":
        bad.write_bytes(spoilt.get(kind, b"hello, this is text\n" if kind == "foreign" else b""))
    for verb in "decode", "info":
        done = run(verb, bad)
        assert done.exit_code == 1
        assert is_one_sentence(done.stderr)
        assert "bad.tri" in done.stderr
    assert not bad.with_suffix(".png").exists()


# ── info, presets, demo ──


def test_info_prints_header_and_layers(file: Path) -> None:
    result = run("info", file)
    assert result.exit_code == 0
    for fact in (
        "sound.tri",
        "compact",
        "768",
        "512",
        "quality         50\n",
        "1234",
        "LATENT",
        "8 bytes",
        "ICC",
    ):
        assert fact in result.stdout


def test_info_json_is_one_object_per_line(file: Path) -> None:
    result = run("info", "--json", file, file)
    facts = [json.loads(line) for line in result.stdout.splitlines()]
    assert facts[0] == facts[1]
    assert (facts[0]["width"], facts[0]["bytes"]) == (768, file.stat().st_size)
    assert [layer["name"] for layer in facts[0]["layers"]] == ["LATENT", "ICC"]


def test_info_prints_a_damaged_file_and_exits_with_1(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-8] ^= 1  # the last byte of the latent's second chunk
    file.write_bytes(data)
    result = run("info", file)
    assert result.exit_code == 1
    assert "768" in result.stdout
    assert is_one_sentence(result.stderr) and "tile 1" in result.stderr


def test_info_imports_neither_torch_nor_numpy(file: Path) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "trifocal", "info", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    loaded = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "trifocal.container.bitstream" in loaded
    assert not {"torch", "numpy", "PIL", "PIL.Image"} & loaded


def test_presets_command_lists_all_presets() -> None:
    result = run("presets")
    assert result.exit_code == 0
    for preset in trifocal.presets.PRESETS:
        assert preset.name in result.stdout


@pytest.fixture
def small_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The photograph of the demo at half its size, uint8 [256, 256, 3]."""
    path = tmp_path / "half.png"
    with Image.open(PHOTOGRAPH) as image:
        image.reduce(2).save(path)
    monkeypatch.setattr(demo, "PHOTOGRAPH", path)
    return np.asarray(Image.open(path))


def test_demo_compares_trifocal_with_other_formats(small_photograph: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("demo", "--preset", "compact", "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"demo.tri", "demo.png"}
    names = [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert names[0] == "Trifocal" and "JPEG" in names
    with Image.open(out / "demo.png") as image:
        assert image.size == (256, 256)


def test_demo_draws_detections_from_the_base_layer(
    small_photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "pillow_codecs", list)
    out = tmp_path / "out"
    result = run("demo", "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"demo.tri", "demo.png", "demo-layers.png"}
    found = json.loads(run("detect", out / "demo.tri").stdout)["objects"]
    assert [one["label"] for one in found][:1] == ["person"]
    height, width = small_photograph.shape[:2]
    with Image.open(out / "demo-layers.png") as image:
        assert image.width > 3 * width
        assert (np.asarray(image)[12 : 12 + height, 12 : 12 + width] == small_photograph).all()


# ── train and evaluate ──


def test_train_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder(Path("runs/compact/compact.safetensors"))
    monkeypatch.setattr("trifocal.training.train", train)
    result = run("train", "compact", "--data", "a.tar", "b.tar", "--data", "c", "--steps", "9", "--resume")
    assert result.exit_code == 0
    assert result.stdout.split() == ["runs/compact/compact.safetensors"]
    assert train.words == ("compact", ["a.tar", "c", "b.tar"], "runs/compact")
    assert (train.options["steps"], train.options["minutes"], train.options["resume"]) == (9, None, True)
    train.options["report"](0.5, "step 5")


def test_train_without_a_length_is_an_error(tmp_path: Path) -> None:
    result = run("train", "compact", "--data", tmp_path)
    assert result.exit_code == 1
    assert is_one_sentence(result.stderr)


def test_evaluate_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = evaluation.ImageResult(
        "compact", "a.png", 8, 8, 50.0, 20, 2.5, 0.1, 0.2, "beef", "", {"psnr": 31.25}
    )
    evaluate = Recorder(evaluation.EvaluationResults([row], evaluation.mean_results([row])))
    monkeypatch.setattr("trifocal.evaluation.evaluate", evaluate)
    words = "evaluate", "compact", "avif", "--data", "pictures", "-o", "out.csv"
    result = run(*words)
    assert result.exit_code == 0
    assert result.stdout.split()[-3:] == ["out.csv", "1", "rows"] and "31.25" in result.stdout
    asked = evaluation.EvaluateOptions([10, 30, 50, 70, 90], ("psnr", "ms-ssim"))
    assert evaluate.words == (["compact", "avif"], "pictures", "out.csv", asked)
    assert run(*words, "--metrics", "psnr", "lpips", "--resume", "--metrics", "dists").exit_code == 0
    assert evaluate.words[-1] == evaluation.EvaluateOptions(
        [10, 30, 50, 70, 90], ["psnr", "lpips", "dists"], resume=True
    )


def test_networks_folder_option_applies_to_every_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRIFOCAL_NETWORKS", "")
    assert run("--networks", tmp_path, "presets").exit_code == 0
    assert os.environ["TRIFOCAL_NETWORKS"] == str(tmp_path)
    result = run("--networks", tmp_path / "nowhere", "presets")
    assert result.exit_code == 1 and is_one_sentence(result.stderr)


@pytest.mark.parametrize(("preset", "data"), [("compact", "."), ("compact", "nowhere"), ("nonsense", ".")])
def test_evaluate_without_images_or_preset_is_an_error(preset: str, data: str, tmp_path: Path) -> None:
    for more in ((), ("--task", "detection")):
        words = "evaluate", preset, "--data", tmp_path / data, "-o", tmp_path / "out.csv", *more
        result = run(*words)
        assert result.exit_code == 1
        assert is_one_sentence(result.stderr)
        assert "rows" not in result.stderr
        assert not (tmp_path / "out.csv").exists()


def test_missing_extra_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("trifocal.training")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(trifocal, "training", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    result = run("train", "compact", "--steps", "1")
    assert result.exit_code == 1
    assert result.stderr.strip().endswith('pip install "trifocal[train]"')


# ── options ──


@pytest.mark.parametrize(
    "words",
    [
        ("encode",),
        ("encode", "a.png", "--quality", "101"),
        ("encode", "a.png", "--quality", "50", "--bpp", "0.25"),
        ("encode", "a.png", "--bytes", "many"),
        ("encode", "a.png", "--bpp", "-1"),
        ("encode", "a.png", "--bpp", "0"),
        ("train", "compact", "--data", ".", "--minutes", "-1"),
        ("encode", "a.png", "--threads", "0"),
        ("encode", "a.png", "--nonsense"),
        ("decode", "a.tri", "--region", "1,2,3"),
        ("evaluate", "compact", "--data", ".", "--qualities", "ten"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stderr
    assert not result.stdout


def test_unknown_preset_is_an_error(photo: Path) -> None:
    result = run("encode", photo, "--preset", "nonsense")
    assert result.exit_code == 1
    assert is_one_sentence(result.stderr)


def test_unsupported_output_format_is_refused_before_decoding(file: Path) -> None:
    for words in ("--format", "xyz"), ("-o", file.with_suffix(".xyz")):
        result = run("decode", file, *words)
        assert result.exit_code == 1
        assert is_one_sentence(result.stderr) and "xyz" in result.stderr


def test_version_option_prints_the_package_version() -> None:
    from importlib.metadata import version

    assert run("--version").stdout.strip() == f"trifocal {version('trifocal')}"


@pytest.mark.parametrize(
    ("text", "size"),
    [("20000", 20_000), ("20k", 20_000), ("1.5M", 1_500_000), ("20kB", 20_000), ("4Ki", 4096), ("2 k", 2000)],
)
def test_sizes_are_parsed(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "-3", "0", "20q", "nan", "inf", "1e999"])
def test_invalid_sizes_are_rejected(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


def test_lists_of_numbers_are_parsed() -> None:
    assert parse_region("1,2, 3,4") == (1, 2, 3, 4)
    assert parse_qualities("10,30.5 50") == [10, 30.5, 50]


# ── the process ──


def test_installed_command_prints_a_one_line_error_and_exits_with_1(photo: Path) -> None:
    done = command("info", photo)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_sentence(done.stderr) and "PNG" in done.stderr


ENDING = """
import atexit, sys
from trifocal.cli import main
class Kept:
    def __del__(self):
        print("freed")
kept = Kept()
def app(prog_name):
    atexit.register(print, "handler")
    print("x" * 100_000)
    exec(sys.argv[1])
main.app = app
main.run()
"""


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [("sys.exit(3)", 3, ""), ("sys.exit()", 0, ""), ("sys.exit('why')", 1, "why"), ("1 / 0", 1, "Traceback")],
)
def test_the_process_ends_after_its_exit_handlers_and_output(end: str, status: int, error: str) -> None:
    done = subprocess.run([sys.executable, "-c", ENDING, end], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, f"{'x' * 100_000}\nhandler\n")  # and nothing was freed
    assert done.stderr.startswith(error) and bool(done.stderr) == bool(error)


def test_closed_pipe_gives_no_traceback(file: Path) -> None:
    script = f"{sys.executable} -m trifocal info {' '.join([str(file)] * 50)} | head -n 1"
    done = subprocess.run(script, shell=True, check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_gives_no_traceback(photo: Path, tmp_path: Path, jobs: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(100):
        (tmp_path / "in" / f"{number:03}.png").write_bytes(photo.read_bytes())
    # A shell starts what it puts in the background with SIGINT ignored, and CI may have been started so.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import trifocal.__main__"
    line = [sys.executable, "-c", code, "encode", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    line += ["--jobs", jobs]
    deadline = time.monotonic() + 300
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (tmp_path / "out" / "001.tri").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    made = list((tmp_path / "out").iterdir())
    assert 0 < len(made) < 100
    assert all(Bitstream.open(path).size == path.stat().st_size for path in made)
