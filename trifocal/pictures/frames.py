"""Convert raw video frames in NV12 or I420 to Pictures."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError, PictureError
from trifocal.pictures.picture import Picture

__all__ = ["FrameConverter"]

Layout: TypeAlias = Literal["nv12", "i420"]
Matrix: TypeAlias = Literal["bt709", "bt601"]
LUMA_WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}  # of red and blue
FRACTION_BITS = 5  # of the fixed-point values; the largest sum needs 10 more, so int16 holds it

Table: TypeAlias = NDArray[np.int16]


class FrameConverter:
    """Convert 4:2:0 video frames, as cameras and hardware decoders give them, to Pictures.

    Each frame is converted in memory with buffers that are kept, so a converter serves one thread. Chroma
    samples are repeated, not interpolated. The result is within one grey level of the exact formula
    (ITU-R BT.709-6 and BT.601-7, section 3) and is treated as sRGB.

    Args:
        width, height: of the frames in pixels; even numbers.
        layout: "nv12" (plane Y, then Cb and Cr interleaved) or "i420" (planes Y, Cb, Cr).
        matrix: "bt709", which HD video uses, or "bt601".
        full_range: Y, Cb and Cr use 0..255, as in JPEG, instead of 16..235 and 16..240.

    Raises:
        OptionError: for sizes that are odd or less than 2, and other layouts and matrices.
    """

    def __init__(
        self,
        width: int,
        height: int,
        layout: Layout = "nv12",
        matrix: Matrix = "bt709",
        full_range: bool = False,
    ) -> None:
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise OptionError(f"Frames in 4:2:0 have even sides, not {width} x {height}; crop them first.")
        if layout not in ("nv12", "i420"):
            raise OptionError(f"The layout of a frame is nv12 or i420, not {layout}.")
        if matrix not in LUMA_WEIGHTS:
            raise OptionError(f"The matrix of a frame is bt709 or bt601, not {matrix}.")
        self.width, self.height, self.layout = width, height, layout
        self._luma_table, self._chroma_tables = tables(matrix, full_range)
        quads = (height // 2, 2, width // 2, 2)
        self._luma, self._sum = np.empty(quads, np.int16), np.empty(quads, np.int16)

    @property
    def size(self) -> int:
        """Bytes of a frame: width · height · 3 / 2."""
        return self.width * self.height * 3 // 2

    def __call__(self, frame: bytes | bytearray | memoryview | NDArray[np.uint8]) -> Picture:
        """The Picture of a frame: `size` bytes without padding between rows, or a uint8 array of as many
        values, such as [H · 3 / 2, W]. Raises PictureError for another size or type.
        """
        values = frame if isinstance(frame, np.ndarray) else np.frombuffer(frame, np.uint8)
        if values.dtype != np.uint8 or values.size != self.size:
            raise PictureError(
                f"A frame of {self.width} x {self.height} pixels in {self.layout} has {self.size} bytes, not "
                f"{values.size} values of {values.dtype}; remove the padding of its rows."
            )
        values = values.reshape(-1)
        luma, chroma = values[: self.width * self.height], values[self.width * self.height :]
        np.take(self._luma_table, luma.reshape(self._luma.shape), out=self._luma, mode="clip")
        planes = chroma.reshape(-1, 2).T if self.layout == "nv12" else chroma.reshape(2, -1)
        blue, red = (plane.reshape(self.height // 2, self.width // 2) for plane in planes)
        rgb = np.empty((self.height, self.width, 3), np.uint8)
        for channel, (from_blue, from_red) in enumerate(self._chroma_tables):
            offset = from_blue[blue] + from_red[red]
            np.add(self._luma, offset[:, None, :, None], out=self._sum)
            self._sum >>= FRACTION_BITS
            np.clip(self._sum, 0, 255, out=self._sum)
            rgb[..., channel] = self._sum.reshape(self.height, self.width)
        return Picture(rgb)


def tables(matrix: Matrix, full_range: bool) -> tuple[Table, list[tuple[Table, Table]]]:
    """Fixed-point contributions of each value of Y, and for red, green and blue those of Cb and Cr, [256]."""
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    black, luma_gain, chroma_gain = (0, 1.0, 1.0) if full_range else (16, 255 / 219, 255 / 224)
    factors = (
        (0.0, 2 * (1 - red)),
        (-2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green),
        (2 * (1 - blue), 0.0),
    )
    luma = fixed_point((np.arange(256) - black) * luma_gain + 0.5)  # the shift at the end rounds down
    chroma = (np.arange(256) - 128) * chroma_gain
    return luma, [(fixed_point(chroma * b), fixed_point(chroma * r)) for b, r in factors]


def fixed_point(values: NDArray[np.floating[Any]]) -> Table:
    return np.rint(values * 2**FRACTION_BITS).astype(np.int16)
