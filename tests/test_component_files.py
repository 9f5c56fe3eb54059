"""Files with components: their layer, their chunks, and every way to strip and merge them."""

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trifocal.container import Bitstream, Component, Header, Layer, Tag, describe
from trifocal.container.components import MAX_COMPONENTS, REST, SIDE, ComponentLayout
from trifocal.container.fields import varint
from trifocal.container.parts import merge, read_base, strip, without
from trifocal.container.table import bitmap
from trifocal.container.text import text_to_bytes
from trifocal.errors import Damaged, FormatError, MissingLayer, OptionError

LABELS = ("person", "car", "dog")
WIDTH, HEIGHT = 1500, 200  # two tiles, 96 x 16 positions


def stream_with(components: Sequence[Component], width: int = WIDTH, height: int = HEIGHT) -> Bitstream:
    """A file whose chunks name their part and tile."""
    layout = ComponentLayout(tuple(components), width, height)
    chunks = tuple(f"part {part} of tile {tile}".encode() for part, tile in layout.chunks)
    layers = (
        Layer(Tag.BASE, (b"\x14base",)),
        Layer(Tag.ENHANCEMENT, chunks),
        Layer(Tag.COMPONENTS, (layout.to_bytes(),)),
        Layer(Tag.ICC, (b"profile",)),
    )
    return Bitstream(Header(width, height, preset_id=8, level=400, fingerprint=0xBEEF), layers)


STREAM = stream_with(
    [
        Component("person", (2, 2, 12, 10)),
        Component("car", (60, 0, 70, 8)),
        Component("person", (4, 3, 6, 5)),
        Component("dog", (80, 8, 81, 9)),
    ]
)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, 95)), draw(st.integers(0, 15))
    return x0, y0, draw(st.integers(x0 + 1, 96)), draw(st.integers(y0 + 1, 16))


COMPONENTS = st.lists(st.builds(Component, st.sampled_from(LABELS), boxes()), min_size=1, max_size=8)


# ── the layer and the order of the chunks ──


@given(COMPONENTS)
@settings(max_examples=30, deadline=None)
def test_each_position_belongs_to_the_smallest_box_that_covers_it(components: list[Component]) -> None:
    layout = ComponentLayout(tuple(components), WIDTH, HEIGHT)
    for tile in range(2):
        left, top, right, _ = layout.tile_box(tile)
        found = layout.positions(tile)
        for index, number in enumerate(found):
            y, x = divmod(index, right - left)
            covering = [
                ((c.box[2] - c.box[0]) * (c.box[3] - c.box[1]), n)
                for n, c in enumerate(components, start=1)
                if c.box[0] <= x + left < c.box[2] and c.box[1] <= y + top < c.box[3]
            ]
            assert number == (min(covering)[1] if covering else REST)
        assert {*layout.parts[tile]} == {SIDE, *found}


@given(COMPONENTS)
@settings(max_examples=30, deadline=None)
def test_components_are_read_as_they_were_written(components: list[Component]) -> None:
    layout = ComponentLayout(tuple(components), WIDTH, HEIGHT)
    assert ComponentLayout.from_bytes(layout.to_bytes(), WIDTH, HEIGHT) == layout
    stream = Bitstream.from_bytes(stream_with(components).to_bytes())
    assert stream.components == tuple(components) and not stream.is_partial
    keys = list(layout.chunks)
    assert keys == sorted(keys, key=lambda key: (key[0] == REST, *key))
    assert len(keys) == len(stream.layers[1].chunks) and [*layout.chunks.values()] == [*range(len(keys))]


def test_a_component_costs_a_few_bytes() -> None:
    one, two = (ComponentLayout(STREAM.components[:n], WIDTH, HEIGHT).to_bytes() for n in (1, 3))
    assert len(one) <= 1 + 5 + 1 + 6 and len(two) <= len(one) + 2 * 5 + 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        varint(0) + text_to_bytes("person"),
        varint(MAX_COMPONENTS + 1) + bytes(5 * (MAX_COMPONENTS + 1)) + text_to_bytes("person"),
        varint(9) + bytes(12),
        varint(1) + bytes([1, 0, 0, 0, 0]) + text_to_bytes("person"),
        varint(1) + bytes([0, 0, 0, 0, 0]) + text_to_bytes("person,car"),
        varint(2) + bytes([0, 0, 0, 0, 0, 1, 0, 0, 0, 0]) + text_to_bytes("car,car"),
        varint(1) + bytes([0, 96, 0, 0, 0]) + text_to_bytes("person"),
        varint(1) + bytes([0, 0, 15, 0, 1]) + text_to_bytes("person"),
        varint(1) + bytes([0, 0, 0, 0, 0]) + b"\0two  spaces",
        varint(1) + bytes([0, 0, 0, 0, 0]),
    ],
)
def test_malformed_components_are_refused(data: bytes) -> None:
    bad = STREAM.with_layer(Layer(Tag.COMPONENTS, (data,)))
    with pytest.raises(FormatError) as error:
        Bitstream.from_bytes(bad.to_bytes())
    assert str(error.value).endswith(".")


