"""Metrics that need a trained network: LPIPS, DISTS, CLIP scores, NIMA, and the bundled image encoder.

If the weights of a network are neither on this machine nor downloadable, loading raises NotMeasured. Images
keep their size; values are scaled as each network was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from trifocal.errors import MissingExtra, NotMeasured, WeightsError
from trifocal.evaluation.metrics.pair import Measure, Pair, Pixels
from trifocal.utils.local_networks import HOW_TO_NAME, local_model, torch_weights

if TYPE_CHECKING:
    import torch

__all__ = [
    "CLIP",
    "load_clip_score",
    "load_dists",
    "load_encoder_distance",
    "load_lpips",
    "load_nima",
    "loading",
    "to_tensor",
]

CLIP = "openai/clip-vit-base-patch32"
ONLINE = "run it once on an online machine, or put the files of {} into a folder, and " + HOW_TO_NAME
NIMA_SIDE = 224


def to_tensor(pixels: Pixels, peak: float = 1.0) -> torch.Tensor:
    """uint8 [H, W, 3] → float [1, 3, H, W] in 0..peak."""
    import torch

    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() * (peak / 255)


@contextmanager
def loading(title: str, packages: str) -> Iterator[None]:
    """Raise MissingExtra for missing packages, and NotMeasured for missing weights.

    Args:
        title: of the metric.
        packages: whose files the weights are.
    """
    try:
        with torch_weights():
            yield
    except ImportError:
        raise MissingExtra("evaluate", f"Measuring {title}") from None
    except OSError as error:  # so are urllib's URLError and the errors of huggingface_hub
        why = "the weights of its network are not on this machine and could not be downloaded"
        raise NotMeasured(title, why, ONLINE.format(packages)) from error


def load_lpips(net: Literal["alex", "vgg"], scaled: bool = True, device: str = "cpu") -> Measure:
    """Zhang et al. 2018 (arXiv 1801.03924), version 0.1. 0 for equal images.

    Args:
        net: the backbone.
        scaled: scale 0..1 to ±1, as in the training of LPIPS; False feeds 0..1, as TACO's published code does
            in training. Its values are smaller.
        device: of torch.
    """
    with loading(f"LPIPS ({net})", "torchvision"):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=scaled).eval()
    return _pair_measure(network, device)


def load_dists(device: str = "cpu") -> Measure:
    """Ding et al. 2020 (arXiv 2004.07728), on 0..1. 0 for equal images."""
    with loading("DISTS", "torchvision"):
        from torchmetrics.functional.image.dists import DISTSNetwork

        network = DISTSNetwork().eval()
    return _pair_measure(network, device)


def load_clip_score(reference: bool, name: str = CLIP, device: str = "cpu") -> Measure:
    """Hessel et al. 2021 (arXiv 2104.08718), without their factor 2.5: 100 · max(cos(image, caption), 0).

    With `reference`, RefCLIPScore: the harmonic mean of that and the first caption's largest cosine to the
    other captions.

    None for an image without a caption (with `reference`, without a second one).
    """
    name = local_model(name)
    with loading("CLIP score", f"transformers ({name})"):
        from transformers import CLIPModel, CLIPProcessor

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # no warning for each retry
        model, processor = CLIPModel.from_pretrained(name), CLIPProcessor.from_pretrained(name)
        model = model.eval().to(device)
    import torch

    def measure(pair: Pair) -> float | None:
        if len(pair.captions) < 1 + reference:
            return None
        inputs = processor(
            text=list(pair.captions),
            images=Image.fromarray(pair.decoded),
            return_tensors="pt",
            padding=True,
            truncation=True,
        ).to(device)
        with torch.inference_mode():
            output = model(**inputs)
        texts = output.text_embeds
        plain = 100 * max(0.0, float(output.image_embeds[0] @ texts[0]))
        if not reference:
            return plain
        nearest = 100 * max(0.0, float((texts[1:] @ texts[0]).max()))
        return 2 * plain * nearest / (plain + nearest) if plain + nearest else 0.0

    return measure


def load_nima(weights: str | None = None, device: str = "cpu") -> Measure:
    """Talebi and Milanfar 2018 (arXiv 1709.05424), of the decoded image alone: the mean rating, 1..10.

    Args:
        weights: a PyTorch file with VGG-16's `features` and `classifier.1`, 25088 → 10.
        device: of torch.

    Raises:
        NotMeasured: without a file, or if it does not fit.
    """
    remedy = "name a file with its weights (VGG-16, ten classes) as nima:FILE"
    if weights is None:
        raise NotMeasured("NIMA", "no package provides its weights", remedy)
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
        except Exception as error:  # torch.load raises many types on foreign bytes
            raise NotMeasured("NIMA", f"{weights} does not fit VGG-16 with ten classes", remedy) from error
    network.eval().to(device)
    mean, deviation = (
        torch.tensor(values, device=device)[None, :, None, None]
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )

    def measure(pair: Pair) -> float:
        with torch.inference_mode():
            x = torch.nn.functional.interpolate(
                to_tensor(pair.decoded).to(device), (NIMA_SIDE, NIMA_SIDE), mode="bilinear", antialias=True
            )
            rating = network((x - mean) / deviation).softmax(1)[0]
            return float((rating * torch.arange(1, 11, device=device)).sum())

    return measure


def load_encoder_distance(device: str = "cpu") -> Measure:
    """The distance between features of the bundled image encoder (`losses.perceptual.EncoderDistance`), 0..4,
    on 0..1.

    0 for equal images.

    Raises:
        NotMeasured: if the weights of the encoder are missing or damaged.
    """
    from trifocal.losses.perceptual import EncoderDistance

    try:
        return _pair_measure(EncoderDistance(), device)
    except WeightsError as error:
        why, _, remedy = str(error).rstrip(".").partition("; ")
        raise NotMeasured("The distance in the image encoder", why[0].lower() + why[1:], remedy) from error


def _pair_measure(distance: torch.nn.Module, device: str) -> Measure:
    import torch

    distance.to(device)

    def measure(pair: Pair) -> float:
        with torch.inference_mode():
            decoded, original = (to_tensor(pixels).to(device) for pixels in (pair.decoded, pair.original))
            return float(distance(decoded, original))

    return measure
