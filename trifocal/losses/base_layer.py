"""The objective of the base layer: the error of a detector's outputs on decoded features.

Shen et al., "Dual-layer image codec with text guidance", equation (1): rate, squared error of the features,
Kullback–Leibler divergence of the class probabilities, binary cross-entropy of the objectness, squared error
of the boxes. The targets are the outputs of the same, frozen detector on the original image. The paper does
not give the weights. Added here: the squared error of the detector's later stages, of its pyramid and of the
base preview, and, for a detector that predicts box and class at every anchor, the error of these predictions.
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
from trifocal.detection.two_stage import FirstStage, first_stage, propose, second_stage_outputs, to_image_list
from trifocal.losses.detection import Target, excess_cross_entropy, grid_point_errors
from trifocal.losses.rate_distortion import quality_lambda
from trifocal.types import BASE_TASK_WEIGHTS

__all__ = [
    "CLASS_CROSS_ENTROPY",
    "TERM_WEIGHTS",
    "DetectorReference",
    "first_stage_terms",
    "preview_error",
    "task_cost",
    "task_weight",
]

TERM_WEIGHTS = {
    "features": 0.3,
    "stages": 0.5,
    "pyramid": 1.0,
    "places": 0.7,
    "classes": 0.5,
    "objectness": 0.5,
    "boxes": 0.1,
    "picture": 5.0,
}
CLASS_CROSS_ENTROPY = "class_cross_entropy"  # the paper's L_BCE; its weight is 0 by default
PROPOSALS = 64  # per image
MIN_SIDE = 1.0  # of a proposal, in pixels
MIN_IOU = 0.5  # of a proposal and the object that is its target
CONFIDENT = 0.05  # objectness from which an anchor counts in the mean


def task_weight(level: Tensor, limits: tuple[float, float] = BASE_TASK_WEIGHTS) -> Tensor:
    """The weight of the detector's loss against the rate in bpp, [B] → [B]: log-spaced over the quality
    levels."""
    return quality_lambda(level, limits)


def task_cost(terms: Mapping[str, Tensor], weights: Mapping[str, float] = TERM_WEIGHTS) -> Tensor:
    """The weighted sum of the terms, each [B] → [B]; terms without a weight count nothing."""
    return torch.stack([weights.get(name, 0.0) * term for name, term in terms.items()]).sum(0)


def first_stage_terms(found: FirstStage, wanted: FirstStage) -> dict[str, Tensor]:
    """The terms of `DetectorReference.terms` that need no second stage and no preview, each [B]."""
    stage_errors = [relative_error(*pair) for pair in zip(found.stages, wanted.stages)]
    pyramid_errors = [
        relative_error(found.pyramid[name].permute(0, 2, 3, 1), level.permute(0, 2, 3, 1))
        for name, level in wanted.pyramid.items()
    ]
    terms = {
        "features": stage_errors[0],
        "stages": torch.stack(stage_errors[1:]).mean(0),
        "pyramid": torch.stack(pyramid_errors).mean(0),
        "objectness": objectness_error(found.objectness, wanted.objectness),
    }
    if found.classes is not None and found.bins is not None and wanted.classes is not None:
        assert wanted.bins is not None
        errors, there = grid_point_errors(found.classes, found.bins, wanted.classes, wanted.bins)
        terms["places"] = errors.sum(1) / there.sum(1).mean().clamp(min=1.0)
    return terms


def preview_error(preview: Tensor, x: Tensor) -> Tensor:
    """The squared error of base previews, [B, 3, H, W] twice → [B]."""
    return (preview - x).square().mean(dim=(1, 2, 3))


class DetectorReference:
    """Detector outputs on the uncompressed images: the targets of the base-layer loss.

    Args:
        detector: frozen, in evaluation mode.
        x: images at the detector's input size, [B, 3, H, W] in 0..1.
    """

    def __init__(self, detector: SplitDetector, x: Tensor) -> None:
        self.x, self.network = x, detector.network
        self.images = to_image_list(x)
        with torch.no_grad():
            h = detector.front_features(pad_image(x))
            h = crop_features(h, detector.backbone.stride, (x.shape[2], x.shape[3]))
            self.first_stage, _ = first_stage(self.network, h)
            self.pyramid = dict(self.first_stage.pyramid)
            proposed = propose(self.network, self.images, self.pyramid)
            kept = [remove_small_boxes(own, MIN_SIDE)[:PROPOSALS] for own in proposed.chosen]
            chosen, places = (
                [p[k] for p, k in zip(part, kept)] for part in (proposed.chosen, proposed.indices)
            )
            self.proposed = replace(proposed, chosen=chosen, indices=places)
            self.scores, _ = second_stage_outputs(self.network, self.pyramid, self.proposed, self.images)

    def terms(
        self, h_hat: Tensor, preview: Tensor, targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor]:
        """The terms "features", "stages", "pyramid", "classes" (KL), "class_cross_entropy" (L_BCE as the
        paper describes it), "objectness" (BCE), "picture" (of the preview) and "boxes" of each image, [B];
        and "places", if the detector predicts box and class at every anchor.

        Args:
            h_hat: decoded features, [B, h, w, C].
            preview: base previews, [B, 3, H, W].
            targets: the objects, with the detector's labels; without them there are no terms "boxes" and
                "class_cross_entropy".
        """
        found, dense = first_stage(self.network, h_hat)
        scores, moved = second_stage_outputs(
            self.network, dict(found.pyramid), replace(self.proposed, dense=dense), self.images
        )
        counts = [len(boxes) for boxes in self.proposed.chosen]
        divergence = class_divergence(scores, self.scores, each=dense is not None)
        terms = first_stage_terms(found, self.first_stage)
        terms |= {"classes": means(divergence, counts), "picture": preview_error(preview, self.x)}
        if targets is not None:
            coder, chosen = self.network.roi_heads.box_coder, self.proposed.chosen
            box_errors = [box_error(coder, *own) for own in zip(moved.split(counts), chosen, targets)]
            terms["boxes"] = torch.stack(box_errors)
            each = dense is not None
            own_scores = zip(scores.split(counts), chosen, targets)
            class_errors = [class_cross_entropy(*own, each=each) for own in own_scores]
            terms[CLASS_CROSS_ENTROPY] = torch.stack(class_errors)
        return terms


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the variance of each channel in the batch, the mean: [B, h, w, C] twice → [B]."""
    wanted = wanted.float()
    variance = wanted.var(dim=(0, 1, 2), correction=0, keepdim=True) + 1e-6
    return ((found.float() - wanted).square() / variance).mean(dim=(1, 2, 3))