def test_number_of_chunks_must_follow_from_the_components() -> None:
    chunks = STREAM.layers[1].chunks
    for wrong in (chunks[:-1], (*chunks, b""), chunks[:1]):
        bad = STREAM.with_layer(Layer(Tag.ENHANCEMENT, wrong))
        with pytest.raises(Damaged, match=f"its {len(wrong)} chunks"):
            Bitstream.from_bytes(bad.to_bytes())


def test_a_large_image_in_a_short_file_makes_no_work() -> None:
    few = STREAM.layers[1].keep(lambda index: index < 3)
    huge = replace(
        STREAM,
        header=replace(STREAM.header, width=1 << 16, height=1 << 16),
        layers=(*STREAM.layers[2:], Layer(Tag.ENHANCEMENT, few.chunks, few.absent)),
    )
    data = huge.to_bytes()
    tracemalloc.start()
    with pytest.raises(Damaged, match="chunks"):
        Bitstream.from_bytes(data)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def test_boxes_behind_one_that_covers_a_tile_cost_no_time() -> None:
    """255 boxes over 4,096 tiles; painting each in each tile takes 20 s."""
    boxes = [(n % 2, n // 2 % 64, 4096 - n % 3, 4096 - n) for n in range(MAX_COMPONENTS)]
    layout = ComponentLayout(tuple(Component("a", box) for box in boxes), 1 << 16, 1 << 16)
    began = time.process_time()
    assert len(layout.chunks) == 23784 and time.process_time() - began < 5


@pytest.mark.parametrize(
    ("label", "box"),
    [
        ("", (0, 0, 1, 1)),
        ("a,b", (0, 0, 1, 1)),
        ("a\nb", (0, 0, 1, 1)),
        ("a", (1, 0, 1, 1)),
        ("a", (-1, 0, 1, 1)),
    ],
)
def test_impossible_components_are_refused(label: str, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(OptionError, match=r"\.$"):
        Component(label, box)


# ── strip and merge ──

SELECTIONS = st.sets(st.sampled_from(LABELS))


@given(COMPONENTS, st.data())
@settings(max_examples=30, deadline=None)
def test_every_subset_order_and_overlap_of_parts_merges_byte_for_byte(
    components: list[Component], data: st.DataObject
) -> None:
    whole = stream_with(components)
    labels = sorted({one.label for one in components})
    parts = []
    for chosen in data.draw(st.lists(st.sets(st.sampled_from(labels)), min_size=1, max_size=4)):
        parts += [whole.only(chosen), without(whole, chosen)][: data.draw(st.integers(1, 2))]
    parts += data.draw(st.sampled_from([[], [whole], [strip(whole, "base")], [strip(whole, "enhancement")]]))
    parts = [Bitstream.from_bytes(part.to_bytes()) for part in data.draw(st.permutations(parts))]
    merged = merge(*parts, parts[0])
    again = Bitstream.from_bytes(merged.to_bytes())
    assert again == merged
    for index, layer in enumerate(whole.layers):
        there = [
            any(part.layers[index].chunks[n] is not None for part in parts) for n in range(len(layer.chunks))
        ]
        expected = [chunk if is_there else None for chunk, is_there in zip(layer.chunks, there, strict=True)]
        assert list(again.layers[index].chunks) == expected
    complete = merge(again, whole.only(labels), without(whole, labels))
    assert complete.to_bytes() == whole.to_bytes()


def test_two_complementary_parts_are_the_whole() -> None:
    people, others = STREAM.only("person"), without(STREAM, "person")
    assert people.is_partial and others.is_partial and people.size + others.size < STREAM.size + 250
    assert [layer.name for layer in STREAM.layers if others.layer(layer.tag)] == ["ENHANCEMENT", "COMPONENTS"]
    assert merge(others, people) == STREAM


def test_a_part_of_a_part_is_a_part_of_the_whole() -> None:
    people = STREAM.only(["person", "car"]).only("person")
    assert people == STREAM.only("person")
    assert without(STREAM.only("person"), "person").layers[1].size == 0


def test_stripping_what_covers_everything_keeps_the_whole_file() -> None:
    full = stream_with([Component("sky", (0, 0, 96, 16))])
    assert full.only("sky") == full and {part for part, _ in full.layout.chunks} == {SIDE, 1}  # type: ignore[union-attr]


@pytest.mark.parametrize("layers", ["base", "enhancement"])
def test_layers_of_files_with_components_are_stripped_to_partial_files(layers: str) -> None:
    part = strip(STREAM, layers)
    assert part.layer(Tag.PART) is None and part.is_partial
    assert (part.layer(Tag.BASE) is None) == (layers == "enhancement")


def test_base_layer_is_read_from_a_part(tmp_path: Path) -> None:
    STREAM.only("car").save(tmp_path / "car.tri")
    without(STREAM, "car").save(tmp_path / "others.tri")
    base, _ = read_base(tmp_path / "car.tri")
    assert base.layers == STREAM.layers[:1]
    with pytest.raises(MissingLayer, match="merge"):
        read_base(tmp_path / "others.tri")


def test_foreign_parts_are_refused() -> None:
    other = stream_with(STREAM.components[:3])
    frame = STREAM.with_layer(Layer(Tag.BASE, (b"\x14bass",)))
    level = replace(STREAM, header=replace(STREAM.header, level=401))
    plain = Bitstream(STREAM.header, (Layer(Tag.LATENT, (b"x",)),))
    for foreign in (other.only("person"), frame.only("car"), level.only("dog"), plain):
        for parts in ((STREAM.only("car"), foreign), (foreign, STREAM.only("car"))):
            with pytest.raises(OptionError, match="parts of different files"):
                merge(*parts)
    with pytest.raises(OptionError, match="two or more"):
        merge(STREAM)


def test_wrong_labels_and_files_without_components_are_refused() -> None:
    with pytest.raises(OptionError, match=r"no component 'zebra'; its labels are car, dog, person\."):
        STREAM.only(["car", "zebra"])
    with pytest.raises(MissingLayer, match="has no components; encode"):
        Bitstream(STREAM.header, STREAM.layers[:1]).only("car")


# ── damage ──


def test_damaged_chunks_are_named_and_differ_from_absent_ones() -> None:
    people = STREAM.only("person")
    data = bytearray(people.to_bytes())
    data[data.index(b"part 1 of tile 0")] ^= 1
    with pytest.raises(Damaged, match=r"ENHANCEMENT layer \(chunk 2 of 9\); --best-effort") as error:
        Bitstream.from_bytes(bytes(data))
    assert error.value.tiles == ()
    read = Bitstream.from_bytes(bytes(data), best_effort=True)
    assert read.layers[1].damaged == (2,) and read.components == STREAM.components
    for use in (lambda: read.only("car"), lambda: merge(read, STREAM.only("car")), read.to_bytes):
        with pytest.raises(Damaged):
            use()


def test_damaged_components_layer_is_named() -> None:
    data = bytearray(STREAM.to_bytes())
    data[-len(b"profile") - 1] ^= 1
    with pytest.raises(Damaged, match="cannot be decoded without its COMPONENTS layer"):
        Bitstream.from_bytes(bytes(data))
    read = Bitstream.from_bytes(bytes(data), best_effort=True)
    assert "components" not in describe(read)
    with pytest.raises(Damaged, match="COMPONENTS"):
        _ = read.components


def test_every_changed_bit_of_a_part_is_found() -> None:
    data = STREAM.only("dog").to_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            Bitstream.from_bytes(bytes(changed))


def test_bitmap_of_a_whole_file_is_refused() -> None:
    people = STREAM.only("person")
    data = people.to_bytes()
    front = data[: people.size - sum(layer.size for layer in people.layers) - 4 - 2]
    for bits in (b"\xff\xf0", b"\xc0\x01", b"\xff\xc0"):  # all chunks, an unused bit, no COMPONENTS
        head = front + bits
        with pytest.raises(Damaged, match="malformed"):
            Bitstream.from_bytes(head + crc32(head).to_bytes(4, "big"), best_effort=True)


def test_description_has_label_box_and_bytes() -> None:
    facts = describe(STREAM.only("person"))
    rows: Any = facts["components"]
    side, first, car, *_, rest = rows
    assert facts["partial"] is True and side["label"] == "side information" and rest["bytes"] == 0
    assert first == {"label": "person", "box": [32, 32, 192, 160], "bytes": 16, "absent bytes": 0}
    assert car["bytes"] == 0 and car["absent bytes"] == 32


def test_bitmap_of_present_chunks() -> None:
    assert bitmap([]) == b"" and bitmap([False, True]) == b"\x40"
    assert bitmap([True] * 9 + [False]) == b"\xff\x80"
