"""The commands detect, strip and merge, and the layer options of other commands, with a fake codec."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from helpers.detection import record_detections
from trifocal.cli import app
from trifocal.codecs.codec import Decoded
from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.container.parts import strip
from trifocal.detection.detections import Detections
from trifocal.pictures import Picture
from trifocal.pictures.drawing import MIN_SIDE, draw_boxes
from trifocal.presets import find

LAYERED, PLAIN = find("dual-layer-compact"), find("compact")
FOUND = Detections(
    boxes=np.array([[1.0, 2.0, 30.0, 20.0], [4.256, 5.0, 40.0, 29.5], [0.0, 0.0, 9.0, 9.0]]),
    labels=np.array([18, 1, 12]),
    scores=np.array([0.5, 0.875, 0.125]),
)
DECODED, FIRST = (200, 200, 200), (40, 40, 40)  # the colours of the decoded image and of the base preview


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def one_sentence(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and text.strip().endswith(".") and "Traceback" not in text


def plain(width: int, height: int, colour: tuple[int, int, int]) -> Picture:
    return Picture(np.full((height, width, 3), colour, np.uint8))


class Fake:
    """A scalable codec that keeps its arguments."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.streams: list[Bitstream] = []

    def detect(self, stream: Bitstream) -> Detections:
        self.streams.append(stream)
        return FOUND

    def base_preview(self, stream: Bitstream) -> Picture:
        self.streams.append(stream)
        return plain(stream.header.width, stream.header.height, FIRST)

    def decode(self, stream: Bitstream, *positional: Any, **options: Any) -> Decoded:
        options |= dict(zip(("region", "best_effort", "condition", "progress"), positional))
        self.streams.append(stream)
        self.options = options
        return Decoded(plain(stream.header.width, stream.header.height, DECODED))

    def encode_picture(
        self, picture: Picture, rate: Rate, base: BaseLayerOptions, *options: Any, **more: Any
    ) -> Bitstream:
        self.options = {"rate": rate, "base": base}
        return layered(picture.width, picture.height)


@pytest.fixture(autouse=True)
def codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake()

    def load_for(header: Header, device: str, weights: str | None, engine: str | None) -> Fake:
        fake.options["weights"] = weights
        return fake

    monkeypatch.setattr("trifocal.presets.load_for", load_for)
    monkeypatch.setattr("trifocal.presets.shared_codec", lambda name, *rest: fake)
    yield fake


