"""The file format: golden bytes, canonical encoding, damaged files, and atomic writes."""

import errno
import os
import random
import re
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from trifocal.container import Bitstream, Component, Header, Layer, Tag, describe
from trifocal.container.components import ComponentLayout
from trifocal.container.fields import FIELDS, VERSIONS, ByteReader, varint
from trifocal.container.seed import seed_layer
from trifocal.container.table import has_single_chunk
from trifocal.errors import Damaged, FormatError, NotTrifocal, OptionError, Truncated, Unsupported
from trifocal.utils.files import atomic_write

GOLDEN = Path(__file__).parent / "golden"
FORMAT = Path(__file__).parent.parent / "trifocal/container/FORMAT.md"
KODAK = Header(width=768, height=512, preset_id=1, level=400, fingerprint=0xBEEF, version=1)
SHORT = Bitstream(KODAK, (Layer(Tag.LATENT, (b"payload",)),))
SECOND = replace(SHORT, header=replace(KODAK, fingerprint=0xC0FFEE11, version=2))
TILED = Bitstream(
    Header(width=3000, height=2000, preset_id=5, level=333, fingerprint=0x00FF, grey=True, version=1),
    (
        Layer(Tag.LATENT, (b"tile zero", b"", b"tile two", bytes(130), b"tile four", b"tile five")),
        Layer(Tag.ALPHA, (b"a PNG",)),
        Layer(200, (b"from", b"the", b"future")),
    ),
)
LAYERED = Bitstream(
    Header(width=1100, height=700, preset_id=8, level=480, fingerprint=0xD0A1, version=1),
    (
        Layer(Tag.BASE, (b"\x1ebase",)),
        Layer(Tag.ENHANCEMENT, (b"left", b"right")),
        Layer(Tag.ICC, (b"profile",)),
    ),
)
BASE = replace(LAYERED, layers=(LAYERED.layers[0], Layer(Tag.PART, (b"\xbc\x77\xae\x04",))))
KEPT = Bitstream(
    Header(width=640, height=480, preset_id=1, level=400, fingerprint=0xC0FFEE11),
    (
        Layer(Tag.LATENT, (b"payload",)),
        Layer(Tag.EXIF, (b"exif",)),
        Layer(Tag.XMP, (b"packet",)),
        Layer(Tag.DPI, (b"\xe0\xa7\x12\xf0\x93\x09",)),
    ),
)
COMPONENTS = ComponentLayout(
    (Component("person", (2, 0, 5, 4)), Component("car", (62, 1, 66, 3)), Component("person", (3, 1, 4, 2))),
    width=1100,
    height=60,
)
ENHANCED = (b"side 0", b"side 1", b"man", b"front", b"back", b"girl", b"rest 0", b"rest 1")
OBJECTS = Bitstream(
    replace(LAYERED.header, height=60, version=2, fingerprint=0xC0FFEE11),
    (LAYERED.layers[0], Layer(Tag.ENHANCEMENT, ENHANCED), Layer(Tag.COMPONENTS, (COMPONENTS.to_bytes(),))),
)
SEEDED = Bitstream(
    replace(KEPT.header, preset_id=13), (Layer(Tag.LATENT, (b"payload",)), seed_layer(0x12345678))
)
SHORT_FLAG = 8 * 3 + 1  # the bit, counted from the least significant one of each byte
GOLDENS = {
    "container-short.tri": SHORT,
    "container-tiled.tri": TILED,
    "container-layers.tri": LAYERED,
    "container-base.tri": BASE,
    "container-version-2.tri": SECOND,
    "container-metadata.tri": KEPT,
    "container-components.tri": OBJECTS,
    "container-partial.tri": OBJECTS.only("car"),
    "container-seed.tri": SEEDED,
}


def preamble_of(stream: Bitstream) -> int:
    """Bytes before the first chunk."""
    return stream.size - sum(layer.size for layer in stream.layers)


def with_valid_crc(front: bytes, body: bytes = b"") -> bytes:
    """A long form with a valid checksum, whatever its content."""
    return front + crc32(front).to_bytes(4, "big") + body


def error_message(data: bytes, kind: type[FormatError] = FormatError, name: str = "photo.tri") -> str:
    """The error message, which must be one sentence."""
    with pytest.raises(kind) as caught:
        Bitstream.from_bytes(data, name=name)
    return sentence(caught.value, name)


