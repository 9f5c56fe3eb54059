"""The multi-scale CLIP distance of UG-ICM (Yin 2024): of whole images, random crops and objects."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.losses.image_text import cosine_distance

__all__ = ["MultiScaleClip", "box_masks", "object_views", "random_square"]

SIDE = 224  # pixels of a view, the input of CLIP


class MultiScaleClip(nn.Module):
    """L_glo + L_loc + L_ins: cosine distances of image embeddings (equations 4 to 7), [B].

    Global is the whole image. Local is a random square, the same in both images. For each object, all pixels
    outside its mask are black, and the square around it is resized; the distances of an image's objects are
    summed. The paper gives no size of the local square (its code 224 pixels) and no limit on the objects.

    Args:
        images: [B, 3, H, W] in 0..1 → embeddings [B, D]; CLIP's image encoder in the paper. It is not
        trained. local_side: of the random square, in pixels; at most the image's shorter side.
        most_objects: the largest ones of an image; 0 leaves L_ins out.
    """

    def __init__(self, images: nn.Module, local_side: int = SIDE, most_objects: int = 8) -> None:
        super().__init__()
        self.images = images.requires_grad_(False).eval()
        self.local_side, self.most_objects = local_side, most_objects

    @property
    def title(self) -> str:
        """Of the image encoder, for the record of a run."""
        return str(getattr(self.images, "title", type(self.images).__name__))

    def forward(self, x_hat: Tensor, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """x_hat and x [B, 3, H, W] in 0..1; masks of the objects of each image, [N, H, W] bool."""
        return torch.stack(self.parts(x_hat, x, masks)).sum(0)

    def parts(self, x_hat: Tensor, x: Tensor, masks: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """L_glo, L_loc and L_ins, each [B]; arguments as for `forward`. L_ins is 0 without objects."""
        whole, local = self.whole(x_hat, x), self.distance(*self._local_views(x_hat, x))
        chosen = [largest(own, self.most_objects) for own in masks]
        owners = [number for number, own in enumerate(chosen) for _ in own]
        instances = torch.zeros_like(whole)
        if owners:
            views = (torch.cat([object_views(*own) for own in zip(part, chosen)]) for part in (x_hat, x))
            rows = torch.tensor(owners, device=x.device)
            instances = instances.index_add(0, rows, self.distance(*views))
        return whole, local, instances

    def whole(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """L_glo alone, [B]: the one term without a random draw."""
        return self.distance(x_hat, x)

    def distance(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """1 − cos of the embeddings, [B], 0..2."""
        with torch.no_grad():
            wanted = self.images(x)
        return cosine_distance(self.images(x_hat.float()), wanted, weight=1.0)

    def _local_views(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same random square of both, [B, 3, side, side]."""
        rows, columns = random_square(x, self.local_side)
        return x_hat[..., rows, columns], x[..., rows, columns]


def random_square(x: Tensor, side: int) -> tuple[slice, slice]:
    """Rows and columns of a random square in images [..., H, W]; its side is at most their shorter one."""
    height, width = x.shape[-2:]
    side = min(side, height, width)
    top, left = (int(torch.randint(whole - side + 1, ())) for whole in (height, width))
    return slice(top, top + side), slice(left, left + side)


def largest(masks: Tensor, most: int) -> Tensor:
    """The masks with the largest areas, without empty ones: [N, H, W] → [min(N, most), H, W]."""
    areas = masks.flatten(1).sum(1)
    order = areas.argsort(descending=True, stable=True)[:most]
    return masks[order[areas[order] > 0]]


def object_views(image: Tensor, masks: Tensor) -> Tensor:
    """The masked square around each object, resized: image [3, H, W], masks [N, H, W] → [N, 3, 224, 224].

    The square has the longer side of the object's box, at most the image's shorter side.
    """
    views = [_object_view(image, mask) for mask in masks]
    return torch.stack(views) if views else image.new_zeros(0, 3, SIDE, SIDE)


def _object_view(image: Tensor, mask: Tensor) -> Tensor:
    height, width = mask.shape
    spans = [there.nonzero().flatten()[[0, -1]].tolist() for there in (mask.any(1), mask.any(0))]
    side = min(max(last - first + 1 for first, last in spans), height, width)
    top, left = (
        min(max((first + last + 1 - side) // 2, 0), whole - side)
        for (first, last), whole in zip(spans, (height, width), strict=True)
    )
    view = (image * mask)[None, :, top : top + side, left : left + side]
    return F.interpolate(view, (SIDE, SIDE), mode="bicubic", antialias=True)[0]


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Rectangles as masks: boxes x0, y0, x1, y1 in pixels, [N, 4] → [N, H, W], bool."""
    row, column = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    rows, columns = (row >= y0) & (row < y1), (column >= x0) & (column < x1)
    return rows[:, :, None] & columns[:, None, :]
