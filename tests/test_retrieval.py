"""Image retrieval by captions: the ranking, and recalls on a folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import random_rgb
from trifocal.demo import PHOTOGRAPH
from trifocal.errors import OptionError
from trifocal.evaluation.tasks.retrieval import RANKS, recall_at_ranks, retrieval


def test_recall_counts_the_captions_whose_image_is_ranked_in_time() -> None:
    similarity = np.zeros((4, 12))
    similarity[0, 3] = 1.0  # the own image is the first
    similarity[1, :4] = 0.5
    similarity[1, 5] = 0.4  # the fifth
    similarity[2, :7] = 0.5
    similarity[2, 7] = 0.4  # the eighth
    target = np.array([3, 5, 7, 0])  # the last has no order: its image ranks behind all that are equal
    assert recall_at_ranks(similarity, target) == {1: 0.25, 5: 0.5, 10: 0.75}
    assert recall_at_ranks(np.ones((4, 12)), target) == dict.fromkeys(RANKS, 0.0)


def test_captions_find_their_images(tmp_path: Path) -> None:
    """A photograph and noise: the text encoder tells them apart, and chance is known."""
    with Image.open(PHOTOGRAPH) as image:
        image.convert("RGB").resize((160, 120)).save(tmp_path / "woman.png", icc_profile=None)
    Image.fromarray(random_rgb(90, 120, seed=1)).save(tmp_path / "noise.png")
    Image.fromarray(random_rgb(64, 64, seed=2)).save(tmp_path / "untold.png")
    with pytest.raises(OptionError, match="has no images with captions; add a captions.json to the folder"):
        retrieval(tmp_path)
    texts = {"woman.png": ["a woman with glasses", "a person smiles"], "noise.png": ["a pattern of threads"]}
    (tmp_path / "captions.json").write_text(json.dumps(texts))
    done: list[float] = []
    tower, words, chance = retrieval(tmp_path, done.append)
    assert [one.name for one in (tower, words, chance)] == ["text tower", "bag of words", "chance"]
    assert done == [0.5, 1.0] and chance.at == {1: 0.5, 5: 1.0, 10: 1.0}
    assert tower.at[1] == 1.0 and all(one.at[5] == 1.0 for one in (tower, words))
