"""What a batch does with each image: encode, decode or detect, by the classes of `trifocal.api`."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from trifocal import presets
from trifocal.api import DecodeOptions, Decoder, DetectOptions, Detector, EncodeOptions, Encoder
from trifocal.container import Bitstream
from trifocal.file_detection import json_objects
from trifocal.pictures import PICTURE_SUFFIXES
from trifocal.pictures.writing import format_for
from trifocal.preset_table import DEFAULT

if TYPE_CHECKING:
    from trifocal.codecs.loading import Engine

__all__ = ["Coded", "Decode", "Detect", "Encode", "Operation"]


@dataclass(frozen=True)
class Coded:
    """The result for one image.

    Attributes:
        data: the bytes of the file to write; None for detection.
        pixels: of the image.
        quality: of the .tri file; None for detection.
        detections: of detection.
    """

    data: bytes | None
    pixels: int
    quality: float | None = None
    detections: list[dict[str, Any]] | None = None


Function: TypeAlias = Callable[[bytes], Coded]


class Operation(Protocol):
    """An operation with its options, which are checked when it is made. It can be pickled.

    Attributes:
        name: the command.
        engine: as for `trifocal.encode`.
        inputs: suffixes of its input files.
        suffix: of the files that it writes; empty if it writes none.
    """

    name: str

    @property
    def engine(self) -> Engine | None: ...

    @property
    def inputs(self) -> frozenset[str]: ...

    @property
    def suffix(self) -> str: ...

    def settings(self) -> dict[str, Any]:
        """What determines the results, as JSON: a run is resumed only with the same."""
        ...

    def load(self) -> Function:
        """Load the networks; the result maps the bytes of a file. Both raise TrifocalError and OSError."""
        ...


def ignore(notice: str) -> None:
    """Notices about single images, such as a converted colour space, are not part of a manifest."""


@dataclass(frozen=True)
class Encode:
    """Encode images. Options as for `trifocal.encode`. Raises OptionError, PresetError."""

    preset: str = DEFAULT
    options: EncodeOptions = field(default_factory=EncodeOptions)
    engine: Engine | None = None
    weights: str | None = None
    name = "encode"
    inputs = PICTURE_SUFFIXES
    suffix = ".tri"

    def __post_init__(self) -> None:
        self.options.check(presets.find(self.preset))

    def settings(self) -> dict[str, Any]:
        return {"preset": self.preset, "weights": self.weights, **asdict(self.options)}

    def load(self) -> Function:
        encoder = Encoder(self.preset, self.options, engine=self.engine, weights=self.weights, notify=ignore)

        def encode(data: bytes) -> Coded:
            stream = encoder(data)
            header = stream.header
            return Coded(stream.to_bytes(), header.width * header.height, header.quality)

        return encode


@dataclass(frozen=True)
class Decode:
    """Decode .tri files to images with this suffix. Raises PictureError for other than writable formats."""

    suffix: str = ".png"
    engine: Engine | None = None
    weights: str | None = None
    name = "decode"
    inputs = frozenset({".tri"})

    def __post_init__(self) -> None:
        format_for(f"image{self.suffix}")

    def settings(self) -> dict[str, Any]:
        return {"format": self.suffix, "weights": self.weights}

    def load(self) -> Function:
        decoder = Decoder(DecodeOptions(), engine=self.engine, weights=self.weights, notify=ignore)

        def decode(data: bytes) -> Coded:
            stream = Bitstream.from_bytes(data)
            picture, target = decoder(stream).picture, io.BytesIO()
            picture.write(target, f"image{self.suffix}")
            return Coded(target.getvalue(), picture.width * picture.height, stream.header.quality)

        return decode


@dataclass(frozen=True)
class Detect:
    """Detect objects in images and .tri files. Raises OptionError for a threshold outside 0..1."""

    threshold: float = DetectOptions.threshold
    engine: Engine | None = None
    weights: str | None = None
    name = "detect"
    inputs = PICTURE_SUFFIXES | {".tri"}
    suffix = ""

    def __post_init__(self) -> None:
        DetectOptions(self.threshold)

    def settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "weights": self.weights}

    def load(self) -> Function:
        detector = Detector(
            DetectOptions(self.threshold), engine=self.engine, weights=self.weights, notify=ignore
        )

        def detect(data: bytes) -> Coded:
            found = detector(data)
            return Coded(None, found.width * found.height, detections=json_objects(found.objects))

        return detect
