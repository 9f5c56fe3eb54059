"""Symbols, shared constants, and the data that codecs, networks and training exchange.

    x       image, [B, 3, H, W], 0..1                  x_hat   decoded image
    y       latent, [B, H/16, W/16, M]                 y_hat   decoded latent
    z       hyper-latent, [B, H/64, W/64, Z]           z_hat   decoded hyper-latent
    mean, scale_index   parameters of the entropy model: mean, and row of the frequency tables
    level   quality · 8, an integer in 0..800, [B]
    h       features of a detector for x               h_hat   the features that the base layer decodes to

    condition   optional side input of a transform, such as text or an importance map (`Condition`)

Feature maps and latents are channels-last.

`TextEmbedding`, `BasePreview` and `Condition` hold NumPy arrays where a user or `Codec` handles them, and
torch tensors inside the networks. `Condition.to` converts either to tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
    from typing_extensions import TypeVar

    Array: TypeAlias = NDArray[Any]
    ArrayT = TypeVar("ArrayT", default=Tensor)
else:
    from typing import TypeVar

    ArrayT = TypeVar("ArrayT")

Arrays: TypeAlias = "dict[str, NDArray[Any]]"  # weights by name

MAX_LEVEL = 800
BASE_TASK_WEIGHTS = (0.03, 10.0)  # of a detector's outputs against bpp, at the lowest and highest level
LEVELS_PER_QUALITY = 8
LEVELS_PER_KNOT = 128  # between the learned values of a `QualityInterpolation`
LATENT_STRIDE = 16  # pixels
DEAD_ZONE = 0.025  # steps by which the dead zone grows per bit that ±1 costs more than 0
HYPER_LATENT_PIXELS = 64  # side of a hyper-latent position; images are padded to multiples of it
TILE = 1024  # side of a tile in pixels; tiles are coded independently


@dataclass(frozen=True)
class TextEmbedding(Generic[ArrayT]):
    """Vectors of B texts, padded to the longest.

    Attributes:
        tokens: one vector per token, [B, T, D].
        mask: True for tokens, False for padding, [B, T]. The first token is always present, also for an empty
            text.
        pooled: one vector per text, [B, D], not normalised.
    """

    tokens: ArrayT
    mask: ArrayT
    pooled: ArrayT

    def to(self, device: torch.device | str) -> TextEmbedding[Tensor]:
        """Tensors on a device."""
        return TextEmbedding(*(_tensor(part, device) for part in (self.tokens, self.mask, self.pooled)))

    def numpy(self) -> TextEmbedding[Array]:
        """NumPy arrays."""
        return TextEmbedding(*(_array(part) for part in (self.tokens, self.mask, self.pooled)))

    def select(self: TextEmbedding[Tensor], rows: slice) -> TextEmbedding[Tensor]:
        """The embeddings of some of the texts."""
        return TextEmbedding(self.tokens[rows], self.mask[rows], self.pooled[rows])

    def rolled(self: TextEmbedding[Tensor]) -> TextEmbedding[Tensor]:
        """Each text moved to the next image of the batch: mismatched texts."""
        return TextEmbedding(self.tokens.roll(1, 0), self.mask.roll(1, 0), self.pooled.roll(1, 0))


@dataclass(frozen=True)
class BasePreview(Generic[ArrayT]):
    """The small image that a base layer decodes to, and the region of the full image for which it is needed.

    Attributes:
        image: [B, 3, h, w], about 0..1.
        size: width and height of the full image in pixels.
        region: x, y, width, height in pixels of the full image; beyond its edges the edges are repeated.
    """

    image: ArrayT
    size: tuple[int, int]
    region: tuple[int, int, int, int]

    def to(self, device: torch.device | str) -> BasePreview[Tensor]:
        """Tensors on a device."""
        return BasePreview(_tensor(self.image, device), self.size, self.region)

    def pixels(self: BasePreview[Tensor]) -> Tensor:
        """The preview of the region at full resolution, [B, 3, height, width]. A pixel's value does not
        depend on the region.
        """
        import torch
        from torch.nn.functional import grid_sample

        x, y, width, height = self.region
        across, down = (
            (2 * (start + 0.5 + torch.arange(count, device=self.image.device)) / whole - 1)
            for start, count, whole in ((x, width, self.size[0]), (y, height, self.size[1]))
        )
        coordinates = torch.stack(torch.broadcast_tensors(across[None], down[:, None]), dim=-1)
        coordinates = coordinates.expand(len(self.image), -1, -1, -1).to(self.image.dtype)
        return grid_sample(
            self.image, coordinates, mode="bicubic", padding_mode="border", align_corners=False
        )

    def within(self, rows: slice, columns: slice) -> BasePreview[ArrayT]:
        """The preview of a part of the region; rows and columns are latent positions inside the region."""
        x, y = self.region[0] + LATENT_STRIDE * columns.start, self.region[1] + LATENT_STRIDE * rows.start
        width, height = (LATENT_STRIDE * (part.stop - part.start) for part in (columns, rows))
        return replace(self, region=(x, y, width, height))


@dataclass(frozen=True)
class Condition(Generic[ArrayT]):
    """Side input of a transform; fields that are None have no effect.

    Attributes:
        text: embeddings of texts.
        importance_map: log₂ of the factor by which the quantiser's step shrinks at each latent position, [B,
            H/16, W/16]; positive values spend more bits.
        preview: the decoded base layer.
        preference: what the image is decoded for, [B]: 0 people … 1 machines.
        categories: the probability that the text names each of COCO's categories, [B, 80].
        seed: of the noise from which a diffusion model samples, 0..2³² − 1.
        kept: False at latent positions whose values the decoder does not have, [B, H/16, W/16].
        compose: whether `Codec.decode` composes those values.
    """

    text: TextEmbedding[ArrayT] | None = None
    importance_map: ArrayT | None = None
    preview: BasePreview[ArrayT] | None = None
    preference: ArrayT | None = None
    categories: ArrayT | None = None
    seed: int | None = None
    kept: ArrayT | None = None
    compose: bool = False

    def to(self, device: torch.device | str) -> Condition[Tensor]:
        """Tensors on a device."""
        return Condition(
            None if self.text is None else self.text.to(device),
            None if self.importance_map is None else _tensor(self.importance_map, device),
            None if self.preview is None else self.preview.to(device),
            None if self.preference is None else _tensor(self.preference, device),
            None if self.categories is None else _tensor(self.categories, device),
            self.seed,
            None if self.kept is None else _tensor(self.kept, device),
            self.compose,
        )

    def within(self, rows: slice, columns: slice) -> Condition[ArrayT]:
        """The condition of a part of the image; rows and columns are latent positions."""
        importance_map: Any = self.importance_map
        kept: Any = self.kept
        return replace(
            self,
            importance_map=None if importance_map is None else importance_map[:, rows, columns],
            kept=None if kept is None else kept[:, rows, columns],
            preview=None if self.preview is None else self.preview.within(rows, columns),
        )


@dataclass(frozen=True)
class TileParts:
    """The parts of one tile.

    Attributes:
        numbers: the component of each position, 0 for the rest, [h, w].
        parts: in the order of coding: SIDE (the side information), the components that have positions here,
            and REST (the positions outside all components) if there are any; see `container.components`.
    """

    numbers: Array
    parts: Sequence[int]

    @property
    def components(self) -> list[int]:
        return [part for part in self.parts if part > 0]


@dataclass(frozen=True)
class PartialTile(TileParts):
    """A tile with missing parts.

    Attributes:
        missing: components, or REST. The rest is missing too if a component is.
    """

    missing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Batch:
    """The input of one training step.

    Attributes:
        x: crops, [B, 3, H, W], 0..1.
        level: quality · 8, integers in 0..800, [B].
        condition: side input, or None.
        boxes: of the objects of each crop, x0, y0, x1, y1 in its pixels, [N, 4]; None for data without boxes.
        partial: for each crop its components and the missing ones, None for a crop without components; None
            if no crop has any.
    """

    x: Tensor
    level: Tensor
    condition: Condition[Tensor] | None = None
    boxes: tuple[Tensor, ...] | None = None
    partial: tuple[PartialTile | None, ...] | None = None

    def run(self, codec: Callable[..., Output]) -> Output:
        """The output of a codec's network for the batch."""
        if self.partial is None:
            return codec(self.x, self.level, self.condition)
        return codec(self.x, self.level, self.condition, partial=self.partial)


@dataclass(frozen=True)
class Output:
    """The result of `CodecNetwork.forward`: x_hat [B, 3, H, W]; y_hat [B, h, w, M]; bits of each image,
    [B].
    """

    x_hat: Tensor
    y_hat: Tensor
    bits: Tensor


@dataclass(frozen=True)
class DiffusionOutput(Output):
    """The result of `forward` of a codec with a diffusion model; x_hat is empty in training mode.

    Attributes:
        latent_error: mean squared error of the decoded latent of the VAE, [B].
        noise_error: mean squared error of the predicted noise, [B].
    """

    latent_error: Tensor
    noise_error: Tensor


def _tensor(values: Any, device: torch.device | str) -> Tensor:
    import torch

    return torch.as_tensor(values, device=device)


def _array(values: Any) -> Array:
    import numpy as np

    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
