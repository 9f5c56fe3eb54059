"""Grounding: labels and words → boxes, by the bundled networks and by Grounding DINO."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.cli import is_one_sentence
from helpers.grounding import detections, make_grounding_dino
from helpers.images import random_rgb
from trifocal.demo import PHOTOGRAPH
from trifocal.detection.labels import CATEGORY_BY_NAME
from trifocal.errors import MissingExtra, OptionError, WeightsError
from trifocal.grounding import compact
from trifocal.grounding.compact import CompactGrounder, DetectorGrounder
from trifocal.grounding.dino import GroundingDino, closest_label, prompt
from trifocal.grounding.loading import load_grounder, load_named
from trifocal.grounding.relevance import connected_boxes
from trifocal.pictures import Picture
from trifocal.utils.local_networks import VARIABLE

PIXELS = random_rgb(200, 120, seed=2)
CAR, DOG = CATEGORY_BY_NAME["car"], CATEGORY_BY_NAME["dog"]
OBJECTS = detections(("car", 0.9, (0, 0, 50, 60)), ("car", 0.5, (60, 0, 90, 60)), ("dog", 0.3, (0, 0, 9, 9)))


@pytest.fixture
def photograph() -> Any:
    return Picture.open(PHOTOGRAPH).rgb


# ── the compact detector ──


def test_detector_finds_labels_and_their_synonyms() -> None:
    grounder = DetectorGrounder(lambda pixels: OBJECTS)
    found = grounder.find(PIXELS, ["car", "sedan", "dog", "unicorn"])
    assert found.labels == ("car", "sedan", "car", "sedan") and found.scores.tolist() == [0.9, 0.9, 0.5, 0.5]
    assert found.boxes.tolist()[2] == [60, 0, 90, 60]


def test_detector_is_not_run_without_a_label_that_it_knows() -> None:
    def refuse(pixels: Any) -> Any:
        raise AssertionError

    found = DetectorGrounder(refuse).find(PIXELS, ["unicorn"])
    assert len(found) == 0 and found.boxes.shape == (0, 4)


# ── words ──


def test_words_that_name_a_category_give_its_objects() -> None:
    def named(words: Any) -> Any:
        assert words == ["the red car"]
        return {"the red car": {CAR: 0.8}}

    grounder = CompactGrounder(DetectorGrounder(lambda pixels: OBJECTS), named)
    found = grounder.find(PIXELS, ["the red car", "car"])
    assert sorted(zip(found.labels, found.scores)) == [
        ("car", 0.5),
        ("car", 0.9),
        ("the red car", pytest.approx(0.4)),
        ("the red car", pytest.approx(0.72)),
    ]


def test_minilm_names_the_category_of_words() -> None:
    found = compact.categories_by_minilm(["the red car", "the sky"])
    assert [*found["the red car"]] == [CAR] and found["the sky"] == {}


def test_words_are_placed_by_the_bundled_encoders_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, photograph: Any
) -> None:
    def missing() -> None:
        raise MissingExtra("text", "MiniLM")

    monkeypatch.setattr(compact, "load_minilm", missing)
    found = CompactGrounder().find(photograph, ["the woman with glasses", "a unicorn"])
    assert {*found.labels} == {"the woman with glasses"} and (found.scores >= compact.RELEVANT).all()
    best = found.boxes[found.scores.argmax()]
    assert (best[:2] >= 0).all() and (best[2:] <= 512).all() and best[0] < 256 < best[3]


def test_connected_positions_give_a_box() -> None:
    p = np.zeros((5, 6), np.float32)
    p[0, 0] = p[0, 1] = 0.5
    p[1, 2] = 0.7  # touches the first by a corner
    p[2:5, 5] = p[4, 3:5] = p[3, 3] = 0.4
    boxes, scores = connected_boxes(p, 0.4)
    expected = {(0, 0, 2, 1): 0.5, (2, 1, 3, 2): 0.7, (3, 2, 6, 5): 0.4}
    assert dict(zip(map(tuple, boxes.tolist()), scores.tolist())) == pytest.approx(expected)
    assert [len(part) for part in connected_boxes(p, 0.8)] == [0, 0]
    assert connected_boxes(p, 0.0)[0].tolist() == [[0, 0, 6, 5]]


# ── Grounding DINO ──


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grounding_dino(tmp_path_factory.mktemp("networks") / "grounding-dino-tiny")


def test_grounding_dino_gives_boxes_in_pixels_with_given_labels(folder: Path) -> None:
    grounder = GroundingDino(str(folder), box_threshold=0.0, text_threshold=0.0)
    labels = ["cat", "Traffic light", "the red car"]
    found = grounder.find(PIXELS, labels)
    assert len(found) == 12 == len(found.scores) and {*found.labels} <= {*labels}
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert (centres > 0).all() and (centres < [200, 120]).all() and (centres > 1).any()
    assert len(GroundingDino(str(folder), box_threshold=1.0).find(PIXELS, labels)) == 0


def test_labels_are_split_into_passes(folder: Path) -> None:
    grounder = GroundingDino(str(folder), box_threshold=0.0, text_threshold=0.0)
    labels = ["cat", "dog", "traffic light", "traffic sign", "giraffe"] * 3  # 2 or 3 tokens each
    batches = [*grounder.batches(labels)]
    assert [label for batch in batches for label in batch] == labels and len(batches) == 2
    counts = [len(grounder.processor.tokenizer(prompt(batch))["input_ids"]) for batch in batches]
    assert max(counts) <= 24
    assert len(grounder.find(PIXELS, labels)) == 24
    with pytest.raises(OptionError, match="use fewer words") as refused:
        grounder.find(PIXELS, ["the red car " * 9])
    assert is_one_sentence(str(refused.value))


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        ("traffic light", "traffic light"),
        ("traffic", "traffic light"),
        ("sign", "traffic sign"),
        ("red car.", "the red car"),
        ("##ffe", None),
        ("", None),
    ],
)
def test_phrases_are_matched_to_labels(phrase: str, label: str | None) -> None:
    assert closest_label(phrase, ["traffic light", "traffic sign", "the red car"]) == label


def test_grounding_dino_is_read_from_the_folder_of_networks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(folder.parent))
    load_named.cache_clear()
    grounder = load_grounder("grounding-dino")
    assert isinstance(grounder, GroundingDino) and load_grounder("grounding-dino") is grounder
    assert grounder.vocabulary is None and (grounder.box_threshold, grounder.text_threshold) == (0.35, 0.25)
    load_named.cache_clear()


def test_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="cannot be loaded; download it to FOLDER/") as refused:
        GroundingDino(str(tmp_path))
    assert is_one_sentence(str(refused.value))


def test_unknown_grounders_are_refused() -> None:
    with pytest.raises(OptionError, match="compact or grounding-dino, not 'owl'"):
        load_grounder("owl")
