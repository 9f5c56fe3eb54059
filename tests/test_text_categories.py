"""Text that names categories: MiniLM's vectors, their classifier, its training, and the importance map."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.codecs import small_codec
from helpers.images import random_rgb
from helpers.minilm import WORDS, stand_in
from trifocal.codecs import named_objects
from trifocal.codecs.attention_map import attention_map
from trifocal.codecs.codec import Codec
from trifocal.codecs.named_objects import named_probability
from trifocal.codecs.taco_compact import TacoCompact
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.data import read_pictures
from trifocal.data.categories import CATEGORIES
from trifocal.detection.class_map import class_maps
from trifocal.detection.detections import Detections
from trifocal.detection.input_size import COCO_IDS
from trifocal.errors import MissingExtra, OptionError
from trifocal.pictures import Picture
from trifocal.presets import find
from trifocal.text import minilm
from trifocal.text.categories import CategoryClassifier
from trifocal.text.minilm import MiniLmTextEncoder, packaged_file
from trifocal.text_conditioning import condition_for
from trifocal.training import train_text_categories
from trifocal.training.tasks.text_categories import CategoryModel, CategoryTask, text_targets
from trifocal.types import Condition
from trifocal.weights import read_arrays

DOG, CAT = 18, 17


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MiniLmTextEncoder:
    """The stand-in for MiniLM, wherever it is loaded."""
    made = stand_in(tmp_path)
    monkeypatch.setattr("trifocal.text.minilm.load_minilm", lambda: made)
    monkeypatch.setattr("trifocal.training.tasks.text_categories.load_minilm", lambda: made)
    return made


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Detections:
    """A dog on the left and a cat on the right of every image of 192 x 128 pixels."""
    boxes = np.array([[0.0, 0, 64, 128], [128, 0, 192, 128], [0, 0, 64, 64]])
    found = Detections(boxes, np.array([DOG, CAT, DOG]), np.array([0.8, 0.9, 0.5]))
    detector = SimpleNamespace(find=lambda pixels: found)
    monkeypatch.setattr(named_objects, "load_compact_detector", lambda: detector)
    return found


def naming(*categories: int) -> np.ndarray:
    return np.isin(COCO_IDS, categories).astype(np.float32)


def photographs(folder: Path, captions: bool = True) -> Path:
    """60 images with a dog or a cat, and captions that name it; one of them has no word for its dog."""
    folder.mkdir()
    for number in range(60):
        animal = "dog" if number % 2 else "cat"
        record = {"boxes": [[5, 5, 50, 60]], "labels": [DOG if number % 2 else CAT]}
        if captions:
            record["captions"] = [f"a {animal} on the grass", "a tree"]
        Image.fromarray(random_rgb(80, 72, seed=number)).save(folder / f"{number:04d}.jpg")
        (folder / f"{number:04d}.json").write_text(json.dumps(record))
    return folder


def test_texts_have_a_vector_for_each_word_piece(encoder: MiniLmTextEncoder) -> None:
    both = encoder(["a dog", "The RED horse sits on the grass"])
    assert both.tokens.shape == (2, 9, 384) and both.mask.sum(1).tolist() == [4, 9]
    alone = encoder(["a dog"])
    assert np.array_equal(alone.tokens[0], both.tokens[0, :4]) and np.array_equal(
        alone.pooled[0], both.pooled[0]
    )
    assert np.allclose(both.pooled[1], both.tokens[1].mean(axis=0))
    assert encoder([""]).mask.sum() == 2


def test_what_minilm_does_not_read_is_a_notice(encoder: MiniLmTextEncoder) -> None:
    assert encoder.notices(["a dog", ""]) == []
    long = "dog " * 300
    assert encoder([long]).tokens.shape[1] == encoder.length
    assert "first 126" in encoder.notices([long])[0] and "non-Latin" in encoder.notices(["犬"])[0]


def test_packages_that_are_not_installed_are_named() -> None:
    with pytest.raises(MissingExtra, match=r"trifocal\[text\]"):
        packaged_file("no-such-package-of-trifocal", ".onnx")
    assert packaged_file("numpy", "__init__.py").name == "__init__.py"
    with pytest.raises(MissingExtra):
        packaged_file("numpy", ".no-such-ending")


def test_classifier_agrees_with_the_trained_module(encoder: MiniLmTextEncoder) -> None:
    torch.manual_seed(0)
    model = CategoryModel()
    words = encoder(["a dog", "the horse sits on the red grass", ""])
    found = CategoryClassifier({name: w.numpy() for name, w in model.state_dict().items()})(words)
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(words.tokens), torch.from_numpy(words.mask))
    assert found.shape == (3, 80) and np.allclose(found, logits.sigmoid(), rtol=1e-4, atol=1e-7)


def test_class_map_is_the_best_score_times_the_covered_share() -> None:
    boxes = np.array([[8.0, 0, 32, 16], [0, 0, 16, 16], [0, 16, 16, 32]])
    found = Detections(boxes, np.array([1, 1, 3]), np.array([0.8, 0.2, 1.0]))
    maps = dict(class_maps(found, 2, 3, 16))
    assert np.allclose(maps[1], np.array([[0.4, 0.8, 0], [0, 0, 0]]))
    assert np.allclose(maps[3], np.array([[0, 0, 0], [1, 0, 0]]))


def test_only_named_objects_are_found(objects: Detections) -> None:
    picture = Picture(random_rgb(180, 120))
    dog = named_probability(picture, naming(DOG))
    assert dog.shape == (8, 12)
    assert np.allclose(dog[:, :4], 0.8) and not dog[:, 4:].any()
    both = named_probability(picture, naming(DOG, CAT))
    assert np.allclose(both[:, 8:], 0.9) and np.array_equal(both[:, :8], dog[:, :8])
    assert np.allclose(named_probability(picture, np.float32(0.5) * naming(DOG)), dog / 2)
    assert not named_probability(picture, naming(1)).any()


def taco() -> Codec:
    parts = small_codec(noise=0.0).network
    codec = Codec(
        TorchRuntime(
            TacoCompact(parts.analysis, parts.entropy, parts.synthesis, parts.receptive_field).eval()
        )
    )
    codec.preset_id = 1
    return codec


def test_named_objects_get_the_bits(objects: Detections) -> None:
    """At no more bytes the dog is better and the rest is worse; a map that is given is kept."""
    smooth = Image.fromarray(random_rgb(12, 8, seed=3)).resize((192, 128), Image.Resampling.BICUBIC)
    picture, codec = Picture(np.asarray(smooth)), taco()
    plain = codec.encode(picture, quality=30)
    steered = codec.encode(picture, max_bytes=plain.size, condition=Condition(categories=naming(DOG)[None]))
    before, after = (
        (codec.decode(stream).picture.rgb.astype(float) - picture.rgb) ** 2 for stream in (plain, steered)
    )
    assert after[:, :64].mean() < 0.9 * before[:, :64].mean()
    assert after[:, 96:].mean() > before[:, 96:].mean()
    flat = Condition(categories=naming(DOG)[None], importance_map=np.zeros((1, 8, 12), np.float32))
    assert codec.encode(picture, quality=30, condition=flat).layers == plain.layers


def test_attention_shows_what_is_named(objects: Detections) -> None:
    picture = Picture(np.full((128, 192, 3), 200, np.uint8))
    shown = attention_map(taco(), picture, Condition(categories=naming(CAT)[None])).rgb
    assert shown[:, 150:].min() > 180 and shown[:, :100].max() < 60


def test_text_of_the_presets_with_importance_maps_is_read_by_minilm(
    encoder: MiniLmTextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its packages the bundled encoder reads the text, after one notice."""
    notes: list[str] = []
    for preset in ("taco-compact", "dual-layer-compact"):
        condition = condition_for(find(preset), ["a dog", "a tree"], notify=notes.append)
        assert condition.categories is not None and condition.categories.shape == (2, 80)
        assert condition.text is None and notes == []
    other = condition_for(find("cross-modal-compact"), ["a dog"], notify=notes.append)
    assert other.categories is None and other.text is not None and notes == []

    def missing() -> MiniLmTextEncoder:
        raise MissingExtra("text", "MiniLM")

    monkeypatch.setattr(minilm, "load_minilm", missing)
    condition = condition_for(find("taco-compact"), ["a dog"], notify=notes.append)
    assert (
        condition.categories is None and condition.text is not None and condition.text.tokens.shape[2] == 256
    )
    assert len(notes) == 1 and "trifocal[text]" in notes[0]


