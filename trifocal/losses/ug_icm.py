"""The objectives of both stages of `ug-icm` (Yin 2024), and of the second stage of `ug-icm-compact`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from trifocal.errors import OptionError
from trifocal.losses.multi_scale_clip import SIDE, MultiScaleClip, box_masks
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import EncoderDistance, Perceptual
from trifocal.losses.rate_distortion import bits_per_pixel, level_weight, mean_squared_error, quality_lambda
from trifocal.losses.taco import image_embedder
from trifocal.types import Batch, Condition, Output
from trifocal.utils.annotations import Count, NonNegative, Positive, Range, checked

__all__ = [
    "FIRST_STAGE",
    "SECOND_STAGE",
    "PreferenceObjective",
    "PreferenceWeights",
    "UgIcmObjective",
    "first_stage",
    "for_machines",
    "second_stage",
]

DISTORTION_LAMBDAS = (0.0018, 0.0483)
Published = Literal["readme", "paper"]
Objects = Literal["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "boxes", "none"]
MASK_RCNN: Objects = "maskrcnn_resnet50_fpn"
BOXES, NO_OBJECTS = "boxes", "none"
CLIP_TERMS = ("clip_global", "clip_local", "clip_instances")  # names of L_glo, L_loc and L_ins in the log


@dataclass(frozen=True)
class PreferenceWeights:
    """Weights of the distortions, as multiples of λ.

    Attributes:
        people_error: of the squared error of images decoded for people, on the 0..255 scale.
        machine_error: the same for machines.
        clip: of the sum of cosine distances, for machines.
    """

    people_error: float = 1.0
    machine_error: float = 0.0
    clip: float = 1000.0


# As the code's command has them, with λ 0.0022 and then 0.001, and a tenth of each cosine distance; and as
# the paper prints them.
FIRST_STAGE = {"readme": PreferenceWeights(1.0, 0.0, 1000.0), "paper": PreferenceWeights(1.0, 1.0, 1.0)}
SECOND_STAGE = {"readme": PreferenceWeights(1.0, 1000.0, 100.0), "paper": PreferenceWeights(1.0, 0.0, 1.0)}


class PreferenceObjective(Objective):
    """λ · (people_error · MSE) for people, λ · (machine_error · MSE + clip · MS-CLIP) for machines, and bpp.

    Each image of a batch draws its preference. The second stage has no rate; train only the decoder in it
    (its recipe freezes the rest).

    Differences from the paper and its code, and what they leave open:

    * The paper trains one model for each of four rates, and its code has one λ. Here λ is log-spaced over
      the quality levels, with the range of MLIC++'s models, and they are balanced as in
      `losses.level_weight`.
    * The paper alternates between both preferences in halves of an epoch; its code draws one for each image,
      as here. A batch with a single preference has no loss for the other.
    * Objects come from torchvision's Mask R-CNN, run on the original crop, or from the boxes of the data; in
      the paper from FreeSOLO.
    * In the second stage the paper prints neither λ nor the scale of its squared error: here both terms are
      multiplied by λ, and the scale is 0..255.

    Args:
        weights: "readme" or "paper", of `FIRST_STAGE` with the rate and of `SECOND_STAGE` without it; or
            a `PreferenceWeights`.
        rate: whether the rate counts.
        tower: whose image encoder embeds the images: a name or folder of a CLIP, or "compact".
        images: [B, 3, H, W] in 0..1 → [B, D]; None is the image encoder of `tower`.
        objects: a name for `load_instance_segmenter`, "boxes" for those of the data, or "none".
        segmenter: x [B, 3, H, W] → masks of each image [N, H, W]; replaces `objects`.
        lambdas: λ at the lowest and at the highest quality.
        continuous: draw preferences from 0..1, which weight both losses, instead of 0 or 1.
        local_side, most_objects: as in `MultiScaleClip`.

    Raises:
        OptionError: for weights without a name here, or another instance segmentation.
        MissingExtra, WeightsError: if CLIP or the instance segmentation is not available.
    """

    def __init__(
        self,
        weights: PreferenceWeights | Published = "readme",
        rate: bool = True,
        tower: str = "openai/clip-vit-base-patch32",
        images: nn.Module | None = None,
        objects: Objects = MASK_RCNN,
        segmenter: nn.Module | None = None,
        lambdas: tuple[Positive, Positive] = DISTORTION_LAMBDAS,
        continuous: bool = False,
        local_side: Count = SIDE,
        most_objects: Annotated[int, Range(0, 1000)] = 8,
    ) -> None:
        super().__init__(lambdas)
        published = FIRST_STAGE if rate else SECOND_STAGE
        if not isinstance(weights, PreferenceWeights):
            weights = published[checked("weights", weights, Published)]
        self.weights = weights
        self.rate, self.continuous, self.objects = rate, continuous, objects
        self.clip = MultiScaleClip(images or image_embedder(tower), local_side, most_objects)
        if segmenter is None and objects not in (BOXES, NO_OBJECTS):
            from trifocal.detection.instances import load_instance_segmenter

            segmenter = load_instance_segmenter(objects)
        self.segmenter = segmenter

    def description(self) -> dict[str, object]:
        """Facts for the record, with all weights."""
        return super().description() | {
            "stage": 1 if self.rate else 2,
            "continuous": self.continuous,
            "objects": self.objects,
            **asdict(self.weights),
        }

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """The global CLIP distance of images decoded for people and for machines, and the PSNR of the
        latter."""
        return machine_metrics(self.clip.whole, codec, x, level, output)

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        preference = torch.rand(len(batch.x), device=batch.x.device)
        preference = preference if self.continuous else preference.round()
        output = codec(batch.x, batch.level, Condition(preference=preference))
        error = mean_squared_error(output.x_hat, batch.x)
        shares = self.weights.people_error * (1 - preference) + self.weights.machine_error * preference
        parts = self._clip_parts(output.x_hat, batch, preference > 0)
        distance, bpp = parts.sum(0), bits_per_pixel(output, batch.x)
        self.keep_terms(bpp=bpp, mse=error, clip=distance)
        self.keep_shares(1 - preference, mse_people=error)
        self.keep_shares(preference, mse_machine=error, **dict(zip(CLIP_TERMS, parts)))
        each = quality_lambda(batch.level, self.lambdas) * (
            shares * error + self.weights.clip * preference * distance
        )
        if self.rate:
            each = each + bpp
        yield "codec", (each * level_weight(batch.level, limits=self.lambdas)).mean()

    def _clip_parts(self, x_hat: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
        """The three parts of MS-CLIP of the chosen images, [3, B], and 0 for the others."""
        parts = batch.x.new_zeros(len(CLIP_TERMS), len(batch.x))
        indices = chosen.nonzero().flatten()
        if not len(indices):
            return parts
        x = batch.x[indices]
        found = self.clip.parts(x_hat[indices], x, self._masks(x, batch, indices.tolist()))
        return parts.index_add(1, indices, torch.stack(found))

    def _masks(self, x: Tensor, batch: Batch, indices: Sequence[int]) -> Sequence[Tensor]:
        """Masks of the objects of the chosen images."""
        if self.segmenter is not None:
            found: list[Tensor] = self.segmenter(x)
            return found
        if self.objects == NO_OBJECTS:
            return ()
        if batch.boxes is None:
            raise OptionError(
                "The data has no boxes; set objects=maskrcnn_resnet50_fpn or objects=none with --set."
            )
        return [box_masks(batch.boxes[index], (x.shape[2], x.shape[3])) for index in indices]


# The objectives of both stages; further arguments as in `PreferenceObjective`.
first_stage = partial(PreferenceObjective, rate=True)
second_stage = partial(PreferenceObjective, rate=False)


class UgIcmObjective(Objective):
    """w · λ(level) · MSE, with all quality levels weighted equally, + a feature distance, of images decoded
    for machines.

    The second half of UG-ICM's second stage: the encoder, the entropy model and the output for people are
    trained before, and frozen. In the paper the distance is that of CLIP's embeddings of the image, of a crop
    and of each instance (equation 7). Here it is that of the features of the bundled image encoder
    (`EncoderDistance`): moving decoded images along the gradient of its pooled embedding (equation 3) did not
    help a detector, and moving them along the gradient of its features did (see MODEL_CARD).

    Args:
        perceptual: x_hat, x [B, 3, H, W] → [B]; None is `EncoderDistance`.
        perceptual_weight: of the distance.
        error_weight: w; 0 in the paper (1 in its code). With 0 the decoded images show artefacts that only
            the image encoder responds to.
    """

    def __init__(
        self,
        perceptual: Perceptual | None = None,
        perceptual_weight: NonNegative = 6.0,
        error_weight: NonNegative = 0.02,
    ) -> None:
        super().__init__()
        self.perceptual: nn.Module = (perceptual or EncoderDistance()).requires_grad_(False).eval()
        self.perceptual_weight = perceptual_weight
        self.error_weight = error_weight

    def description(self) -> dict[str, object]:
        return super().description() | {
            "perceptual_weight": self.perceptual_weight,
            "error_weight": self.error_weight,
        }

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """Feature distance and PSNR of images decoded for machines, and the distance of those decoded for
        people."""
        return machine_metrics(self.perceptual, codec, x, level, output)

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = codec(batch.x, batch.level, for_machines(batch.x))
        perceptual = self.perceptual(output.x_hat, batch.x)
        squared = mean_squared_error(output.x_hat, batch.x)
        self.keep_terms(mse=squared, mse_machine=squared, perceptual=perceptual)
        error = quality_lambda(batch.level) * squared * level_weight(batch.level)
        yield "codec", (self.error_weight * error + self.perceptual_weight * perceptual).mean()


def machine_metrics(
    distance: Callable[[Tensor, Tensor], Tensor], codec: nn.Module, x: Tensor, level: Tensor, output: Output
) -> dict[str, Tensor]:
    """Distances of images decoded for people and for machines, and the PSNR of the latter, [B] each."""
    machines = codec(x, level, for_machines(x))
    error = mean_squared_error(machines.x_hat, x)
    return {
        "distance": distance(output.x_hat, x),
        "distance_machine": distance(machines.x_hat, x),
        "psnr_machine": 10 * torch.log10(255**2 / error),
    }


def for_machines(x: Tensor) -> Condition:
    """Preference 1 for each image of a batch."""
    return Condition(preference=torch.ones(len(x), device=x.device))
