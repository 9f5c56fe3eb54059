"""The commands on files with components: encode, strip, merge, info and decode."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import trifocal
from helpers.cli import is_one_sentence, run
from helpers.grounding import detections, make_grounding_dino
from helpers.images import random_rgb
from trifocal.container import Bitstream, Component
from trifocal.container.components import REST
from trifocal.container.parts import without
from trifocal.demo import PHOTOGRAPH
from trifocal.grounding import compact, dino
from trifocal.grounding.compact import DetectorGrounder
from trifocal.grounding.loading import load_named
from trifocal.pictures import Picture
from trifocal.utils.local_networks import VARIABLE

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


PIXEL_CASES = {
    "no objects": [],
    "objects of one pixel": [("bird", 0.9, (5, 5, 6, 6)), ("dog", 0.8, (319, 239, 320, 240))],
    "objects that cover everything": [
        ("person", 0.9, (0, 0, 320, 240)),
        ("car", 0.5, (0, 0, 320, 240)),
    ],
    "200 objects": [
        ("bird", 0.9, (x, y, x + 9, y + 9)) for x in range(0, 320, 16) for y in range(0, 160, 16)
    ],
}


@pytest.mark.parametrize(
    "case", [pytest.param(one, marks=[pytest.mark.slow] * (one[0] == "2")) for one in PIXEL_CASES]
)
def test_extreme_objects_are_encoded_split_and_decoded(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = detections(*PIXEL_CASES[case])
    monkeypatch.setattr(compact, "detect_compact", lambda pixels: objects)
    load_named.cache_clear()
    image, out, part = tmp_path / "a.png", tmp_path / "a.tri", tmp_path / "part.tri"
    Picture(random_rgb(320, 240)).save(image)
    result = run(
        "encode", image, "-o", out, "--components", "detection", "--refinement", "0", "--quality", "9"
    )
    load_named.cache_clear()
    assert result.exit_code == 0, result.output
    stream = Bitstream.open(out)
    labels = [one.label for one in stream.components]
    assert (
        labels
        == {
            "no objects": [],
            "objects of one pixel": ["bird", "dog"],
            "objects that cover everything": ["person"],
            "200 objects": ["bird"] * 200,
        }[case]
    )
    same = trifocal.encode(
        image,
        quality=9,
        refinement=0,
        components="detection",
        grounder=DetectorGrounder(lambda pixels: objects),
        notify=lambda notice: None,
    )
    assert same == stream
    result = run("strip", out, "--components", (labels or ["bird"])[0], "-o", part)
    if not labels:
        assert result.exit_code == 1 and "no components" in result.stderr and is_one_sentence(result.stderr)
        return
    assert result.exit_code == 0 and Bitstream.open(part) == stream.only(components=labels[0])
    for file in (out, part):
        assert run("decode", file, "-o", tmp_path / f"{file.stem}.png").exit_code == 0
    whole = len({*labels}) == 1 and stream.layout is not None and 0 not in stream.layout.parts[0]
    assert (Bitstream.open(part) == stream) == whole == (case == "objects that cover everything")


def test_words_are_found_and_stripped(tmp_path: Path) -> None:
    out, part = tmp_path / "a.tri", tmp_path / "part.tri"
    words = ["--components", "the woman with glasses,unicorn", "--refinement", "0"]
    result = run("encode", PHOTOGRAPH, "-o", out, *words)
    assert result.exit_code == 0, result.output
    assert "1 of 2 labels ('unicorn')" in result.stderr
    assert {one.label for one in Bitstream.open(out).components} == {"the woman with glasses"}
    assert run("strip", out, "--components", "the woman with glasses", "-o", part).exit_code == 0


def test_a_wrong_grounder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("encode", PHOTOGRAPH, "-o", tmp_path / "a.tri", "--grounder", "compact")
    assert (
        result.exit_code == 1 and "leave the grounder out" in result.stderr and is_one_sentence(result.stderr)
    )
    (tmp_path / "grounding-dino-tiny").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    load_named.cache_clear()
    words = ["--components", "car", "--grounder", "grounding-dino"]
    result = run("encode", PHOTOGRAPH, "-o", tmp_path / "a.tri", *words)
    assert result.exit_code == 1 and "cannot be loaded; download it" in result.stderr
    assert is_one_sentence(result.stderr)


def test_grounding_dino_finds_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_grounding_dino(tmp_path / "grounding-dino-tiny")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    easy = partial(dino.GroundingDino, box_threshold=0.0, text_threshold=0.0)
    monkeypatch.setattr(dino, "GroundingDino", easy)
    load_named.cache_clear()
    words = ["--components", "cat,traffic light", "--grounder", "grounding-dino", "--refinement", "0"]
    result = run("encode", PHOTOGRAPH, "-o", tmp_path / "a.tri", *words)
    load_named.cache_clear()
    assert result.exit_code == 0, result.output
    labels = {one.label for one in Bitstream.open(tmp_path / "a.tri").components}
    assert labels and labels <= {"cat", "traffic light"}


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
    assert (
        "people.tri: Not decoded, because the file lacks them or they are damaged: cup and the rest."
        in result.stderr
    )
    assert "Not decoded" not in run("decode", street, "-o", tmp_path / "all.png").stderr


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


@pytest.mark.parametrize(
    ("part", "number", "said"),
    [
        (2, 2, "damaged: cup. Nor is the rest, which the file has, but which needs all components."),
        (REST, 3, "damaged: the rest."),
    ],
)
def test_damaged_part_is_left_out_with_best_effort(
    street: Path, tmp_path: Path, part: int, number: int, said: str
) -> None:
    stream = Bitstream.open(street)
    assert stream.layout is not None
    chunk = stream.layers[1].chunks[stream.layout.chunks[part, 0]]
    assert chunk is not None
    data = bytearray(street.read_bytes())
    data[bytes(data).index(chunk)] ^= 255
    bad = tmp_path / "bad.tri"
    bad.write_bytes(data)
    result = run("decode", bad, "-o", tmp_path / "bad.png")
    assert result.exit_code == 1 and f"chunk {number} of 4" in result.stderr
    assert is_one_sentence(result.stderr)
    result = run("decode", bad, "-o", tmp_path / "bad.png", "--best-effort")
    assert result.exit_code == 0 and f"{said} These parts look" in result.stderr


def test_presets_without_base_layer_refuse_components(tmp_path: Path) -> None:
    result = run(
        "encode", PHOTOGRAPH, "--preset", "compact", "--components", "person", "-o", tmp_path / "x.tri"
    )
    assert result.exit_code == 1 and "compact takes no components; use dual-layer" in result.stderr
