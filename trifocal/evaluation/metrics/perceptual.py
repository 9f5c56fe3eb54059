"""Metrics that need a trained network: LPIPS, DISTS, CLIP scores and NIMA, through torchmetrics and torchvision; our tower.

Where the network's weights are neither on this machine nor to be had, loading raises NotMeasured, and nothing is
measured with random ones. Pictures go in at their own size, with 0..1 scaled as each network was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from trifocal.errors import MissingExtra, NotMeasured, WeightsError

if TYPE_CHECKING:
    import torch

    from trifocal.evaluation.metrics.per_image import Measure, Pair, Pixels

__all__ = [
    "CLIP",
    "load_clip_score",
    "load_dists",
    "load_lpips",
    "load_nima",
    "load_text_encoder",
    "loading",
    "tensor",
]

CLIP = "openai/clip-vit-base-patch32"
ONLINE = "run it once on a machine that is online and has {}, or copy its cache here"
NIMA_SIDE = 224


def tensor(pixels: Pixels, peak: float = 1.0) -> torch.Tensor:
    """uint8 [H, W, 3] → float [1, 3, H, W] in 0..peak."""
    import torch

    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() * (peak / 255)


@contextmanager
def loading(title: str, packages: str) -> Iterator[None]:
    """Around the loading of a network: missing packages and weights become sentences.

    Raises MissingExtra or NotMeasured.
    """
    try:
        yield
    except ImportError:
        raise MissingExtra("evaluate", f"Measuring {title}") from None
    except OSError as error:  # urllib's URLError is one, and what huggingface_hub raises
        why = "its network's weights are not on this machine and could not be fetched"
        raise NotMeasured(title, why, ONLINE.format(packages)) from error


def load_lpips(net: Literal["alex", "vgg"]) -> Measure:
    """Zhang et al. 2018 (arXiv 1801.03924), version 0.1, on 0..1 scaled to ±1; `net` is alex or vgg. 0 is equal."""
    with loading(f"LPIPS ({net})", "torchvision"):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True).eval()
    return _of_both(network)


def load_dists() -> Measure:
    """Ding et al. 2020 (arXiv 2004.07728), on 0..1. 0 is equal."""
    with loading("DISTS", "torchvision"):
        from torchmetrics.functional.image.dists import DISTSNetwork

        network = DISTSNetwork().eval()
    return _of_both(network)


def load_clip_score(reference: bool, name: str = CLIP) -> Measure:
    """Hessel et al. 2021 (arXiv 2104.08718), without their factor 2.5: 100 · max(cos(picture, caption), 0).

    With `reference`, RefCLIPScore: the harmonic mean of that and of the first caption's largest cosine to the others.
    None for a picture without a caption (or, with `reference`, with one only).
    """
    with loading("CLIP score", f"transformers ({name})"):
        from transformers import CLIPModel, CLIPProcessor

        logging.getLogger("huggingface_hub").setLevel(
            logging.ERROR
        )  # it warns of each try; the sentence says all
        model, processor = CLIPModel.from_pretrained(name).eval(), CLIPProcessor.from_pretrained(name)
    import torch

    def of(given: Pair) -> float | None:
        if len(given.captions) < 1 + reference:
            return None
        inputs = processor(
            text=list(given.captions),
            images=Image.fromarray(given.decoded),
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        with torch.inference_mode():
            output = model(**inputs)
        words = output.text_embeds
        plain = 100 * max(0.0, float(output.image_embeds[0] @ words[0]))
        if not reference:
            return plain
        nearest = 100 * max(0.0, float((words[1:] @ words[0]).max()))
        return 2 * plain * nearest / (plain + nearest) if plain + nearest else 0.0

    return of


def load_nima(weights: str | None = None) -> Measure:
    """Talebi and Milanfar 2018 (arXiv 1709.05424), of the decoded picture alone: the mean, 1..10, of ten probabilities.

    Args:
        weights: a PyTorch file for VGG-16's `features` and `classifier.1`, 25088 → 10.

    Raises:
        NotMeasured: without a file, or with one that does not fit.
    """
    remedy = "name a file of its weights (VGG-16, ten classes) as nima:FILE"
    if weights is None:
        raise NotMeasured("NIMA", "no package that is used here ships its weights", remedy)
    if not Path(weights).is_file():
        raise NotMeasured("NIMA", f"there is no file {weights}", remedy)
    with loading("NIMA", "torchvision"):
        import torch
        from torchvision.models import vgg16

        network = vgg16(weights=None)
        network.avgpool = torch.nn.Identity()
        network.classifier = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(25088, 10))
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises nearly anything on foreign bytes
            raise NotMeasured("NIMA", f"{weights} does not fit VGG-16 with ten classes", remedy) from error
    network.eval()
    mean, deviation = (
        torch.tensor(values)[None, :, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )

    def of(given: Pair) -> float:
        with torch.inference_mode():
            x = torch.nn.functional.interpolate(
                tensor(given.decoded), (NIMA_SIDE, NIMA_SIDE), mode="bilinear", antialias=True
            )
            rating = network((x - mean) / deviation).softmax(1)[0]
            return float((rating * torch.arange(1, 11)).sum())

    return of


def load_text_encoder() -> Measure:
    """`losses.perceptual.EncoderDistance`: of the features of the project's own image tower, on 0..1. 0 is equal, 4 the most.

    Raises:
        NotMeasured: if the tower's weights are missing or damaged.
    """
    from trifocal.losses.perceptual import EncoderDistance

    try:
        return _of_both(EncoderDistance())
    except WeightsError as error:
        why, _, remedy = str(error).rstrip(".").partition("; ")
        raise NotMeasured("The distance in the image tower", why[0].lower() + why[1:], remedy) from error


def _of_both(distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Measure:
    import torch

    def of(given: Pair) -> float:
        with torch.inference_mode():
            return float(distance(tensor(given.decoded), tensor(given.original)))

    return of
