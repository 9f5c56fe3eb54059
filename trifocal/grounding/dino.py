"""Grounding DINO through the package transformers: boxes for any labels and words.

Liu et al. 2023, "Grounding DINO", arXiv 2303.05499.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trifocal.detection.detections import Pixels
from trifocal.errors import MissingExtra, OptionError, WeightsError
from trifocal.grounding.grounder import Grounded, join
from trifocal.text.clip import load_pretrained, silence_transformers
from trifocal.utils.local_networks import HOW_TO_NAME, local_model

__all__ = ["GROUNDING_DINO", "GroundingDino"]

GROUNDING_DINO = "IDEA-Research/grounding-dino-tiny"  # with Swin-T
BOX_THRESHOLD, TEXT_THRESHOLD = 0.35, 0.25  # of the authors' demo


class GroundingDino:
    """Finds labels and words with Grounding DINO, at most 256 tokens in a pass.

    A box has the label that shares the most words with the phrase that the network gives it.

    Args:
        name: of a model on the Hugging Face Hub, or a folder. A model in the folder of networks
            (`utils.local_networks`) or in the cache is used without access to the network.
        box_threshold: lowest score of a box, 0..1.
        text_threshold: lowest score of the words of a box's phrase, 0..1.
        device: of torch.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded.
    """

    vocabulary: frozenset[str] | None = None

    def __init__(
        self,
        name: str = GROUNDING_DINO,
        box_threshold: float = BOX_THRESHOLD,
        text_threshold: float = TEXT_THRESHOLD,
        device: str = "cpu",
    ) -> None:
        self.processor, network = load_grounding_dino(name)
        self.network = network.to(device)
        self.tokens = int(network.config.max_text_len) - 2  # without start and end
        self.box_threshold, self.text_threshold = box_threshold, text_threshold

    def find(self, pixels: Pixels, labels: Sequence[str]) -> Grounded:
        """The objects that labels or words name. Raises OptionError for words of more than 254 tokens."""
        return join([self._find(Image.fromarray(pixels), batch) for batch in self.batches(labels)])

    def batches(self, labels: Sequence[str]) -> Iterator[list[str]]:
        """The labels in groups that fit in a pass. Raises OptionError for one that does not."""
        batch: list[str] = []
        left = self.tokens
        for label in labels:
            count = len(self.processor.tokenizer(prompt([label]), add_special_tokens=False)["input_ids"])
            if count > self.tokens:
                raise OptionError(
                    f"{label[:20]!r}... has {count} tokens, and Grounding DINO reads {self.tokens}; use "
                    "fewer words."
                )
            if count > left:
                yield batch
                batch, left = [], self.tokens
            batch.append(label)
            left -= count
        if batch:
            yield batch

    @torch.inference_mode()
    def _find(self, image: Image.Image, labels: Sequence[str]) -> Grounded:
        inputs = self.processor(images=image, text=prompt(labels), return_tensors="pt")
        outputs = self.network(**inputs.to(self.network.device))
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[image.size[::-1]],
        )
        owners = [closest_label(phrase, labels) for phrase in found["text_labels"]]
        kept = [place for place, owner in enumerate(owners) if owner is not None]
        return Grounded(
            found["boxes"].cpu().numpy().astype(np.float64)[kept],
            tuple(owner for owner in owners if owner is not None),
            found["scores"].cpu().numpy().astype(np.float64)[kept],
        )


def prompt(labels: Sequence[str]) -> str:
    """The text of labels: a full stop ends each one, so there is none inside."""
    return " ".join(f"{label.replace('.', ' ').strip().lower()}." for label in labels)


def closest_label(phrase: str, labels: Sequence[str]) -> str | None:
    """The label whose words have the largest intersection over union with the phrase's; None without a
    common word.
    """
    words = {*phrase.replace(".", " ").split()}

    def share(label: str) -> float:
        own = {*label.lower().replace(".", " ").split()}
        return len(words & own) / max(1, len(words | own))

    best = max(labels, key=share)
    return best if share(best) else None


def load_grounding_dino(name: str) -> tuple[Any, Any]:
    """The processor and the frozen network of transformers. Raises MissingExtra or WeightsError."""
    try:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
    except ImportError:
        raise MissingExtra("text", "Grounding DINO") from None
    name = local_model(name)
    try:
        with silence_transformers():
            network, found = load_pretrained(
                AutoModelForZeroShotObjectDetection, name, output_loading_info=True
            )
            processor = load_pretrained(AutoProcessor, name)
    except Exception as error:  # OSError, or almost any exception for files of another kind
        raise WeightsError(
            f"Grounding DINO {name!r} cannot be loaded; download it to FOLDER/{Path(name).name} on a machine "
            f"with network access, and {HOW_TO_NAME}."
        ) from error
    if found["missing_keys"] or not hasattr(network.config, "max_text_len"):
        raise WeightsError(
            f"{name!r} is not Grounding DINO, or is incomplete; download the files of {GROUNDING_DINO}."
        )
    return processor, network.eval().requires_grad_(False)
