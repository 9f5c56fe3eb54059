"""A captioner writes the words: a network that says in a sentence what a picture shows, through transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import MissingExtra, WeightsError
from trifocal.text.clip import fetch, quiet

__all__ = ["CAPTIONER", "Captioner"]

CAPTIONER = "Salesforce/blip-image-captioning-base"  # Li et al. 2022 (BLIP, arXiv 2201.12086)
BEAMS = 3  # as its authors' settings for captions have it
MOST_TOKENS = 40  # theirs are cut at 20, which ends some sentences early


class Captioner:
    """A picture → a sentence. What is on this machine is used without asking the hub.

    Args:
        name: on the hub, or a folder: BLIP, or another that transformers loads as image-text-to-text and that needs no
            prompt.
        device: where it computes.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded, or is no captioner.
    """

    def __init__(self, name: str = CAPTIONER, device: str = "cpu") -> None:
        self.name = name
        self.processor, network = load(name)
        self.network = network.to(device)

    @torch.inference_mode()
    def __call__(self, rgb: NDArray[np.uint8]) -> str:
        """uint8 [H, W, 3] → the likeliest sentence that a beam search finds; the same one every time."""
        with quiet():
            inputs = self.processor(images=Image.fromarray(rgb), return_tensors="pt").to(self.network.device)
            tokens = self.network.generate(
                **inputs, num_beams=BEAMS, do_sample=False, max_new_tokens=MOST_TOKENS
            )
        sentence: str = self.processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return sentence.strip()


def load(name: str) -> tuple[Any, Any]:
    """transformers' processor and network, frozen. Raises MissingExtra or WeightsError."""
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise MissingExtra("text", "A captioner") from None
    try:
        with quiet():
            network, found = fetch(AutoModelForImageTextToText, name, output_loading_info=True)
            processor = fetch(AutoProcessor, name)
    except Exception as error:  # OSError, and nearly anything on foreign files
        raise WeightsError(
            f"The captioner {name!r} could not be loaded; get it where there is a network, put it in a folder, and name "
            "that with --caption."
        ) from error
    if found["missing_keys"]:
        raise WeightsError(
            f"{name!r} is no captioner, or not all of one: it lacks {min(found['missing_keys'])}."
        )
    return processor, network.eval().requires_grad_(False)
