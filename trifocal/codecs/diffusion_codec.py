"""A codec whose decoder samples the whole image at once, from noise that a seed in the file gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifocal.codecs.codec import Codec, Decoded, Latents, Progress
from trifocal.codecs.components import ComponentRequest
from trifocal.codecs.mask import Mask
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.rate_control import DEFAULT_BASE, BaseLayerOptions, Rate
from trifocal.codecs.tile_coding import GREY, TileCoder, to_pixels
from trifocal.codecs.torch_runtime import TorchRuntime, as_array
from trifocal.container import Bitstream, Layer, Tag
from trifocal.container.bitstream import FileInput, as_bitstream
from trifocal.container.seed import pixel_seed, read_seed, seed_layer
from trifocal.entropy.coder import Array
from trifocal.errors import PresetError
from trifocal.pictures import Picture
from trifocal.pictures.canvas import Canvas, paste
from trifocal.pictures.tiles import Region, Tile
from trifocal.types import Condition
from trifocal.utils.timing import Stopwatch

__all__ = ["DiffusionCodec", "DiffusionNetwork", "DiffusionRuntime", "WholeImageCoder"]


class DiffusionNetwork(CodecNetwork):
    """A network whose decoder samples whole images, from y_hat with z_hat as further channels.

    Attributes:
        hyper_channels: Z.
    """

    hyper_channels: int

    def synthesise(
        self,
        y_hat: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """y_hat [B, h, w, M + Z] → x_hat [B, 3, 16·h, 16·w]; `progress` gets the fraction done, 0..1."""
        raise NotImplementedError


class DiffusionRuntime(TorchRuntime):
    """The networks of a codec with a `DiffusionNetwork`."""

    network: DiffusionNetwork

    def __init__(self, network: DiffusionNetwork) -> None:
        super().__init__(network)
        self.hyper_channels = network.hyper_channels

    @torch.inference_mode()
    def synthesise(
        self,
        y_hat: Array,
        level: int,
        condition: Condition[Any] | None,
        progress: Callable[[float], None] | None = None,
    ) -> Array:
        """y_hat [1, h, w, M + Z] of a whole image → x_hat [1, 3, 16·h, 16·w], float32, about 0..1."""
        device = self.network.device
        latent, levels = torch.from_numpy(y_hat).to(device), torch.tensor([level], device=device)
        return as_array(self.network.synthesise(latent, levels, self._tensors(condition), progress))


class WholeImageCoder(TileCoder):
    """Codes latents in tiles, and renders all of them at once."""

    runtime: DiffusionRuntime
    reading_ends = 0.1

    @property
    def decoded_channels(self) -> int:
        return self.runtime.latent_channels + self.runtime.hyper_channels

    def needed_tiles(self, canvas: Canvas, region: Region) -> tuple[Tile, ...]:
        return canvas.tiles()

    def render(
        self,
        y_hat: Array,
        canvas: Canvas,
        frame: Region,
        region: Region,
        level: int,
        condition: Condition[Any] | None,
        lost: set[int],
        progress: Progress | None,
        stopwatch: Stopwatch,
    ) -> NDArray[np.uint8]:
        """As `TileCoder.render`, from the latents of the whole image."""

        def sampled(fraction: float) -> None:
            if progress:
                progress(self.reading_ends + (1 - self.reading_ends) * fraction)

        with stopwatch("synthesis"):
            whole = to_pixels(self.runtime.synthesise(y_hat, level, condition, sampled)[0])
        rgb = np.empty((region[3], region[2], 3), dtype=np.uint8)
        paste(rgb, region, (0, 0, *canvas.padded), whole)
        for tile in canvas.tiles_in(region):
            if tile.index in lost:
                paste(rgb, region, canvas.core(tile), GREY)
        return rgb


class DiffusionCodec(Codec):
    """A codec with a `DiffusionRuntime`. Its files have a SEED layer, and may have components."""

    runtime: DiffusionRuntime
    tile_coder = WholeImageCoder
    look_of_missing = "generated from the side information"

    def encode_picture(
        self,
        picture: Picture,
        rate: Rate,
        base: BaseLayerOptions = DEFAULT_BASE,
        condition: Condition[Any] | None = None,
        layers: Sequence[Layer] = (),
        progress: Progress | None = None,
        timings: dict[str, float] | None = None,
        mask: Mask | None = None,
        components: ComponentRequest | None = None,
    ) -> Bitstream:
        """As `Codec.encode_picture`.

        Args:
            layers: may have a SEED layer (`container.seed.seed_layer`); otherwise the seed follows from the
                pixels.
            components: objects that get chunks of their own.
        """
        if not base.is_default:
            raise PresetError(
                "This codec has no base layer; leave base_quality and refinement out, or load a scalable "
                "preset."
            )
        objects = () if components is None else components.choose(picture.rgb)
        layers = with_seed(picture, layers)
        return self._encode(picture, rate, condition, layers, progress, timings, mask, objects)

    def decode(
        self,
        source: FileInput,
        region: Region | None = None,
        best_effort: bool = False,
        condition: Condition[Any] | None = None,
        progress: Progress | None = None,
        timings: dict[str, float] | None = None,
    ) -> Decoded:
        """As `Codec.decode`. A damaged SEED layer counts as 0 with `best_effort`."""
        stream = as_bitstream(source, best_effort)
        if best_effort and any(layer.tag == Tag.SEED and layer.damaged for layer in stream.layers):
            stream = stream.with_layer(seed_layer(0))
        return super().decode(stream, region, best_effort, condition, progress, timings)

    def analyse(
        self,
        picture: Picture,
        condition: Condition[Any] | None = None,
        mask: Mask | None = None,
        layers: Sequence[Layer] = (),
    ) -> Latents:
        """As `Codec.analyse`. `synthesise` takes only latents of `decode_latents`, which have z_hat too."""
        return super().analyse(picture, condition, mask, with_seed(picture, layers))

    def _decoding_condition(
        self, bitstream: Bitstream, condition: Condition[Any] | None, stopwatch: Stopwatch
    ) -> Condition[Any] | None:
        """The condition, with the seed of the file."""
        return replace(condition or Condition(), seed=read_seed(bitstream))


def with_seed(picture: Picture, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with a SEED layer, which follows from the pixels if it is not given."""
    if any(layer.tag == Tag.SEED for layer in layers):
        return tuple(layers)
    return (*layers, seed_layer(pixel_seed(picture.rgb.tobytes())))
