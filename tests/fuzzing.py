"""A fuzzer: read or decode damaged .tri files, each of which must give an image or a TrifocalError.

    python tests/fuzzing.py container --number 1000000
    python tests/fuzzing.py decode --number 20000
    python tests/fuzzing.py decode --first 4711 --number 1     # run one file again

Most files have corrected lengths and CRCs, so that the damage reaches the decoder. A number always selects
the same file, as long as the undamaged source files do not change.
"""

import argparse
import random
import resource
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np

import trifocal
from helpers.images import png_from_chunks
from trifocal.codecs.metadata_layers import dpi_from_bytes, dpi_to_bytes
from trifocal.container import Bitstream, Component, Header, Layer, Tag, describe
from trifocal.container.components import ComponentLayout
from trifocal.container.fields import varint, write_header
from trifocal.container.parts import PART_TAGS, merge, part_id, strip, without
from trifocal.container.table import bitmap, uses_short_form
from trifocal.container.text import RAW_DEFLATE, dictionary, embedded_text, text_layer
from trifocal.errors import Damaged, TrifocalError
from trifocal.pictures import MAX_METADATA, Picture, alpha_from_bytes, alpha_to_bytes
from trifocal.pictures.attachments import metadata_from_bytes, metadata_to_bytes, png_chunks

MAX_PIXELS = 1_000_000
MAX_SECONDS = 5.0  # for one file
Pieces = list[tuple[int, list[bytes]]]  # tag and chunks of each layer, valid or not


@dataclass
class Findings:
    """Results: accepted files, the numbers of files that crashed, and the slowest file."""

    files: int = 0
    accepted: int = 0
    crashed: list[int] = field(default_factory=list)
    seconds: float = 0.0
    slowest: int = 0


def ignore(notice: str) -> None:
    """Discard a notice about damaged text."""


def fuzz(sources: Sequence[Bitstream], use: Callable[[bytes], bool], numbers: range) -> Findings:
    """Run `use` on the file of each number. An exception from it is printed and counted as a crash."""
    found = Findings()
    for number in numbers:
        data = damaged_file(random.Random(number), sources)
        began = time.perf_counter()
        try:
            found.accepted += use(data)
        except Exception:  # noqa: BLE001  any exception is a finding
            found.crashed.append(number)
            print(f"file {number} of {len(data)} bytes:", traceback.format_exc(), file=sys.stderr)
        seconds = time.perf_counter() - began
        if seconds > found.seconds:
            found.seconds, found.slowest = seconds, number
        found.files += 1
    return found


# ── targets ──


def read(data: bytes) -> bool:
    """Read container and metadata, with and without best effort. Whether the file was accepted."""
    accepted = False
    for best_effort in (True, False):
        with suppress(TrifocalError):
            stream = Bitstream.from_bytes(data, best_effort)
            read_layers(stream)
            if not best_effort:
                accepted = True
                assert stream.to_bytes() == data, "it is written otherwise than it was read"
                for parts in all_parts(stream):
                    assert merge(*parts) == stream, "its parts do not make it again"
    return accepted


def all_parts(stream: Bitstream) -> list[list[Bitstream]]:
    """Several ways to split a stream that has all its layers."""
    label = [one.label for one in stream.components[:1]]
    by_component = [[stream.only(label), without(stream, label)]] if label else []
    return [[strip(stream, half) for half in PART_TAGS], *by_component]


def read_layers(stream: Bitstream) -> None:
    describe(stream)
    for look in (embedded_text, part_id):
        with suppress(TrifocalError):
            look(stream)
    for tag in (Tag.ICC, Tag.EXIF, Tag.XMP):
        with suppress(TrifocalError):
            metadata_from_bytes(only_chunk(stream, tag))
    with suppress(TrifocalError):
        dpi_from_bytes(only_chunk(stream, Tag.DPI))
    with suppress(TrifocalError):
        stream.header.check_pixels(MAX_PIXELS)
        size = stream.header.width, stream.header.height
        assert alpha_from_bytes(only_chunk(stream, Tag.ALPHA), *size).shape == size[::-1]


def only_chunk(stream: Bitstream, tag: Tag) -> bytes:
    layer = stream.layer(tag)
    if layer is None or layer.chunks[0] is None:
        raise Damaged(f"There is no {tag.name}.")
    return layer.chunks[0]