def sentence(error: Exception, name: str) -> str:
    said = str(error)
    assert said.startswith(name) and said.endswith(".") and "\n" not in said and len(said) < 400, said
    return said


# ── the form ──


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_files_are_read_and_written_unchanged(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    assert Bitstream.from_bytes(data) == GOLDENS[name]
    assert GOLDENS[name].to_bytes() == data


@pytest.mark.parametrize("name", GOLDENS)
def test_format_md_explains_each_byte_of_the_golden_file(name: str) -> None:
    section = FORMAT.read_text("utf-8").split(f"### `{name}`")[1].split("###")[0]
    rows = re.findall(r"^\| `([0-9A-F ]+)`(?: × (\d+))? \|", section, re.MULTILINE)
    explained = b"".join(bytes.fromhex(digits) * int(times or 1) for digits, times in rows)
    assert explained == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", GOLDENS)
def test_format_md_counts_the_bytes_of_each_check_sum(name: str) -> None:
    section = FORMAT.read_text("utf-8").split(f"### `{name}`")[1].split("###")[0]
    rows = re.findall(r"^\| `([0-9A-F ]+)`(?: × (\d+))? \| (.*) \|$", section, re.MULTILINE)
    parts = [bytes.fromhex(digits) * int(times or 1) for digits, times, _ in rows]
    at = next(number for number, row in enumerate(rows) if row[2].startswith("CRC over"))
    above, below = re.findall(r"(?:the (\d+) bytes above)(?: and the (\d+) below)?", rows[at][2])[0]
    before, after = b"".join(parts[:at]), b"".join(parts[at + 1 :])
    assert (
        len(before) == int(above) and crc32(before + after[: int(below or 0)]).to_bytes(4, "big") == parts[at]
    )


def test_format_md_names_every_field_and_tag() -> None:
    law = FORMAT.read_text("utf-8")
    assert all(f"| {tag.value} | {tag.name} |" in law for tag in Tag)
    assert all(field.name in law for field in FIELDS[2])


@pytest.mark.parametrize(("stream", "most"), [(SHORT, 16), (SECOND, 18)])
def test_overhead_of_an_ordinary_file_is_small(stream: Bitstream, most: int) -> None:
    assert stream.size == len(stream.to_bytes()) == most + len(b"payload")


def random_stream(rng: random.Random) -> Bitstream:
    tags = rng.sample([Tag.ALPHA, Tag.ICC, Tag.EXIF, 131, 200, 255], rng.choice((0, 0, 1, 3)))
    coded = rng.choice(
        [[Tag.LATENT], [Tag.LATENT], [Tag.BASE], [Tag.ENHANCEMENT], [Tag.BASE, Tag.ENHANCEMENT]]
    )
    layers = [
        Layer(tag, random_chunks(rng)[: 1 if has_single_chunk(tag) else None]) for tag in (*coded, *tags)
    ]
    if coded in ([Tag.BASE], [Tag.ENHANCEMENT]) and rng.random() < 0.5:
        layers.append(Layer(Tag.PART, (rng.randbytes(4),)))
    rng.shuffle(layers)
    side = rng.choice((1, 100, 1 << 16))
    version = rng.choice(VERSIONS)
    header = Header(
        rng.randint(1, side),
        side,
        rng.randint(1, 62),
        rng.randint(0, 800),
        rng.getrandbits(16 * version),
        rng.random() < 0.5,
        version,
    )
    return Bitstream(header, tuple(layers))


def random_chunks(rng: random.Random) -> tuple[bytes, ...]:
    return tuple(
        rng.randbytes(rng.choice((0, 1, 20, 127, 128, 300))) for _ in range(rng.choice((1, 1, 2, 40)))
    )


def test_written_stream_is_read_back() -> None:
    rng = random.Random(1)
    for _ in range(300):
        stream = random_stream(rng)
        data = stream.to_bytes()
        assert Bitstream.from_bytes(data) == stream
        assert stream.size == len(data)


def test_varints_have_one_encoding() -> None:
    for value in (0, 1, 127, 128, 300, (1 << 14) - 1, 1 << 14, (1 << 35) - 1):
        assert ByteReader(varint(value), "x").varint() == value
    for data in (b"\x80\x00", b"\xff\x80\x00", b"\xff\xff\xff\xff\xff\x01"):
        with pytest.raises(Damaged):
            ByteReader(data, "x").varint()


def test_layers_can_be_found_added_and_replaced() -> None:
    assert SHORT.layer(Tag.ALPHA) is None
    more = SHORT.with_layer(Layer(Tag.EXIF, (b"e",))).with_layer(Layer(Tag.ALPHA, (b"a",)))
    assert [layer.tag for layer in more.layers] == [Tag.LATENT, Tag.ALPHA, Tag.EXIF]
    again = more.with_layer(Layer(Tag.ALPHA, (b"b",)))
    alpha = again.layer(128)
    assert alpha is not None and alpha.tag is Tag.ALPHA and alpha.chunks == (b"b",) and len(again.layers) == 3
    assert Bitstream.from_bytes(again.to_bytes()) == again


def test_unknown_optional_layers_are_kept_and_required_ones_refused() -> None:
    assert Bitstream.from_bytes(TILED.to_bytes()).layer(200) == TILED.layers[-1]
    data = SHORT.with_layer(Layer(77, (b"?",))).to_bytes()
    assert "newer version of Trifocal" in error_message(data, Unsupported) and "77" in error_message(
        data, Unsupported
    )


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": 65537},
        {"preset_id": 0},
        {"preset_id": 63},
        {"level": 801},
        {"fingerprint": 65536},
        {"version": 3},
    ],
)
def test_invalid_headers_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(change)).removesuffix("_id")):
        replace(KODAK, **change)


