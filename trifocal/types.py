"""What passes between the rooms, and the legend of letters.

    x       picture, [B, 3, H, W], 0..1                x_hat   the decoder's picture
    y       latent, [B, H/16, W/16, M]                 y_hat   what the decoder has of it
    z       hyper-latent, [B, H/64, W/64, Z]           z_hat   the same, rounded
    mean, scale_index   what the entropy model says of a latent: mean, and row of the frequency tables
    level   quality · 8, an integer in 0..800, [B]
    h       what a detector makes of x in its middle     h_hat   what the base layer keeps of it

    condition   what steers a transform, or None: words, a preference and more; always allowed to be absent

Feature maps and latents are channels-last, since every network of the road is made of matrix products over channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


MAX_LEVEL = 800
LEVELS_PER_QUALITY = 8
LATENT_STRIDE = 16  # pixels


@dataclass(frozen=True)
class TextEmbedding:
    """What a text tower says of B texts, padded to the longest of them.

    Attributes:
        tokens: a vector for each token, [B, T, D].
        mask: True where there is a token and not padding, [B, T]. The first token is always there, so that a text
            without words has something to attend to as well.
        pooled: a vector for the whole text, [B, D], not normalised.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor

    def to(self, device: torch.device | str) -> TextEmbedding:
        return TextEmbedding(self.tokens.to(device), self.mask.to(device), self.pooled.to(device))

    def of(self, rows: slice) -> TextEmbedding:
        """Those of some of the texts."""
        return TextEmbedding(self.tokens[rows], self.mask[rows], self.pooled[rows])

    def rolled(self) -> TextEmbedding:
        """Each picture of a batch gets the words of the one before it: words that do not match."""
        return TextEmbedding(self.tokens.roll(1, 0), self.mask.roll(1, 0), self.pooled.roll(1, 0))


@dataclass(frozen=True)
class BasePreview:
    """The first picture, which a base layer gives: small, and sampled where it is asked for.

    Attributes:
        picture: [B, 3, h, w], about 0..1.
        size: width and height in pixels of the whole that it stands for.
        window: x, y, width, height of the part that is asked for, in those pixels; beyond the whole its edge is repeated.
    """

    picture: Tensor
    size: tuple[int, int]
    window: tuple[int, int, int, int]

    def pixels(self) -> Tensor:
        """The part at its own size, [B, 3, height, width]; the same values whatever window they are in."""
        import torch
        from torch.nn.functional import grid_sample

        x, y, width, height = self.window
        across, down = (
            (2 * (start + 0.5 + torch.arange(count, device=self.picture.device)) / whole - 1)
            for start, count, whole in ((x, width, self.size[0]), (y, height, self.size[1]))
        )
        places = torch.stack(torch.broadcast_tensors(across[None], down[:, None]), dim=-1)
        places = places.expand(len(self.picture), -1, -1, -1).to(self.picture.dtype)
        return grid_sample(self.picture, places, mode="bicubic", padding_mode="border", align_corners=False)

    def within(self, rows: slice, columns: slice) -> BasePreview:
        """For a part of the window, in latents."""
        x, y = self.window[0] + LATENT_STRIDE * columns.start, self.window[1] + LATENT_STRIDE * rows.start
        width, height = (LATENT_STRIDE * (part.stop - part.start) for part in (columns, rows))
        return replace(self, window=(x, y, width, height))


@dataclass(frozen=True)
class Condition:
    """What steers a transform. Whatever is None is not said.

    Attributes:
        words: what a text tower says of texts.
        importance_map: how much finer the picture is to be coded at each latent than on the whole, in octaves of the
            quantiser's step, [B, H/16, W/16]; positive where it matters more.
        preview: what a base layer shows of the picture already.
        preference: for whom the picture is decoded, [B]: 0 for people … 1 for machines.
    """

    words: TextEmbedding | None = None
    importance_map: Tensor | None = None
    preview: BasePreview | None = None
    preference: Tensor | None = None

    def to(self, device: torch.device | str) -> Condition:
        words, importance_map, preview, preference = (
            self.words,
            self.importance_map,
            self.preview,
            self.preference,
        )
        return Condition(
            None if words is None else words.to(device),
            None if importance_map is None else importance_map.to(device),
            None if preview is None else replace(preview, picture=preview.picture.to(device)),
            None if preference is None else preference.to(device),
        )

    def within(self, rows: slice, columns: slice) -> Condition:
        """For a part of the picture, in latents."""
        return replace(
            self,
            importance_map=None if self.importance_map is None else self.importance_map[:, rows, columns],
            preview=None if self.preview is None else self.preview.within(rows, columns),
        )


@dataclass(frozen=True)
class Batch:
    """What a training step sees.

    Attributes:
        x: crops, [B, 3, H, W], 0..1.
        level: [B].
        condition: what steers, or None.
    """

    x: Tensor
    level: Tensor
    condition: Condition | None = None


@dataclass(frozen=True)
class Output:
    """What `Codec.forward` returns: x_hat [B, 3, H, W]; y_hat [B, h, w, M]; bits for each picture, [B]."""

    x_hat: Tensor
    y_hat: Tensor
    bits: Tensor
