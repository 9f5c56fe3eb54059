"""Scalable codecs: a base layer for a detector, and an enhancement layer for viewing.

    image ── resize ── base ⇄ BASE ─┬─ h_hat ── detector ── objects
                                    └─ base preview ─┐
    image ─────────────────────────── enhancement ⇄ ENHANCEMENT ── image

The base layer codes the whole image at its detector's input size, so its bytes hardly depend on the image's
size, and it has one chunk. It conditions the enhancement's transforms, but not its entropy model: entropy
coding must be exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.codecs.codec import Codec, Latents, Progress
from trifocal.codecs.components import ComponentRequest
from trifocal.codecs.mask import Mask
from trifocal.codecs.rate_control import (
    DEFAULT_BASE,
    HIGHEST_DEFAULT,
    BaseLayerOptions,
    Rate,
    default_base_quality,
)
from trifocal.codecs.runtime import ScalableRuntime, file_arithmetic
from trifocal.container import Bitstream, Layer, Tag
from trifocal.detection.detections import Detections, rescale
from trifocal.entropy.coder import Array
from trifocal.entropy.latent_coding import read_latents, write_latents
from trifocal.errors import Damaged, MissingLayer
from trifocal.pictures import Picture
from trifocal.pictures.canvas import Canvas
from trifocal.pictures.tiles import Region
from trifocal.types import LEVELS_PER_QUALITY, TILE, BasePreview, Condition
from trifocal.utils.memory import trim_heap
from trifocal.utils.timing import Stopwatch

if TYPE_CHECKING:
    from trifocal.codecs.base_layer import ScalableNetwork
    from trifocal.detection.detector import SplitDetector

__all__ = ["ScalableCodec", "detect_objects"]

UNCONDITIONED = 128  # in the first byte of BASE: the enhancement is not conditioned on the base preview
BASE_QUALITIES = (20, 10, 0)  # tried in this order when a file size is requested
BASE_SHARE = 0.15  # largest share of the requested size that the base layer may take


class ScalableCodec(Codec):
    """A codec with a base layer. Its runtime is a `ScalableRuntime`.

    `decode` and `decode_latents` raise MissingLayer without base or enhancement; `timings` of `decode` also
    receives the seconds of the base layer.
    """

    runtime: ScalableRuntime
    layer = Tag.ENHANCEMENT

    @property
    def network(self) -> ScalableNetwork:
        """The torch network; its base layer is `network.base`."""
        return cast("ScalableNetwork", super().network)

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
        """As `Codec.encode_picture`, with a base layer.

        Args:
            base: its quality is by default min(20, quality / 2); for a requested size the first of 20, 10 and
                0 at which it takes at most 15 % of that. Its refinement is by default that of the preset.
            timings: also receives the seconds of the base layer, with those of finding components.
            components: objects that get chunks of their own.

        Raises:
            WeightsError: if the base layer is refined and its detector is not installed, or the grounder of
                the components is not.
            MissingExtra: if the packages of the grounder are not installed.
        """
        *_, whole = self.encode_in_parts(
            picture, rate, base, condition, layers, progress, timings, mask, components
        )
        return whole

    def encode_base(
        self,
        picture: Picture,
        rate: Rate,
        base: BaseLayerOptions = DEFAULT_BASE,
        timings: dict[str, float] | None = None,
    ) -> Bitstream:
        """The file with the base layer alone; nothing of the enhancement is computed. `rate` is a quality."""
        return next(self.encode_in_parts(picture, rate, base, timings=timings))

    def encode_in_parts(
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
    ) -> Iterator[Bitstream]:
        """The file with the base layer alone, as soon as that is coded, and then the whole file; arguments
        and errors as for `encode_picture`. For a requested size only the whole file, since the quality in its
        header is found last.
        """
        rate = rate.at_level(self.only_level)
        size = rate.size(picture.width * picture.height)
        with Stopwatch(timings)("base"):
            layer, y_hat, small_size = self._encode_base(picture, rate.level, size, base)
        if rate.level is not None:
            yield Bitstream(self._header(picture, rate.level), (layer,))
        with Stopwatch(timings)("base"):
            objects = () if components is None else components.choose(picture.rgb)
            preview = self._preview(y_hat, small_size, picture, base)
        if preview is not None:
            condition = replace(condition or Condition(), preview=preview)
        if base.refinement != 0 and max(picture.width, picture.height) > TILE:
            trim_heap()  # the memory of the gradients, before the tiles allocate blocks of other sizes
        yield self._encode(picture, rate, condition, (layer, *layers), progress, timings, mask, objects)

    def analyse(
        self,
        picture: Picture,
        condition: Condition[Any] | None = None,
        mask: Mask | None = None,
        layers: Sequence[Layer] = (),
        base_quality: int = HIGHEST_DEFAULT,
        refinement: int | None = None,
    ) -> Latents:
        """The latents of the enhancement layer, given a base layer, which they carry in `layers`."""
        options = BaseLayerOptions(base_quality, refinement)
        base, y_hat, small_size = self._encode_base(picture, None, None, options)
        preview = self._preview(y_hat, small_size, picture, options)
        condition = replace(condition or Condition(), preview=preview)
        return super().analyse(picture, condition, mask, (base, *layers))

    def detect(self, bitstream: Bitstream) -> Detections:
        """The objects that the detector finds in the base layer; boxes in pixels of the image. Raises
        MissingLayer, Damaged.
        """
        _, y_hat, size = self._decode_base(bitstream)
        whole = bitstream.header.width, bitstream.header.height
        return rescale(self.runtime.base.detect(y_hat, size), size[::-1], whole)

    def base_preview(self, bitstream: Bitstream) -> Picture:
        """The image that the base layer decodes to, at the full size. Raises MissingLayer, Damaged."""
        _, y_hat, size = self._decode_base(bitstream)
        values = np.rint(self.runtime.base.preview(y_hat, size)[0].transpose(1, 2, 0) * np.float32(255))
        small = np.ascontiguousarray(values.clip(0, 255).astype(np.uint8))
        full = bitstream.header.width, bitstream.header.height
        return Picture(np.asarray(Image.fromarray(small).resize(full, Image.Resampling.BICUBIC)))

    def _encode_base(
        self,
        picture: Picture,
        level: int | None,
        size: int | None,
        base: BaseLayerOptions,
    ) -> tuple[Layer, Array, tuple[int, int]]:
        """Encode the base layer for a quality level of the enhancement layer or a requested file size.
        Returns the layer, y_obj_hat, and width and height of the small image.
        """
        quality = base.quality
        steps = self.runtime.base.refinement if base.refinement is None else base.refinement
        if quality is None and level is not None:
            quality = default_base_quality(level)
        if steps:
            self.runtime.base.prepare_refinement()
        small_size = self.runtime.base.input_size(picture.width, picture.height)
        small = resized(picture, small_size)
        chosen, data, y_hat = self._base_within(small, quality, size, steps)
        flags = chosen if base.condition_enhancement else chosen | UNCONDITIONED
        layer = Layer(Tag.BASE, (bytes([flags]) + data,))
        return layer, y_hat, small_size

    def _preview(
        self, y_hat: Array, small_size: tuple[int, int], picture: Picture, base: BaseLayerOptions
    ) -> BasePreview[Array] | None:
        """The preview on which the enhancement is conditioned; None if it is not."""
        if not base.condition_enhancement:
            return None
        preview = self.runtime.base.preview(y_hat, small_size)
        return whole_preview(preview, picture.width, picture.height)

    def _base_within(
        self, small: NDArray[np.uint8], quality: int | None, size: int | None, steps: int
    ) -> tuple[int, bytes, Array]:
        """Quality, bytes and y_obj_hat of a base layer of that quality, or of one that suits a file of that
        size.
        """
        *higher, last = BASE_QUALITIES if quality is None else (quality,)
        base = self.runtime.base
        entropy, y = base.entropy(), base.analyse(small)

        def write(quality: int) -> tuple[bytes, Array]:
            return write_latents(entropy, y, np.array([quality * LEVELS_PER_QUALITY]))[:2]

        fitting = (q for q in higher if size is None or len(write(q)[0]) <= BASE_SHARE * size)
        chosen = next(fitting, last)
        if steps:
            y = base.refine(small, y, chosen * LEVELS_PER_QUALITY, steps)
        return chosen, *write(chosen)

    def _canvas_and_region(self, bitstream: Bitstream, region: Region | None) -> tuple[Canvas, Region]:
        check_both_layers(bitstream)
        return super()._canvas_and_region(bitstream, region)

    def _decoding_condition(
        self, bitstream: Bitstream, condition: Condition[Any] | None, stopwatch: Stopwatch
    ) -> Condition[Any] | None:
        """The condition, with the base preview of the file where the enhancement uses it."""
        with stopwatch("base"):
            flags, y_hat, size = self._read_base(bitstream)
            if flags & UNCONDITIONED:
                return condition
            header = bitstream.header
            preview = whole_preview(self.runtime.base.preview(y_hat, size), header.width, header.height)
            return replace(condition or Condition(), preview=preview)

    def _decode_base(self, bitstream: Bitstream) -> tuple[int, Array, tuple[int, int]]:
        """As `_read_base`, after the checks of the header."""
        if bitstream.layer(Tag.BASE) is None:
            raise MissingLayer("This file has no base layer; restore it with `trifocal merge`.")
        self.check_header(bitstream.header)
        bitstream.header.check_pixels()
        return self._read_base(bitstream)

    def _read_base(self, bitstream: Bitstream) -> tuple[int, Array, tuple[int, int]]:
        """The first byte, y_obj_hat, and width and height of the small image."""
        layer = bitstream.layer(Tag.BASE)
        assert layer is not None
        chunk = layer.chunks[0]
        if not chunk or chunk[0] & ~UNCONDITIONED > 100:
            raise Damaged("The base layer of this file is damaged, and decoding needs it.")
        base = self.runtime.base
        size = base.input_size(bitstream.header.width, bitstream.header.height)
        level = np.array([(chunk[0] & ~UNCONDITIONED) * LEVELS_PER_QUALITY])
        entropy = base.entropy(file_arithmetic(self.runtime, bitstream.header, refresh=False))
        y_hat, _ = read_latents(entropy, chunk[1:], level, base.latent_size(*size))
        return chunk[0], y_hat, size


def check_both_layers(bitstream: Bitstream) -> None:
    """Raises MissingLayer unless a file has base and enhancement."""
    if bitstream.layer(Tag.BASE) is None:
        raise MissingLayer(
            "This file has no base layer, which decoding needs. Restore it with `trifocal merge`."
        )
    if bitstream.layer(Tag.ENHANCEMENT) is None:
        raise MissingLayer(
            "This file has only a base layer: `trifocal detect` finds objects in it, `trifocal decode "
            "--layers base` shows its "
            "preview, and `trifocal merge` restores the rest."
        )


def detect_objects(
    picture: Picture,
    detector: SplitDetector | None = None,
    engine: str | None = None,
    device: str = "cpu",
) -> Detections:
    """The objects that a detector finds in an image; boxes in its pixels. By default the bundled compact
    detector, on that engine.
    """
    if detector is None and engine != "torch" and device == "cpu":
        from trifocal.detection.compact_onnx import load_compact_detector

        return load_compact_detector().find(picture.rgb)
    import torch

    from trifocal.codecs.base_layer import bundled_detector
    from trifocal.codecs.torch_runtime import image_tensor

    detector = detector or bundled_detector(device)
    with torch.inference_mode():
        size = detector.input_size(picture.width, picture.height)
        x = image_tensor(resized(picture, size), next(detector.parameters()).device)
        return rescale(detector(x)[0], size[::-1], (picture.width, picture.height))


def resized(picture: Picture, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image at that width and height, [H, W, 3]."""
    return np.array(Image.fromarray(picture.rgb).resize(size, Image.Resampling.BICUBIC))


def whole_preview(picture: Array, width: int, height: int) -> BasePreview[Array]:
    """The preview of a whole image of that width and height."""
    return BasePreview(picture, (width, height), (0, 0, width, height))