def decode(data: bytes) -> bool:
    """Decode with and without best effort, and the preview and objects of a base layer."""
    from trifocal.codecs.scalable import ScalableCodec  # imports torch, which `read` does not need

    accepted = False
    for best_effort in (True, False):
        with suppress(TrifocalError):
            stream = Bitstream.from_bytes(data, best_effort)
            stream.header.check_pixels(MAX_PIXELS)
            codec = trifocal.presets.load_for(stream.header)
            if isinstance(codec, ScalableCodec) and not best_effort:
                codec.base_preview(stream)
                codec.detect(stream)
            picture = trifocal.decode(stream, best_effort=best_effort, notify=ignore).picture
            assert (picture.width, picture.height) == (stream.header.width, stream.header.height)
            accepted |= not best_effort
    return accepted


# ── undamaged source files ──


def undamaged_containers() -> list[Bitstream]:
    """Files with all types of layers, and latents that no codec can decode."""
    header = Header(width=30, height=20, preset_id=1, level=400, fingerprint=0xBEEF)
    plane = np.arange(600, dtype=np.uint8).reshape(20, 30)
    side = (
        Layer(Tag.ALPHA, (alpha_to_bytes(plane),)),
        Layer(Tag.ICC, (metadata_to_bytes(b"profile" * 40),)),
        Layer(Tag.EXIF, (metadata_to_bytes(b"Exif\0\0II*\0" + bytes(40)),)),
        Layer(Tag.XMP, (metadata_to_bytes(b"<x:xmpmeta/>" * 9),)),
        Layer(Tag.DPI, (dpi_to_bytes((300, 150)),)),
        text_layer("a brown dog catches a red frisbee"),
        Layer(200, (b"from", b"the", b"future")),
    )
    short = Bitstream(header, (Layer(Tag.LATENT, (b"payload",)),))
    tiled = Bitstream(replace(header, grey=True), (Layer(Tag.LATENT, (b"one", b"", bytes(130))), *side))
    coded = Layer(Tag.BASE, (b"\x1ebase",)), Layer(Tag.ENHANCEMENT, (b"left", b"right"))
    layered = Bitstream(replace(header, preset_id=8), (*coded, *side))
    boxes = ComponentLayout((Component("car", (0, 0, 2, 2)), Component("dog", (1, 1, 3, 4))), 30, 20)
    chunks = Layer(Tag.ENHANCEMENT, (b"side", b"car", b"dog", b"rest"))
    objects = Bitstream(layered.header, (coded[0], chunks, Layer(Tag.COMPONENTS, (boxes.to_bytes(),)), *side))
    return [
        short,
        tiled,
        layered,
        objects,
        objects.only("dog"),
        *(strip(layered, half) for half in PART_TAGS),
    ]


