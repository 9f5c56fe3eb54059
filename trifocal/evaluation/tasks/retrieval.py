"""Caption-to-image retrieval: each caption ranks all images by the cosine of the bundled encoders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.data.coco import read_captions
from trifocal.detection.detections import Pixels
from trifocal.detection.image_encoder import SIDE, load_image_encoder
from trifocal.errors import OptionError
from trifocal.pictures import Picture, list_pictures
from trifocal.text.compact import load_bag_of_words, load_compact

__all__ = ["RANKS", "Recall", "recall_at_ranks", "retrieval"]

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """The share of captions whose own image is among the first 1, 5, 10 of the ranking, 0..1, by rank."""

    name: str
    at: Mapping[int, float]


def retrieval(data: str | os.PathLike[str], progress: Callable[[float], None] | None = None) -> list[Recall]:
    """Recalls on a folder with captions.json: of the text encoder, of a bag-of-words baseline, and of chance.

    Raises:
        OptionError: if no image has captions.
        WeightsError: if the weights of the encoders are missing.
    """
    import torch
    import torch.nn.functional as F

    captions = read_captions(data)
    paths = [path for path in list_pictures([data], recursive=True) if captions.get(path.name)]
    if not paths:
        raise OptionError(f"{data} has no images with captions; add a captions.json to the folder.")
    image_encoder, text_encoder, bag = load_image_encoder(), load_compact(), load_bag_of_words()
    image_vectors, text_vectors, bag_vectors, targets = [], [], [], []
    with torch.inference_mode():
        for number, path in enumerate(paths):
            x = torch.from_numpy(squared(Picture.open(path).rgb)).permute(2, 0, 1)[None].float() / 255
            image_vectors.append(image_encoder(x).pooled)
            texts = captions[path.name]
            text_vectors.append(F.normalize(text_encoder(texts).pooled, dim=-1))
            bag_vectors.append(bag(texts))
            targets += [number] * len(texts)
            if progress:
                progress((number + 1) / len(paths))
        images = torch.cat(image_vectors)
        similarities = {
            name: (torch.cat(vectors) @ images.T).double().numpy()
            for name, vectors in (("text tower", text_vectors), ("bag of words", bag_vectors))
        }
    own = np.array(targets)
    chance = Recall("chance", {rank: min(1.0, rank / len(paths)) for rank in RANKS})
    recalls = [Recall(name, recall_at_ranks(similarity, own)) for name, similarity in similarities.items()]
    return [*recalls, chance]


def recall_at_ranks(similarity: NDArray[np.float64], target: NDArray[np.int64]) -> dict[int, float]:
    """Recall by rank.

    Args:
        similarity: [captions, images].
        target: [captions], the index of each caption's own image. Images with the same similarity as the own
            image are ranked before it, so that constant features have a recall of 0.
    """
    own = similarity[np.arange(len(target)), target]
    nearer = (similarity >= own[:, None]).sum(1) - 1
    return {rank: float((nearer < rank).mean()) for rank in RANKS}


def squared(rgb: Pixels) -> Pixels:
    """The whole image resized to SIDE×SIDE, without keeping its aspect ratio."""
    return np.array(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
