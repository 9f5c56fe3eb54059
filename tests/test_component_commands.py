"""The commands on files with components: encode, strip, merge, info and decode."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import trifocal
from helpers.cli import is_one_sentence, run
from trifocal.container import Bitstream, Component
from trifocal.container.parts import without
from trifocal.demo import PHOTOGRAPH
from trifocal.pictures import Picture

WITHOUT_NETWORKS = """
import sys
for name in ("torch", "onnxruntime"):
    sys.modules[name] = None  # every import of it fails
from trifocal.cli import app
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a person and a cup."""
    picture = Picture(Picture.open(PHOTOGRAPH).rgb[:120, :200].copy())
    boxes = [Component("person", (1, 1, 6, 6)), Component("cup", (8, 2, 10, 4))]
    stream = trifocal.encode(picture, quality=30, refinement=0, components=boxes)
    path = tmp_path_factory.mktemp("street") / "street.tri"
    stream.save(path)
    return path


def test_components_are_found_by_label_file_and_task(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("person\nunicorn\n")
    for number, components in enumerate(["person", "detection", f"@{labels}"]):
        out = tmp_path / f"{number}.tri"
        result = run(
            "encode", PHOTOGRAPH, "-o", out, "--components", components, "--refinement", "0", "--json"
        )
        assert result.exit_code == 0, result.output
        assert "person" in json.loads(result.stdout)["components"]
        assert ("unicorn" in result.stderr) == (number == 2)
        assert "person" in {one.label for one in Bitstream.open(out).components}


def test_strip_and_merge_restore_the_file(street: Path, tmp_path: Path) -> None:
    people, others, both = (tmp_path / name for name in ("people.tri", "others.tri", "street.tri"))
    assert run("strip", street, "--components", "person", "-o", people).exit_code == 0
    assert run("strip", street, "--without", "person", "-o", others).exit_code == 0
    assert Bitstream.open(others) == without(Bitstream.open(street), "person")
    result = run("merge", people, others, people, "-o", both)
    assert result.exit_code == 0 and both.read_bytes() == street.read_bytes()
    cups = tmp_path / "cups.tri"
    assert run("strip", street, "--components", "cup", "-o", cups).exit_code == 0
    result = run("merge", cups, people, "-o", tmp_path / "more.tri")
    assert result.exit_code == 0 and "still missing" in result.stderr


def test_parts_have_names_of_their_own(street: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.tri"
    copy.write_bytes(street.read_bytes())
    for option in ("--components", "--without"):
        assert run("strip", copy, option, "person").exit_code == 0
    copy.unlink()
    assert run("merge", tmp_path / "a-part.tri", tmp_path / "a-without.tri").exit_code == 0
    assert copy.read_bytes() == street.read_bytes()


def test_info_shows_label_box_and_bytes(street: Path, tmp_path: Path) -> None:
    lines = run("info", street).stdout.splitlines()
    assert any(line.startswith("  person") and "bytes at 16,16,96,96" in line for line in lines)
    people = tmp_path / "people.tri"
    assert run("strip", street, "--components", "person", "-o", people).exit_code == 0
    facts = json.loads(run("info", people, "--json").stdout)
    assert facts["partial"] is True and facts["components"][2]["label"] == "cup"
    assert facts["components"][2]["bytes"] == 0 < facts["components"][2]["absent bytes"]
    assert any("bytes missing" in line for line in run("info", people).stdout.splitlines())


def test_strip_merge_and_info_need_no_networks(street: Path, tmp_path: Path) -> None:
    people, others = tmp_path / "people.tri", tmp_path / "others.tri"
    for words in (
        ("strip", street, "--components", "person", "-o", people),
        ("strip", street, "--without", "person", "-o", others),
        ("merge", people, others, "-o", tmp_path / "again.tri"),
        ("info", people),
    ):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_NETWORKS, *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_decode_says_what_is_missing(street: Path, tmp_path: Path) -> None:
    people, image = tmp_path / "people.tri", tmp_path / "people.png"
    assert run("strip", street, "--components", "person", "-o", people).exit_code == 0
    result = run("decode", people, "-o", image)
    assert result.exit_code == 0 and image.exists()
    assert "people.tri: Decoded without cup and the rest" in result.stderr
    assert "Decoded without" not in run("decode", street, "-o", tmp_path / "all.png").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--components", "zebra"], "no component 'zebra'; its labels are cup, person"),
        (["--without", "zebra"], "no component 'zebra'"),
    ],
)
def test_wrong_labels_are_refused(street: Path, tmp_path: Path, words: list[str], said: str) -> None:
    result = run("strip", street, *words, "-o", tmp_path / "x.tri")
    assert result.exit_code == 1 and said in result.stderr and is_one_sentence(result.stderr)


@pytest.mark.parametrize("words", [[], ["--layers", "base", "--components", "person"]])
def test_strip_takes_one_of_its_options(street: Path, words: list[str]) -> None:
    result = run("strip", street, *words)
    assert result.exit_code == 2 and "--layers, --components" in result.stderr


def test_damaged_component_is_left_out_with_best_effort(street: Path, tmp_path: Path) -> None:
    stream = Bitstream.open(street)
    assert stream.layout is not None
    chunk = stream.layers[1].chunks[stream.layout.chunks[2, 0]]
    assert chunk is not None
    data = bytearray(street.read_bytes())
    data[bytes(data).index(chunk)] ^= 255
    bad = tmp_path / "bad.tri"
    bad.write_bytes(data)
    result = run("decode", bad, "-o", tmp_path / "bad.png")
    assert result.exit_code == 1 and "chunk 2 of 4" in result.stderr and is_one_sentence(result.stderr)
    result = run("decode", bad, "-o", tmp_path / "bad.png", "--best-effort")
    assert result.exit_code == 0 and "without cup and the rest" in result.stderr
    assert "needs all components" in result.stderr


def test_presets_without_components_refuse_them(tmp_path: Path) -> None:
    result = run(
        "encode", PHOTOGRAPH, "--preset", "compact", "--components", "person", "-o", tmp_path / "x.tri"
    )
    assert result.exit_code == 1 and "compact takes no components" in result.stderr
