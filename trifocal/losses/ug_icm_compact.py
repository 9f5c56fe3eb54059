"""The objective of the first stage of `ug-icm-compact`."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from trifocal.losses.feature_views import DEPTHS, VIEWS, EfficientNetDistance, FeatureViews
from trifocal.losses.perceptual import Perceptual
from trifocal.losses.rate_distortion import mean_squared_error
from trifocal.losses.ug_icm import machine_metrics
from trifocal.losses.visual import VisualObjective
from trifocal.types import Batch, Condition, Output
from trifocal.utils.annotations import Count, Length, NonNegative, Positive, Range

__all__ = ["UgIcmCompactObjective"]

FEATURE_RATE = 250.0  # squared error per unit of the feature distance


class UgIcmCompactObjective(VisualObjective):
    """bpp + λ · ((1 − β) · people + β · machines), with all quality levels weighted equally.

    Each image of a batch draws its preference β from 0..1 and is decoded with it. `people` is the distortion
    of `VisualObjective`; `machines` is machine_error · MSE + feature_weight · 250 · the feature distance of a
    view (`FeatureViews`). The factor is an exchange rate to squared error, as in `losses.visual`, so a
    quality level gives about the same file size as with `compact`. It falls along the rate curve of
    `compact`, from 368 at quality 13 to 116 at quality 70.

    UG-ICM (Yin et al. 2024) has squared error in place of `people`, CLIP's embeddings in place of
    EfficientNet-Lite0's features, and draws β as 0 or 1.

    Args:
        machine_error: weight of the squared error for machines, on the 0..255 scale.
        feature_weight: weight of the feature distance.
        feature_rate: exchange rate: squared error per unit of the distance.
        stages: of EfficientNet-Lite0, 0 (the finest) to 4.
        local_side, most_objects: as in `FeatureViews`.
        distance: x_hat, x [B, 3, H, W] → [B]; None is `EfficientNetDistance(stages)`.
        people: further arguments of `VisualObjective`.

    Raises:
        MissingExtra: if the packages of EfficientNet-Lite0, or `cvvdp`, are not installed.
    """

    def __init__(
        self,
        machine_error: NonNegative = 0.1,
        feature_weight: NonNegative = 0.9,
        feature_rate: Positive = FEATURE_RATE,
        stages: Annotated[Sequence[Annotated[int, Range(0, 4)]], Length(1)] = DEPTHS,
        local_side: Count = 128,
        most_objects: Annotated[int, Range(0, 1000)] = 4,
        distance: Perceptual | None = None,
        **people: Any,
    ) -> None:
        super().__init__(**people)
        self.views = FeatureViews(distance or EfficientNetDistance(stages), local_side, most_objects)
        self.machine_error, self.feature_weight = machine_error, feature_weight
        self.feature_rate = feature_rate

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        preference = torch.rand(len(batch.x), device=batch.x.device)
        output = codec(batch.x, batch.level, Condition(preference=preference))
        people = self.distortion(output, batch.x, self.cvvdp_share)
        error = mean_squared_error(output.x_hat, batch.x)
        self.keep_shares(1 - preference, mse_people=error)
        self.keep_shares(preference, mse_machine=error)
        mixed = (1 - preference) * people + preference * self.machine_distortion(output, batch)
        yield "codec", self.weighted(output, batch.x, batch.level, mixed).mean()

    def machine_distortion(self, output: Output, batch: Batch) -> Tensor:
        """machine_error · MSE + feature_weight · feature_rate · the distance of a view, [B]."""
        features, views = self.views(output.x_hat.float(), batch.x, batch.boxes)
        self.keep_terms(features=features)
        for number, name in enumerate(VIEWS):
            self.keep_shares((views == number).float(), **{f"features_{name}": features})
        error = mean_squared_error(output.x_hat, batch.x)
        total: Tensor = self.machine_error * error + self.feature_weight * self.feature_rate * features
        return total

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """Those of `VisualObjective` for people; the feature distance of whole images decoded for people and
        for machines, and the PSNR of the latter, each [B]."""
        return super().held_out_metrics(codec, x, level, output) | machine_metrics(
            self.views.distance, codec, x, level, output
        )

    def description(self) -> dict[str, object]:
        """Facts for the record, with weights and exchange rates."""
        return super().description() | {
            "machine_error": self.machine_error,
            "feature_weight": self.feature_weight,
            "feature_rate": self.feature_rate,
            "local_side": self.views.local_side,
            "most_objects": self.views.most_objects,
        }
