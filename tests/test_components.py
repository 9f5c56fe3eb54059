"""Images with components: any subset of objects is sharp, the rest is the base layer."""

from typing import Any

import numpy as np
import pytest

import trifocal
from helpers.cli import is_one_sentence
from helpers.codecs import small_codec
from helpers.dual_layer import small_dual_layer
from helpers.grounding import detections
from helpers.images import random_rgb
from trifocal.codecs.components import component_at, component_request, with_positions
from trifocal.container import Bitstream, Component, Layer, Tag
from trifocal.container import components as container_components
from trifocal.container.components import MAX_COMPONENTS
from trifocal.container.parts import merge, strip, without
from trifocal.detection.detections import Detections
from trifocal.detection.labels import CATEGORIES, CATEGORY_BY_NAME, TASK_LABELS
from trifocal.errors import Damaged, MissingLayer, OptionError, PresetError
from trifocal.grounding.compact import DetectorGrounder
from trifocal.pictures import Picture, canvas

PICTURE = Picture(random_rgb(200, 120, seed=2))
OBJECTS = [
    Component("person", (1, 1, 5, 6)),
    Component("car", (4, 2, 9, 5)),
    Component("person", (11, 0, 12, 1)),
]


@pytest.fixture(scope="module")
def codec() -> Any:
    return small_dual_layer()


@pytest.fixture(scope="module")
def stream(codec: Any) -> Bitstream:
    return reread(codec.encode(PICTURE, quality=60, refinement=0, components=OBJECTS))


def reread(stream: Bitstream) -> Bitstream:
    return Bitstream.from_bytes(stream.to_bytes())


def latents(codec: Any, stream: Bitstream) -> np.ndarray:
    y: np.ndarray = codec.decode_latents(stream).y[0]
    return y


def positions(stream: Bitstream) -> np.ndarray:
    assert stream.layout is not None
    x0, y0, x1, y1 = stream.layout.tile_box(0)
    return np.frombuffer(stream.layout.positions(0), np.uint8).reshape(y1 - y0, x1 - x0)


# ── decoding ──


def test_whole_file_decodes_like_one_without_components(codec: Any, stream: Bitstream) -> None:
    plain = codec.encode(PICTURE, quality=60, refinement=0)
    assert plain.components == () and stream.components == tuple(OBJECTS)
    decoded = codec.decode(stream)
    assert decoded.missing == () and decoded.missing_notice is None
    both = (decoded.picture.rgb.astype(int), codec.decode(plain).picture.rgb.astype(int))
    errors = [((rgb - PICTURE.rgb) ** 2).mean() for rgb in both]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_missing_parts_are_the_prediction_of_the_base_layer(codec: Any, stream: Bitstream) -> None:
    y, numbers = latents(codec, stream), positions(stream)
    people = reread(stream.only("person"))
    found = latents(codec, people)
    here = (numbers == 1) | (numbers == 3)
    assert np.array_equal(found[here], y[here]) and not found[~here].any()
    decoded = codec.decode(people)
    assert decoded.missing == ("car", "the rest") and not decoded.rest_is_blocked
    assert "damaged: car and the rest." in decoded.missing_notice
    assert np.array_equal(codec.detect(people).boxes, codec.detect(stream).boxes)


def test_the_rest_needs_all_components(codec: Any, stream: Bitstream) -> None:
    most = merge(stream.only("person"), without(stream, ["person", "car"]))
    decoded = codec.decode(reread(most))
    assert decoded.missing == ("car", "the rest") and decoded.rest_is_blocked
    assert "needs all components" in decoded.missing_notice
    whole = merge(most, stream.only("car"))
    assert whole == stream


def test_a_part_without_base_layer_names_what_it_needs(codec: Any, stream: Bitstream) -> None:
    with pytest.raises(MissingLayer, match="base layer"):
        codec.decode(reread(without(stream, "person")))
    base = reread(strip(stream, "base"))
    with pytest.raises(MissingLayer, match="only a base layer"):
        codec.decode(base)
    assert codec.base_preview(base).width == 200


@pytest.mark.parametrize("index", [0, 1, 3, 4])
def test_damaged_chunks_count_as_missing_with_best_effort(codec: Any, stream: Bitstream, index: int) -> None:
    chunks = list(stream.layers[1].chunks)
    chunks[index] = None
    bad = stream.with_layer(Layer(Tag.ENHANCEMENT, tuple(chunks)))
    with pytest.raises(Damaged, match=f"chunk {index} of 5"):
        codec.decode(bad)
    decoded = codec.decode(bad, best_effort=True)
    expected = {
        0: ("person", "car", "the rest"),
        1: ("person", "the rest"),
        3: ("person", "the rest"),
        4: ("the rest",),
    }
    assert decoded.missing == expected[index] and decoded.damaged == ()
    assert decoded.rest_is_blocked == (index != 4)


