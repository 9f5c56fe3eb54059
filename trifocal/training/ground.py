"""The towers' second stage: `ground` alone, on towers that stay as they are.

    views ── image tower, once ── features ┐
    words of the view itself ──────────────┼─ ground ── cross-entropy: is it here? (boxes of what the words name)
    words of another view ─────────────────┘

The first stage leaves a ground that finds what stands out, whatever the words. Here each view also meets words that are another's,
for every time that it meets its own; mostly they name nothing in it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trifocal.text.compact import tokenize
from trifocal.training.image_text_batches import View, collate, where_of

if TYPE_CHECKING:
    from trifocal.training.towers import Towers

__all__ = ["found_loss", "train_ground"]

LEARNING_RATE, WEIGHT_DECAY, BATCH = 1e-3, 0.05, 64

Report = Callable[[float, str], None]


def train_ground(
    towers: Towers,
    views: Sequence[View],
    held_out: Sequence[View],
    seconds: float,
    steps: int | None,
    seed: int,
    report: Report,
) -> dict[str, float]:
    """Trains `towers.ground` in place, for steps or for seconds, and keeps it only if the held-out loss is lower.

    Returns the steps that were done, and the held-out loss before and after.
    """
    towers.eval()
    features = features_of(towers, views, lambda fraction: report(0.0, f"the tower looks, {fraction:.0%}"))
    others = features_of(towers, held_out, lambda fraction: None)
    first = copy.deepcopy(towers.ground.state_dict())
    before = held_out_loss(towers, held_out, others)
    optimiser = torch.optim.AdamW(towers.ground.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    random = np.random.default_rng(seed)
    begun, step, fraction = time.monotonic(), 0, 0.0
    while fraction < 1:
        chosen = random.choice(len(views), min(BATCH, len(views)), replace=False)
        batch = [views[i] for i in chosen]
        loss = found_loss(towers, features[torch.from_numpy(chosen)].float(), batch, random)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * fraction))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        fraction = step / steps if steps is not None else (time.monotonic() - begun) / seconds
        report(min(1.0, fraction), f"step {step}  ground {loss.item():.3f}")
    after = held_out_loss(towers, held_out, others)
    if after >= before:
        towers.ground.load_state_dict(first)
    return {"ground_steps": step, "ground_held_out_before": before, "ground_held_out": after}


def found_loss(
    towers: Towers,
    features: Tensor,
    views: Sequence[View],
    random: np.random.Generator,
) -> Tensor:
    """Each view with its own words, and with those of the view before."""
    batch = collate(views, random, mirrored=0.0)
    named_before = [batch.named[-1], *batch.named[:-1]]
    device = features.device
    with torch.no_grad():
        words = towers.text(*(t.to(device) for t in tokenize(towers.tokenizer, batch.phrases)))
    own = F.binary_cross_entropy_with_logits(towers.ground(features, words), batch.where.to(device))
    away = towers.ground(features, words.rolled())
    elsewhere = where_of(views, named_before, np.zeros(len(views), bool)).to(device)
    other = F.binary_cross_entropy_with_logits(away, elsewhere)
    return (own + other) / 2


@torch.no_grad()
def held_out_loss(towers: Towers, views: Sequence[View], features: Tensor, rounds: int = 8) -> float:
    """The mean over several draws of words."""
    random = np.random.default_rng(0)
    losses = []
    for _ in range(rounds):
        losses.append(float(found_loss(towers, features.float(), views, random)))
    return round(float(np.mean(losses)), 5)


@torch.no_grad()
def features_of(towers: Towers, views: Sequence[View], progress: Callable[[float], None]) -> Tensor:
    """What `ground` sees of each view, [N, GRID, GRID, C], float16."""
    parts = []
    device = towers.offset.device
    for begin in range(0, len(views), BATCH):
        rgb = np.stack([view.rgb for view in views[begin : begin + BATCH]])
        x = torch.from_numpy(rgb).to(device).permute(0, 3, 1, 2) / 255.0
        parts.append(towers.image(x).stages[2].half())
        progress(min(1.0, (begin + BATCH) / len(views)))
    return torch.cat(parts)
