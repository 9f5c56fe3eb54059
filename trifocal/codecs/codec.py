"""The road on one page: image → analysis → y → entropy ⇄ bytes → y_hat → synthesis → image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trifocal.codecs.metadata_layers import layers_of_metadata, picture_of
from trifocal.codecs.rate_control import rate_of, search
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.container.fields import VERSION, hexadecimal
from trifocal.entropy import Coder, EntropyModel, RateEstimator, Reader, TrainingRateEstimator, Writer
from trifocal.entropy.exact import ARITHMETIC
from trifocal.errors import Damaged, WeightsError
from trifocal.pictures import Picture
from trifocal.pictures.canvas import LATENT_STRIDE, Canvas, paste, window
from trifocal.pictures.tiles import Region, Tile, check_region
from trifocal.types import Condition, Output
from trifocal.utils.timing import Stopwatch
from trifocal.weights import checksum, fingerprint

GREY = 128
SEARCH_BEGINS = 0.3  # of the progress, where a size was asked for

Progress = Callable[[float], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Decoded:
    """A decoded picture, and the numbers of the tiles that were damaged (only with `best_effort`)."""

    picture: Picture
    damaged: tuple[int, ...] = field(default=())


class Codec(nn.Module):
    """A picture ⇄ a stream of bytes. A method overrides what its paper changes.

    Args:
        analysis: x → y.
        entropy: y ⇄ coder ⇄ y_hat.
        synthesis: y_hat, level → x_hat.
        reach: pixels to each side that analysis and synthesis look at, a multiple of 16.
    """

    preset_id = 0
    layer = Tag.LATENT  # that holds the latents' tiles

    def __init__(
        self, analysis: nn.Module, entropy: EntropyModel, synthesis: nn.Module, receptive_field: int
    ) -> None:
        super().__init__()
        self.analysis = analysis
        self.entropy = entropy
        self.synthesis = synthesis
        self.receptive_field = receptive_field
        self._checksum: tuple[int, ...] = ()
        self._fingerprints: dict[int, int | None] = {}

    @property
    def fingerprint(self) -> int:
        """Of the weights as they are, as files name it."""
        mark = self.fingerprint_in(VERSION)
        assert mark is not None
        return mark

    def fingerprint_in(self, version: int) -> int | None:
        """That of a version of the file format; see `weights.fingerprint`."""
        now = checksum(self)
        if now != self._checksum:
            self._checksum, self._fingerprints = now, {}
        if version not in self._fingerprints:
            self._fingerprints[version] = fingerprint(self.state_dict(), version, ARITHMETIC)
        return self._fingerprints[version]

    def check_header(self, header: Header) -> None:
        """Raises WeightsError where a file was not made with this preset and these weights."""
        if header.preset != self.preset_id:
            raise WeightsError(
                f"The file is of preset number {header.preset} and this codec is number {self.preset_id}; "
                "`trifocal.decode` finds the codec of a file."
            )
        have = self.fingerprint_in(header.version)
        if have != header.fingerprint:
            raise WeightsError(
                f"The file was made with weights {header.fingerprint_hex}, and this codec has {hexadecimal(self.fingerprint)}; "
                "`trifocal.decode` finds the weights of a file."
            )

    def prepare(self, picture: Picture, condition: Condition | None) -> Condition | None:
        """What of the condition needs the whole picture, before its tiles are analysed; here nothing does."""
        return condition

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M]. A method may let the condition steer; here nothing does."""
        y: Tensor = self.analysis(x.to(dtype_of(self.analysis)))
        return y.float()

    def code_latents(self, coder: Coder, y: Tensor | None, level: Tensor, size: tuple[int, int]) -> Tensor:
        """y, or the coder's bytes → y_hat [B, h, w, M]; the only entropy road there is."""
        return self.entropy.code_latents(coder, y, level, size)

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]. A method may let the condition steer; here nothing does."""
        x_hat: Tensor = self.synthesis(y_hat.to(dtype_of(self.synthesis)), level)
        return x_hat.float()

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        meter: RateEstimator | TrainingRateEstimator | None = None,
    ) -> Output:
        """x [B, 3, H, W] in 0..1, H and W multiples of 64; level [B] → Output. The meter walks, or one that is made here."""
        y = self.analyse(x, condition)
        meter = meter or self._meter(x)
        y_hat = self.code_latents(meter, y, level, (y.shape[1], y.shape[2]))
        return Output(self.synthesise(y_hat, level, condition), y_hat, meter.bits)

    def _meter(self, x: Tensor) -> RateEstimator | TrainingRateEstimator:
        return (
            TrainingRateEstimator(len(x), x.device)
            if self.training
            else RateEstimator(self.entropy.cost(), len(x))
        )

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
    ) -> Bitstream:
        """A Writer walks each tile.

        Args:
            picture: what to encode.
            quality: 0..100, kept to 1/8; 50 if none of the three is given.
            bpp: bits of the whole file per pixel, to stay at or under.
            size: bytes of the whole file, to stay at or under. A size that quality 100 does not fill is not an error.
            condition: what steers the analysis, of one picture.
            layers: further layers that the file shall carry; their bytes count.
            progress: called with the fraction done, 0..1.
            timings: gets the seconds spent in analysis, walk (the networks) and coding (the range coder).

        Raises:
            OptionError: for more than one of quality, bpp and size, or one out of its range.
            RateError: if quality 0 is larger than bpp or size allow.
        """
        clock = Stopwatch(timings)
        mark = self.fingerprint
        rate = rate_of(picture.width * picture.height, quality, bpp, size)
        canvas = Canvas(picture.width, picture.height, self.receptive_field)
        side = (*layers_of_metadata(picture), *layers)
        condition = self.prepare(picture, self._here(condition))
        tiles = track(canvas.tiles(), progress, (0.0, 1.0 if rate.size is None else SEARCH_BEGINS))
        latents: Iterable[Tensor] = (
            self._latent(picture.rgb, canvas, tile, condition, clock) for tile in tiles
        )

        def write(level: int) -> Bitstream:
            return stream(level, tuple(self._write(y, level, clock) for y in latents))

        def stream(level: int, chunks: tuple[bytes, ...]) -> Bitstream:
            header = Header(picture.width, picture.height, self.preset_id, level, mark, picture.grey)
            return Bitstream(header, (Layer(self.layer, chunks), *side))

        if rate.level is not None:
            return write(rate.level)
        assert rate.size is not None
        latents = kept = list(latents)
        front = stream(0, (b"",) * len(latents)).size
        return search(
            rate.size, lambda level: front + sum(self._bits(y, level, clock) for y in kept) / 8, write
        )

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
        """A Reader walks each tile that the region needs.

        Args:
            bitstream: what `encode` made.
            region: x, y, width, height in pixels; the whole picture if None.
            best_effort: grey out tiles that are damaged, instead of refusing.
            condition: what steers the synthesis, of one picture.
            progress: called with the fraction done, 0..1.
            timings: gets the seconds spent in walk, coding and synthesis.

        Raises:
            WeightsError: if the file was made with another preset or other weights.
            Damaged: if a tile is damaged, or the layer has not a chunk for each tile.
            OptionError: if the region is empty or leaves the picture.
            Unsupported: if the picture is above the limit of pixels.
        """
        clock = Stopwatch(timings)
        header = bitstream.header
        self.check_header(header)
        header.check_pixels()
        canvas = Canvas(header.width, header.height, self.receptive_field)
        region = check_region(header.width, header.height, region or (0, 0, header.width, header.height))
        condition = self._here(condition)
        layer = bitstream.layer(self.layer)
        if layer is None or len(layer.chunks) != len(canvas.tiles()):
            raise Damaged("The file is damaged: it has not one piece of data for each tile of its picture.")
        needed = canvas.tiles_around(region)
        frame = canvas.frame(needed)
        y_hat = torch.zeros(1, *latent_size(frame), self.entropy.latent_channels)
        lost = set()
        for tile in track(needed, progress, (0.0, 0.6)):
            rows, columns = window(canvas.core(tile), frame=frame)
            try:
                y_hat[:, rows, columns] = self._read(
                    layer.chunks[tile.index], y_hat[:, rows, columns], header.level, clock
                )
            except Damaged as error:
                if not best_effort:
                    raise Damaged(f"{error} It is tile {tile.index}.", (tile.index,)) from error
                lost.add(tile.index)
        rgb = np.empty((region[3], region[2], 3), dtype=np.uint8)
        for tile in track(canvas.tiles_in(region), progress, (0.6, 1.0)):
            box = canvas.shown(tile, region)
            rows, columns = window(canvas.halo(box), frame=frame)
            near = y_hat[:, rows, columns]
            part = None if condition is None else condition.within(*window(canvas.halo(box)))
            pixels = (
                GREY if tile.index in lost else self._pixels(near, canvas, box, header.level, part, clock)
            )
            paste(rgb, region, box, pixels)
        return Decoded(picture_of(rgb, bitstream, region), tuple(sorted(lost)))

    def _latent(
        self,
        rgb: NDArray[np.uint8],
        canvas: Canvas,
        tile: Tile,
        condition: Condition | None,
        clock: Stopwatch,
    ) -> Tensor:
        """y of one tile, [1, h, w, M], from its pixels and the real ones around them."""
        with clock("analysis"):
            core = canvas.core(tile)
            halo = canvas.halo(core)
            pixels = torch.tensor(canvas.crop(rgb, halo), device=self._device())
            part = None if condition is None else condition.within(*window(halo))
            y = self.analyse(pixels.permute(2, 0, 1)[None].float() / 255, part)
            rows, columns = canvas.within_halo(core, LATENT_STRIDE)
            return y[:, rows, columns].contiguous()

    def _write(self, y: Tensor, level: int, clock: Stopwatch) -> bytes:
        writer = Writer(self.entropy.models())
        with clock("walk"):
            self.code_latents(writer, y, self._level(level), (y.shape[1], y.shape[2]))
        clock.move("walk", "coding", writer.seconds)
        return writer.bytes()

    def _bits(self, y: Tensor, level: int, clock: Stopwatch) -> float:
        meter = RateEstimator(self.entropy.cost())
        with clock("walk"):
            self.code_latents(meter, y, self._level(level), (y.shape[1], y.shape[2]))
        return float(meter.bits)

    def _read(self, data: bytes | None, place: Tensor, level: int, clock: Stopwatch) -> Tensor:
        """y_hat of one tile, of the shape of `place`."""
        if data is None:
            raise Damaged("The coded latent of a tile does not match its check sum.")
        reader = Reader(self.entropy.models(), data)
        with clock("walk"):
            y_hat = self.code_latents(reader, None, self._level(level), (place.shape[1], place.shape[2]))
            reader.end()
        clock.move("walk", "coding", reader.seconds)
        return y_hat

    def _pixels(
        self,
        y_hat: Tensor,
        canvas: Canvas,
        box: Region,
        level: int,
        condition: Condition | None,
        clock: Stopwatch,
    ) -> NDArray[np.uint8]:
        """A box's pixels, uint8 [H, W, 3], from the latents of its halo, [1, h, w, M]."""
        with clock("synthesis"):
            x_hat = self.synthesise(y_hat.to(self._device()), self._level(level), condition)
            rows, columns = canvas.within_halo(box)
            x_hat = x_hat[0, :, rows, columns].permute(1, 2, 0)
            return x_hat.mul(255).round_().clamp_(0, 255).byte().cpu().numpy()

    def _level(self, level: int) -> Tensor:
        return torch.tensor([level], device=self._device())

    def _here(self, condition: Condition | None) -> Condition | None:
        """The condition where the networks are."""
        return None if condition is None else condition.to(self._device())

    def _device(self) -> torch.device:
        return next(self.parameters()).device


def latent_size(frame: Region) -> tuple[int, int]:
    """Rows and columns of the latent of a frame."""
    return frame[3] // LATENT_STRIDE, frame[2] // LATENT_STRIDE


def dtype_of(module: nn.Module) -> torch.dtype:
    """The precision of a transform; analysis and synthesis may run in bfloat16."""
    return next(module.parameters()).dtype


def track(items: Sequence[T], progress: Progress | None, between: tuple[float, float]) -> Iterator[T]:
    """The items, and after each the progress between the two fractions."""
    for number, item in enumerate(items, start=1):
        yield item
        if progress:
            progress(between[0] + (between[1] - between[0]) * number / len(items))
