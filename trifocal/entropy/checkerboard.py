"""Context models of channel groups, each coded in two checkerboard passes.

The positions of a checkerboard's one colour are the anchors, which are coded first; the non-anchors follow.
ELIC's and MLIC++'s context models are such models (`elic.py`, `mlic.py`).
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from trifocal.entropy.context import ContextModel
from trifocal.entropy.integer_networks import Clamp
from trifocal.layers import QualityInterpolation

__all__ = ["CheckerboardContext", "put_checkerboard", "take_checkerboard"]


def take_checkerboard(y: Tensor, odd: bool) -> Tensor:
    """The positions whose row + column is odd (or even), in raster order: [B, h, w, C] → [B, h, w/2, C], h
    and w even.
    """
    b, h, w, c = y.shape
    pairs = y.reshape(b, h // 2, 2, w // 2, 2, c)
    rows = [pairs[:, :, row, :, row ^ odd] for row in (0, 1)]
    return torch.stack(rows, dim=2).reshape(b, h, w // 2, c)


def put_checkerboard(part: Tensor, odd: bool) -> Tensor:
    """The inverse of `take_checkerboard`, zero at other positions: [B, h, w/2, C] → [B, h, w, C]."""
    b, h, half, c = part.shape
    rows = part.reshape(b, h // 2, 2, half, c)
    board = part.new_zeros(b, h // 2, 2, half, 2, c)
    for row in (0, 1):
        board[:, :, row, :, row ^ odd] = rows[:, :, row]
    return board.reshape(b, h, 2 * half, c)


class CheckerboardContext(ContextModel):
    """Passes 2·n and 2·n + 1 code the anchors and the non-anchors of group n. Subclasses predict them.

    Args:
        sizes: channels of each group; their sum is M.
        step_sizes: quantiser step at each quality knot, [K], in units of y.
        odd_anchors: whether row + column of the anchors is odd.
    """

    def __init__(self, sizes: Sequence[int], step_sizes: Tensor, odd_anchors: bool) -> None:
        super().__init__()
        self.passes, self.odd_anchors = 2 * len(sizes), odd_anchors
        self.groups = [slice(begin, end) for begin, end in pairwise(accumulate(sizes, initial=0))]
        self.normalise = QualityInterpolation(step_sizes[:, None].expand(-1, sum(sizes)))
        self.compress = Clamp()

    def take(self, y: Tensor, pass_index: int) -> Tensor:
        """[B, h, w, M] → [B, h, w/2, G] with G the channels of the group, h and w even."""
        return take_checkerboard(y[..., self.groups[pass_index // 2]], self.is_odd(pass_index))

    def put(self, part: Tensor, pass_index: int) -> Tensor:
        own = self.groups[pass_index // 2]
        return F.pad(
            put_checkerboard(part, self.is_odd(pass_index)), (own.start, self.groups[-1].stop - own.stop)
        )

    def decoded_groups(self, pass_index: int, y_hat: Tensor, level: Tensor) -> Tensor:
        """The groups up to that of the pass, in units of y: y_hat [B, h, w, M] → its first channels."""
        known = slice(self.groups[pass_index // 2].stop)
        decoded: Tensor = self.compress(y_hat[..., known] * self.normalise(level)[..., known])
        return decoded

    def is_odd(self, pass_index: int) -> bool:
        """Whether row + column of the positions of a pass is odd."""
        return self.odd_anchors ^ bool(pass_index % 2)
