"""What looks at all decoded pictures of a codec and quality together: FID, KID and the Inception score.

Through torchmetrics and torch-fidelity's Inception of 2015. Two ways of feeding it, since published figures differ in
that: `patches` cuts each picture into 256×256 squares, and again from (128, 128), as HiFiC does (Mentzer et al. 2020,
section 5.1; DISCOVER, section IV, also takes 256-pixel patches); `whole` takes each picture once, as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from trifocal.errors import OptionError
from trifocal.evaluation.metrics.per_image import Pixels
from trifocal.evaluation.metrics.perceptual import loading, tensor

__all__ = ["SETS", "Set", "SetMetric", "patches", "set_of"]

PATCH = 256
KID_SUBSET = 1000  # torchmetrics' and torch-fidelity's own; fewer where there are fewer


@dataclass(frozen=True)
class SetMetric:
    """One of SETS; `load` makes what pictures are added to. Raises MissingExtra or NotMeasured."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    load: Callable[[], Set]

    @property
    def column(self) -> str:
        return self.name.replace("-", "_")


class Set:
    """Adds up pictures for one number.

    Args:
        network: torchmetrics' metric.
        cut: a picture → the pictures that the network gets.
        compares: whether it wants the originals too.
    """

    def __init__(self, network: Any, cut: Callable[[Pixels], Iterator[Pixels]], compares: bool) -> None:
        self.network, self.cut, self.compares = network, cut, compares
        self.count = 0

    def begin(self) -> None:
        """Forgets what was added."""
        self.network.reset()
        self.count = 0

    def add(self, decoded: Pixels, original: Pixels) -> None:
        """uint8 [H, W, 3] each."""
        for part in self.cut(decoded):
            self._update(part, False)
            self.count += 1
        if self.compares:
            for part in self.cut(original):
                self._update(part, True)

    def result(self) -> float | None:
        """None where fewer than two pictures (or patches) were added, since a spread needs two."""
        if self.count < 2:
            return None
        if hasattr(self.network, "subset_size"):
            self.network.subset_size = min(KID_SUBSET, self.count)
        value = self.network.compute()
        return float(value[0] if isinstance(value, tuple) else value)

    def _update(self, pixels: Pixels, real: bool) -> None:
        batch = tensor(pixels, 255).byte()
        self.network.update(batch, real=real) if self.compares else self.network.update(batch)


def patches(rgb: Pixels) -> Iterator[Pixels]:
    """The 256×256 squares from (0, 0), then those from (128, 128); what is left at the edges goes."""
    height, width = rgb.shape[:2]
    for start in (0, PATCH // 2):
        for y in range(start, height - PATCH + 1, PATCH):
            for x in range(start, width - PATCH + 1, PATCH):
                yield rgb[y : y + PATCH, x : x + PATCH]


def whole(rgb: Pixels) -> Iterator[Pixels]:
    """The picture as it is."""
    yield rgb


def set_of(name: str) -> SetMetric:
    """By name. Raises OptionError."""
    known = name.replace("_", "-")
    if known not in SETS:
        raise OptionError(f"There is no metric {name!r}; there are: {', '.join(SETS)}.")
    return SETS[known]


def _load(kind: str, cut: Callable[[Pixels], Iterator[Pixels]]) -> Set:
    with loading(kind, "torch-fidelity"):
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.inception import InceptionScore
        from torchmetrics.image.kid import KernelInceptionDistance

        kinds = {"FID": FrechetInceptionDistance, "KID": KernelInceptionDistance, "IS": InceptionScore}
        return Set(kinds[kind](), cut, compares=kind != "IS")


SETS = {
    metric.name: metric
    for metric in (
        SetMetric("fid", "FID (256-pixel patches)", "lower", partial(_load, "FID", patches)),
        SetMetric("fid-whole", "FID (whole pictures)", "lower", partial(_load, "FID", whole)),
        SetMetric("kid", "KID (256-pixel patches)", "lower", partial(_load, "KID", patches)),
        SetMetric("kid-whole", "KID (whole pictures)", "lower", partial(_load, "KID", whole)),
        SetMetric("is", "Inception score (256-pixel patches)", "higher", partial(_load, "IS", patches)),
    )
}
