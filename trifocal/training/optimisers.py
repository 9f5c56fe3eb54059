"""Optimisers, parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Muon, Optimizer

from trifocal.errors import OptionError
from trifocal.recipes import Recipe

__all__ = [
    "adam",
    "adamw_and_muon",
    "cosine_schedule",
    "parameter_groups",
    "plateau_schedule",
    "step_decay",
    "train_only",
]

SUBMODULE_ALIASES = {"encoder": "analysis", "decoder": "synthesis"}
FLOOR = 0.02  # of the learning rate, at the end of a run


def adam(network: nn.Module, recipe: Recipe) -> Adam:
    """Adam with the parameter groups of a recipe. Raises OptionError if all parameters are frozen."""
    groups = parameter_groups(network, recipe)
    if not groups:
        raise OptionError("The recipe freezes all parameters of these parts; choose others with --parts.")
    return Adam(groups, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Parameters by learning-rate factor. Each belongs to the first of the recipe's keys that is part of its
    name.

    Parameters with a factor of 0 are frozen, and frozen ones are left out.
    """
    factors = {**recipe.factors, "": 1.0}
    groups: dict[str, list[nn.Parameter]] = {key: [] for key in factors}
    for name, parameter in network.named_parameters():
        key = next(key for key in factors if key in name)
        if factors[key] == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups[key].append(parameter)
    return [{"params": groups[key], "factor": factor} for key, factor in factors.items() if groups[key]]


def adamw_and_muon(
    network: nn.Module,
    learning_rate: float,
    matrix_rate: float | None,
    weight_decay: float,
    factor: Callable[[str], float],
) -> list[Optimizer]:
    """AdamW for the parameters that are not frozen; Muon, the second, for matrices where `matrix_rate` is
    given.

    Args:
        weight_decay: of weights; vectors and scalars have none.
        factor: of the learning rate, by parameter name.
    """
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            by_muon = matrix_rate is not None and parameter.ndim == 2
            groups.setdefault((by_muon, factor(name), parameter.ndim > 1), []).append(parameter)
    split: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (by_muon, scale, has_decay), parameters in groups.items():
        if by_muon:
            scale *= (matrix_rate or 0) / learning_rate
        decay = weight_decay if has_decay else 0.0
        split[by_muon].append({"params": parameters, "weight_decay": decay, "factor": scale})
    optimisers: list[Optimizer] = [AdamW(split[False], lr=learning_rate, betas=(0.9, 0.98))]
    if split[True]:
        optimisers.append(Muon(split[True], lr=learning_rate, adjust_lr_fn="match_rms_adamw"))
    return optimisers


def plateau_schedule(step: int, fraction: float, warmup: int, cooldown: float) -> float:
    """Linear warm-up, a plateau, and a linear cooldown to FLOOR in the last part of the run; 0..1."""
    rising = min(1.0, (step + 1) / warmup)
    falling = max(FLOOR, min(1.0, (1 - fraction) / cooldown)) if cooldown else 1.0
    return rising * falling


def step_decay(fraction: float, decay: Sequence[tuple[float, float]]) -> float:
    """The factor of the learning rate at this fraction of the run: that of the last step that is passed.

    Args:
        fraction: of the run that is done, 0..1.
        decay: fractions and the factors from there on.
    """
    return next((factor for begin, factor in sorted(decay, reverse=True) if fraction >= begin), 1.0)


def cosine_schedule(step: int, fraction: float, warmup: int) -> float:
    """Linear warm-up, and half a cosine over the run down to FLOOR; 0..1."""
    rising = min(1.0, (step + 1) / warmup)
    return rising * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * fraction)))


def train_only(network: nn.Module, parts: Sequence[str]) -> None:
    """Freeze all but some parts of a network.

    Args:
        parts: "encoder", "decoder", or names of the network's submodules, such as "entropy".

    Raises:
        OptionError: for a part that the network lacks.
    """
    children = [name for name, child in network.named_children() if any(True for _ in child.parameters())]
    chosen = {SUBMODULE_ALIASES.get(part, part) for part in parts}
    if unknown := sorted(chosen - {*children}):
        names = {name: part for part, name in SUBMODULE_ALIASES.items()}
        have = ", ".join(names.get(name, name) for name in children)
        raise OptionError(f"The network has no part {unknown[0]!r}; choose from {have}.")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.partition(".")[0] in chosen)
