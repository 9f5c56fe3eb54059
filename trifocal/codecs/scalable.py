"""Two layers: a base that a detector reads, and on it an enhancement for people. What the dual-layer methods share.

    picture ── small ── base ⇄ BASE ─┬─ h_hat ── the detector's rest ── objects
                                     └─ first picture ─┐
    picture ─────────────────────────── codec ⇄ ENHANCEMENT ── picture

The base layer looks at the whole picture at the size at which its detector does, so its bytes hardly depend on the picture's
size, and it has one chunk. What it says of the enhancement's latents stands outside the walk (DESIGN section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from trifocal.codecs.codec import Codec, Decoded, Progress
from trifocal.codecs.rate_control import rate_of
from trifocal.container import Bitstream, Layer, Tag
from trifocal.detection.feature_codec import PADDING, crop_features, pad_image
from trifocal.detection.input_size import STEP, compact_size
from trifocal.entropy import EntropyModel, RateEstimator, Reader, TrainingRateEstimator, Writer
from trifocal.errors import Damaged, MissingLayer, OptionError
from trifocal.pictures import Picture
from trifocal.pictures.tiles import Region
from trifocal.types import LEVELS_PER_QUALITY, BasePreview, Condition, Output
from trifocal.utils.timing import Stopwatch, gc_paused

if TYPE_CHECKING:
    from trifocal.detection.detector import Detections, SplitDetector

__all__ = ["BaseLayer", "BaseOutput", "ScalableCodec", "detect_objects"]

ALONE = 128  # in the first byte of BASE: the enhancement does not use the first picture
BASE_QUALITIES, BASE_SHARE = (20, 10, 0), 0.15  # where a size is asked for, and of it
ANY_BASE_QUALITY = 0.5  # of training steps
ENOUGH = 20  # of the base layer's quality, unless more is asked for: people pay its bytes


@dataclass(frozen=True)
class BaseOutput:
    """What `BaseLayer.forward` returns.

    Attributes:
        h_hat: what is left of the detector's features of x, [B, h, w, C].
        first: the first picture, [B, 3, H, W], about 0..1.
        bits: for each picture, [B].
    """

    h_hat: Tensor
    first: Tensor
    bits: Tensor


class BaseLayer(nn.Module):
    """A small picture ⇄ bytes ⇄ a detector's features. The detector is no part of it, and never trained with it.

    Args:
        analysis: x → y_obj [B, H/16, W/16, M].
        entropy: y_obj ⇄ coder ⇄ y_obj_hat.
        synthesis: y_obj_hat → h_hat.
        extractor: h_hat → the first picture.
    """

    def __init__(
        self, analysis: nn.Module, entropy: EntropyModel, synthesis: nn.Module, extractor: nn.Module
    ) -> None:
        super().__init__()
        self.analysis, self.entropy = analysis, entropy
        self.synthesis, self.extractor = synthesis, extractor

    def forward(
        self, x: Tensor, level: Tensor, meter: RateEstimator | TrainingRateEstimator | None = None
    ) -> BaseOutput:
        """x [B, 3, H, W] in 0..1, H and W multiples of 32; level [B]. A meter walks."""
        if meter is None:
            meter = (
                TrainingRateEstimator(len(x), x.device)
                if self.training
                else RateEstimator(self.entropy.cost(), len(x))
            )
        y = self.analyse(x)
        with torch.autocast(x.device.type, enabled=False):  # rates need their digits
            y_hat = self.entropy.code_latents(meter, y.float(), level, (y.shape[1], y.shape[2]))
        h_hat, first = self.synthesise(y_hat, (x.shape[2], x.shape[3]))
        return BaseOutput(h_hat, first, meter.bits)

    def synthesise(self, y_hat: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """y_obj_hat → h_hat and the first picture of a small picture of that height and width."""
        h_hat: Tensor = self.synthesis(y_hat)
        h_hat = crop_features(h_hat, 16 * y_hat.shape[1] // h_hat.shape[1], size)
        first: Tensor = self.extractor(h_hat)
        return h_hat, first[:, :, : size[0], : size[1]]

    def analyse(self, x: Tensor) -> Tensor:
        """Small pictures x [B, 3, H, W] in 0..1 → y_obj."""
        y: Tensor = self.analysis(pad_image(x))
        return y

    def encode(self, y: Tensor, quality: int) -> tuple[bytes, Tensor]:
        """y_obj of one picture → the bytes, and y_obj_hat."""
        writer = Writer(self.entropy.models())
        y_hat = self.entropy.code_latents(writer, y, level_of(quality, y.device), (y.shape[1], y.shape[2]))
        return writer.bytes(), y_hat

    def decode(self, data: bytes, quality: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """The inverse of `encode`, for a small picture of that height and width → y_obj_hat. Raises Damaged."""
        rows, columns = ((side + -side % PADDING) // 16 for side in size)
        reader = Reader(self.entropy.models(), data)
        y_hat = self.entropy.code_latents(reader, None, level_of(quality, device), (rows, columns))
        reader.end()
        return y_hat


@gc_paused()
def shipped_detector(device: str) -> SplitDetector:
    """The compact one; torchvision is imported only now. Raises WeightsError."""
    from trifocal.detection.detector import load_detector

    return load_detector(device)


class ScalableCodec(Codec):
    """A codec on a base layer. A method overrides what it makes of `condition.preview` in `analyse` and `synthesise`.

    Attributes:
        base: the base layer.
        find_detector: a device's name → the detector that the base layer serves; who decodes does not need it.
        input_size: a picture's width and height → those at which it looks at it; known without it.
        refinement: steps that fit a base layer to its picture, where nothing else is said; for them the detector must be at hand.
        scales: how much smaller than they are, or larger, the base sees crops in training; the first of them in validation.
    """

    layer = Tag.ENHANCEMENT
    scales: tuple[float, ...] = (0.625, 0.5, 0.75)
    refinement = 4
    find_detector: Callable[[str], SplitDetector] = staticmethod(shipped_detector)
    input_size: Callable[[int, int], tuple[int, int]] = staticmethod(compact_size)

    def __init__(
        self,
        base: BaseLayer,
        analysis: nn.Module,
        entropy: EntropyModel,
        synthesis: nn.Module,
        receptive_field: int,
    ) -> None:
        super().__init__(analysis, entropy, synthesis, receptive_field)
        self.base = base

    def train(self, mode: bool = True) -> ScalableCodec:
        """The base layer is trained by itself, and is used as it is while the enhancement learns."""
        super().train(mode)
        self.base.eval()
        return self

    @property
    def detector(self) -> SplitDetector:
        return self.find_detector(str(self._device()))

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        meter: RateEstimator | TrainingRateEstimator | None = None,
    ) -> Output:
        """As the codec's, on a base layer of its own where the condition brings none; its bits count, and it is not trained.

        The base sees a crop at another size than its own, as it sees pictures.
        """
        bits = x.new_zeros(len(x))
        if condition is None or condition.preview is None:
            first, bits = self.below(x, level)
            condition = replace(condition or Condition(), preview=first)
        output = super().forward(x, level, condition, meter)
        return replace(output, bits=output.bits + bits.to(output.bits))

    @torch.no_grad()
    def below(self, x: Tensor, level: Tensor) -> tuple[BasePreview, Tensor]:
        """The first picture of crops and the bits of their base layers, [B]. Training draws the scale, and in half of the steps base
        qualities from all of 0..100, since users may choose any."""
        scale = self.scales[int(torch.randint(len(self.scales), ()))] if self.training else self.scales[0]
        size = [max(STEP, round(side * scale / STEP) * STEP) for side in x.shape[2:]]
        small = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        below = base_level(level)
        if self.training and float(torch.rand(())) < ANY_BASE_QUALITY:
            below = LEVELS_PER_QUALITY * torch.randint_like(level, 101)
        output = self.base(small.clamp(0, 1), below)
        height, width = x.shape[2:]
        return BasePreview(output.first, (width, height), (0, 0, width, height)), output.bits

    @torch.inference_mode()
    def encode(
        self,
        picture: Picture,
        quality: float | None = None,
        bpp: float | None = None,
        size: int | None = None,
        condition: Condition | None = None,
        layers: Sequence[Layer] = (),
        progress: Progress | None = None,
        timings: dict[str, float] | None = None,
        base_quality: int | None = None,
        refinement: int | None = None,
        conditions: bool = True,
    ) -> Bitstream:
        """As `Codec.encode`, and a base layer under it.

        Args:
            base_quality: of the base layer, 0..100; if None it is half of the quality up to ENOUGH, and where a size is asked for the
                first of BASE_QUALITIES that leaves the picture its share.
            refinement: steps that fit the base layer to the picture (`refinement.py`), 0 for none; if None as many as the
                method takes.
            conditions: whether the enhancement uses what the base layer shows of the picture.
            timings: gets the seconds of the base layer too, whole.

        Raises:
            OptionError: for a base quality out of its range, fewer steps than none, and as `Codec.encode`.
            WeightsError: if the base layer is to be refined, and its detector is not to be had.
        """
        rate = rate_of(picture.width * picture.height, quality, bpp, size)
        if base_quality is not None and not 0 <= base_quality <= 100:
            raise OptionError(f"The base layer's quality goes from 0 to 100, not {base_quality}.")
        steps = self.refinement if refinement is None else refinement
        if steps < 0:
            raise OptionError(f"A base layer is refined in 0 steps or more, not {steps}.")
        if base_quality is None and rate.level is not None:
            base_quality = int(base_level(torch.tensor(rate.level))) // LEVELS_PER_QUALITY
        with Stopwatch(timings)("base"):
            x = self._small(picture)
            chosen, data, y_hat = self._base_within(x, base_quality, rate.size, steps)
            flags = chosen if conditions else chosen | ALONE
            base = Layer(Tag.BASE, (bytes([flags]) + data,))
            if conditions:
                _, first = self.base.synthesise(y_hat, (x.shape[2], x.shape[3]))
                condition = replace(
                    condition or Condition(), preview=whole(first, picture.width, picture.height)
                )
        return super().encode(picture, quality, bpp, size, condition, (base, *layers), progress, timings)

    def _base_within(
        self, x: Tensor, quality: int | None, size: int | None, steps: int
    ) -> tuple[int, bytes, Tensor]:
        """A small picture's base layer at a quality, or at that which suits a file of so many bytes: the quality, bytes, y_obj_hat."""
        *more, last = BASE_QUALITIES if quality is None else (quality,)
        y = self.base.analyse(x)
        fitting = (q for q in more if size is None or len(self.base.encode(y, q)[0]) <= BASE_SHARE * size)
        chosen = next(fitting, last)
        if steps:
            detector = self.detector
            from trifocal.codecs.latent_refinement import (
                refined,  # brings what the detector has brought already
            )

            y = refined(self.base, detector, x, y, level_of(chosen, y.device), steps)
        return chosen, *self.base.encode(y, chosen)

    @torch.inference_mode()
    def decode(
        self,
        bitstream: Bitstream,
        region: Region | None = None,
        best_effort: bool = False,
        condition: Condition | None = None,
        progress: Progress | None = None,
        timings: dict[str, float] | None = None,
    ) -> Decoded:
        """As `Codec.decode`, with the seconds of the base layer in `timings` too. Raises MissingLayer where base or enhancement are not there."""
        if bitstream.layer(Tag.BASE) is None:
            raise MissingLayer(
                "The file has no base layer, on which all else stands; bring it with `trifocal merge`."
            )
        if bitstream.layer(Tag.ENHANCEMENT) is None:
            raise MissingLayer(
                "The file has only a base layer: `trifocal detect` says what is in the picture, `trifocal decode --layers base` "
                "shows what the base layer knows of it, and `trifocal merge` brings the rest."
            )
        with Stopwatch(timings)("base"):
            flags, y_hat, size = self._base_of(bitstream)
            if not flags & ALONE:
                _, first = self.base.synthesise(y_hat, size)
                header = bitstream.header
                condition = replace(
                    condition or Condition(), preview=whole(first, header.width, header.height)
                )
        return super().decode(bitstream, region, best_effort, condition, progress, timings)

    @torch.inference_mode()
    def detect(self, bitstream: Bitstream) -> Detections:
        """What the detector finds in the base layer; boxes in pixels of the picture. Raises MissingLayer, Damaged."""
        _, y_hat, size = self._base_of(bitstream)
        h_hat, _ = self.base.synthesise(y_hat, size)
        return enlarged(
            self.detector.rest(h_hat, size)[0], size, bitstream.header.width, bitstream.header.height
        )

    @torch.inference_mode()
    def base_preview(self, bitstream: Bitstream) -> Picture:
        """What the base layer shows of the picture, at the picture's size. Raises MissingLayer, Damaged."""
        _, y_hat, size = self._base_of(bitstream)
        _, first = self.base.synthesise(y_hat, size)
        small = first[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().cpu().numpy()
        whole_size = bitstream.header.width, bitstream.header.height
        rgb = np.asarray(Image.fromarray(small).resize(whole_size, Image.Resampling.BICUBIC))
        return Picture(rgb)

    def _base_of(self, bitstream: Bitstream) -> tuple[int, Tensor, tuple[int, int]]:
        """The first byte, y_obj_hat, and height and width of the small picture."""
        layer = bitstream.layer(Tag.BASE)
        if layer is None:
            raise MissingLayer("The file has no base layer for a detector; bring it with `trifocal merge`.")
        self.check_header(bitstream.header)
        bitstream.header.check_pixels()
        chunk = layer.chunks[0]
        if not chunk or chunk[0] & ~ALONE > 100:
            raise Damaged("The file is damaged in its base layer, on which all else stands.")
        width, height = self.input_size(bitstream.header.width, bitstream.header.height)
        y_hat = self.base.decode(chunk[1:], chunk[0] & ~ALONE, (height, width), self._device())
        return chunk[0], y_hat, (height, width)

    def _small(self, picture: Picture) -> Tensor:
        return small(picture, self.input_size(picture.width, picture.height), self._device())


def detect_objects(picture: Picture, detector: SplitDetector | None = None) -> Detections:
    """What a detector (the compact one that ships, if None) finds in a picture; boxes in its pixels."""
    detector = detector or shipped_detector("cpu")
    with torch.inference_mode():
        size = detector.input_size(picture.width, picture.height)
        x = small(picture, size, next(detector.parameters()).device)
        return enlarged(detector(x)[0], (x.shape[2], x.shape[3]), picture.width, picture.height)


def small(picture: Picture, size: tuple[int, int], device: torch.device) -> Tensor:
    """The picture at that width and height, as a detector looks at it, [1, 3, H, W] in 0..1."""
    rgb = np.array(Image.fromarray(picture.rgb).resize(size, Image.Resampling.BICUBIC))
    return torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float() / 255


def enlarged(found: Detections, size: tuple[int, int], width: int, height: int) -> Detections:
    """Boxes of a small picture (height, width) in pixels of the whole."""
    scale = found.boxes.new_tensor([width / size[1], height / size[0]] * 2)
    return replace(found, boxes=found.boxes * scale)


def whole(first: Tensor, width: int, height: int) -> BasePreview:
    return BasePreview(first, (width, height), (0, 0, width, height))


def level_of(quality: int, device: torch.device) -> Tensor:
    return torch.tensor([quality * LEVELS_PER_QUALITY], device=device)


def base_level(level: Tensor) -> Tensor:
    """The base layer's level for that of the enhancement, [B] → [B]: half of it up to ENOUGH, in whole qualities."""
    return (level // (2 * LEVELS_PER_QUALITY)).clamp(max=ENOUGH) * LEVELS_PER_QUALITY