@pytest.fixture
def seen_images(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The images that the bundled detector gets."""
    return record_detections(monkeypatch, FOUND)


def layered(width: int = 40, height: int = 30, base: bytes = b"\x32base") -> Bitstream:
    layers = (Layer(Tag.BASE, (base,)), Layer(Tag.ENHANCEMENT, (b"enhancement",)), Layer(Tag.ICC, (b"icc",)))
    return Bitstream(Header(width, height, LAYERED.id, 400, 0xBEEF), layers)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.tri"
    layered().save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    plain(40, 30, DECODED).save(path)
    return path


# ── results ──


def test_detect_prints_one_json_object_for_a_layered_file(street: Path, codec: Fake) -> None:
    result = run("detect", street)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "file": str(street),
        "width": 40,
        "height": 30,
        "preset": "dual-layer-compact",
        "bytes read": layered().size - len(b"enhancement" + b"icc"),
        "objects": [
            {"label": "person", "category": 1, "score": 0.875, "box": [4.26, 5.0, 40.0, 29.5]},
            {"label": "dog", "category": 18, "score": 0.5, "box": [1.0, 2.0, 30.0, 20.0]},
        ],
    }
    assert len(result.stdout.splitlines()) == 1
    assert [[layer.tag for layer in stream.layers] for stream in codec.streams] == [[Tag.BASE]]


def test_detect_reads_only_the_base_layer(street: Path) -> None:
    said = run("detect", street).stdout
    end = json.loads(said)["bytes read"]
    for rest in b"", b"\xff" * 500:
        street.write_bytes(street.read_bytes()[:end] + rest)
        assert run("detect", street).stdout == said
        assert run("decode", street, "-o", street.with_suffix(".png")).exit_code == 1


def test_threshold_drops_objects_with_lower_scores(street: Path) -> None:
    counts = {
        share: len(json.loads(run("detect", street, "--threshold", share).stdout)["objects"])
        for share in ("0", "0.5", "0.51", "1")
    }
    assert counts == {"0": 3, "0.5": 2, "0.51": 1, "1": 0}
    sure = json.loads(run("detect", street, "--threshold", "0").stdout)["objects"]
    assert [one["label"] for one in sure] == ["person", "dog", "category 12"]
    assert run("detect", street, "--threshold", "1.1").exit_code == 2


def test_detect_runs_on_ordinary_images(photo: Path, seen_images: list[Picture]) -> None:
    result = run("detect", photo)
    facts = json.loads(result.stdout)
    assert (facts["preset"], facts["bytes read"], facts["width"]) == (None, photo.stat().st_size, 40)
    assert len(facts["objects"]) == 2 and len(seen_images) == 1
    refused = run("detect", photo, "--weights", "mine.safetensors")
    assert refused.exit_code == 1 and one_sentence(refused.stderr) and "--weights" in refused.stderr


def test_detect_decodes_files_without_a_base_layer(
    tmp_path: Path, codec: Fake, seen_images: list[Picture]
) -> None:
    stream = Bitstream(Header(40, 30, PLAIN.id, 400, 0xBEEF), (Layer(Tag.LATENT, (b"latent",)),))
    stream.save(tmp_path / "compact.tri")
    result = run("detect", tmp_path / "compact.tri")
    assert result.exit_code == 0 and one_sentence(result.stderr) and "decoded image" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["preset"], facts["bytes read"]) == ("compact", stream.size)
    assert codec.streams == [stream] and tuple(seen_images[0].rgb[0, 0]) == DECODED


def test_detect_passes_custom_weights_to_the_codec(street: Path, codec: Fake) -> None:
    assert run("detect", street, "--weights", "mine.safetensors").exit_code == 0
    assert codec.options["weights"] == "mine.safetensors"


def test_detect_prints_a_line_per_file_of_a_folder_and_lists_failures(
    street: Path, photo: Path, seen_images: list[Picture]
) -> None:
    (street.parent / "broken.tri").write_bytes(street.read_bytes()[:30])
    street.with_name("unnamed").write_bytes(street.read_bytes())
    result = run("detect", street.parent, street.with_name("unnamed"))
    assert result.exit_code == 1 and "1 of 4 failed" in result.stderr and "broken.tri" in result.stderr
    facts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(one["file"]).name for one in facts] == ["photo.png", "street.tri", "unnamed"]
    assert [one["preset"] for one in facts] == [None, "dual-layer-compact", "dual-layer-compact"]


def test_detect_writes_results_to_out(street: Path, photo: Path, seen_images: list[Picture]) -> None:
    file, folder = street.with_name("street.json"), street.parent / "found"
    result = run("detect", street, "-o", file)
    assert result.stdout == f"{file}  2 objects\n"
    assert (
        json.loads(file.read_text())["bytes read"] == json.loads(run("detect", street).stdout)["bytes read"]
    )
    assert run("detect", street, photo, "--out", folder).exit_code == 0
    assert {path.name for path in folder.iterdir()} == {"street.json", "photo.json"}
    for option in "--out", "--draw":
        suffix = {"--out": ".json", "--draw": ".png"}[option]
        assert run("detect", street, photo, option, street.with_name(f"one{suffix}")).exit_code == 2


@pytest.mark.parametrize("kind", ["part", "forged", "damaged", "missing", "text", "newer"])
def test_detect_gives_a_one_line_error_for_invalid_inputs(
    street: Path, kind: str, seen_images: list[Picture]
) -> None:
    stream = Bitstream.open(street)
    data = stream.to_bytes()
    if kind == "part":
        data = strip(stream, "enhancement").to_bytes()
    if kind == "forged":
        header = Header(40, 30, PLAIN.id, 400, 0xBEEF)
        data = Bitstream(header, stream.layers).to_bytes()
    if kind == "damaged":
        data = data.replace(b"\x32base", b"\x32BASE")
    if kind == "text":
        data = b"hello, this is text\n"
    if kind == "newer":
        data = Bitstream(Header(40, 30, 62, 400, 0xBEEF), stream.layers).to_bytes()
    street.write_bytes(data)
    if kind == "missing":
        street.unlink()
    result = run("detect", street)
    words = {"part": "trifocal merge", "forged": "has none", "damaged": "BASE", "newer": "number 62"}
    assert result.exit_code == 1 and result.stdout == "" and one_sentence(result.stderr)
    assert "street.tri" in result.stderr and words.get(kind, "") in result.stderr
    assert not seen_images


def test_missing_input_creates_no_output_folder(tmp_path: Path) -> None:
    assert run("detect", tmp_path / "nowhere" / "x.tri").exit_code == 1
    assert not (tmp_path / "nowhere").exists()


# ── drawings ──


def drawing_of(*words: str | Path) -> Image.Image:
    result = run("detect", *words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    with Image.open(words[words.index("--draw") + 1]) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (3000, 2000)])
def test_boxes_are_drawn_on_the_decoded_image_or_on_the_base_preview(
    size: tuple[int, int], tmp_path: Path
) -> None:
    whole, base, out = tmp_path / "w.tri", tmp_path / "b.tri", tmp_path / "out.png"
    layered(*size).save(whole)
    strip(layered(*size), "base").save(base)
    for path, colour in (whole, DECODED), (base, FIRST):
        image = drawing_of(path, "--draw", out)
        assert max(image.size) >= MIN_SIDE and image.width * size[1] == image.height * size[0]
        counts = {shade: count for count, shade in image.getcolors(1 << 24) or []}
        assert counts[colour] > 0 and len(counts) > 5  # inks of two boxes, and of letters with soft edges


def test_drawings_of_several_inputs_are_written_to_a_folder(
    street: Path, photo: Path, seen_images: list[Picture]
) -> None:
    folder = street.parent / "drawn"
    result = run("detect", street, photo, "--draw", folder)
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 2
    assert {path.name for path in folder.iterdir()} == {"street.png", "photo.png"}
    assert str(folder / "street.png") in result.stderr
    assert run("detect", photo, "--draw", photo).exit_code == 1  # not over what is looked at
    refused = run("detect", street, "--draw", street.with_name("out.xyz"))
    assert refused.exit_code == 1 and refused.stdout == "" and one_sentence(refused.stderr)


def test_results_are_printed_if_drawing_fails(street: Path) -> None:
    street.write_bytes(street.read_bytes()[:-1])
    result = run("detect", street, "--draw", street.with_name("out.png"))
    assert result.exit_code == 1 and json.loads(result.stdout)["objects"] and one_sentence(result.stderr)


def test_boxes_of_a_category_share_a_colour_and_the_first_is_on_top() -> None:
    picture = plain(400, 320, FIRST)
    boxes = [(100, 100, 200, 200), (100, 100, 200, 200), (300, 200, 390, 300)]
    drawn = draw_boxes(picture, boxes, ["", "", ""], [1, 18, 1]).rgb
    assert tuple(drawn[200 - 1, 150]) == tuple(drawn[300 - 1, 350]) != FIRST
    assert tuple(drawn[200, 150]) == tuple(drawn[150, 150]) == tuple(drawn[199, 99]) == FIRST
    assert (picture.rgb == FIRST).all()
    assert (draw_boxes(picture, [], [], []).rgb == picture.rgb).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (400, 400)])
def test_boxes_are_clipped_to_the_image(
    size: tuple[int, int],
) -> None:
    boxes = [(-50.0, -50.0, 5000.0, 5000.0), (0.5, 0.5, 0.5, 0.5), (899.9, 899.9, 900.0, 900.0)]
    drawn = draw_boxes(plain(*size, FIRST), boxes, ["a long name, and a score 0.99"] * 3, [1, 2, 3])
    assert max(drawn.width, drawn.height) >= MIN_SIDE and (drawn.rgb != FIRST).any()


def test_labels_do_not_overlap() -> None:
    """A second label moves below the first; a label without free space is omitted."""
    picture, box = plain(400, 400, FIRST), (100, 100, 300, 300)
    one = draw_boxes(picture, [box], ["person 0.90"], [1]).rgb
    both = draw_boxes(picture, [box, box], ["person 0.90", "dog 0.40"], [1, 18]).rgb
    changed = np.argwhere((one != both).any(axis=2))
    plate = np.argwhere((one != draw_boxes(picture, [box], [""], [1]).rgb).any(axis=2))
    assert len(changed) and changed[:, 0].min() > plate[:, 0].max()
    many = draw_boxes(picture, [box] * 200, ["person 0.90"] * 200, [1] * 200).rgb
    assert (many[plate[:, 0], plate[:, 1]] == one[plate[:, 0], plate[:, 1]]).all()


def test_label_size_follows_the_image_size() -> None:
    for size in (40, 30), (640, 480), (3000, 2000):
        drawn = draw_boxes(plain(*size, FIRST), [(0, 0, 1, 1)], ["dog 0.87"], [18]).rgb
        high = int((drawn[:, 8] != FIRST).any(axis=1).sum())  # the plate of the label
        assert 12 <= high and 0.015 * max(drawn.shape) < high < 0.1 * max(drawn.shape)


# ── strip and merge ──


def test_strip_and_merge_give_the_same_bytes(street: Path) -> None:
    data = street.read_bytes()
    for layers, ending in ("base", "-base"), ("enhancement", "-enh"):
        result = run("strip", street, "--layers", layers)
        part = street.with_name(f"street{ending}.tri")
        assert result.exit_code == 0
        assert result.stdout == f"{part}  {part.stat().st_size:,} of {len(data):,} bytes\n"
    street.unlink()
    parts = street.with_name("street-enh.tri"), street.with_name("street-base.tri")
    assert run("merge", *parts).stdout == f"{street}  {len(data):,} bytes\n"
    assert street.read_bytes() == data


def test_strip_takes_several_files_and_lists_failures(street: Path, tmp_path: Path) -> None:
    run("strip", street, "--layers", "base")
    part = tmp_path / "street-base.tri"
    result = run("strip", street, part, "--layers", "enhancement", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "street-base.tri: This file has no enhancement layer" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["street-enh.tri"]
    assert run("strip", street).exit_code == 2
    assert run("strip", street, "--layers", "all").exit_code == 2


@pytest.fixture
def parts(street: Path) -> tuple[Path, Path]:
    run("strip", street, "--layers", "base")
    run("strip", street, "--layers", "enhancement")
    return street.with_name("street-base.tri"), street.with_name("street-enh.tri")


def test_merge_keeps_existing_files_that_were_not_named(street: Path, parts: tuple[Path, Path]) -> None:
    data = street.read_bytes()
    street.write_bytes(b"something else")
    refused = run("merge", *parts)
    assert refused.exit_code == 1 and one_sentence(refused.stderr) and "--force" in refused.stderr
    assert street.read_bytes() == b"something else"
    assert run("merge", *parts, "--force").exit_code == 0
    assert street.read_bytes() == data
    street.write_bytes(b"something else")
    assert run("merge", *parts, "-o", street).exit_code == 0
    assert street.read_bytes() == data
    assert run("merge", *parts, "-o", f"{street.parent}/new/").exit_code == 0
    assert (street.parent / "new" / "street.tri").read_bytes() == data


def test_merged_file_is_named_after_its_parts_or_by_out(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    a, b = parts[0].rename(tmp_path / "a.tri"), parts[1].rename(tmp_path / "b.tri")
    refused = run("merge", a, b)
    assert refused.exit_code == 1 and one_sentence(refused.stderr) and "-o" in refused.stderr
    assert run("merge", a, b, "-o", tmp_path / "c.tri").exit_code == 0
    assert run("merge", a, b.rename(tmp_path / "d-enh.tri")).stdout.startswith(str(tmp_path / "d.tri"))


def test_merging_parts_of_different_files_is_an_error(street: Path, parts: tuple[Path, Path]) -> None:
    street.unlink()
    strip(layered(base=b"\x32other"), "base").save(street.with_name("other-base.tri"))
    cases = {
        "different files": (street.with_name("other-base.tri"), parts[1]),
        "Both files are base parts": (parts[0], parts[0]),
        "no such file": (parts[0], street.with_name("nowhere-enh.tri")),
    }
    for word, pair in cases.items():
        result = run("merge", *pair)
        assert result.exit_code == 1 and one_sentence(result.stderr) and word in result.stderr
    assert not street.exists() and not street.with_name("nowhere.tri").exists()


# ── layers in other commands ──


def test_encode_passes_base_layer_options_on(photo: Path, codec: Fake) -> None:
    result = run("encode", photo, "--preset", LAYERED.name, "--base-quality", "30", "-q", "60")
    assert result.exit_code == 0, result.output
    assert codec.options == {"rate": Rate(60), "base": BaseLayerOptions(30)}
    assert run("encode", photo, "--preset", LAYERED.name, "--refinement", "0", "--force").exit_code == 0
    assert codec.options["base"] == BaseLayerOptions(refinement=0)
    assert run("encode", photo, "--preset", LAYERED.name, "--refinement", "-1").exit_code == 2
    assert "5 bytes of base layer" in result.stdout
    assert run("encode", photo, "--preset", LAYERED.name, "--force").exit_code == 0
    assert codec.options["base"].is_default
    assert run("encode", photo, "--preset", LAYERED.name, "--base-quality", "101").exit_code == 2


@pytest.mark.parametrize("option", ["--base-quality", "--refinement"])
def test_base_quality_is_refused_for_presets_without_a_base_layer(photo: Path, option: str) -> None:
    result = run("encode", photo, "--preset", "compact", option, "30")
    assert result.exit_code == 1 and one_sentence(result.stderr)
    assert "compact has no base layer" in result.stderr and LAYERED.name in result.stderr


def test_decode_layers_base_writes_the_base_preview(street: Path, codec: Fake) -> None:
    out = street.with_suffix(".png")
    street.write_bytes(street.read_bytes()[:-1])  # of which it needs nothing
    assert run("decode", street, "--layers", "base").exit_code == 0
    with Image.open(out) as image:
        assert (image.size, image.getpixel((0, 0))) == ((40, 30), FIRST)
    assert [layer.tag for layer in codec.streams[0].layers] == [Tag.BASE]
    assert run("decode", street, "--layers", "base").exit_code == 1  # the picture is there
    for more in ("--region", "0,0,8,8"), ("--best-effort",), ("--text", "a dog"):
        assert run("decode", street, "--layers", "base", "--force", *more).exit_code == 2
    plain_file = street.with_name("plain.tri")
    Bitstream(Header(40, 30, PLAIN.id, 400, 1), (Layer(Tag.LATENT, (b"",)),)).save(plain_file)
    refused = run("decode", plain_file, "--layers", "base")
    assert refused.exit_code == 1 and one_sentence(refused.stderr) and "no base layer" in refused.stderr


def test_decoding_a_part_names_the_merge_command(
    street: Path, codec: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Fake, "decode", lambda self, *arguments, **options: ScalableCodec.decode(self, *arguments, **options)
    )
    monkeypatch.setattr(Fake, "_canvas_and_region", ScalableCodec._canvas_and_region, raising=False)
    words = {
        "base": ("trifocal detect", "--layers base", "trifocal merge"),
        "enhancement": ("trifocal merge",),
    }
    for layers, said in words.items():
        run("strip", street, "--layers", layers, "-o", street.with_name("part.tri"))
        result = run("decode", street.with_name("part.tri"))
        assert result.exit_code == 1 and one_sentence(result.stderr)
        assert all(word in result.stderr for word in said)


def test_info_names_layers_and_parts(street: Path, parts: tuple[Path, Path]) -> None:
    whole, base, rest = (json.loads(run("info", "--json", path).stdout) for path in (street, *parts))
    assert [layer["name"] for layer in whole["layers"]] == ["BASE", "ENHANCEMENT", "ICC"]
    assert [layer["bytes"] for layer in whole["layers"]] == [5, 11, 3]
    assert "part of a whole" not in whole
    assert len(base["part of a whole"]) == 8 and base["part of a whole"] == rest["part of a whole"]
    shown = run("info", parts[0]).stdout
    assert "layer ENHANCEMENT 11 bytes" in run("info", street).stdout
    assert f"part of a whole {base['part of a whole']}\n" in shown and "layer BASE      5 bytes" in shown
    bad = Bitstream.open(parts[0]).with_layer(Layer(Tag.PART, (b"123",)))
    bad.save(parts[0])
    result = run("info", parts[0])
    assert result.exit_code == 1 and "PART" in result.stderr and one_sentence(result.stderr)


def test_info_for_a_base_part_imports_neither_torch_nor_numpy(parts: tuple[Path, Path]) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "trifocal", "info", str(parts[0])]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    loaded = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "trifocal.container.parts" in loaded
    assert not {"torch", "numpy", "PIL", "PIL.Image"} & loaded