def test_invalid_streams_are_refused() -> None:
    latent = Layer(Tag.LATENT, (b"",))
    for layers in (
        (),
        (Layer(Tag.ALPHA, (b"",)),),
        (latent, latent),
        (latent, *(Layer(t, (b"",)) for t in range(128, 160))),
        (Layer(Tag.PART, (b"1234",)), Layer(77, (b"",))),
        (latent, Layer(Tag.PART, (b"1234",))),
        (*LAYERED.layers, Layer(Tag.PART, (b"1234",))),
        (latent, LAYERED.layers[0]),
        (latent, LAYERED.layers[1]),
    ):
        with pytest.raises(OptionError):
            Bitstream(KODAK, layers)
    single = [(tag, (b"", b"")) for tag in Tag if tag not in (Tag.LATENT, Tag.ENHANCEMENT)]
    for tag, chunks in ((0, (b"",)), (256, (b"",)), (1, ()), *single):
        with pytest.raises(OptionError):
            Layer(tag, chunks)


def test_header_quality_and_pixel_count() -> None:
    assert KODAK.quality == 50.0
    KODAK.check_pixels()
    with pytest.raises(Unsupported, match="megapixels"):
        replace(KODAK, width=65536, height=65536).check_pixels()


def test_describe_equals_the_output_of_info() -> None:
    told = describe(TILED)
    assert (
        told["preset"] == 5
        and told["quality"] == 333 / 8
        and told["grey"] is True
        and told["fingerprint"] == "00ff"
    )
    assert told["bytes"] == TILED.size and told["overhead"] == preamble_of(TILED)
    assert told["layers"] == [
        {"tag": 1, "name": "LATENT", "chunks": 6, "bytes": 165},
        {"tag": 128, "name": "ALPHA", "chunks": 1, "bytes": 5},
        {"tag": 200, "name": "layer 200", "chunks": 3, "bytes": 13},
    ]


# ── damage ──


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"GIF89a", "GIF"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "video"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"PK\x03\x04", "ZIP"),
        (b"Dear reader,\nthis is no picture.\n", "text"),
        ("Liebe Leserin, schöne Grüße".encode(), "text"),
        (bytes(100), "zero"),
        (bytes(range(128, 256)), "first bytes are not"),
        (b"\xf3TG" + SHORT.to_bytes()[3:], "damaged"),
    ],
)
def test_other_file_types_are_named_in_the_error(data: bytes, what: str) -> None:
    assert what in error_message(data, NotTrifocal)


