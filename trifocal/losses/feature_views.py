"""Feature distances of views of an image: the whole image, random squares, and objects."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.efficientnet_lite import EfficientNetLite
from trifocal.losses.multi_scale_clip import SIDE, box_masks, largest, object_views, random_square
from trifocal.losses.perceptual import Perceptual

__all__ = ["DEPTHS", "VIEWS", "EfficientNetDistance", "FeatureViews"]

VIEWS = ("global", "local", "instances")
DEPTHS = (1, 2, 3, 4)  # stages of EfficientNet-Lite0, at 1/4 to 1/32 of the image


class EfficientNetDistance(Perceptual):
    """The distance of the features of EfficientNet-Lite0 at several depths, in 0..4.

    LPIPS (equation 1) without its learned weights: the squared distance of the normalised feature vectors at
    each position of each stage, averaged over positions and stages (LPIPS sums over stages).

    Args:
        stages: 0 (at 1/2 of the image's size) to 4 (at 1/32).
        network: None is EfficientNet-Lite0.

    Raises:
        MissingExtra: if the packages of EfficientNet-Lite0 are not installed.
    """

    def __init__(self, stages: Sequence[int] = DEPTHS, network: EfficientNetLite | None = None) -> None:
        super().__init__()
        self.network = network or EfficientNetLite(0)
        self.wanted = tuple(stages)
        self.title = f"EfficientNet-Lite0, stages {', '.join(map(str, self.wanted))}"

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            original = self.network.stages(x, self.wanted)
        decoded = self.network.stages(x_hat.float().clamp(0, 1), self.wanted)
        distances = [
            (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).flatten(1).mean(1)
            for a, b in zip(decoded, original)
        ]
        return torch.stack(distances).mean(0)


class FeatureViews(nn.Module):
    """The distance of one view of each image, drawn with equal probabilities: the whole image, a random
    square, or an object.

    UG-ICM adds the distances of all three (equation 7). Their mean over draws is a third of that sum, at a
    third of the cost of a step. Squares and objects are resized to 224 pixels, so they are seen larger than
    in the whole image. An object is the square around its box; pixels outside the box are black. Boxes below
    `smallest` pixels are left out. Images without objects draw one of the other two views.

    Args:
        distance: x_hat, x [B, 3, H, W] in 0..1 → [B].
        local_side: of the random square, in pixels; at most the image's shorter side.
        most_objects: one of so many largest ones is drawn; 0 draws no objects.
        smallest: the shorter side of a box, in pixels.
    """

    def __init__(
        self,
        distance: Callable[[Tensor, Tensor], Tensor],
        local_side: int = 128,
        most_objects: int = 4,
        smallest: int = 16,
    ) -> None:
        super().__init__()
        self.distance = distance
        self.local_side, self.most_objects, self.smallest = local_side, most_objects, smallest

    @property
    def title(self) -> str:
        """Of the network, for the record of a run."""
        return str(getattr(self.distance, "title", type(self.distance).__name__))

    def forward(
        self, x_hat: Tensor, x: Tensor, boxes: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The distances of the views, and which of `VIEWS` was drawn for each image, [B] each.

        Args:
            x_hat, x: [B, 3, H, W] in 0..1.
            boxes: of the objects of each image, x0, y0, x1, y1 in pixels, [N, 4].
        """
        masks = [self.object_masks(x, own) for own in boxes or [x.new_zeros(0, 4)] * len(x)]
        kinds = [int(torch.randint(3 if len(own) else 2, ())) for own in masks]
        distance = x.new_zeros(len(x))
        if whole := [index for index, kind in enumerate(kinds) if kind == 0]:
            rows = torch.tensor(whole, device=x.device)
            distance = distance.index_add(0, rows, self.distance(x_hat[rows], x[rows]))
        if parts := [index for index, kind in enumerate(kinds) if kind > 0]:
            views = [self.view(x_hat[i], x[i], masks[i] if kinds[i] == 2 else None) for i in parts]
            found = self.distance(*(torch.stack(own) for own in zip(*views)))
            distance = distance.index_add(0, torch.tensor(parts, device=x.device), found)
        return distance, torch.tensor(kinds, device=x.device)

    def object_masks(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Masks of the largest objects, [N, H, W] bool."""
        sides = torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        height, width = x.shape[-2:]
        return largest(box_masks(boxes[sides >= self.smallest], (height, width)), self.most_objects)

    def view(self, x_hat: Tensor, x: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same object or random square of both images [3, H, W], each [3, 224, 224]."""
        if masks is not None:
            index = int(torch.randint(len(masks), ()))
            chosen = masks[index : index + 1]
            return object_views(x_hat, chosen)[0], object_views(x, chosen)[0]
        rows, columns = random_square(x, self.local_side)
        square = torch.stack([x_hat, x])[..., rows, columns]
        decoded, original = F.interpolate(square, (SIDE, SIDE), mode="bicubic", antialias=True)
        return decoded, original
