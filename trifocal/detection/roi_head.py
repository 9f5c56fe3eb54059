"""The second stage of the bundled detector, which refines proposals.

    pyramid ── RoIAlign ── 7×7 ── linear ── linear ── a ─┐
    first stage: probabilities, box, grid point ─────────┴─ linear ─┬─ added to the class logits
                                                                    └─ offsets of the box

The second stage of Faster R-CNN (Ren et al. 2015, section 3.2) with RoIAlign (He et al. 2017). As in cascades
(Cai and Vasconcelos 2018), it also gets the predictions of the first stage. Before training it does not
change them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RoiFeatures", "RoiPredictor", "box_geometry"]

SIDE = 7  # of the RoIAlign output, as in torchvision's Faster R-CNN
NARROW, HIDDEN = 48, 256
GEOMETRY = 5  # number of values of `box_geometry`


class RoiFeatures(nn.Module):
    """RoIAlign output of the pyramid, [N, channels, SIDE, SIDE] → [N, HIDDEN]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(channels, NARROW)
        self.whole = nn.Linear(NARROW * SIDE**2, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.hardswish(self.narrow(x.permute(0, 2, 3, 1)))
        return F.hardswish(self.whole(narrow.flatten(1)))


class RoiPredictor(nn.Module):
    """Changes of the class logits and box offsets of N proposals.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.join = nn.Linear(HIDDEN + classes + GEOMETRY, HIDDEN)
        self.scores, self.offsets = nn.Linear(HIDDEN, classes), nn.Linear(HIDDEN, 4)
        for last in (self.scores, self.offsets):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, scores: Tensor, boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            x: output of `RoiFeatures`, [N, HIDDEN].
            scores: class logits of the first stage, [N, K].
            boxes: of the first stage, [N, 4].
            points: their grid points, [N, 3], as in `DensePredictions`.

        Returns:
            Values to add to the logits, [N, K], and offsets of the boxes, [N, 4], for the network's box
            coder.
        """
        root_probability = (F.logsigmoid(scores) / 2).exp()
        known = torch.cat([root_probability, box_geometry(boxes, points)], 1)
        y = F.hardswish(self.join(torch.cat([x, known.to(x)], 1)))
        return self.scores(y).float(), self.offsets(y).float()  # box coordinates need 32 bits


def box_geometry(boxes: Tensor, points: Tensor) -> Tensor:
    """Log width and height in strides, grid point relative to the box, log stride; [N, 5], about -1..1."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0)
    middle = (boxes[:, 2:] + boxes[:, :2]) / 2
    stride = points[:, 2:]
    return torch.cat([(sides / stride).log() / 2, (points[:, :2] - middle) / sides, stride.log2() / 2 - 2], 1)