@pytest.mark.parametrize(
    ("at", "value", "kind", "word"),
    [
        (3, 0x32, Unsupported, "version 3"),
        (3, 0x1A, Unsupported, "reserved flag"),
        (3, 0x16, Damaged, "partial"),
        (4, 0x01, Unsupported, "preset 0"),
        (4, 0xFD, Unsupported, "preset 63"),
        (4, 0x07, Damaged, "level 912"),
    ],
)
def test_fields_out_of_range_are_named_in_the_error(
    at: int, value: int, kind: type[FormatError], word: str
) -> None:
    data = bytearray(SHORT.to_bytes())
    data[at] = value
    assert word in error_message(bytes(data), kind)


def test_oversized_image_is_refused_before_allocating_memory() -> None:
    start = SHORT.to_bytes()[:8]
    for size in (varint(1 << 16) + varint(0), varint(0) + varint((1 << 35) - 1)):
        assert "65536" in error_message(start + size + bytes(4), Damaged)


@pytest.mark.parametrize("stream", GOLDENS.values(), ids=GOLDENS)
def test_truncated_files_are_refused(stream: Bitstream) -> None:
    data = stream.to_bytes()
    for length in range(1, len(data)):
        kinds = (Truncated, Damaged) if stream in (SHORT, SECOND) else Truncated
        with pytest.raises(kinds) as caught:
            Bitstream.from_bytes(data[:length], name="cut.tri")
        assert "cut short" in sentence(caught.value, "cut.tri")


def test_best_effort_reads_the_rest_of_a_truncated_file() -> None:
    data = TILED.to_bytes()
    stream = Bitstream.from_bytes(
        data[: preamble_of(TILED) + len("tile zero" + "tile two") + 3], best_effort=True
    )
    assert stream.layers[0].chunks == (b"tile zero", b"", b"tile two", None, None, None)
    assert [layer.damaged for layer in stream.layers] == [(3, 4, 5), (0,), (0, 1, 2)]
    assert stream.layers[0].size == 17
    with pytest.raises(Damaged) as caught:
        stream.to_bytes()
    assert caught.value.tiles == (3, 4, 5)


def test_best_effort_reads_the_header_of_a_damaged_short_file() -> None:
    data = SHORT.to_bytes()[:-1] + b"D"
    assert "checksum" in error_message(data, Damaged)
    assert Bitstream.from_bytes(data, best_effort=True) == Bitstream(KODAK, (Layer(Tag.LATENT, (None,)),))


def test_damaged_base_layer_names_no_tile_and_cannot_be_decoded() -> None:
    data = bytearray(LAYERED.to_bytes())
    data[preamble_of(LAYERED)] ^= 1
    with pytest.raises(Damaged) as caught:
        Bitstream.from_bytes(bytes(data), name="l.tri")
    assert caught.value.tiles == ()
    assert (
        sentence(caught.value, "l.tri")
        == "l.tri is damaged in its BASE layer; it cannot be decoded without its base layer."
    )
    hit = Bitstream.from_bytes(bytes(data), best_effort=True)
    assert hit.layers[0].chunks == (None,) and hit.layers[1:] == LAYERED.layers[1:]


def test_a_base_alone_is_written_in_the_long_form() -> None:
    alone = replace(LAYERED, layers=LAYERED.layers[:1])
    data = alone.to_bytes()
    assert not data[3] & 2 and Bitstream.from_bytes(data) == alone
    assert "short form" in error_message(with_valid_crc(preamble_with_latent_tag(data)), Damaged)
    with pytest.raises(Damaged, match="checksum") as caught:
        Bitstream.from_bytes(data[:-1] + b"E")
    assert caught.value.tiles == ()


def preamble_with_latent_tag(data: bytes) -> bytes:
    """Header and table of a file with a BASE layer, whose tag is replaced by LATENT."""
    front = bytearray(data[: len(data) - len(b"\x1ebase") - 4])
    front[-7] = Tag.LATENT
    return bytes(front)


def test_flipped_bit_in_a_short_file_is_refused() -> None:
    for data in flips(SHORT.to_bytes()):
        error_message(data)


