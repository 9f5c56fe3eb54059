"""Splitting and merging scalable files, and reading the base layer alone."""

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.container.fields import varint, write_header
from trifocal.container.parts import merge, part_id, read_base, strip
from trifocal.errors import Damaged, FormatError, MissingLayer, NotTrifocal, OptionError, Truncated

GOLDEN = Path(__file__).parent / "golden"
HEADER = Header(width=640, height=480, preset_id=8, level=400, fingerprint=0xBEEF)
BASE = Layer(Tag.BASE, (b"\x32" + bytes(range(40)),))
ENHANCEMENT = Layer(Tag.ENHANCEMENT, (b"first tile", b"", b"third"))
WHOLE = Bitstream(HEADER, (BASE, ENHANCEMENT, Layer(Tag.ICC, (b"profile",)), Layer(200, (b"later",))))
PLAIN = Bitstream(HEADER, (Layer(Tag.LATENT, (b"latent",)),))


def halves(stream: Bitstream) -> tuple[Bitstream, Bitstream]:
    return strip(stream, "base"), strip(stream, "enhancement")


def reread(stream: Bitstream) -> Bitstream:
    """The stream that is read from the bytes."""
    return Bitstream.from_bytes(stream.to_bytes())


def says(error: pytest.ExceptionInfo[Exception]) -> str:
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said and len(said) < 300
    return said


# ── there and back ──


def test_base_part_has_the_base_layer_and_the_other_part_the_rest() -> None:
    base, enhancement = halves(WHOLE)
    assert [layer.tag for layer in base.layers] == [Tag.BASE, Tag.PART]
    assert [layer.tag for layer in enhancement.layers] == [Tag.ENHANCEMENT, Tag.ICC, Tag.PART, 200]
    assert base.header == enhancement.header == HEADER
    assert base.size < WHOLE.size and part_id(base) == part_id(enhancement) and part_id(WHOLE) is None


def test_strip_and_merge_are_inverses_byte_for_byte() -> None:
    rng = random.Random(1)
    for _ in range(200):
        whole = random_whole(rng)
        parts = [reread(part) for part in halves(whole)]
        rng.shuffle(parts)
        assert merge(*parts).to_bytes() == whole.to_bytes()


def random_whole(rng: random.Random) -> Bitstream:
    tags = rng.sample([Tag.ALPHA, Tag.ICC, Tag.EXIF, Tag.TEXT, 255], rng.choice((0, 0, 1, 3)))
    tiles = tuple(rng.randbytes(rng.choice((0, 5, 300))) for _ in range(rng.choice((1, 1, 4))))
    others = tuple(Layer(tag, (rng.randbytes(9),)) for tag in tags)
    base = Layer(Tag.BASE, (rng.randbytes(rng.choice((0, 1, 200))),))
    header = replace(HEADER, width=rng.randint(1, 1 << 16), grey=rng.random() < 0.5)
    return Bitstream(header, (base, Layer(Tag.ENHANCEMENT, tiles), *others))


def test_golden_part_equals_that_of_the_golden_file() -> None:
    whole = Bitstream.open(GOLDEN / "container-layers.tri")
    assert strip(whole, "base").to_bytes() == (GOLDEN / "container-base.tri").read_bytes()
    part = Bitstream.open(GOLDEN / "container-base.tri")
    assert merge(strip(whole, "enhancement"), part) == whole


def test_part_id_depends_on_every_bit() -> None:
    """Also if two bytes of the table's CRC are swapped, which a CRC over that CRC would not detect."""
    rng = random.Random(2)
    marks = {part_id(strip(random_whole(rng), "base")) for _ in range(2000)}
    assert len(marks) == 2000


# ── what is refused ──


@pytest.mark.parametrize("layers", ["base", "enhancement"])
@pytest.mark.parametrize(
    ("stream", "missing"),
    [
        (PLAIN, "base"),
        (replace(WHOLE, layers=(BASE,)), "enhancement"),
        (replace(WHOLE, layers=(ENHANCEMENT,)), "base"),
        (strip(WHOLE, "base"), "enhancement"),
        (strip(WHOLE, "enhancement"), "base"),
    ],
)
def test_only_files_with_both_layers_can_be_stripped(stream: Bitstream, missing: str, layers: str) -> None:
    with pytest.raises(MissingLayer) as error:
        strip(stream, layers)
    assert f"no {missing} layer" in says(error)


def test_parts_have_two_names() -> None:
    with pytest.raises(OptionError) as error:
        strip(WHOLE, "everything")
    assert "everything" in says(error)


def next_frame(stream: Bitstream) -> Bitstream:
    """A similar file: the next frame of the same camera."""
    return stream.with_layer(Layer(Tag.BASE, (bytes(41),)))


B, E = halves(WHOLE)
MARK = Layer(Tag.PART, (part_id(B),))


