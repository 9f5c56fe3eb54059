"""Train the classifier of `trifocal/text/categories.py`: which categories a text names.

    captions and names of categories ── MiniLM, once ── token vectors ── classifier ── cross-entropy

A caption's target is what `named_categories` finds in it. A category that is in the image but is not found in
the caption has no target: the caption may name it by another word.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

from trifocal.data import TrainingPicture
from trifocal.data.categories import CATEGORIES as NAMES
from trifocal.data.categories import named_categories
from trifocal.errors import OptionError, optional_packages
from trifocal.text.categories import CATEGORIES, EPSILON, HIDDEN, WIDTH
from trifocal.text.minilm import load_minilm
from trifocal.training.batches import read_run_data
from trifocal.training.checkpoint import load_start
from trifocal.training.run import RunOptions, open_run
from trifocal.training.task import SEED, BatchSource, LossTask, Report
from trifocal.training.trainer import open_trainer
from trifocal.weights import write_weights

__all__ = ["CategoryModel", "TextTarget", "text_targets", "train_text_categories"]

BATCH = 128
PRIOR_LOGIT = -6.0  # of a token: few tokens name a category
FORMS = ("{}", "a {}", "the {}", "{}s", "a photo of a {}")  # of a category's name as a text
EMPTY = ("", "a photo", "a view of the background")  # texts that name no category
DEFAULTS = {"batch": BATCH, "precision": "float32"}


class CategoryModel(nn.Module):
    """The classifier on torch, with its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, HIDDEN)
        self.output = nn.Linear(HIDDEN, CATEGORIES)
        nn.init.constant_(self.output.bias, PRIOR_LOGIT)

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token vectors [B, T, 384] and mask [B, T] → logits of the texts, [B, 80]."""
        x = F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON)
        each = self.output(F.relu(self.hidden(x)))
        return each.masked_fill(~mask[..., None], -torch.inf).logsumexp(dim=1)

    def forward(self, tokens: Tensor, mask: Tensor, named: Tensor, known: Tensor) -> dict[str, Tensor]:
        """The cross-entropy with `named` [B, 80] where `known` [B, 80] is True, summed over categories."""
        loss = F.binary_cross_entropy_with_logits(self.logits(tokens, mask), named, reduction="none")
        return {"named": (loss * known).sum() / len(tokens)}


@dataclass(frozen=True)
class TextTarget:
    """A text and the categories that it names.

    Attributes:
        named: [80], in the order of COCO's ids.
        known: whether the text may be asked about the category, [80].
        tokens: MiniLM's vectors, [T, 384], float16.
    """

    text: str
    named: NDArray[np.bool_]
    known: NDArray[np.bool_]
    tokens: NDArray[np.float16]


class CategoryTask(LossTask):
    """The classifier.

    Args:
        model: to be trained.
        training, held_out: texts.
        batch: texts in a batch, in all processes together.
        learning_rate: replaces the default.
    """

    name = "categories"
    file_name = "categories.safetensors"
    weights = MappingProxyType({"named": 1.0})
    learning_rate = 3e-3
    ema = 0.99
    validation_batches = 1

    def __init__(
        self,
        model: CategoryModel,
        training: Sequence[TextTarget],
        held_out: Sequence[TextTarget],
        batch: int,
        learning_rate: float | None,
    ) -> None:
        self.texts, self.batch = training, batch
        super().__init__(model, TextBatches(held_out, len(held_out), 0), learning_rate)

    def batches(self, seed: int, first: int) -> BatchSource:
        return TextBatches(self.texts, self.process_batch, seed, first)

    @torch.no_grad()
    def validate(self, average: nn.Module) -> dict[str, float]:
        """The loss, and the average precision of all pairs of a held-out text and a category."""
        with optional_packages("train", "Training"):  # imported here because it takes seconds
            from torchmetrics.functional.classification import binary_average_precision
        assert isinstance(average, CategoryModel)
        ((tokens, mask, named, known),) = self.validation
        scores = average.logits(tokens.to(self.device), mask.to(self.device)).cpu()
        precision = binary_average_precision(scores[known], named[known].long())
        return super().validate(average) | {"average_precision": round(float(precision), 4)}

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        write_weights(average, path)
        return {"texts": len(self.texts), **self.validate(average)}


class TextBatches:
    """Random texts, without end. Each batch depends only on the arguments and its number, of which `first` is
    that of the first one."""

    def __init__(self, texts: Sequence[TextTarget], batch: int, seed: int, first: int = 0) -> None:
        self.texts, self.batch, self.seed, self.number = texts, batch, seed, first

    def next(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, T, 384], mask [B, T], named and known [B, 80]."""
        random = np.random.default_rng((self.seed, self.number))
        self.number += 1
        chosen = random.choice(len(self.texts), min(self.batch, len(self.texts)), replace=False)
        texts = [self.texts[place] for place in chosen]
        tokens = np.zeros((len(texts), max(len(text.tokens) for text in texts), WIDTH), np.float32)
        mask = np.zeros(tokens.shape[:2], bool)
        for row, text in enumerate(texts):
            tokens[row, : len(text.tokens)], mask[row, : len(text.tokens)] = text.tokens, True
        named, known = (np.stack([getattr(text, part) for text in texts]) for part in ("named", "known"))
        targets = torch.from_numpy(named).float(), torch.from_numpy(known)
        return torch.from_numpy(tokens), torch.from_numpy(mask), *targets

    def close(self) -> None:
        """Nothing to stop."""