def test_tiles_and_regions(codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "TILE", 128)
    monkeypatch.setattr(container_components, "TILE", 128)
    stream = reread(codec.encode(PICTURE, quality=60, refinement=0, components=OBJECTS))
    assert stream.layout is not None and len(stream.layout.parts) == 2
    assert [*stream.layout.chunks] == [(-1, 0), (-1, 1), (1, 0), (2, 0), (2, 1), (3, 1), (0, 0), (0, 1)]
    for part in (stream, stream.only("car")):
        whole = codec.decode(part).picture.rgb
        region = codec.decode(part, region=(20, 10, 40, 50))
        assert np.array_equal(region.picture.rgb, whole[10:60, 20:60])
    assert codec.decode(stream.only("car"), region=(130, 10, 20, 20)).missing == ("person", "the rest")


def test_objects_that_cover_everything_leave_no_rest(codec: Any) -> None:
    box = component_at("sky", (0, 0, 200, 120), 200, 120)
    assert box is not None
    stream = codec.encode(PICTURE, quality=60, refinement=0, components=[box])
    assert len(stream.layers[1].chunks) == 2 and stream.only("sky") == stream
    assert codec.decode(stream).missing == ()


@pytest.mark.slow
def test_two_hundred_objects_of_one_position(codec: Any) -> None:
    many = [Component("bird", (n % 12, n // 12, n % 12 + 1, n // 12 + 1)) for n in range(84)] * 3
    stream = reread(codec.encode(PICTURE, quality=40, refinement=0, components=many[:200]))
    assert len(stream.components) == 84  # the others are covered
    assert codec.decode(stream).missing == ()


def test_requested_size_counts_components(codec: Any) -> None:
    stream = codec.encode(PICTURE, max_bytes=760, refinement=0, components=OBJECTS)
    assert len(stream.components) == 3 and 600 < stream.size <= 760


def test_latents_of_a_file_with_components_are_encoded_without(codec: Any, stream: Bitstream) -> None:
    again = codec.encode_latents(codec.decode_latents(stream), 60)
    assert again.components == () and len(again.layers[1].chunks) == 1
    assert codec.decode(again).picture.rgb.shape == (120, 200, 3)


# ── what becomes a component ──


def choose(
    components: Any, objects: Detections, pixels: np.ndarray = PICTURE.rgb
) -> tuple[tuple[Component, ...], list[str]]:
    """The components that a request makes of detected objects, and its notices."""
    notices: list[str] = []
    request = component_request(components, notices.append, DetectorGrounder(lambda pixels: objects))
    assert request is not None
    return request.prepare().choose(pixels), notices


DETECTED = detections(
    ("person", 0.9, (20, 20, 70, 90)), ("car", 0.8, (100, 40, 200, 80)), ("dog", 0.2, (0, 0, 50, 50))
)


@pytest.mark.parametrize(
    ("components", "labels"),
    [
        ("detection", ["person", "car"]),
        ("car", ["car"]),
        (["Person", "dog"], ["person"]),
        ("a, car,", ["car"]),
        ("  PERSON ", ["person"]),
        ("automobile,sedan", ["sedan"]),
    ],
)
def test_labels_choose_objects_with_a_high_score(components: Any, labels: list[str]) -> None:
    assert [one.label for one in choose(components, DETECTED)[0]] == labels


def test_boxes_grow_to_positions_and_into_the_padding() -> None:
    assert choose("car", DETECTED)[0] == (Component("car", (6, 2, 16, 5)),)
    assert component_at("a", (16, 16, 17, 17), 200, 120) == Component("a", (1, 1, 2, 2))
    assert component_at("a", (-9, -9, 500, 500), 200, 120) == Component("a", (0, 0, 16, 8))
    assert component_at("a", (300, 0, 400, 9), 200, 120) is None


def test_labels_that_are_not_found_get_one_notice() -> None:
    chosen, notices = choose("unicorn,bike,car", DETECTED)
    assert [one.label for one in chosen] == ["car"] and len(notices) == 1
    assert "2 of 3 labels ('unicorn', 'bike')" in notices[0] and is_one_sentence(notices[0])
    many = ",".join(f"unicorn {number}" for number in range(9))
    (notice,) = choose(f"{many},car", DETECTED)[1]
    assert "9 of 10 labels ('unicorn 0'" in notice and "'unicorn 4' and 4 more)" in notice


@pytest.mark.parametrize("task", TASK_LABELS)
def test_labels_of_tasks_that_are_not_searched_get_one_notice(task: str) -> None:
    chosen, notices = choose(f"{task},car", DETECTED)
    assert [one.label for one in chosen] == ["person", "car"] and len(notices) == 1
    count = len(TASK_LABELS[task])
    assert f"{count - 80} of the {count} labels of {task}" in notices[0] and is_one_sentence(notices[0])


def test_image_without_objects_has_no_components(codec: Any) -> None:
    chosen, notices = choose("zebra", detections())
    assert chosen == () and len(notices) == 1 and "no components" in notices[0]
    with pytest.warns(UserWarning, match="no components"):
        stream = codec.encode(PICTURE, quality=60, refinement=0, components="zebra")
    assert stream == codec.encode(PICTURE, quality=60, refinement=0)


def test_covered_and_surplus_objects_are_left_out() -> None:
    covered = [Component("a", (0, 0, 2, 2)), Component("b", (0, 0, 2, 1)), Component("c", (0, 1, 2, 2))]
    assert with_positions(covered, 32, 32) == tuple(covered[1:])
    corners = [(16 * (n % 20), 16 * (n // 20)) for n in range(300)]
    birds = [("bird", 0.4 + n / 1000, (x, y, x + 9, y + 9)) for n, (x, y) in enumerate(corners)]
    chosen, notices = choose("bird", detections(*birds), np.zeros((240, 320, 3), np.uint8))
    assert len(chosen) == MAX_COMPONENTS and chosen[0].box == (19, 14, 20, 15)  # that of the highest score
    assert len(notices) == 1 and f"300 objects; the {MAX_COMPONENTS} with" in notices[0]


def test_boxes_of_one_object_become_one_component() -> None:
    objects = detections(("car", 0.6, (20, 20, 100, 90)), ("truck", 0.9, (20, 22, 100, 90)))
    chosen, notices = choose("car,truck", objects)
    assert [one.label for one in chosen] == ["truck"] and "1 of 2 labels ('car')" in notices[0]


@pytest.mark.parametrize("wrong", ["", " , ", [], [3], ["a,b"]])
def test_invalid_requests_are_refused(wrong: Any) -> None:
    with pytest.raises(OptionError, match="components") as refused:
        component_request(wrong)
    assert is_one_sentence(str(refused.value))


def test_invalid_grounders_are_refused() -> None:
    with pytest.raises(OptionError, match="compact or grounding-dino, not 'yolo'"):
        component_request("car", grounder="yolo")
    with pytest.raises(OptionError, match="leave the grounder out"):
        component_request(None, grounder="compact")


def test_components_beyond_the_image_are_refused(codec: Any) -> None:
    with pytest.raises(OptionError, match="16 x 8"):
        codec.encode(PICTURE, refinement=0, components=[Component("a", (15, 0, 17, 1))])


def test_presets_without_base_layer_have_no_components() -> None:
    with pytest.raises(PresetError, match="components"):
        small_codec().encode(PICTURE, components="car")


def test_label_lists_are_long_and_written_once() -> None:
    for labels in TASK_LABELS.values():
        assert len(labels) >= 100 and len({*labels}) == len(labels)
        assert {*CATEGORY_BY_NAME} <= {*labels} and len(CATEGORIES) == 80
        assert all(label == label.strip().lower() and label for label in labels)


def test_missing_components_decode_to_the_base_preview() -> None:
    """Also in a region, and the same on both engines; a whole file does not change."""
    picture = Picture(random_rgb(192, 128, 3))
    objects = [Component("person", (0, 0, 4, 8)), Component("car", (8, 2, 12, 6))]
    stream = trifocal.encode(picture, quality=60, base_quality=40, refinement=0, components=objects)
    part = stream.only("person")
    onnx: Any
    torch_: Any
    onnx, torch_ = (trifocal.load("dual-layer-compact", engine=engine) for engine in ("onnx", "torch"))
    shown, same = (codec.decode(part).picture.rgb.astype(int) for codec in (onnx, torch_))
    assert abs(shown - same).max() <= 1
    preview = onnx.base_preview(part).rgb.astype(int)
    far = shown[:, 96:], preview[:, 96:]  # two positions from the person
    assert abs(far[0] - far[1]).mean() < 2
    assert abs(shown[:, :32] - onnx.decode(stream).picture.rgb[:, :32]).mean() < 1
    region = onnx.decode(part, region=(70, 10, 90, 80)).picture.rgb
    assert abs(region.astype(int) - shown[10:90, 70:160]).max() <= 1
    bare = stream.only("car")
    assert abs(onnx.decode(bare).picture.rgb[:, :32].astype(int) - preview[:, :32]).mean() < 2