@pytest.mark.parametrize(
    ("one", "two", "word"),
    [
        (B, B, "Both files are base parts"),
        (B, strip(next_frame(WHOLE), "base"), "Both files are base parts"),
        (E, E, "Both files are enhancement parts"),
        (B, strip(next_frame(WHOLE), "enhancement"), "different files"),
        (B, strip(replace(WHOLE, header=replace(HEADER, level=401)), "enhancement"), "different files"),
        (WHOLE, E, "complete file"),
        (B, PLAIN, "not a part"),
        (B, replace(WHOLE, layers=(ENHANCEMENT,)), "not a part"),
        (replace(next_frame(WHOLE), layers=next_frame(WHOLE).layers[:1]), E, "different files"),
    ],
)
def test_parts_of_different_files_are_not_merged(one: Bitstream, two: Bitstream, word: str) -> None:
    for parts in (one, two), (two, one):
        with pytest.raises(OptionError, match=word) as error:
            merge(*parts)
        says(error)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (B.with_layer(Layer(Tag.BASE, (bytes(41),))), E),
        (B, E.with_layer(Layer(Tag.TEXT, (b"\x00a dog",)))),
        (B.with_layer(Layer(Tag.ICC, (b"profile",))), E),
        (B, replace(E, header=replace(HEADER, grey=True))),
        (B, replace(E, layers=(ENHANCEMENT, MARK))),
    ],
    ids=["another base", "a layer more", "a layer twice", "another header", "a layer less"],
)
def test_changed_parts_are_not_merged(one: Bitstream, two: Bitstream) -> None:
    with pytest.raises(Damaged, match="changed") as error:
        merge(one, two)
    says(error)


def test_damaged_streams_are_neither_stripped_nor_merged() -> None:
    lost = WHOLE.with_layer(Layer(Tag.ENHANCEMENT, (b"first tile", None, b"third")))
    with pytest.raises(Damaged) as error:
        strip(lost, "base")
    assert error.value.tiles == (1,) and "tile 1 of 3" in says(error)
    with pytest.raises(Damaged, match="tile 1 of 3") as error:
        merge(B, E.with_layer(lost.layers[1]))
    says(error)


@pytest.mark.parametrize("chunks", [(None,), (b"123",), (b"12345",)])
def test_invalid_part_id_is_refused(chunks: tuple[bytes | None, ...]) -> None:
    with pytest.raises(Damaged, match="strip the original file again") as error:
        merge(B.with_layer(Layer(Tag.PART, chunks)), E)
    says(error)


# ── the base, read alone ──


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        path = tmp_path / "x.tri"
        path.write_bytes(data)
        return path

    return save


def front_of(stream: Bitstream) -> int:
    return stream.size - sum(layer.size for layer in stream.layers)


def test_base_layer_is_read_if_later_bytes_are_damaged(saved: Callable[[bytes], Path]) -> None:
    data = WHOLE.to_bytes()
    end = front_of(WHOLE) + BASE.size
    for rest in (data[end:], b"", bytes(len(data) - end), b"much more" * 10_000):
        base, read = read_base(saved(data[:end] + rest))
        assert (base, read) == (Bitstream(HEADER, (BASE,)), end)
    base, read = read_base(saved(B.to_bytes()))
    assert (base, read) == (Bitstream(HEADER, (BASE,)), B.size - 4)


def test_large_tables_and_base_layers_are_read_in_pieces(saved: Callable[[bytes], Path]) -> None:
    base = Layer(Tag.BASE, (random.Random(3).randbytes(50_001),))
    large = Bitstream(HEADER, (base, Layer(Tag.ENHANCEMENT, (b"x",) * 9000)))
    assert read_base(saved(large.to_bytes())) == (
        Bitstream(HEADER, (base,)),
        front_of(large) + base.size,
    )


@pytest.mark.parametrize("stream", [PLAIN, E, PLAIN.with_layer(Layer(Tag.ICC, (b"profile",)))])
def test_file_without_a_base_layer_raises_missing_layer(
    stream: Bitstream, saved: Callable[[bytes], Path]
) -> None:
    with pytest.raises(MissingLayer, match=r"^x.tri has no base layer") as error:
        read_base(saved(stream.to_bytes()))
    says(error)


def test_truncated_or_changed_base_layer_is_refused(saved: Callable[[bytes], Path]) -> None:
    data = B.to_bytes()
    end = front_of(B) + BASE.size
    for length in range(1, end):
        with pytest.raises(Truncated, match=r"^x.tri is cut short"):
            read_base(saved(data[:length]))
    for place in range(8 * end):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(FormatError) as error:
            read_base(saved(bytes(flipped)))
        assert says(error).startswith("x.tri ")
    with pytest.raises(Damaged, match="BASE"):
        read_base(saved(data[: end - 1] + b"!" + data[end:]))


@pytest.mark.parametrize(("data", "kind"), [(b"", NotTrifocal), (b"hello, this is text", NotTrifocal)])
def test_other_files_are_refused_by_read_base(
    data: bytes, kind: type[FormatError], saved: Callable[[bytes], Path]
) -> None:
    with pytest.raises(kind, match="^x.tri"):
        read_base(saved(data))


def test_false_base_layer_length_allocates_no_memory(saved: Callable[[bytes], Path]) -> None:
    front = write_header(WHOLE.header, short=False) + b"\x01\x02\x01" + varint((1 << 35) - 1) + bytes(4)
    path = saved(front + crc32(front).to_bytes(4, "big") + b"tail")
    tracemalloc.start()
    with pytest.raises(Truncated, match="base layer are missing"):
        read_base(path)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def test_random_damage_to_parts_gives_an_error_or_the_original(
    saved: Callable[[bytes], Path],
) -> None:
    rng = random.Random(4)
    merged = 0
    for _ in range(1500):
        parts = [bytearray(part.to_bytes()) for part in (B, E)]
        hurt = rng.choice(parts)
        at = rng.randrange(len(hurt))
        hurt[at : at + rng.choice((0, 1, 1, 3))] = rng.randbytes(rng.choice((0, 1, 1, 2)))
        try:
            whole = merge(*(Bitstream.from_bytes(bytes(part)) for part in parts))
        except (FormatError, OptionError) as error:
            assert str(error).endswith(".")
            continue
        assert whole == WHOLE
        merged += 1
    assert 0 < merged < 1500