def undamaged_files(preset: str | None = None) -> list[Bitstream]:
    """Small files of a bundled preset, or of all of them, with all types of layers."""
    y, x = np.mgrid[0:72, 0:100]
    planes = 127 + 120 * np.sin(x / 9) * np.cos(y / 13), 255 * ((x // 12 + y // 12) % 2), (2.5 * x + y) % 256
    rgb = np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)
    full = Picture(rgb, alpha=rgb[..., 0], icc=b"profile", exif=b"Exif\0\0II*\0" + bytes(20))
    small = Picture(np.ascontiguousarray(rgb[:20, :30]))
    car = Component("car", (0, 0, 4, 3))
    options: list[tuple[str, Picture, dict[str, Any]]] = [
        ("compact", small, {}),
        ("compact", full, {"quality": 80}),
        ("taco-compact", small, {"text": "a brown dog"}),
        ("cross-modal-compact", full, {"text": "a brown dog", "send_text": True}),
        ("dual-layer-compact", small, {"refinement": 0}),
        ("dual-layer-compact", full, {"refinement": 0, "base_quality": 60}),
        ("dual-layer-compact", full, {"refinement": 0, "components": [car, Component("dog", (3, 2, 5, 4))]}),
    ]
    files = [trifocal.encode(image, name, **rest) for name, image, rest in options if preset in (None, name)]
    bases = [strip(file, "base") for file in files if file.layer(Tag.BASE) is not None]
    parts = [file.only("car") for file in files if file.components]
    return [*files, *bases[-2:-1], *parts]


# ── damage ──


def damaged_file(rng: random.Random, sources: Sequence[Bitstream]) -> bytes:
    """One of the sources with one to three changes, mostly with valid lengths and CRCs."""
    source = rng.choice(sources)
    pieces: Pieces = [(layer.tag, [chunk or b"" for chunk in layer.chunks]) for layer in source.layers]
    header = source.header
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.7:
            damage_chunk(rng, pieces)
        elif kind < 0.85:
            damage_layers(rng, pieces)
        else:
            header = damage_header(rng, header)
    data = assemble(rng, header, pieces)
    return damage_bytes(rng, data) if rng.random() < 0.1 else data


def assemble(rng: random.Random, header: Header, pieces: Pieces) -> bytes:
    """A file of these pieces with valid CRCs, in its correct form, or rarely in the other one."""
    short = bool(pieces) and uses_short_form(pieces[0][0], len(pieces), len(pieces[0][1]))
    odd = rng.random()
    if short != (odd < 0.02):
        head = damage_preamble(rng, write_header(header, short=True), odd)
        body = b"".join(chunk for _, chunks in pieces for chunk in chunks)
        return head + crc32(body, crc32(head)).to_bytes(4, "big") + body
    partial = any(tag == Tag.COMPONENTS for tag, _ in pieces) and rng.random() < 0.4
    front = write_header(header, short=False, partial=partial) + varint(len(pieces))
    for tag, chunks in pieces:
        rows = (varint(len(chunk)) + crc32(chunk).to_bytes(4, "big") for chunk in chunks)
        front += bytes([tag]) + varint(len(chunks)) + b"".join(rows)
    present = [not partial or rng.random() < 0.8 for _, chunks in pieces for _ in chunks]
    front = damage_preamble(rng, front + (bitmap(present) if partial else b""), odd)
    there = (c for c, is_there in zip((c for _, chunks in pieces for c in chunks), present) if is_there)
    return front + crc32(front).to_bytes(4, "big") + b"".join(there)


def damage_preamble(rng: random.Random, front: bytes, odd: float) -> bytes:
    return damage_bytes(rng, front) if odd > 0.9 else front


def damage_header(rng: random.Random, header: Header) -> Header:
    side = rng.choice((1, 2, 15, 16, 17, 64, 65, 1000, 1024, 1025, 65535, 65536, rng.randint(1, 65536)))
    return rng.choice(
        (
            replace(header, width=side),
            replace(header, height=side),
            replace(header, preset_id=rng.randint(1, 12)),
            replace(header, level=rng.choice((0, 1, 799, 800, rng.randint(0, 800)))),
            replace(header, fingerprint=rng.getrandbits(32)),
            replace(header, grey=not header.grey),
        )
    )


def damage_layers(rng: random.Random, pieces: Pieces) -> None:
    """Add or remove a layer, or change its tag or its number of chunks."""
    if not pieces:
        return
    at = rng.randrange(len(pieces))
    tag, chunks = pieces[at]
    match rng.randrange(8):
        case 0:
            del pieces[at]
        case 1:
            pieces.insert(at, (tag, chunks))
        case 2:
            pieces[at] = rng.choice((*Tag, 77, 200, 255, rng.randint(0, 255))), chunks
            pieces.sort(key=lambda piece: piece[0])
        case 3:
            cut = rng.randint(0, len(chunks[0])) if chunks else 0
            pieces[at] = tag, [chunks[0][:cut], chunks[0][cut:], *chunks[1:]] if chunks else []
        case 4:
            pieces[at] = tag, chunks * rng.choice((0, 2, 3, 501))
        case 5:
            pieces[at] = tag, [b"".join(chunks)]
        case 6:
            rng.shuffle(pieces)
        case 7:
            pieces.append((rng.choice((*Tag, 200)), [rng.randbytes(rng.choice((0, 4, 9)))]))
            pieces.sort(key=lambda piece: piece[0])


def damage_chunk(rng: random.Random, pieces: Pieces) -> None:
    """Change the bytes of a chunk, or its decompressed content."""
    layers = [layer for layer in pieces if layer[1]]
    if not layers:
        return
    tag, chunks = rng.choice(layers)
    at = rng.randrange(len(chunks))
    inside = {Tag.ALPHA: damage_png, Tag.TEXT: damage_text}
    inside |= dict.fromkeys((Tag.ICC, Tag.EXIF, Tag.XMP), damage_metadata)
    if rng.random() < 0.5 and tag in inside:
        with suppress(TrifocalError, zlib.error, IndexError):  # damaged by an earlier change
            chunks[at] = inside[Tag(tag)](rng, chunks[at])
            return
    chunks[at] = damage_bytes(rng, chunks[at])


def damage_png(rng: random.Random, data: bytes) -> bytes:
    chunks = png_chunks(data)
    at = rng.randrange(len(chunks))
    name, body = chunks[at]
    match rng.randrange(4):
        case 0:
            chunks[at] = name, damage_bytes(rng, body)
        case 1:
            chunks[at] = rng.choice((b"IHDR", b"IDAT", b"IEND", b"acTL", b"PLTE", rng.randbytes(4))), body
        case 2:
            chunks.insert(rng.randint(0, len(chunks)), (name, damage_bytes(rng, body)))
        case 3:
            rows = damage_bytes(
                rng, zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
            )
            chunks = [chunks[0], (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return png_from_chunks(chunks)


def damage_metadata(rng: random.Random, data: bytes) -> bytes:
    if data == decompression_bomb() or rng.random() < 0.0005:
        return decompression_bomb()
    return zlib.compress(damage_bytes(rng, zlib.decompress(data)), 1)


@cache
def decompression_bomb() -> bytes:
    return zlib.compress(bytes(2 * MAX_METADATA), 9)


def damage_text(rng: random.Random, data: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=RAW_DEFLATE, zdict=dictionary())
    plain = damage_bytes(rng, stream.decompress(data[1:], 100) if data[0] else data[1:101])
    plain *= rng.choice((1, 1, 1, 3000))
    deflate = zlib.compressobj(1, wbits=RAW_DEFLATE, zdict=dictionary())
    return rng.choice((b"\0" + plain, b"\1" + deflate.compress(plain) + deflate.flush()))


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip bits; set, remove, insert or repeat bytes; truncate or extend the end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 8))):
        at = rng.randrange(len(out)) if out else 0
        end = min(len(out), at + rng.choice((1, 1, 2, 4, 40)))
        match rng.randrange(8) if out else 3:
            case 0 | 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at:end] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * (end - at)
            case 3:
                out[at:at] = rng.randbytes(rng.choice((1, 1, 4, 40)))
            case 4:
                del out[at:end]
            case 5:
                out[at:at] = out[at:end]
            case 6:
                del out[at:]
            case 7:
                out += rng.choice((rng.randbytes(rng.choice((1, 4, 100))), bytes(4)))
    return bytes(out)


