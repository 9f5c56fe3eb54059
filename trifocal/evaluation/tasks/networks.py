"""Networks of torchvision with their published weights, as functions of a picture, uint8 [H, W, 3]."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import MissingExtra, NotMeasured, OptionError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["EXTRA", "Classifier", "Network", "Segmenter", "load"]

EXTRA = "evaluate"
PATIENCE = 20.0  # seconds without a byte, after which a download has failed

Pixels = NDArray[np.uint8]


class Network:
    """A network, the `transforms` that its weights ask for (uint8 [3, H, W] to float), and where it computes.

    Raises OptionError where torch cannot compute there.
    """

    def __init__(self, model: Module, transforms: Callable[[Tensor], Tensor], device: str = "cpu") -> None:
        try:
            self.model = model.eval().to(device)
        except (RuntimeError, AssertionError):
            raise OptionError(f"Torch cannot compute on the device {device!r} of this machine.") from None
        self.transforms, self.device = transforms, device

    def input_of(self, pixels: Pixels) -> Tensor:
        import torch

        return self.transforms(torch.tensor(pixels, device=self.device).permute(2, 0, 1))


class Segmenter(Network):
    """Semantic segmentation: the most likely class of each pixel, int64 [H, W].

    The weights' transforms resize the picture (short side 520 for torchvision's); scores are resized back, bilinear.
    """

    def __call__(self, pixels: Pixels) -> NDArray[np.int64]:
        import torch

        with torch.inference_mode():
            scores = self.model(self.input_of(pixels)[None])["out"]
            scores = torch.nn.functional.interpolate(scores, pixels.shape[:2], mode="bilinear")
            return scores[0].argmax(0).cpu().numpy()


class Classifier(Network):
    """Classification: a score for each class, before softmax, float64 [classes]."""

    def __call__(self, pixels: Pixels) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            return self.model(self.input_of(pixels)[None])[0].double().cpu().numpy()


def load(kind: str, name: str) -> tuple[Module, Callable[[Tensor], Tensor]]:
    """A torchvision model of this kind (detection, segmentation, classification) and its weights' transforms.

    Weights that torchvision has not fetched before are downloaded. Raises OptionError where torchvision has no such
    model, NotMeasured where the weights cannot be had, and MissingExtra.
    """
    try:
        from torchvision import models
    except ImportError:
        raise MissingExtra(EXTRA, f"The task of {kind}") from None
    room = models if kind == "classification" else getattr(models, kind)
    there = models.list_models(module=room, exclude=["keypoint*"])
    if name not in there:
        raise OptionError(f"torchvision has no model {name} for {kind}; it has {', '.join(there)}.")
    weights = models.get_model_weights(name)["DEFAULT"]
    try:
        with patience():
            model = models.get_model(name, weights=weights)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "invalid hash" not in str(error):
            raise
        raise not_measured(name, weights.url) from error
    return model, weights.transforms()


def not_measured(name: str, url: str) -> NotMeasured:
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    remedy = f"get them with `curl --create-dirs -o {path} {url}`"
    return NotMeasured(name, "its weights are not on this machine", remedy)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """A download neither hangs (torch sets no timeout of its own) nor writes among the results on stdout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
