"""Describe an image in a sentence, with a captioning model of the package transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import MissingExtra, WeightsError
from trifocal.text.clip import load_pretrained, silence_transformers

__all__ = ["CAPTIONER", "Captioner"]

CAPTIONER = "Salesforce/blip-image-captioning-base"  # Li et al. 2022 (BLIP, arXiv 2201.12086)
BEAMS = 3  # the authors' setting
MAX_TOKENS = 40  # the authors use 20, which truncates some sentences


class Captioner:
    """Generates a caption for an image. A cached model is used without access to the network.

    Args:
        name: of a model on the Hugging Face Hub, or a folder: BLIP, or another image-text-to-text model that
            needs no prompt.
        device: the torch device.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded, or is not a captioning model.
    """

    def __init__(self, name: str = CAPTIONER, device: str = "cpu") -> None:
        self.name = name
        self.processor, network = load_captioning_model(name)
        self.network = network.to(device)

    @torch.inference_mode()
    def __call__(self, rgb: NDArray[np.uint8]) -> str:
        """uint8 [H, W, 3] → the most probable sentence of a deterministic beam search."""
        with silence_transformers():
            inputs = self.processor(images=Image.fromarray(rgb), return_tensors="pt").to(self.network.device)
            tokens = self.network.generate(
                **inputs, num_beams=BEAMS, do_sample=False, max_new_tokens=MAX_TOKENS
            )
        sentence: str = self.processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return sentence.strip()


def load_captioning_model(name: str) -> tuple[Any, Any]:
    """The processor and the frozen network of transformers. Raises MissingExtra or WeightsError."""
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise MissingExtra("text", "A captioner") from None
    try:
        with silence_transformers():
            network, found = load_pretrained(AutoModelForImageTextToText, name, output_loading_info=True)
            processor = load_pretrained(AutoProcessor, name)
    except Exception as error:  # OSError, or almost any exception for files of another kind
        raise WeightsError(
            f"The captioning model {name!r} cannot be loaded; download it to a folder on a machine with"
            " network "
            "access, and pass that folder with --caption."
        ) from error
    if found["missing_keys"]:
        raise WeightsError(
            f"{name!r} is not a captioning model, or is incomplete: it lacks {min(found['missing_keys'])}."
        )
    return processor, network.eval().requires_grad_(False)
