"""The compact text and image encoders: embeddings of texts, features of images, and their training."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import random_rgb
from trifocal.data import Crops, read_pictures
from trifocal.data.categories import (
    category_mask,
    category_name,
    clip_boxes,
    make_phrase,
    named_categories,
    sample_text,
)
from trifocal.data.images import TrainingPicture
from trifocal.data.sources import FilePart
from trifocal.detection.image_encoder import ImageEncoder
from trifocal.detection.labels import CATEGORIES
from trifocal.errors import OptionError
from trifocal.text.compact import LENGTH, CompactTextEncoder, TextTransformer, tokenize
from trifocal.text.grounding import GroundingHead
from trifocal.training import image_text_model, train_text_image
from trifocal.training.image_text_batches import GRID, SIDE, ImageTextBatches, make_views
from trifocal.training.image_text_model import ImageTextModel, class_map_loss, ranks, train_tokenizer
from trifocal.training.tasks import grounding
from trifocal.training.tasks.grounding import GroundingTask
from trifocal.training.trainer import Trainer
from trifocal.types import TextEmbedding

CAPTIONS = [
    "a brown dog on the grass",
    "two cats and a red ball",
    "a man rides a horse",
    "the dog and the ball",
] * 3


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CAPTIONS, vocabulary=300)
    network = TextTransformer(len(tokenizer), width=16, layers=1, heads=2, embedding=8)
    return CompactTextEncoder(tokenizer, network.eval())


def test_any_text_is_encoded(tower):
    """Empty, long, in other scripts, with emoji or control characters; with a notice for text unlike the
    training data.
    """
    texts = ["", "a dog", "word " * 10_000, "犬が走る", "🐕\x00\x07", "Ein Hund läuft über die Wiese"]
    words = tower(texts)
    assert words.tokens.shape == (6, LENGTH, 8) and words.pooled.shape == (6, 8)
    assert torch.isfinite(words.tokens[words.mask]).all() and torch.isfinite(words.pooled).all()
    assert words.mask[:, 0].all() and words.mask[0].sum() == 2
    assert tower.notices(["a dog"]) == [] and tower.notices([""]) == []
    assert "only the first 62 are used" in tower.notices([texts[2]])[0]
    assert "English" in tower.notices([texts[3]])[-1]


def test_padding_has_no_effect(tower):
    alone, among = tower(["a dog"]), tower(["a dog", "two cats and a red ball on the grass"])
    length = int(alone.mask.sum())
    assert torch.allclose(alone.tokens[0], among.tokens[0, :length], atol=1e-5)
    assert torch.allclose(alone.pooled[0], among.pooled[0], atol=1e-5)


def test_case_and_width_of_letters_are_ignored(tower):
    assert torch.equal(tower(["A Dog"]).pooled, tower(["ａ dog"]).pooled)


def test_every_byte_has_a_token(tower):
    ids, _ = tokenize(tower.tokenizer, ["".join(map(chr, range(1, 0x250)))])
    assert None not in ids.flatten().tolist()


@pytest.mark.parametrize("size", [(64, 48), (50, 70), (1, 1)])
def test_image_encoder_takes_any_size(size):
    torch.manual_seed(0)
    tower = ImageEncoder((4, 8, 12), (1, 1, 1), embedding=6).eval()
    seen = tower(torch.rand(2, 3, *size))
    h, w = -(-size[0] // 16), -(-size[1] // 16)
    assert [tuple(stage.shape[1:]) for stage in seen.feature_maps] == [
        (4 * h, 4 * w, 4),
        (2 * h, 2 * w, 8),
        (h, w, 12),
    ]
    assert seen.local.shape == (2, h, w, 6)
    assert torch.allclose(seen.pooled.norm(dim=-1), torch.ones(2))


def test_bundled_encoders_have_the_documented_sizes():
    text = sum(p.numel() for p in TextTransformer(4096).parameters())
    image = sum(p.numel() for p in ImageEncoder().parameters())
    assert text < 4_000_000 and image < 3_000_000


def test_grounding_ignores_padding():
    torch.manual_seed(0)
    ground = GroundingHead(width=16, heads=2, hidden=8)
    tokens, places = torch.randn(1, 5, 16), torch.randn(1, 3, 4, 16)
    mask = torch.tensor([[True, True, True, False, False]])
    short = ground(places, TextEmbedding(tokens[:, :3], mask[:, :3], torch.zeros(1, 16)))
    assert torch.allclose(ground(places, TextEmbedding(tokens, mask, torch.zeros(1, 16))), short, atol=1e-6)
    assert short.shape == (1, 3, 4)


def test_category_names_in_a_text():
    assert named_categories("Two hot dogs beside a teddy bear, and men on buses") == {58, 88, 1, 6}
    assert named_categories("a dog bears a wine glass") == {18, 23, 46}
    assert named_categories("nothing much") == frozenset()
    random = np.random.default_rng(0)
    assert {category_name(1, random) for _ in range(20)} == {"person"}
    for number in CATEGORIES:
        assert named_categories(make_phrase([category_name(number, random)], random)) == {number}


def test_positions_of_named_categories():
    boxes, labels = np.array([[2, 3, 6, 5], [0, 0, 1, 1]], np.float32), np.array([18, 17])
    mask = category_mask(boxes, labels, frozenset({18}), 8, 10)
    assert mask.shape == (8, 10) and mask.sum() == 8 and mask[3:5, 2:6].all()
    clipped, seen = clip_boxes(boxes, (4, 0, 10, 8))
    assert seen.tolist() == [True, False] and clipped[0].tolist() == [0, 3, 2, 5]


def test_crop_has_its_own_text():
    """The text of a crop without the dog does not mention the dog."""
    boxes, labels = np.array([[0, 0, 60, 60], [140, 140, 200, 200]], np.float32), np.array([18, 53])
    picture = TrainingPicture("a", random_rgb(200, 200), ("a dog and an apple",), boxes, labels)
    said: set[frozenset[int]] = set()
    with Crops([picture], batch=16, size=64, seed=0) as crops:
        for _ in range(4):
            said |= {named_categories(text) for text in crops.next().texts}
    assert said == {frozenset(), frozenset({18}), frozenset({53})}
    assert sample_text((), np.array([], np.int64), np.random.default_rng(0)) == ""


def shard(path: Path, count: int = 48, captions: bool = True) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(random_rgb(96, 80, seed=number)).save(stream, "JPEG")
            record = {"boxes": [[5, 5, 50, 60]], "labels": [18 if number % 2 else 17]}
            if captions:
                record["captions"] = [CAPTIONS[number % len(CAPTIONS)]]
            for suffix, data in ((".jpg", stream.getvalue()), (".json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"{number:04d}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def test_image_records_are_read_with_their_images(tmp_path):
    pictures = read_pictures([shard(tmp_path / "a.tar", 3)], 64)
    assert [p.key for p in pictures] == ["0000", "0001", "0002"]
    assert pictures[1].captions == (CAPTIONS[1],) and pictures[1].labels.tolist() == [18]
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.fromarray(random_rgb(70, 70)).save(folder / "x.png")
    (folder / "x.json").write_text('{"captions": ["a thing"]}')
    Image.fromarray(random_rgb(70, 70)).save(folder / "y.png")
    (folder / "y.json").write_text('{"boxes": [[1, 2, 3, 4]], "labels": []}')
    said: list[str] = []
    (picture,) = read_pictures([folder], 64, said.append)
    assert picture.captions == ("a thing",) and any("1 boxes and 0 labels" in sentence for sentence in said)


def test_image_records_in_cocos_layout(tmp_path):
    """The folders of COCO: train2014/ beside annotations/; crowds are left out."""
    folder = tmp_path / "train2014"
    folder.mkdir()
    (tmp_path / "annotations").mkdir()
    Image.fromarray(random_rgb(90, 80)).save(folder / "x.png")
    images = [{"id": 7, "file_name": "x.png", "width": 90, "height": 80}]
    said = [{"image_id": 7, "caption": "a dog"}, {"image_id": 7, "caption": "it runs"}]
    there = [
        {"image_id": 7, "bbox": [10, 20, 30, 40], "category_id": 18, "iscrowd": 0},
        {"image_id": 7, "bbox": [0, 0, 90, 80], "category_id": 1, "iscrowd": 1},
    ]
    for name, annotations in (("captions", said), ("instances", there)):
        path = tmp_path / "annotations" / f"{name}_train2014.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
    (picture,) = read_pictures([folder], 64)
    assert picture.captions == ("a dog", "it runs") and picture.labels.tolist() == [18]
    assert picture.boxes.tolist() == [[10, 20, 40, 60]]
    (tmp_path / "annotations" / "captions_train2014.json").write_text("[]")
    with pytest.raises(OptionError, match="not a table of captions"):
        read_pictures([folder], 64)


def test_images_beyond_the_memory_limit_are_read_from_files(tmp_path, monkeypatch):
    """The crops are the same."""
    pictures = read_pictures([shard(tmp_path / "a.tar", 6)], 64)
    monkeypatch.setattr("trifocal.data.images.DECODED", 3 * pictures[0].rgb.nbytes)
    some = read_pictures([tmp_path / "a.tar"], 64)
    assert [isinstance(picture.kept, FilePart) for picture in some] == [False] * 3 + [True] * 3
    assert [picture.area for picture in some] == [picture.area for picture in pictures]
    both = [Crops(each, batch=12, size=64, seed=0).next() for each in (pictures, some)]
    assert np.array_equal(both[0].rgb, both[1].rgb) and both[0].texts == both[1].texts


def test_crops_and_their_texts(tmp_path):
    views = make_views(read_pictures([shard(tmp_path / "a.tar", 12)], 64), None)
    assert len(views) == 48 and all(view.rgb.shape == (SIDE, SIDE, 3) for view in views)
    assert all(view.captions for view in views[::4])
    (batch,) = ImageTextBatches(views, 8, seed=1).next()
    assert (
        batch.x.shape == (8, 3, SIDE, SIDE)
        and batch.coverage.shape == (8, GRID, GRID)
        and batch.scores is None
    )
    for text, where in zip(batch.phrases, batch.coverage):
        assert bool(where.any()) == bool(named_categories(text) & {17, 18})


def test_image_text_losses_by_hand():
    target = torch.tensor([[0.3, 0.0]])
    assert class_map_loss(torch.logit(target, eps=1e-7), target).item() == pytest.approx(0, abs=1e-5)
    assert ranks(torch.tensor([[0.9, 0.1], [0.8, 0.2]])).tolist() == [0, 1]


def test_image_text_training_resumes_and_exports(tmp_path, monkeypatch):
    """Two steps and a checkpoint, resumed for more; the encoders load the export."""
    monkeypatch.setattr(
        image_text_model, "ImageEncoder", lambda: ImageEncoder((8, 8, 256), (1, 1, 1), expansion=1)
    )
    data = [shard(tmp_path / "a.tar")]
    train_text_image(data, tmp_path / "run", steps=1, batch=4)
    path = train_text_image(data, tmp_path / "run", steps=3, batch=4, resume=True)
    assert [row.split(",")[0] for row in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]] == [
        "1",
        "3",
    ]
    record = json.loads((tmp_path / "run" / "towers.json").read_text())
    assert record["steps"] == 3 and record["teacher"] is None and "teacher" not in record["terms"]
    from safetensors.torch import load_file

    names = {name.split(".")[0] for name in load_file(path)}
    assert names == {"image", "text", "ground", "bag"}


def test_second_stage_trains_the_grounding_head_only(tmp_path, monkeypatch):
    """The encoders do not change, and the record has both stages."""
    from safetensors.torch import load_file

    monkeypatch.setattr(
        image_text_model, "ImageEncoder", lambda: ImageEncoder((8, 8, 256), (1, 1, 1), expansion=1)
    )
    losses = iter([1.0, *[0.9] * 9])
    monkeypatch.setattr(grounding.GroundingTask, "held_out_loss", lambda *_: next(losses))
    data = [shard(tmp_path / "a.tar")]
    first = train_text_image(data, tmp_path / "one", steps=1, batch=4)
    second = train_text_image(data, tmp_path / "two", steps=2, stage=2, start=first)
    before, after = load_file(first), load_file(second)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"ground"}
    record = json.loads((tmp_path / "two" / "towers.json").read_text())
    assert record["start"]["steps"] == 1 and record["steps"] == 2 and record["terms"] == {"ground": 1.0}
    assert (tmp_path / "two" / "tokenizer.json").read_text() == (
        tmp_path / "one" / "tokenizer.json"
    ).read_text()
    with pytest.raises(OptionError, match="--start"):
        train_text_image(data, tmp_path / "three", steps=1, stage=2)


@pytest.mark.parametrize("rate", [1e-3, 10.0])
def test_worse_grounding_head_is_not_exported(tmp_path, monkeypatch, rate):
    """The record has the loss of both."""
    torch.manual_seed(0)
    monkeypatch.setattr(GroundingTask, "learning_rate", rate)
    monkeypatch.setattr(
        image_text_model, "ImageEncoder", lambda: ImageEncoder((8, 8, 256), (1, 1, 1), expansion=1)
    )
    views = make_views(read_pictures([shard(tmp_path / "a.tar", 8)], 64), None, ("whole",))
    model = ImageTextModel(train_tokenizer(CAPTIONS, vocabulary=300))
    start = {name: w.clone() for name, w in model.ground.state_dict().items()}
    task = GroundingTask(model, views, views[:2], lambda *_: {}, lambda fraction: None)
    trainer = Trainer(task, tmp_path / "run", steps=8)
    trainer.fit(99.0, lambda fraction, text: None)
    record = json.loads(trainer.export().with_suffix(".json").read_text())
    better = record["ground_held_out"] < record["ground_held_out_before"]
    same = all(torch.equal(w, start[name]) for name, w in model.ground.state_dict().items())
    assert same != better and better == (rate < 1)


def test_training_the_encoders_needs_captions(tmp_path):
    with pytest.raises(OptionError, match="captions"):
        train_text_image([shard(tmp_path / "a.tar", captions=False)], tmp_path / "run", steps=1)
    with pytest.raises(OptionError, match="no checkpoint"):
        train_text_image([shard(tmp_path / "b.tar")], tmp_path / "other", steps=1, resume=True)
