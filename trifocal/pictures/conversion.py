"""Images of other libraries, paths, bytes and streams to a Picture."""

from __future__ import annotations

import io
from dataclasses import replace
from os import PathLike
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from trifocal.errors import PictureError
from trifocal.pictures.picture import KeepMetadata, Picture, keeps_all_metadata

if TYPE_CHECKING:

    class Tensor(Protocol):
        """torch.Tensor, as far as it is used here; this module does not import torch."""

        def detach(self) -> Any: ...


__all__ = ["ImageInput", "array_to_pil", "as_picture", "binary_content"]

ImageInput: TypeAlias = (
    "Picture | PIL.Image.Image | NDArray[Any] | Tensor"
    " | str | PathLike[str] | bytes | bytearray | memoryview | IO[bytes]"
)
ACCEPTED = (
    "a path, a Picture, a Pillow image, a NumPy array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], a torch "
    "tensor [C, H, W], "
    "the bytes of an image file, or a binary stream of them"
)
CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha


def as_picture(image: ImageInput, metadata: KeepMetadata = "all", keep_invisible: bool = False) -> Picture:
    """Convert an image to a Picture.

    Args:
        image: a path, the bytes of an image file or a binary stream of them; a Pillow image; a NumPy array
            [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; a torch tensor [C, H, W] with 1, 3 or 4 channels.
            Arrays and tensors are uint8, or floating-point in 0..1. A Picture is returned unchanged, but for
            metadata that is not wanted.
        metadata: "all" keeps EXIF, XMP, the resolution and the ICC profile, "colour" the profile alone.
        keep_invisible: keep the colours under alpha 0, instead of a smooth continuation of what is visible.

    Returns:
        The picture; its `notices` have a sentence for each thing that was converted or left out.

    Raises:
        PictureError: for other types, shapes and ranges, and for a file that cannot be read.
        OSError: for a path that cannot be opened.
    """
    if isinstance(image, Picture):
        return image if keeps_all_metadata(metadata) else replace(image, exif=None, xmp=None, dpi=None)
    if isinstance(image, str | PathLike):
        return Picture.open(image, metadata, keep_invisible)
    if isinstance(image, bytes | bytearray | memoryview):
        return Picture.open(io.BytesIO(image), metadata, keep_invisible)
    if callable(getattr(image, "read", None)):
        return Picture.open(_seekable(cast(IO[bytes], image)), metadata, keep_invisible)
    if isinstance(image, PIL.Image.Image):
        return Picture.from_pil(image, metadata, keep_invisible)
    if callable(getattr(image, "detach", None)):
        return Picture.from_pil(array_to_pil(_tensor_to_array(image)), metadata, keep_invisible)
    if isinstance(image, np.ndarray):
        return Picture.from_pil(array_to_pil(image), metadata, keep_invisible)
    raise PictureError(f"An image cannot be {_described(image)}; give {ACCEPTED}.")


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    """The stream, or a copy of its bytes in memory. Raises PictureError for a stream of text."""
    if hasattr(stream, "seekable") and stream.seekable() and isinstance(stream.read(0), bytes):
        return stream
    return io.BytesIO(binary_content(stream))


def binary_content(stream: IO[bytes]) -> bytes:
    """All bytes of a stream. Raises PictureError for a stream of text."""
    data = stream.read()
    if not isinstance(data, bytes):
        raise PictureError('The stream of an image must be binary; open the file with mode "rb".')
    return data


def _tensor_to_array(tensor: Any) -> NDArray[Any]:
    """[C, H, W] → [H, W, C]."""
    if tensor.ndim != 3 or tensor.shape[0] not in CHANNELS:
        raise PictureError(
            f"An image as a tensor is [C, H, W] with 1, 3 or 4 channels, not {list(tensor.shape)}; give one "
            "image of a batch."
        )
    values = tensor.detach().cpu()
    array: NDArray[Any] = (values.float() if values.is_floating_point() else values).numpy()
    return array.transpose(1, 2, 0)


def array_to_pil(array: NDArray[Any]) -> PIL.Image.Image:
    """[H, W] or [H, W, C], uint8 or floating-point in 0..1, as a Pillow image. Raises PictureError."""
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS)) or 0 in array.shape:
        first = array.ndim == 3 and array.shape[0] in CHANNELS
        remedy = "; move the channels to the end with array.transpose(1, 2, 0)" if first else ""
        raise PictureError(
            "An image as an array is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not "
            f"{list(array.shape)}{remedy}."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return PIL.Image.fromarray(np.ascontiguousarray(_as_bytes(array)))


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 as it is; floats in 0..1 times 255, rounded."""
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise PictureError(
            f"An image as an array is uint8, or floating-point in 0..1, not {array.dtype}; convert it first."
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise PictureError(
            f"An image of floating-point values is in 0..1, and this one has {low:g} to {high:g}; scale or "
            "clip it first."
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _described(image: object) -> str:
    return f"of the type {type(image).__name__}" if image is not None else "None"