def test_objects_that_a_caption_may_name_by_other_words_have_no_target(tmp_path: Path) -> None:
    picture = read_pictures([photographs(tmp_path / "data")], 64)[1]  # of a dog
    (first, named, known), (second, none, rest) = text_targets([picture], names=False)
    assert (first, second) == ("a dog on the grass", "a tree")
    assert named[COCO_IDS.index(DOG)] and named.sum() == 1 and known.all()
    assert not none.any() and not rest[COCO_IDS.index(DOG)] and rest.sum() == 79
    texts = {text: named for text, named, _ in text_targets([], names=True)}
    assert texts["the puppy"][COCO_IDS.index(DOG)] and not texts[""].any()
    assert len(texts) > 3 * len(CATEGORIES)


def test_training_learns_the_names_and_resumes(
    tmp_path: Path, encoder: MiniLmTextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained weights tell dog from cat from neither."""
    monkeypatch.setattr(CategoryTask, "warmup", 1)
    monkeypatch.setattr(CategoryTask, "ema", 0.5)
    data = [photographs(tmp_path / "data")]
    train_text_categories(data, tmp_path / "run", steps=1)
    path = train_text_categories(data, tmp_path / "run", steps=60, resume=True)
    classifier = CategoryClassifier(read_arrays(path))
    found = classifier(encoder(["a dog", "a cat", "a red tree on the grass"]))
    dog, cat = (found[:, COCO_IDS.index(number)] for number in (DOG, CAT))
    assert dog[0] > 0.5 > dog[1:].max() and cat[1] > 0.5 > max(cat[0], cat[2])
    record = json.loads((tmp_path / "run" / "categories.json").read_text())
    assert record["steps"] == 60 and record["average_precision"] > 0.9 and record["texts"] > len(WORDS)
    with pytest.raises(OptionError, match="captions"):
        train_text_categories([photographs(tmp_path / "bare", captions=False)], tmp_path / "two", steps=1)
