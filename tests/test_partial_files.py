"""Partial files that hold only the objects, and metrics inside the objects' boxes, in the evaluation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import random_rgb
from trifocal.container import Bitstream
from trifocal.errors import NotMeasured, OptionError, PictureError, PresetError
from trifocal.evaluation import EvaluateOptions, evaluate
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.partial_files import AnnotatedObjectsCandidate, ObjectsCandidate
from trifocal.evaluation.candidates.variant import expand_variants, parse_variant
from trifocal.evaluation.metrics.metric_set import MetricSet, large_boxes
from trifocal.evaluation.metrics.pair import Pair
from trifocal.evaluation.metrics.per_image import METRICS, ssimulacra2
from trifocal.pictures import Picture

LEFT = [0, 0, 64, 128]  # x, y, width, height


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 128 × 128 pixels: a person in the left half of a.png, b.png without objects."""
    images = tmp_path / "images"
    images.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        Image.fromarray(random_rgb(128, 128, number)).save(images / name)
    table = {
        "images": [
            {"id": number, "file_name": name, "width": 128, "height": 128}
            for number, name in enumerate(("a.png", "b.png"))
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": LEFT, "area": 8192, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(table))
    return images


def test_objects_are_as_in_the_whole_file_at_fewer_bytes(folder: Path) -> None:
    names = ["dual-layer-compact", "dual-layer-compact:annotated"]
    options = EvaluateOptions([50], metrics=["psnr", "psnr-objects"])
    rows = evaluate(names, folder, folder.parent / "o.csv", options).rows
    whole, without, part, empty = rows
    assert part.bytes < 0.75 * whole.bytes and empty.bytes < 0.2 * without.bytes
    of_part, of_whole = part.values["psnr_objects"], whole.values["psnr_objects"]
    assert of_part is not None and of_whole is not None and abs(of_part - of_whole) < 0.5
    assert part.values["psnr"] is not None and part.values["psnr"] < of_part - 1
    assert empty.values["psnr_objects"] is None and "no annotated object has 64 pixels" in empty.note


def test_a_partial_file_has_the_components_alone(folder: Path) -> None:
    candidate = create_candidate(parse_variant("dual-layer-compact:annotated"), data=folder)
    assert isinstance(candidate, AnnotatedObjectsCandidate)
    stream = Bitstream.from_bytes(candidate.for_image("a.png").encode(Picture.open(folder / "a.png"), 30))
    assert [(one.label, one.box) for one in stream.components] == [("person", (0, 0, 4, 8))]
    assert any(layer.absent for layer in stream.layers)


def test_detected_objects(folder: Path) -> None:
    candidate = create_candidate(parse_variant("dual-layer-compact:objects"))
    assert isinstance(candidate, ObjectsCandidate)
    file = candidate.encode(Picture.open(folder / "b.png"), 30)
    assert not Bitstream.from_bytes(file).components, "there is nothing to find in noise"
    assert candidate.decode(file).shape == (128, 128, 3)


def test_annotated_objects_need_annotations(tmp_path: Path) -> None:
    Image.fromarray(random_rgb(64, 64)).save(tmp_path / "a.png")
    with pytest.raises(NotMeasured, match=r"no instances.json .* or measure dual-layer-compact:objects"):
        create_candidate(parse_variant("dual-layer-compact:annotated"), data=tmp_path)
    with pytest.raises(PictureError, match=r"no instances.json"):
        evaluate(["dual-layer-compact:annotated"], tmp_path, tmp_path / "o.csv", EvaluateOptions([50]))
    with pytest.raises(PresetError, match="compact takes no components; use dual-layer"):
        create_candidate(parse_variant("compact:objects"))


def test_partial_files_may_have_a_preference() -> None:
    """DISCOVER's objects are decoded for machines; presets without a preference refuse one."""
    variants = [parse_variant("discover:objects"), parse_variant("avif")]
    names = [one.name for one in expand_variants(variants, preferences=[0, 1])]
    assert names == ["discover:objects:0", "discover:objects:1", "avif"]
    one = parse_variant("discover:objects:1")
    assert (one.objects, one.preference) == ("objects", 1.0)
    assert one.title == "Trifocal discover, detected objects alone, preference 1"
    with pytest.raises(PresetError, match="dual-layer-compact takes no preference"):
        create_candidate(parse_variant("dual-layer-compact:objects:1"))
    with pytest.raises(OptionError, match="has an unknown setting 'all'"):
        parse_variant("discover:objects:all")


def test_metrics_of_objects_by_hand() -> None:
    random = np.random.default_rng(3)
    black = random.integers(0, 200, (96, 192, 3), dtype=np.uint8)
    decoded = black.copy()
    decoded[:, :64] += 2
    decoded[:, 64:128] += 10
    pair = Pair(decoded, black, objects=((0, 0, 64, 64), (0, 0, 64, 96)))
    assert METRICS["psnr-objects"].load()(pair) == pytest.approx(10 * math.log10(255**2 / 4))
    assert METRICS["psnr-objects"].load()(Pair(decoded, black)) is None
    two = Pair(decoded, black, objects=((0, 0, 64, 96), (64, 0, 128, 64)))
    first = ssimulacra2(decoded[:96, :64], black[:96, :64])
    second = ssimulacra2(decoded[:64, 64:128], black[:64, 64:128])
    assert first is not None and second is not None
    expected = (first * 96 + second * 64) / 160
    assert METRICS["ssimulacra2-objects"].load()(two) == pytest.approx(expected)
    assert METRICS["ssimulacra2-objects"].load()(Pair(decoded, black)) is None


def test_objects_of_64_pixels_a_side_in_image_pixels(folder: Path) -> None:
    boxes = np.array([[0, 0, 63.5, 64], [0.5, 0, 63.4, 63], [-5, 0, 58, 99], [10, 20, 200, 200]], np.float32)
    assert large_boxes(boxes, 100, 100) == ((0, 0, 64, 64), (10, 20, 100, 100))
    said: list[str] = []
    metrics = MetricSet(["psnr-objects"], None, folder, said.append)
    assert metrics._boxes("a.png", 256, 256) == (None, ((0, 0, 128, 256),)) and not said
    assert metrics._boxes("c.png", 256, 256) == (None, ())


def test_metrics_of_objects_need_annotations(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    said: list[str] = []
    assert not MetricSet(["psnr-objects"], None, tmp_path, said.append).columns
    assert "there is no instances.json" in said[0] and "captions" not in said[0]
