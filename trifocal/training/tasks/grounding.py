"""Train the grounding head, which locates in an image the things that a text names.

    views ── image encoder, once ── features ┐
    phrases of the view itself ──────────────┼─ ground ── cross-entropy with boxes of the named objects
    phrases of another view ─────────────────┘

After the joint training, `ground` finds salient objects whatever the text. Here each view is paired with its
own phrase and with that of another view, which mostly names nothing in it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from trifocal.training.image_text_batches import View, collate, phrase_masks
from trifocal.training.image_text_model import ImageTextModel
from trifocal.training.optimisers import adamw_and_muon, cosine_schedule
from trifocal.training.task import BatchSource, TrainingTask, Update

__all__ = ["GroundingTask", "grounding_loss"]

BATCH = 64
ROUNDS = 8  # draws of phrases that the held-out loss averages


class GroundingTask(TrainingTask):
    """`ground` of a trained model. The exported weights are the better of those at the start and the trained
    ones.

    Args:
        model: trained, on the device of the run; all but `ground` is frozen.
        views, held_out: for training and validation.
        write: writes the weights of the model, and returns facts for the record.
        progress: called with the fraction of the features that is computed.
    """

    name = "ground"
    file_name = "towers.safetensors"
    learning_rate, weight_decay = 1e-3, 0.05
    batch = BATCH
    ema, clip = 0.0, math.inf

    def __init__(
        self,
        model: ImageTextModel,
        views: Sequence[View],
        held_out: Sequence[View],
        write: Callable[[ImageTextModel, Path], dict[str, object]],
        progress: Callable[[float], None],
    ) -> None:
        self.model, self.views, self.held_out, self.write = (
            model.eval().requires_grad_(False),
            views,
            held_out,
            write,
        )
        self.module: nn.Module = model.ground.requires_grad_(True)
        self.features = image_features(model, views, progress)
        self.held_out_features = image_features(model, held_out, lambda fraction: None)
        self.start = copy.deepcopy(model.ground.state_dict())
        self.before = self.held_out_loss(model.ground)

    def optimisers(self) -> dict[str, list[Optimizer]]:
        return {
            self.name: adamw_and_muon(
                self.module, self.learning_rate, None, self.weight_decay, lambda name: 1.0
            )
        }

    def schedule(self, step: int, fraction: float) -> float:
        return cosine_schedule(step, fraction, 1)

    def batches(self, seed: int, first: int) -> BatchSource:
        return GroundingBatches(self.views, self.features, seed, first, self.process_batch)

    def losses(
        self,
        module: nn.Module,
        batch: tuple[Tensor, list[View], np.random.Generator],
        step: int,
        fraction: float,
    ) -> Iterator[Update]:
        features, views, random = batch
        loss = grounding_loss(
            self.model, module, features.to(self.model.offset.device).float(), views, random
        )
        yield Update(self.name, loss, {"ground": loss.detach()})

    def validate(self, average: nn.Module) -> dict[str, float]:
        return {"ground_held_out": self.held_out_loss(average)}

    @torch.no_grad()
    def held_out_loss(self, ground: nn.Module) -> float:
        """The mean over several draws of phrases, the same ones in every call."""
        random, features = (
            np.random.default_rng(0),
            self.held_out_features.to(self.model.offset.device).float(),
        )
        losses = [
            float(grounding_loss(self.model, ground, features, self.held_out, random)) for _ in range(ROUNDS)
        ]
        return round(float(np.mean(losses)), 5)

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        after = self.held_out_loss(average)
        better = after < self.before
        self.model.ground.load_state_dict(average.state_dict() if better else self.start)
        facts = self.write(self.model, path)
        return facts | {"ground_held_out_before": self.before, "ground_held_out": after}

    def record(self) -> dict[str, object]:
        return {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "terms": {"ground": 1.0},
            "seed": self.seed,
        }


class GroundingBatches:
    """Random views with their features, without end.

    Args:
        features: of the views, [N, h, w, C].
        seed: of the choice, and of the phrases.
        first: number of the first batch; each depends only on the arguments and its number.
        batch: views in a batch.
    """

    def __init__(
        self, views: Sequence[View], features: Tensor, seed: int, first: int = 0, batch: int = BATCH
    ) -> None:
        self.views, self.features, self.batch = views, features, batch
        self.seed, self.number = seed, first

    def next(self) -> tuple[Tensor, list[View], np.random.Generator]:
        """Features [B, h, w, C], their views, and the generator that draws their phrases."""
        random = np.random.default_rng((self.seed, self.number))
        self.number += 1
        chosen = random.choice(len(self.views), min(self.batch, len(self.views)), replace=False)
        return self.features[torch.from_numpy(chosen)], [self.views[i] for i in chosen], random

    def close(self) -> None:
        """Nothing to stop."""


def grounding_loss(
    model: ImageTextModel,
    ground: nn.Module,
    features: Tensor,
    views: Sequence[View],
    random: np.random.Generator,
) -> Tensor:
    """Binary cross-entropy of `ground` with the boxes, for the views' own phrases and for those of the view
    before; a scalar."""
    batch = collate(views, random, mirrored=0.0)
    named_before = [batch.named_categories[-1], *batch.named_categories[:-1]]
    with torch.no_grad():
        phrases = model.text(*model.tokens(batch.phrases))
    own = F.binary_cross_entropy_with_logits(ground(features, phrases), batch.coverage.to(features.device))
    logits = ground(features, phrases.rolled())
    elsewhere = phrase_masks(views, named_before, np.zeros(len(views), bool)).to(features.device)
    return (own + F.binary_cross_entropy_with_logits(logits, elsewhere)) / 2


@torch.no_grad()
def image_features(model: ImageTextModel, views: Sequence[View], progress: Callable[[float], None]) -> Tensor:
    """The features that `ground` takes, of each view: [N, GRID, GRID, C], float16."""
    parts = []
    for begin in range(0, len(views), BATCH):
        rgb = np.stack([view.rgb for view in views[begin : begin + BATCH]])
        x = torch.from_numpy(rgb).to(model.offset.device).permute(0, 3, 1, 2) / 255.0
        parts.append(model.image(x).feature_maps[2].half().cpu())
        progress(min(1.0, (begin + BATCH) / len(views)))
    return torch.cat(parts)