def text_targets(
    pictures: Sequence[TrainingPicture], names: bool
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Texts with `named` and `known`, as in `TextTarget`: all captions.

    Args:
        names: also the names of the categories in several forms, and texts that name nothing.
    """
    order = np.array(list(NAMES))
    for picture in pictures:
        for caption in picture.captions:
            named = np.isin(order, list(named_categories(caption)))
            yield caption, named, named | ~np.isin(order, picture.labels)
    if names:
        for number, words in NAMES.items():
            for text in (form.format(word) for word in words for form in FORMS):
                yield text, order == number, np.ones(len(order), bool)
        for text in EMPTY:
            yield text, np.zeros(len(order), bool), np.ones(len(order), bool)


def train_text_categories(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    learning_rate: float | None = None,
    **common: Unpack[RunOptions],
) -> Path:
    """Train the classifier of texts.

    Args:
        data: shards or folders of images with captions and boxes (see `read_pictures`).
        out: folder of the run: checkpoint.pt, log.csv, and categories.safetensors, .json and .csv at the end.
        learning_rate: at its height; 0.003 by default.
        common: see `RunOptions`. `batch` counts texts, 128 by default; `precision` is float32 by default.

    Returns:
        The exported weights.

    Raises:
        MissingExtra: without MiniLM, which is in the extra `text`.
        OptionError: for a run without a length, images without captions, no checkpoint to resume or one that
            the run would replace.
        TrainingError, OSError: as for `train`.
    """
    run = open_run("categories", data, out, common, {"learning_rate": learning_rate}, DEFAULTS)
    options, report = run.options, run.report
    load_minilm()  # raises before the images are read
    set_seed(SEED)
    found = read_run_data(options["data"], report, run.notify)
    if not found.captioned or not any(picture.captions for picture in found.held_out):
        raise OptionError("categories needs captions: shards or folders with KEY.json beside KEY.jpg.")
    training = encoded(list(text_targets(found.training, names=True)), report)
    held_out = encoded(list(text_targets(found.held_out, names=False)), report)
    model = CategoryModel()
    if options["start"] is not None:
        load_start(model, options["start"])
    task = CategoryTask(model, training, held_out, options["batch"], options["learning_rate"])
    trainer = open_trainer(task, run)
    trainer.fit(options["every"], report)
    return trainer.export(options["data"], options["start"], pictures=len(found.training), **found.record)


def encoded(
    targets: Sequence[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]], report: Report
) -> list[TextTarget]:
    """Texts with their token vectors."""
    encoder, texts = load_minilm(), []
    for place, (text, named, known) in enumerate(targets):
        if place % BATCH == 0:
            report(0.0, f"encoding texts, {place / len(targets):.0%}")
        texts.append(TextTarget(text, named, known, encoder([text]).tokens[0].astype(np.float16)))
    return texts
