"""Distribution metrics: FID, KID and Inception score of all decoded images together.

Computed by torchmetrics with torch-fidelity's Inception of 2015. Published figures differ in the input of the
network: `patches` cuts each image into 256×256 squares, and again from (128, 128), as HiFiC does (Mentzer et
al. 2020, section 5.1; DISCOVER, section IV, also uses 256-pixel patches); `whole` uses each image once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from trifocal.evaluation.metrics.pair import Pixels
from trifocal.evaluation.metrics.perceptual import loading, to_tensor

__all__ = ["DISTRIBUTION_METRICS", "DistributionAccumulator", "DistributionMetric", "patches", "whole"]

PATCH = 256  # pixels a side
BATCH_PIXELS = 32 * PATCH**2  # of images that pass through the network together
KID_SUBSET = 1000  # the default of torchmetrics and torch-fidelity; fewer where there are fewer images


@dataclass(frozen=True)
class DistributionMetric:
    """A number for a set of images.

    Attributes:
        name: of the option and, with `_` for `-`, of the column.
        title: for plots.
        better: the direction of better values.
        load: creates the accumulator on a device of torch; raises MissingExtra or NotMeasured.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    load: Callable[[str], DistributionAccumulator]

    @property
    def column(self) -> str:
        return self.name.replace("-", "_")


class DistributionAccumulator:
    """Adds images to a torchmetrics metric, in batches of images of one size and up to BATCH_PIXELS pixels.

    Args:
        metric: of torchmetrics.
        cut: an image → the images that the network gets.
        compares: whether the metric takes the originals too.
        device: of the metric.
    """

    def __init__(
        self,
        metric: Any,
        cut: Callable[[Pixels], Iterator[Pixels]],
        compares: bool,
        device: str = "cpu",
    ) -> None:
        self.metric, self.cut, self.compares, self.device = metric, cut, compares, device
        self.count = 0
        self.waiting: dict[bool, list[Pixels]] = {False: [], True: []}  # by whether they are originals

    def begin(self) -> None:
        """Forget all images."""
        self.metric.reset()
        self.count = 0
        self.waiting = {False: [], True: []}

    def add(self, decoded: Pixels, original: Pixels) -> None:
        """Add an image and its original, uint8 [H, W, 3] each."""
        for part in self.cut(decoded):
            self._queue(part, False)
            self.count += 1
        if self.compares:
            for part in self.cut(original):
                self._queue(part, True)

    def result(self) -> float | None:
        """None with fewer than two images (or patches), since a covariance needs two."""
        if self.count < 2:
            return None
        for real in self.waiting:
            self._update(real)
        if hasattr(self.metric, "subset_size"):
            self.metric.subset_size = min(KID_SUBSET, self.count)
        value = self.metric.compute()
        return float(value[0] if isinstance(value, tuple) else value)

    def _queue(self, pixels: Pixels, real: bool) -> None:
        waiting = self.waiting[real]
        area = pixels.shape[0] * pixels.shape[1]
        if waiting and (waiting[0].shape != pixels.shape or (len(waiting) + 1) * area > BATCH_PIXELS):
            self._update(real)
        self.waiting[real].append(pixels)

    def _update(self, real: bool) -> None:
        """Pass the images that wait through the network."""
        if not self.waiting[real]:
            return
        import torch

        batch = torch.cat([to_tensor(pixels, 255).byte() for pixels in self.waiting[real]]).to(self.device)
        self.metric.update(batch, real=real) if self.compares else self.metric.update(batch)
        self.waiting[real] = []


def patches(rgb: Pixels) -> Iterator[Pixels]:
    """The 256×256 squares from (0, 0), then those from (128, 128); the rest at the edges is dropped."""
    height, width = rgb.shape[:2]
    for start in (0, PATCH // 2):
        for y in range(start, height - PATCH + 1, PATCH):
            for x in range(start, width - PATCH + 1, PATCH):
                yield rgb[y : y + PATCH, x : x + PATCH]


def whole(rgb: Pixels) -> Iterator[Pixels]:
    """The image itself."""
    yield rgb


def _load(
    kind: str, cut: Callable[[Pixels], Iterator[Pixels]], device: str = "cpu"
) -> DistributionAccumulator:
    with loading(kind, "torch-fidelity"):
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.inception import InceptionScore
        from torchmetrics.image.kid import KernelInceptionDistance

        kinds = {"FID": FrechetInceptionDistance, "KID": KernelInceptionDistance, "IS": InceptionScore}
        return DistributionAccumulator(kinds[kind]().to(device), cut, kind != "IS", device)


DISTRIBUTION_METRICS = {
    metric.name: metric
    for metric in (
        DistributionMetric("fid", "FID (256-pixel patches)", "lower", partial(_load, "FID", patches)),
        DistributionMetric("fid-whole", "FID (whole images)", "lower", partial(_load, "FID", whole)),
        DistributionMetric("kid", "KID (256-pixel patches)", "lower", partial(_load, "KID", patches)),
        DistributionMetric("kid-whole", "KID (whole images)", "lower", partial(_load, "KID", whole)),
        DistributionMetric(
            "is", "Inception score (256-pixel patches)", "higher", partial(_load, "IS", patches)
        ),
    )
}
