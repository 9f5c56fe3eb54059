"""The base layer's objective: what a detector loses by the bytes that its features went through.

Shen et al., "Dual-layer image codec with text guidance", equation (1): rate, squared error of the features, Kullback–Leibler
divergence of the class probabilities, binary cross-entropy, squared error of the boxes, the teacher being the same detector on
the picture itself, frozen. Their weights are not printed. Added here, and named so in the recipe: the squared error of the
stages and the pyramid, which is where the features end up, and of the first picture, which the enhancement stands on; and, where
the detector says box and class of every place, what it says there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, remove_small_boxes

from trifocal.detection.detector import SplitDetector
from trifocal.detection.feature_codec import crop_features, pad_image
from trifocal.detection.two_stage import first_stage_objectness, propose, second_stage_outputs, to_image_list
from trifocal.losses.detection import Target, excess_cross_entropy, place_errors
from trifocal.losses.rate_distortion import lambda_of

__all__ = ["TASK", "TASK_RANGE", "Original", "task_cost", "task_weight"]

TASK_RANGE = (0.03, 10.0)
TASK = {
    "features": 0.3,
    "stages": 0.5,
    "pyramid": 1.0,
    "places": 0.7,
    "classes": 0.5,
    "objectness": 0.5,
    "boxes": 0.1,
    "picture": 5.0,
}
PROPOSALS = 64  # of the teacher's, of each picture
LEAST_SIDE = 1.0  # of a proposal, in pixels
LEAST_OVERLAP = 0.5  # of a proposal and the box that is its truth
SURE = 0.05  # objectness from which an anchor counts


def task_weight(level: Tensor, limits: tuple[float, float] = TASK_RANGE) -> Tensor:
    """What the detector's loss weighs against a bit for each pixel, [B] → [B]: log-spaced over the levels."""
    return lambda_of(level, limits)


def task_cost(terms: Mapping[str, Tensor]) -> Tensor:
    """The terms together, each [B] → [B]."""
    return torch.stack([TASK[name] * term for name, term in terms.items()]).sum(0)


class Original:
    """What a detector says of pictures themselves, which is what it is to say of what is left of them.

    Args:
        detector: frozen, in evaluation mode.
        x: small pictures, [B, 3, H, W] in 0..1.
    """

    def __init__(self, detector: SplitDetector, x: Tensor) -> None:
        self.x, self.network, self.rest = x, detector.network, detector.backbone.rest
        self.images = to_image_list(x)
        with torch.no_grad():
            h = detector.front(pad_image(x))
            self.stages = self.rest.stages(
                crop_features(h, detector.backbone.stride, (x.shape[2], x.shape[3]))
            )
            self.pyramid = self.rest.levels(self.stages)
            proposed = propose(self.network, self.images, self.pyramid)
            kept = [remove_small_boxes(own, LEAST_SIDE)[:PROPOSALS] for own in proposed.chosen]
            chosen, places = (
                [p[k] for p, k in zip(part, kept)] for part in (proposed.chosen, proposed.indices)
            )
            self.proposed = replace(proposed, chosen=chosen, indices=places)
            self.scores, _ = second_stage_outputs(self.network, self.pyramid, self.proposed, self.images)

    def terms(
        self, h_hat: Tensor, first: Tensor, targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor]:
        """The terms "features", "stages", "pyramid", "classes" (KL), "objectness" (BCE), "picture" and "boxes" of each picture, [B]; and
        "places", of a detector that says box and class of each.

        Args:
            h_hat: what is left of the detector's features of them, [B, h, w, C].
            first: of the pictures, [B, 3, H, W].
            targets: what is true of each, in the detector's numbers; without them there is no term "boxes".
        """
        stages = self.rest.stages(h_hat)
        pyramid = self.rest.levels(stages)
        objectness, dense = first_stage_objectness(self.network, pyramid)
        scores, moved = second_stage_outputs(
            self.network, pyramid, replace(self.proposed, dense=dense), self.images
        )
        counts = [len(boxes) for boxes in self.proposed.chosen]
        divergence = class_divergence(scores, self.scores, each=dense is not None)
        of_stages = [relative_error(*pair) for pair in zip(stages, self.stages)]
        of_pyramid = [
            relative_error(pyramid[name].permute(0, 2, 3, 1), wanted.permute(0, 2, 3, 1))
            for name, wanted in self.pyramid.items()
        ]
        terms = {
            "features": of_stages[0],
            "stages": torch.stack(of_stages[1:]).mean(0),
            "pyramid": torch.stack(of_pyramid).mean(0),
            "classes": means(divergence, counts),
            "objectness": objectness_error(objectness, self.proposed.objectness),
            "picture": (first - self.x).square().mean(dim=(1, 2, 3)),
        }
        if targets is not None:
            coder, chosen = self.network.roi_heads.box_coder, self.proposed.chosen
            of_boxes = [box_error(coder, *own) for own in zip(moved.split(counts), chosen, targets)]
            terms["boxes"] = torch.stack(of_boxes)
        known = self.proposed.dense
        if dense is not None and known is not None:
            errors, there = place_errors(dense.classes, dense.bins, known.classes, known.bins)
            terms["places"] = errors.sum(1) / there.sum(1).mean().clamp(min=1.0)
        return terms


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the variance of each channel in the batch: [B, h, w, C] twice → [B]."""
    wanted = wanted.float()
    variance = wanted.var(dim=(0, 1, 2), correction=0, keepdim=True) + 1e-6
    return ((found.float() - wanted).square() / variance).mean(dim=(1, 2, 3))


def objectness_error(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with the teacher's objectness less its least value, over the anchors that it is not sure are
    nothing: logits [B, A] twice → [B]."""
    p = target.sigmoid()
    return excess_cross_entropy(logits, p).sum(1) / (p > SURE).sum(1).clamp(min=16)


def class_divergence(found: Tensor, wanted: Tensor, each: bool) -> Tensor:
    """Kullback–Leibler's, of a softmax, or the sum of those of `each` class by itself: logits [N, K] twice → [N]."""
    if not each:
        return F.kl_div(found.log_softmax(1), wanted.softmax(1), reduction="none").sum(1)
    return excess_cross_entropy(found, wanted.sigmoid()).sum(1)


def box_error(coder: Any, moved: Tensor, proposals: Tensor, target: Target) -> Tensor:
    """Squared error of the predicted boxes against the true ones, where a proposal has one, in the coder's units: scalar."""
    if not len(target.boxes) or not len(proposals):
        return moved.new_zeros(())
    overlap, nearest = box_iou(proposals, target.boxes).max(dim=1)
    there = torch.nonzero(overlap >= LEAST_OVERLAP)[:, 0]
    if not len(there):
        return moved.new_zeros(())
    nearest = nearest[there]
    own = moved.reshape(len(moved), -1, 4)[there, target.labels[nearest]]
    truth = coder.encode_single(target.boxes[nearest], proposals[there])
    return F.mse_loss(own, truth)


def means(values: Tensor, counts: Sequence[int]) -> Tensor:
    """The mean of each run of values, [len(counts)]; 0 of an empty one."""
    return torch.stack([v.mean() if len(v) else v.new_zeros(()) for v in values.split(list(counts))])