@pytest.mark.parametrize("stream", [TILED, LAYERED, BASE], ids=["tiled", "layers", "base"])
def test_flipped_bit_in_a_long_file_is_refused_and_its_chunk_named(stream: Bitstream) -> None:
    data = stream.to_bytes()
    owners = [
        (layer.tag, number)
        for layer in stream.layers
        for number, chunk in enumerate(layer.chunks)
        for _ in chunk or b""
    ]
    for place, flipped in enumerate(flips(data)):
        error_message(flipped)
        byte = place // 8 - preamble_of(stream)
        if byte < 0:
            assert outcome(flipped, best_effort=True) is not Bitstream or place == SHORT_FLAG
            continue
        hit = Bitstream.from_bytes(flipped, best_effort=True)
        lost = [(layer.tag, number) for layer in hit.layers for number in layer.damaged]
        assert lost == [owners[byte]]


def flips(data: bytes) -> Iterator[bytes]:
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


def test_damage_is_reported_by_layer_and_tile() -> None:
    data = bytearray(TILED.to_bytes())
    for at in (0, 20, -len("afromthefuture"), -1):
        data[preamble_of(TILED) + at if at >= 0 else at] ^= 1
    with pytest.raises(Damaged) as caught:
        Bitstream.from_bytes(bytes(data), name="t.tri")
    assert caught.value.tiles == (0, 3)
    said = sentence(caught.value, "t.tri")
    assert "LATENT layer (tiles 0, 3 of 6)" in said and "ALPHA" in said and "layer 200 (part 2 of 3)" in said


ONE, TWO = b"\x01" + bytes(5), b"\x02" + bytes(10)  # empty chunks


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        (b"\x00", "0 layers"),
        (b"\x21" + bytes(300), "33 layers"),
        (b"\x01\x01\x00" + bytes(9), "0 chunks"),
        (b"\x01\x01\x81\x80\x04" + bytes(9), "65537 chunks"),
        (b"\x01\x01\x01\x00" + bytes(4), "short form"),
        (b"\x02\x80\x01\x00" + bytes(4) + b"\x01\x01\x00" + bytes(4), "order"),
        (b"\x02\x01\x01\x00" + bytes(4) + b"\x01\x01\x00" + bytes(4), "order"),
        (b"\x02\x00\x01\x00" + bytes(4) + b"\x01\x01\x00" + bytes(4), "order"),
        (b"\x01\x80\x02\x00" + bytes(4) + b"\x00" + bytes(4), "no LATENT, BASE or ENHANCEMENT"),
        (b"\x01\x02\x02\x00" + bytes(4) + b"\x00" + bytes(4), "more than one chunk"),
        (b"\x02\x01" + TWO + b"\x80" + TWO, "ALPHA layer has more than one chunk"),
        (b"\x02\x01" + TWO + b"\x81" + varint(501) + bytes(5 * 501), "ICC layer has more than one chunk"),
        (b"\x02\x01" + TWO + b"\x82" + TWO, "EXIF layer has more than one chunk"),
        (b"\x02\x01" + TWO + b"\x83" + TWO, "TEXT layer has more than one chunk"),
        (b"\x02\x02" + ONE + b"\x84" + TWO, "PART layer has more than one chunk"),
        (b"\x02\x02" + ONE + b"\x84\x01\x03" + bytes(4), "PART layer does not have 4 bytes"),
        (b"\x02\x01" + TWO + b"\x84\x01\x04" + bytes(4), "not one of its two parts"),
        (b"\x03\x02" + ONE + b"\x03" + ONE + b"\x84\x01\x04" + bytes(4), "not one of its two parts"),
        (b"\x02\x01" + ONE + b"\x02" + ONE, "together with BASE"),
        (b"\x02\x01" + ONE + b"\x03" + TWO, "together with BASE"),
        (b"\x01\x01\x02\x80\x00" + bytes(4) + b"\x00" + bytes(4), "shortest"),
    ],
)
def test_malformed_layer_tables_are_refused(layers: bytes, word: str) -> None:
    start = TILED.to_bytes()[:12]
    assert word in error_message(with_valid_crc(start + layers), Damaged)


def test_trailing_bytes_are_refused() -> None:
    data = TILED.to_bytes() + b"!"
    assert "1 bytes follow" in error_message(data, Damaged)
    assert Bitstream.from_bytes(data, best_effort=True) == TILED


