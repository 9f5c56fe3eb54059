"""The compact detector's second stage: it looks at the regions that the first one proposes, and corrects what that said of them.

    pyramid ── RoIAlign ── 7×7 ── linear ── linear ── a ─┐
    first stage: probabilities, box, place ──────────────┴─ linear ─┬─ what is added to the scores, logits
                                                                    └─ offsets of the box

The second stage of Ren et al. 2015 (section 3.2, with RoIAlign: He et al. 2017), but that it begins with what the first has said,
as cascades do (Cai and Vasconcelos 2018), and untrained adds nothing to that.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Correction", "RegionHead"]

SIDE = 7  # of a region, in places: as torchvision's Faster R-CNN cuts them out
NARROW, HIDDEN = 48, 256
GEOMETRY = 5  # what `geometry` says


class RegionHead(nn.Module):
    """Regions of the pyramid, [N, channels, SIDE, SIDE] → [N, HIDDEN]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(channels, NARROW)
        self.whole = nn.Linear(NARROW * SIDE**2, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.hardswish(self.narrow(x.permute(0, 2, 3, 1)))
        return F.hardswish(self.whole(narrow.flatten(1)))


class Correction(nn.Module):
    """What is added to scores of `classes` and offsets of boxes, of N regions."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.join = nn.Linear(HIDDEN + classes + GEOMETRY, HIDDEN)
        self.scores, self.offsets = nn.Linear(HIDDEN, classes), nn.Linear(HIDDEN, 4)
        for last in (self.scores, self.offsets):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, scores: Tensor, boxes: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            x: what `RegionHead` sees in them, [N, HIDDEN].
            scores: the first stage's, logits [N, classes]. boxes: its own, [N, 4]. places: where it said so, [N, 3], as in `Dense`.

        Returns:
            [N, classes] and [N, 4], in the units of the network's box coder.
        """
        sure = (F.logsigmoid(scores) / 2).exp()  # the root of how likely it is
        known = torch.cat([sure, geometry(boxes, places)], 1)
        y = F.hardswish(self.join(torch.cat([x, known.to(x)], 1)))
        return self.scores(y).float(), self.offsets(y).float()  # boxes need their digits


def geometry(boxes: Tensor, places: Tensor) -> Tensor:
    """Width and height in strides, how far the place is from the box's middle in the box's sides, and the stride: all about 1 at most, [N, 5]."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0)
    middle = (boxes[:, 2:] + boxes[:, :2]) / 2
    stride = places[:, 2:]
    return torch.cat([(sides / stride).log() / 2, (places[:, :2] - middle) / sides, stride.log2() / 2 - 2], 1)
