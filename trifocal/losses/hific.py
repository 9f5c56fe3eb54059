"""The rate target of HiFiC."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trifocal.types import LEVELS_PER_QUALITY


@dataclass(frozen=True)
class RateTarget:
    """The weight of the rate: λ_a while a batch exceeds its target rate, and the smaller λ_b below it.

    HiFiC (Mentzer et al. 2020, section 3.2) trains one model for each of three targets. Here one model covers
    all rates: the logarithms of target and λ_a are linear in the quality between HiFiC's three models, which
    are placed at qualities 10, 50 and 90, and extrapolated beyond (0.116 to 0.498 bpp). As in HiFiC the rule
    applies to the batch: λ_a is used if the mean of bpp / target exceeds 1. A single image or level can
    therefore exceed its target.

    Attributes:
        qualities, targets, above: qualities, bpp and λ_a of HiFiC-lo, -mi and -hi.
        below: λ_b, where a batch is below its target; 2^−4 as in the paper (the published configuration
            amounts to 2^−6).
        warm_steps: warm-up steps: those at the start of a run with a weaker rate constraint.
        warm_target: factor of the target in these steps.
        warm_weight: factor of the weight in these steps. (The published configuration divides the rate by λ,
            and doubles λ.)
    """

    qualities: tuple[float, ...] = (10.0, 50.0, 90.0)
    targets: tuple[float, ...] = (0.14, 0.30, 0.45)
    above: tuple[float, ...] = (2.0, 1.0, 0.5)
    below: float = 2.0**-4
    warm_steps: int = 50_000
    warm_target: float = 0.20 / 0.14
    warm_weight: float = 0.5

    def target(self, level: Tensor, step: int) -> Tensor:
        """The target in bits per pixel at a step of the run, [B] → [B]."""
        target = self._between(self.targets, level)
        return target * self.warm_target if step < self.warm_steps else target

    def weight(self, bpp: Tensor, level: Tensor, step: int) -> Tensor:
        """The weight of the rate for each image: bpp [B], level [B] → [B], without a gradient."""
        excess = (bpp.detach() / self.target(level, step)).mean()
        above = self._between(self.above, level)
        weight = torch.where(excess > 1, above, torch.full_like(above, self.below))
        return weight * self.warm_weight if step < self.warm_steps else weight

    def _between(self, values: tuple[float, ...], level: Tensor) -> Tensor:
        """Interpolate values at `qualities` log-linearly, also beyond them, [B] → [B]."""
        knots = torch.tensor(self.qualities, device=level.device)
        logs = torch.tensor(values, device=level.device).log()
        quality = level / LEVELS_PER_QUALITY
        left = torch.bucketize(quality, knots[1:-1])
        part = (quality - knots[left]) / (knots[left + 1] - knots[left])
        return torch.lerp(logs[left], logs[left + 1], part).exp()


HIFIC_RATE = RateTarget()
