"""Whether words and pictures find each other: each caption ranks all pictures by the compact towers' cosine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.data.coco import read_captions
from trifocal.detection.image_encoder import SIDE, load_image_encoder
from trifocal.errors import OptionError
from trifocal.evaluation.metrics.per_image import Pixels
from trifocal.pictures import Picture, list_pictures
from trifocal.text.compact import load_bag_of_words, load_compact

__all__ = ["RANKS", "Recall", "recall", "retrieval"]

RANKS = (1, 5, 10)

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Recall:
    """How often a caption's own picture is among its first 1, 5, 10, of 0..1, by the number of those looked at."""

    name: str
    at: Mapping[int, float]


def retrieval(data: str | os.PathLike[str], progress: Progress | None = None) -> list[Recall]:
    """Captions to pictures in a folder with captions.json: the text tower, a bag of words trained beside it, chance.

    Raises:
        OptionError: if there are no pictures with captions.
        WeightsError: if the towers are missing.
    """
    import torch
    import torch.nn.functional as F

    captions = read_captions(data)
    paths = [path for path in list_pictures([data], recursive=True) if captions.get(path.name)]
    if not paths:
        raise OptionError(f"{data} has no pictures with captions; put a captions.json beside them.")
    tower, text, bag = load_image_encoder(), load_compact(), load_bag_of_words()
    pictures, words, bags, target = [], [], [], []
    with torch.inference_mode():
        for number, path in enumerate(paths):
            x = torch.from_numpy(seen(Picture.open(path).rgb)).permute(2, 0, 1)[None].float() / 255
            pictures.append(tower(x).pooled)
            said = captions[path.name]
            words.append(F.normalize(text(said).pooled, dim=-1))
            bags.append(bag(said))
            target += [number] * len(said)
            if progress:
                progress((number + 1) / len(paths))
        images = torch.cat(pictures)
        found = {
            name: (torch.cat(vectors) @ images.T).double().numpy()
            for name, vectors in (("text tower", words), ("bag of words", bags))
        }
    own = np.array(target)
    chance = Recall(
        "chance", {rank: 1 - comb(len(paths) - 1, rank) / comb(len(paths), rank) for rank in RANKS}
    )
    return [*(Recall(name, recall(similarity, own)) for name, similarity in found.items()), chance]


def recall(similarity: NDArray[np.float64], target: NDArray[np.int64]) -> dict[int, float]:
    """similarity [captions, pictures], the own picture of each caption → the share found among the first 1, 5, 10.

    Pictures as near as the own one count as nearer, so that a tower that says the same of all finds nothing.
    """
    own = similarity[np.arange(len(target)), target]
    nearer = (similarity >= own[:, None]).sum(1) - 1
    return {rank: float((nearer < rank).mean()) for rank in RANKS}


def seen(rgb: Pixels) -> Pixels:
    """The whole picture, stretched to a square."""
    return np.array(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
