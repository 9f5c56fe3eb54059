"""Random images, and image files and ICC profiles that Pillow cannot write."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # of PNG, by the number of channels
D50 = (0.9642, 1.0, 0.8249)
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))


def random_rgb(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth random image with some noise and edges, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 32
    waves = sum(
        random.normal(size=3) * np.sin(a * x + b * y + c)[..., None]
        for a, b, c in random.uniform(-2, 2, size=(6, 3))
    )
    edges = 40 * (np.sin(7 * x) > 0.6)[..., None]
    return np.clip(128 + 30 * waves + edges + random.normal(size=(height, width, 3)) * 6, 0, 255).astype(
        np.uint8
    )


def fixed_pattern() -> NDArray[np.uint8]:
    """Waves, a chessboard and a ramp in red, green and blue, uint8 [72, 100, 3]."""
    y, x = np.mgrid[0:72, 0:100]
    planes = 127 + 120 * np.sin(x / 9) * np.cos(y / 13), 255 * ((x // 12 + y // 12) % 2), (2.5 * x + y) % 256
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def png(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], key: tuple[int, ...] = (), text: bytes = b""
) -> bytes:
    """[H, W, 1..4] of 8 or 16 bits as PNG; `key` is its transparent colour, `text` a comment."""
    height, width, channels = pixels.shape
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [(b"IHDR", head)]
    parts += [(b"tRNS", struct.pack(f">{len(key)}H", *key))] if key else []
    parts += [(b"tEXt", b"Comment\0" + text)] if text else []
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    return png_from_chunks(parts)


def png_from_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of the given chunks: name and data of each."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in chunks)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(
    pixels: NDArray[np.generic], photometric: int, sample_format: int = 1, orientation: int = 1
) -> bytes:
    """[H, W, C] of any type as an uncompressed TIFF; photometric 0 white is zero, 1 grey, 2 RGB, 5 CMYK."""
    height, width, channels = pixels.shape
    data = pixels.tobytes()
    entries = [(256, 4, width), (257, 4, height), (259, 3, 1), (262, 3, photometric), (274, 3, orientation)]
    entries += [(277, 3, channels), (279, 4, len(data))]
    count = len(entries) + 3
    bits_at = 8 + 2 + 12 * count + 4
    shorts = struct.pack(f"<{channels}H", *[8 * pixels.itemsize] * channels)
    shorts += struct.pack(f"<{channels}H", *[sample_format] * channels)
    rows = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries]
    rows.append(struct.pack("<HHII", 273, 4, 1, bits_at + len(shorts)))
    for tag, value, at in ((258, 8 * pixels.itemsize, bits_at), (339, sample_format, bits_at + 2 * channels)):
        rows.append(struct.pack("<HHII", tag, 3, channels, at if channels > 2 else value))
    rows.sort(key=lambda row: struct.unpack("<H", row[:2]))
    return b"II*\0" + struct.pack("<IH", 8, count) + b"".join(rows) + bytes(4) + shorts + data


def planar_tiff(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """[H, W, 3] as an uncompressed TIFF with a plane for each channel."""
    height, width, _ = pixels.shape
    planes = pixels.transpose(2, 0, 1).astype(pixels.dtype.newbyteorder("<")).tobytes()
    size = len(planes) // 3
    at = 8 + 2 + 12 * 10 + 4
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [
        (273, 4, 3, at + 6),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 3, at + 18),
        (284, 3, 1, 2),
    ]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    starts = [at + 30 + size * plane for plane in range(3)]
    extra = struct.pack("<3H3I3I", *[8 * pixels.itemsize] * 3, *starts, *[size] * 3)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + extra + planes


def tiff_pages(first: bytes, count: int) -> bytes:
    """A TIFF of `tiff` and `count` further directories of one pixel."""
    ends = 8 + 2 + 12 * struct.unpack_from("<H", first, 8)[0]
    pages = len(first)
    entries = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (262, 3, 1), (273, 4, 0), (277, 3, 1), (279, 4, 1)]
    page = struct.pack("<H", len(entries))
    page += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    after = [pages + (len(page) + 4) * number for number in range(1, count)] + [0]
    body = b"".join(page + struct.pack("<I", place) for place in after)
    return first[:ends] + struct.pack("<I", pages) + first[ends + 4 :] + body


def bmp_with_profile(pixels: NDArray[np.uint8], profile: bytes, colour_space: bytes = b"MBED") -> bytes:
    """[H, W, 3] as a 24-bit BMP with a version 5 header, and the profile after the pixels."""
    height, width, _ = pixels.shape
    stride = -(-3 * width // 4) * 4
    rows = [row[:, ::-1].tobytes().ljust(stride, b"\0") for row in pixels[::-1]]
    body = b"".join(rows)
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(body), 2835, 2835, 0, 0)
    header += bytes(16) + colour_space[::-1] + bytes(48)
    header += struct.pack("<IIII", 4, 124 + len(body), len(profile), 0)
    start = struct.pack("<2sIII", b"BM", 14 + 124 + len(body) + len(profile), 0, 14 + 124)
    return start + header + body + profile


def rgb_profile(gamma: float = 2.2, primaries: tuple[tuple[float, float, float], ...] = P3) -> bytes:
    """An ICC profile of Display P3's primaries with a plain gamma."""
    tags = {name: xyz(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return icc(b"mntr", b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma)))


def grey_profile(gamma: float) -> bytes:
    return icc(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """A profile in which all inks are grey: L falls in equal steps with the sum of inks."""
    nodes = [node.bit_count() for node in range(16)]
    colours = b"".join(bytes([255 - 63 * inks, 128, 128]) for inks in nodes)
    line = bytes(range(256))
    matrix = struct.pack(">9i", *[65536 if i in (0, 4, 8) else 0 for i in range(9)])
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + line * 4 + colours + line * 3
    return icc(b"prtr", b"CMYK", b"Lab ", dict.fromkeys((b"A2B0", b"A2B1", b"A2B2"), table))


def icc(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": text_tag(b"made for a test"),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": xyz(D50),
    } | tags
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    start = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, kind, space, connection)
    head = start + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(D50)[8:] + bytes(48)
    return head + table + body


def xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * part) for part in value))


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))


def text_tag(name: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + b"\0" + bytes(78)
