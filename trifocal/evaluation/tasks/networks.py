"""Torchvision's networks and EfficientNet-Lite with their published weights, as functions of an image."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trifocal.detection.detections import Pixels
from trifocal.errors import MissingExtra, NotMeasured, OptionError
from trifocal.utils.local_networks import HOW_TO_NAME, torch_weights

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Classifier", "Segmenter", "TorchvisionNetwork", "load_classifier", "load_torchvision"]

DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte


class TorchvisionNetwork:
    """A network, the transforms that its weights require (uint8 [3, H, W] to float), and its device.

    Raises:
        OptionError: if torch cannot compute on the device.
    """

    def __init__(self, model: Module, transforms: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
        try:
            self.model = model.eval().to(device)
        except (RuntimeError, AssertionError):
            raise OptionError(f"Torch cannot compute on the device {device!r} of this machine.") from None
        self.transforms, self.device = transforms, device

    def input_tensor(self, pixels: Pixels) -> Tensor:
        """uint8 [H, W, 3] → the transformed image, [3, h, w]."""
        import torch

        return self.transforms(torch.tensor(pixels, device=self.device).permute(2, 0, 1))


class Segmenter(TorchvisionNetwork):
    """Semantic segmentation: uint8 [H, W, 3] → the most likely class of each pixel, int64 [H, W].

    The transforms resize the image (short side 520 for torchvision's weights); scores are resized back,
    bilinear.
    """

    def __call__(self, pixels: Pixels) -> NDArray[np.int64]:
        import torch

        with torch.inference_mode():
            scores = self.model(self.input_tensor(pixels)[None])["out"]
            scores = torch.nn.functional.interpolate(scores, pixels.shape[:2], mode="bilinear")
            return scores[0].argmax(0).cpu().numpy()


class Classifier(TorchvisionNetwork):
    """ClassificationTask: uint8 [H, W, 3] → a logit for each class, float64 [classes]."""

    def __call__(self, pixels: Pixels) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            return self.model(self.input_tensor(pixels)[None])[0].double().cpu().numpy()


def load_classifier(model: str, device: str = "cpu") -> Classifier:
    """A classifier by name: efficientnet-lite0, -lite1 or -lite2, or a torchvision model. Raises as
    `load_torchvision`.

    EfficientNet-Lite gets the centre of the image, whose side is 0.875 of the short side, at the size that
    it was trained with.
    """
    name, _, number = model.rpartition("lite")
    if name != "efficientnet-" or number not in ("0", "1", "2"):
        return Classifier(*load_torchvision("classification", model), device)
    from trifocal.detection.efficientnet_lite import INPUT_SIDES, EfficientNetLite

    network = EfficientNetLite(int(number), "evaluate")
    return Classifier(network, partial(centre_square, side=INPUT_SIDES[int(number)]), device)


def centre_square(image: Tensor, side: int) -> Tensor:
    """uint8 [3, H, W] → float [3, side, side] in 0..1: resized to a short side of side / 0.875, and
    cropped.
    """
    from torch.nn.functional import interpolate

    height, width = image.shape[-2:]
    scale = side / 0.875 / min(height, width)
    size = [max(side, round(length * scale)) for length in (height, width)]
    resized = interpolate(image[None].float() / 255, size, mode="bicubic", antialias=True).clamp(0, 1)[0]
    top, left = ((length - side) // 2 for length in size)
    return resized[:, top : top + side, left : left + side]


def load_torchvision(kind: str, name: str) -> tuple[Module, Callable[[Tensor], Tensor]]:
    """A torchvision model and the transforms of its weights; weights that are neither in the folder of
    networks (`utils.local_networks`) nor in torch's cache are downloaded.

    Args:
        kind: detection, segmentation or classification.
        name: as torchvision names the model.

    Raises:
        OptionError: if torchvision has no such model of this kind.
        NotMeasured: if the weights cannot be downloaded.
        MissingExtra: without torchvision.
    """
    try:
        from torchvision import models
    except ImportError:
        raise MissingExtra("evaluate", f"The task {kind}") from None
    module = models if kind == "classification" else getattr(models, kind)
    available = models.list_models(module=module, exclude=["keypoint*"])
    if name not in available:
        raise OptionError(f"torchvision has no {kind} model {name!r}; it has: {', '.join(available)}.")
    weights = models.get_model_weights(name)["DEFAULT"]
    with torch_weights():
        try:
            with _safe_download():
                model = models.get_model(name, weights=weights)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "invalid hash" not in str(error):
                raise
            raise _missing_weights(name, weights.url) from error
    return model, weights.transforms()


def _missing_weights(name: str, url: str) -> NotMeasured:
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    remedy = (
        f"get them with `curl --create-dirs -o {path} {url}`, or put {path.name} into FOLDER/checkpoints "
    )
    remedy += f"and {HOW_TO_NAME}"
    return NotMeasured(name, "its weights are not on this machine", remedy)


@contextlib.contextmanager
def _safe_download() -> Iterator[None]:
    """Set a timeout, which torch does not, and keep progress messages off stdout, which holds results."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