def objectness_error(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with the reference objectness above its minimum, over the number of anchors that
    are not confidently background: logits [B, A] twice → [B]."""
    p = target.sigmoid()
    return excess_cross_entropy(logits, p).sum(1) / (p > CONFIDENT).sum(1).clamp(min=16)


def class_divergence(found: Tensor, wanted: Tensor, each: bool) -> Tensor:
    """Kullback–Leibler divergence of a softmax, or, with `each`, of each class independently, summed: logits
    [N, K] twice → [N]."""
    if not each:
        return F.kl_div(found.log_softmax(1), wanted.softmax(1), reduction="none").sum(1)
    return excess_cross_entropy(found, wanted.sigmoid()).sum(1)


def class_cross_entropy(scores: Tensor, proposals: Tensor, target: Target, each: bool) -> Tensor:
    """Cross-entropy of the class probabilities of proposals with the classes of the objects, the mean: a
    scalar, 0 without proposals.

    The paper calls L_BCE "the cross-entropy loss of the predicted object class probability", and gives no
    formula. A proposal has the class of the object that it overlaps most, or is background.

    Args:
        scores: class logits, [N, K + 1] with background as class 0, or with `each` [N, K].
        proposals: boxes, [N, 4].
        target: the objects, with labels from 1.
        each: whether the detector has a logistic for each class, and no background.
    """
    if not len(proposals):
        return scores.new_zeros(())
    labels = torch.zeros(len(proposals), dtype=torch.int64, device=scores.device)
    if len(target.boxes):
        overlap, nearest = box_iou(proposals, target.boxes).max(dim=1)
        labels = torch.where(overlap >= MIN_IOU, target.labels[nearest], labels)
    if not each:
        return F.cross_entropy(scores.float(), labels)
    wanted = F.one_hot(labels, scores.shape[1] + 1)[:, 1:].to(scores)
    return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(1).mean()


def box_error(coder: Any, moved: Tensor, proposals: Tensor, target: Target) -> Tensor:
    """Squared error of the predicted boxes of proposals that have an object, in the units of the box coder: a
    scalar."""
    if not len(target.boxes) or not len(proposals):
        return moved.new_zeros(())
    overlap, nearest = box_iou(proposals, target.boxes).max(dim=1)
    there = torch.nonzero(overlap >= MIN_IOU)[:, 0]
    if not len(there):
        return moved.new_zeros(())
    nearest = nearest[there]
    own = moved.reshape(len(moved), -1, 4)[there, target.labels[nearest]]
    truth = coder.encode_single(target.boxes[nearest], proposals[there])
    return F.mse_loss(own, truth)


def means(values: Tensor, counts: Sequence[int]) -> Tensor:
    """The mean of each run of `counts` values, [len(counts)]; 0 for an empty run."""
    return torch.stack([v.mean() if len(v) else v.new_zeros(()) for v in values.split(list(counts))])