KINDS: dict[str, tuple[Callable[[], list[Bitstream]], Callable[[bytes], bool]]] = {
    "container": (undamaged_containers, read),
    "decode": (undamaged_files, decode),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Read or decode damaged files, and report crashes.")
    parser.add_argument("kind", choices=KINDS, help="read the container only, or decode")
    parser.add_argument("--number", type=int, default=10_000, help="number of files [default: 10000]")
    parser.add_argument("--first", type=int, default=0, help="number of the first file [default: 0]")
    parser.add_argument(
        "--preset",
        help="decode damaged files of this preset only; the peak memory is then that of one preset",
    )
    options = parser.parse_args()
    sources, use = KINDS[options.kind]
    if options.preset and options.kind != "decode":
        parser.error("--preset needs decode")
    files = undamaged_files(options.preset) if options.preset else sources()
    for file in files:  # load weights before measuring
        use(file.to_bytes())
    found = fuzz(files, use, range(options.first, options.first + options.number))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{found.files} files, {found.accepted} accepted, {len(found.crashed)} crashed {found.crashed[:20]}; "
        f"slowest {found.seconds:.2f} s (file {found.slowest}); peak of the process {peak:.0f} MiB"
    )
    sys.exit(bool(found.crashed) or found.seconds > MAX_SECONDS)


if __name__ == "__main__":
    main()
