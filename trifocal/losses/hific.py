"""HiFiC's rate target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trifocal.types import LEVELS_PER_QUALITY


@dataclass(frozen=True)
class RateTarget:
    """The weight of the rate: heavy while a batch takes more bits than its target, light below it.

    HiFiC (Mentzer et al. 2020, section 3.2) trains one model for each of three targets. Here the level chooses, and one
    model has them all: the logarithms of target and λ_a are linear in the quality between HiFiC's three models, which stand
    at the qualities 10, 50 and 90, and go on with the outer slopes beyond (0.116 to 0.498 bpp). The rule looks at the batch
    as HiFiC's does: a mean of bpp / target above 1 is too much. So a picture may still take more bits than another of
    its level, and nothing holds each level to its own target; the gains and λ_a keep them apart.

    Attributes:
        qualities, targets, above: where HiFiC-lo, -mi and -hi stand, their bpp, and their λ_a.
        below: λ_b; 2^−4 as in the paper (the published configuration comes to 2^−6).
        warm_steps: the first steps of a run, in which the rate is let go:
        warm_target: the target is larger by this factor,
        warm_weight: and the weight smaller. (The published configuration divides the rate by λ, and doubles λ.)
    """

    qualities: tuple[float, ...] = (10.0, 50.0, 90.0)
    targets: tuple[float, ...] = (0.14, 0.30, 0.45)
    above: tuple[float, ...] = (2.0, 1.0, 0.5)
    below: float = 2.0**-4
    warm_steps: int = 50_000
    warm_target: float = 0.20 / 0.14
    warm_weight: float = 0.5

    def target(self, level: Tensor, step: int) -> Tensor:
        """Bits per pixel to come down to at a step of the run, [B] → [B]."""
        target = self._between(self.targets, level)
        return target * self.warm_target if step < self.warm_steps else target

    def weight(self, bpp: Tensor, level: Tensor, step: int) -> Tensor:
        """The rate's weight for each picture: bpp [B], level [B] → [B], without a gradient."""
        excess = (bpp.detach() / self.target(level, step)).mean()
        above = self._between(self.above, level)
        weight = torch.where(excess > 1, above, torch.full_like(above, self.below))
        return weight * self.warm_weight if step < self.warm_steps else weight

    def _between(self, values: tuple[float, ...], level: Tensor) -> Tensor:
        """Values that stand at the qualities, log-linear between and beyond them, [B] → [B]."""
        places = torch.tensor(self.qualities, device=level.device)
        logs = torch.tensor(values, device=level.device).log()
        quality = level / LEVELS_PER_QUALITY
        left = torch.bucketize(quality, places[1:-1])
        part = (quality - places[left]) / (places[left + 1] - places[left])
        return torch.lerp(logs[left], logs[left + 1], part).exp()


HIFIC_RATE = RateTarget()