def test_layer_table_allocates_no_more_than_the_file_size() -> None:
    start = TILED.to_bytes()[:12]
    front = start + b"\x01\x01" + varint(1 << 16) + bytes(1000)
    huge = with_valid_crc(start + b"\x01\x01\x02" + (varint((1 << 35) - 1) + bytes(4)) * 2, b"tail")
    tracemalloc.start()
    for data in (front, huge):
        error_message(data, Truncated)
    assert Bitstream.from_bytes(huge, best_effort=True).layers[0].chunks == (None, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with one to three small changes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            out[at : at + 1] = rng.randbytes(1)
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            out[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\x80\x80\x80"))
    return bytes(out)


@pytest.mark.parametrize("mended", [False, True], ids=["as they are", "checksum of the table mended"])
def test_random_damage_gives_an_error_or_the_same_bytes(mended: bool) -> None:
    rng = random.Random(2)
    streams = [SHORT, TILED, LAYERED, BASE, *(random_stream(rng) for _ in range(8))]
    kinds: set[type] = set()
    for turn in range(5000):
        stream = streams[turn % len(streams)]
        data = mutated(rng, stream.to_bytes())
        if mended:
            end = max(0, preamble_of(stream) - 4)
            data = data[:end] + crc32(data[:end]).to_bytes(4, "big") + data[end + 4 :]
        kinds |= {outcome(data, best_effort) for best_effort in (False, True)}
    assert {NotTrifocal, Truncated, Damaged, Unsupported, Bitstream} <= kinds


def outcome(data: bytes, best_effort: bool) -> type:
    try:
        stream = Bitstream.from_bytes(data, best_effort, name="fuzz.tri")
    except FormatError as error:
        sentence(error, "fuzz.tri")
        return type(error)
    if not best_effort:
        assert stream.to_bytes() == data
    describe(stream)
    return type(stream)


# ── files ──


def test_streams_are_opened_and_saved(tmp_path: Path) -> None:
    path = tmp_path / "photo.tri"
    TILED.save(path)
    assert path.read_bytes() == TILED.to_bytes() and Bitstream.open(path) == TILED
    path.write_bytes(TILED.to_bytes()[:-1])
    with pytest.raises(Truncated, match=r"^photo.tri is cut short: 1 of its \d+ bytes are missing"):
        Bitstream.open(str(path))
    assert Bitstream.open(path, best_effort=True).layers[-1].chunks == (b"from", b"the", None)
    with pytest.raises(FileNotFoundError):
        Bitstream.open(tmp_path / "nowhere.tri")


def test_large_file_of_another_type_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "vast.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    os.truncate(path, 1 << 34)
    start = time.perf_counter()
    with pytest.raises(NotTrifocal, match=r"^vast.png is not a Trifocal file; it seems to be a PNG image\.$"):
        Bitstream.open(path)
    assert time.perf_counter() - start < 1


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.tri"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as stream:
        stream.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["photo.tri"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_process_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.tri"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from trifocal.utils.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as stream:\n"
        "    stream.write(bytes(1 << 20)); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert run.returncode == -9 and path.read_bytes() == b"old"


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.tri"
    SHORT.save(path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        TILED.save(path)
    assert Bitstream.open(path) == SHORT and len(os.listdir(tmp_path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no descriptors")
@pytest.mark.parametrize("overwrite", [True, False])
def test_file_and_then_its_folder_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The folder after the rename, so that the rename survives a power failure."""
    path = tmp_path / "photo.tri"
    synced: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_folder = os.path.samestat(status, os.stat(tmp_path))
        synced.append((is_folder, path.exists()))
        assert is_folder or stat.S_ISREG(status.st_mode)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path, overwrite) as stream:
        stream.write(b"new")
    assert synced == [(False, False), (True, True)]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and devices")
def test_saving_keeps_permissions_links_and_devices(tmp_path: Path) -> None:
    path, link = tmp_path / "photo.tri", tmp_path / "link.tri"
    SHORT.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    path.chmod(0o640)
    link.symlink_to(path)
    TILED.save(link)
    assert link.is_symlink() and Bitstream.open(path) == TILED and stat.S_IMODE(path.stat().st_mode) == 0o640
    SHORT.save(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_saving_to_a_missing_folder_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SHORT.save(tmp_path / "nowhere" / "photo.tri")
