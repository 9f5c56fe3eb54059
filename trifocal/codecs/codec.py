"""A codec: image ⇄ file, tile by tile. Its networks run on a `Runtime`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from trifocal.codecs.components import ComponentInput, ComponentRequest, GrounderInput, component_request
from trifocal.codecs.composition import Composer
from trifocal.codecs.mask import Mask, importance_from_mask
from trifocal.codecs.metadata_layers import metadata_layers, with_metadata
from trifocal.codecs.named_objects import with_named_objects
from trifocal.codecs.rate_control import DEFAULT_BASE, BaseLayerOptions, Rate, search
from trifocal.codecs.results import Decoded, Latents, partially_decoded
from trifocal.codecs.runtime import Runtime, file_arithmetic
from trifocal.codecs.tile_coding import Progress, TileChunks, TileCoder, track, with_kept
from trifocal.container import Bitstream, Component, Header, Layer, Tag
from trifocal.container.bitstream import FileInput, as_bitstream, raise_if_damaged
from trifocal.container.fields import VERSION, hexadecimal
from trifocal.entropy.coder import Array
from trifocal.errors import Damaged, OptionError, PresetError, WeightsError
from trifocal.pictures import Picture
from trifocal.pictures.canvas import Canvas, region_slices
from trifocal.pictures.conversion import ImageInput, as_picture
from trifocal.pictures.tiles import Region, check_region
from trifocal.types import LATENT_STRIDE, Condition
from trifocal.utils.timing import Stopwatch

if TYPE_CHECKING:
    from trifocal.codecs.network import CodecNetwork

__all__ = ["Codec", "Decoded", "Latents", "Progress", "track"]

SEARCH_BEGINS = 0.3  # of the progress, when a size is requested

TextInputs = Callable[[str | None, bool], "tuple[Condition[Any] | None, tuple[Layer, ...]]"]
T = TypeVar("T")


class Codec:
    """Encodes images to bitstreams and decodes them. Takes and returns NumPy arrays inside `Picture` and
    `Bitstream`.

    Args:
        runtime: runs the networks.

    Attributes:
        preset_id: the id of the preset in files.
        layer: tag of the layer that holds the latents.
        only_level: the quality level of weights that were trained for a single rate, 0..800; set by
            `trifocal.load`. `encode` uses it, and refuses others.
        text_inputs: text, send → the condition and the layers that they give; set by `trifocal.load`.
        tile_coder: makes the coder of its tiles.
        look_of_missing: how components look that a file lacks, for a notice.
    """

    preset_id = 0
    layer = Tag.LATENT
    only_level: int | None = None
    text_inputs: TextInputs | None = None
    tile_coder: type[TileCoder] = TileCoder
    look_of_missing = "as coarse as its base layer"

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.tiles = self.tile_coder(runtime)

    @property
    def network(self) -> CodecNetwork:
        """The torch network, to train or change. Its weights are read at each call. A codec on the ONNX
        engine moves to the torch engine. Raises PresetError on a runtime without torch, and MissingExtra.
        """
        if on_torch := getattr(self.runtime, "on_torch", None):
            self.runtime = on_torch()
            self.tiles = self.tile_coder(self.runtime)
        network: CodecNetwork | None = getattr(self.runtime, "network", None)
        if network is None:
            raise PresetError(
                'This codec runs without torch and has no network; load it with engine="torch".'
            )
        return network

    @property
    def fingerprint(self) -> int:
        """The fingerprint of the current weights, as new files store it."""
        fingerprint = self.fingerprint_in(VERSION)
        assert fingerprint is not None
        return fingerprint

    def fingerprint_in(self, version: int, arithmetic: int | None = None) -> int | None:
        """The fingerprint of files in a version of the format, by default in its newest arithmetic."""
        newest = 1 if version == 1 else self.runtime.arithmetics[-1]
        return self.runtime.fingerprint(version, arithmetic or newest)

    def can_decode(self, header: Header, refresh: bool = True) -> bool:
        """Whether the weights decode files with this fingerprint; `refresh` as for `file_arithmetic`."""
        return file_arithmetic(self.runtime, header, refresh) is not None

    def tiles_in(self, header: Header) -> TileCoder:
        """The coder of the tiles of a file that the weights decode."""
        return self.tile_coder(self.runtime, file_arithmetic(self.runtime, header, refresh=False))

    def check_header(self, header: Header) -> None:
        """Raises WeightsError if a file was made with another preset or other weights."""
        if header.preset_id != self.preset_id:
            raise WeightsError(
                f"The file is of preset number {header.preset_id} and this codec is number {self.preset_id}; "
                "`trifocal.decode` finds the codec of a file."
            )
        if not self.can_decode(header):
            raise WeightsError(
                f"The file was made with weights {header.fingerprint_hex}, and this codec has "
                f"{hexadecimal(self.fingerprint)}; "
                "`trifocal.decode` finds the weights of a file."
            )

    def encode(
        self,
        image: ImageInput,
        quality: float | None = None,
        bpp: float | None = None,
        max_bytes: int | None = None,
        *,
        text: str | None = None,
        send_text: bool = False,
        base_quality: int | None = None,
        refinement: int | None = None,
        condition: Condition[Any] | None = None,
        layers: Sequence[Layer] = (),
        progress: Progress | None = None,
        timings: dict[str, float] | None = None,
        mask: Mask | None = None,
        components: ComponentInput | None = None,
        grounder: GrounderInput | None = None,
    ) -> Bitstream:
        """Encode an image.

        Args:
            image: see `as_picture`. A Picture is encoded unchanged.
            quality: 0..100, rounded to 1/8; 50 if quality, bpp and max_bytes are all None.
            bpp: bits of the whole file per pixel, to stay at or under.
            max_bytes: bytes of the whole file, to stay at or under. If the file at quality 100 is smaller,
                that file is returned.
            text: what the image shows, for a preset that takes text.
            send_text: store the text in the file, for a preset whose decoder reads it.
            base_quality: quality of the base layer, 0..100, for a preset with a base layer.
            refinement: gradient steps that adapt the base layer to the image; see `BaseLayerOptions`.
            condition: side input of the analysis, of one image; instead of `text`.
            layers: further layers of the file; their bytes count.
            progress: called with the fraction done, 0..1.
            timings: receives the seconds of analysis, entropy model and range coder (coding).
            mask: where the image matters, as for `api.encode`. It replaces the map that a text gives.
            components: objects that get chunks of their own, as for `api.encode`.
            grounder: finds the components: "compact" (None), "grounding-dino", or a `Grounder`.

        Raises:
            PictureError: if the image cannot be read.
            OptionError: for more than one of quality, bpp and max_bytes; a value out of its range; another
                quality than that of single-rate weights; a mask of another shape or range; or text together
                with a condition.
            PresetError: for text, a mask, components or base layer options if the preset does not use them.
            RateError: if quality 0 is larger than bpp or max_bytes allow.
            WeightsError, MissingExtra: if the grounder is not installed.
        """
        rate, base = Rate(quality, bpp, max_bytes), BaseLayerOptions(base_quality, refinement)
        if text is not None or send_text:
            condition, text_layers = self._with_text(text, send_text, condition)
            layers = (*layers, *text_layers)
        picture, request = as_picture(image), component_request(components, grounder=grounder)
        request = request and request.prepare()
        return self.encode_picture(picture, rate, base, condition, layers, progress, timings, mask, request)

    def _with_text(
        self, text: str | None, send: bool, condition: Condition[Any] | None
    ) -> tuple[Condition[Any] | None, tuple[Layer, ...]]:
        if condition is not None:
            raise OptionError("Give text or a condition, not both.")
        if self.text_inputs is None:
            raise PresetError("This codec belongs to no preset and takes no text; use trifocal.load().")
        return self.text_inputs(text, send)

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
        """Encode with options that are checked already; arguments and errors as for `encode`."""
        if not base.is_default or components is not None:
            raise PresetError(
                "This codec has no base layer; leave base_quality, refinement and components out, or load a "
                "scalable preset."
            )
        return self._encode(picture, rate, condition, layers, progress, timings, mask)

    def _encode(
        self,
        picture: Picture,
        rate: Rate,
        condition: Condition[Any] | None,
        layers: Sequence[Layer],
        progress: Progress | None,
        timings: dict[str, float] | None,
        mask: Mask | None,
        components: tuple[Component, ...] = (),
    ) -> Bitstream:
        """Encode the layer of this codec; components are those of the file."""
        rate = rate.at_level(self.only_level)
        stopwatch = Stopwatch(timings)
        size = rate.size(picture.width * picture.height)
        canvas = Canvas(picture.width, picture.height, self.runtime.receptive_field)
        other_layers = (*metadata_layers(picture), *layers)
        condition = self._prepare_condition(picture, condition, mask)
        tiles = track(canvas.tiles(), progress, (0.0, 1.0 if size is None else SEARCH_BEGINS))
        latents: Iterable[Array] = (
            self.tiles.latent(picture.rgb, canvas, tile, condition, stopwatch) for tile in tiles
        )

        chunks = TileChunks(self.tiles, components, picture.width, picture.height)
        header = self._header(picture, 0)  # once: the fingerprint reads all weights

        def write(level: int) -> Bitstream:
            return stream(level, chunks.write(latents, level, stopwatch))

        def stream(level: int, coded: tuple[bytes, ...]) -> Bitstream:
            file_layers = (Layer(self.layer, coded), *chunks.layers, *other_layers)
            return Bitstream(replace(header, level=level), file_layers)

        if rate.level is not None:
            return write(rate.level)
        assert size is not None
        latents = kept = list(latents)
        overhead = stream(0, (b"",) * chunks.count(len(kept))).size
        return search(size, lambda level: overhead + chunks.bits(kept, level, stopwatch) / 8, write)

    def decode(
        self,
        source: FileInput,
        region: Region | None = None,
        best_effort: bool = False,
        condition: Condition[Any] | None = None,
        progress: Progress | None = None,
        timings: dict[str, float] | None = None,
    ) -> Decoded:
        """Decode an image, or a region of it; reads only the tiles that the region needs.

        Args:
            source: what `encode` made: a Bitstream, a path, bytes or a binary stream.
            region: x, y, width, height in pixels; the whole image if None.
            best_effort: fill damaged tiles with grey instead of raising; damaged components count as missing.
            condition: side input of the synthesis, of one image.
            progress: called with the fraction done, 0..1.
            timings: receives the seconds of entropy, coding and synthesis.

        Raises:
            WeightsError: if the file was made with another preset or other weights.
            Damaged: if a tile is damaged, or the number of tiles is wrong.
            OptionError: if the region is empty or is partly outside the image.
            Unsupported: if the image is larger than the limit of pixels.
        """
        stopwatch = Stopwatch(timings)
        bitstream = as_bitstream(source, best_effort)
        canvas, region = self._canvas_and_region(bitstream, region)
        if bitstream.layout is not None and not best_effort:
            raise_if_damaged(bitstream.layers, "This file")
        condition = self._decoding_condition(bitstream, condition, stopwatch)
        tiles = self.tiles.needed_tiles(canvas, region)
        chunks, level, layout = self._chunks(bitstream), bitstream.header.level, bitstream.layout
        coder = self.tiles_in(bitstream.header)
        y_hat, lost, missing = coder.read_tiles(
            chunks, level, canvas, tiles, best_effort, progress, stopwatch, layout
        )
        condition = with_kept(condition, layout, missing, canvas)
        composed: set[int] = set()
        if layout is not None and condition is not None and condition.compose:
            composer = Composer(coder, chunks, level, layout)
            composed = composer.add(y_hat, canvas, tiles, condition, missing)
        frame = canvas.frame(tiles)
        rgb = self.tiles.render(y_hat, canvas, frame, region, level, condition, lost, progress, stopwatch)
        picture = with_metadata(rgb, bitstream, region)
        if layout is None:
            return Decoded(picture, tuple(sorted(lost)))
        return partially_decoded(picture, layout, chunks, missing, composed, self.look_of_missing)

    def analyse(
        self,
        picture: Picture,
        condition: Condition[Any] | None = None,
        mask: Mask | None = None,
        layers: Sequence[Layer] = (),
    ) -> Latents:
        """The latents of an image before quantisation. Arguments have the same meaning as in `encode`."""
        canvas = Canvas(picture.width, picture.height, self.runtime.receptive_field)
        condition = self._prepare_condition(picture, condition, mask)
        wide, high = canvas.padded
        channels = self.runtime.latent_channels + self.runtime.has_importance_map
        y = np.zeros((1, high // LATENT_STRIDE, wide // LATENT_STRIDE, channels), dtype=np.float32)
        for tile in canvas.tiles():
            rows, columns = region_slices(canvas.core(tile))
            y[:, rows, columns] = self.tiles.latent(picture.rgb, canvas, tile, condition, Stopwatch())
        other_layers = (*metadata_layers(picture), *layers)
        return Latents(y, picture.width, picture.height, condition, other_layers, grey=picture.grey)

    def encode_latents(self, latents: Latents, quality: float = 50.0) -> Bitstream:
        """Write latents to a bitstream that `decode` reads. Raises OptionError for a wrong shape or
        quality.
        """
        level = self._level(latents, quality, self.runtime.latent_channels + self.runtime.has_importance_map)
        canvas = Canvas(latents.width, latents.height, self.runtime.receptive_field)
        chunks = []
        for tile in canvas.tiles():
            rows, columns = region_slices(canvas.core(tile))
            y = np.ascontiguousarray(latents.y[:, rows, columns], dtype=np.float32)
            chunks.append(self.tiles.write(y, level, Stopwatch()))
        return Bitstream(self._header(latents, level), (Layer(self.layer, tuple(chunks)), *latents.layers))

    def decode_latents(self, bitstream: Bitstream, condition: Condition[Any] | None = None) -> Latents:
        """The decoded latents of a bitstream. Raises as `decode`."""
        canvas, _ = self._canvas_and_region(bitstream, None)
        condition = self._decoding_condition(bitstream, condition, Stopwatch())
        header, chunks = bitstream.header, self._chunks(bitstream)
        y_hat, _, missing = self.tiles_in(header).read_tiles(
            chunks, header.level, canvas, canvas.tiles(), False, None, Stopwatch(), bitstream.layout
        )
        condition = with_kept(condition, bitstream.layout, missing, canvas)
        coded = (self.layer, Tag.COMPONENTS)
        other_layers = tuple(one for one in bitstream.layers if one.tag not in coded and not one.absent)
        width, height = header.width, header.height
        return Latents(y_hat, width, height, condition, other_layers, header.quality, header.grey)

    def synthesise(self, latents: Latents, quality: float | None = None) -> Picture:
        """The image of latents, decoded or not. `quality` is by default that of the latents' file, or 50.
        Raises OptionError.
        """
        quality = (50.0 if latents.quality is None else latents.quality) if quality is None else quality
        y = latents.y[..., : self.tiles.decoded_channels]
        level = self._level(replace(latents, y=y), quality, self.tiles.decoded_channels)
        canvas = Canvas(latents.width, latents.height, self.runtime.receptive_field)
        whole, region = (0, 0, *canvas.padded), (0, 0, latents.width, latents.height)
        y = np.ascontiguousarray(y, dtype=np.float32)
        rgb = self.tiles.render(y, canvas, whole, region, level, latents.condition, set(), None, Stopwatch())
        return Picture(rgb)

    def _prepare_condition(
        self, picture: Picture, condition: Condition[Any] | None, mask: Mask | None
    ) -> Condition[Any] | None:
        if mask is not None:
            importance_map = importance_from_mask(mask, picture, self.runtime.has_importance_map)
            condition = replace(condition or Condition(), importance_map=importance_map)
        elif condition is not None and self.runtime.has_importance_map:
            condition = with_named_objects(picture, condition)
        return self.runtime.prepare(picture, condition)

    def _decoding_condition(
        self, bitstream: Bitstream, condition: Condition[Any] | None, stopwatch: Stopwatch
    ) -> Condition[Any] | None:
        """The condition of the synthesis: the given one, and in subclasses what the file adds to it."""
        return condition

    def _header(self, picture: Picture | Latents, level: int) -> Header:
        """The header of the file of an image or its latents."""
        return Header(picture.width, picture.height, self.preset_id, level, self.fingerprint, picture.grey)

    def _level(self, latents: Latents, quality: float, channels: int) -> int:
        wide, high = Canvas(latents.width, latents.height, self.runtime.receptive_field).padded
        expected = (1, high // LATENT_STRIDE, wide // LATENT_STRIDE, channels)
        if latents.y.shape != expected:
            raise OptionError(
                f"The latents of an image of {latents.width} x {latents.height} pixels have the shape "
                f"{list(expected)}, not {list(latents.y.shape)}."
            )
        level = Rate(quality).at_level(self.only_level).level
        assert level is not None
        return level

    def _chunks(self, bitstream: Bitstream) -> tuple[bytes | None, ...]:
        layer = bitstream.layer(self.layer)
        return () if layer is None else layer.chunks

    def _canvas_and_region(self, bitstream: Bitstream, region: Region | None) -> tuple[Canvas, Region]:
        """The canvas of a file and the region in it, after all checks of the header."""
        header = bitstream.header
        self.check_header(header)
        header.check_pixels()
        canvas = Canvas(header.width, header.height, self.runtime.receptive_field)
        region = check_region(header.width, header.height, region or (0, 0, header.width, header.height))
        if bitstream.layout is None and len(self._chunks(bitstream)) != len(canvas.tiles()):
            raise Damaged(
                "The file is damaged: the number of its chunks differs from the number of its tiles."
            )
        return canvas, region
