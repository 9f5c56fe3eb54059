"""The base layer alone, an unconditioned enhancement layer, and other codecs at the detector's size, measured
with a small scalable codec.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cli import Recorder, run
from helpers.detection import (
    BRIGHT_BOX,
    HEIGHT,
    WIDTH,
    BrightDetector,
    TwoJpegCodec,
    bright_image,
    decode_image,
    detection_task,
    use_two_jpeg_preset,
    write_bright_images,
)
from trifocal import evaluation
from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.container import Bitstream, Tag
from trifocal.detection.detections import rescale
from trifocal.detection.detector import SplitDetector, compact_detector
from trifocal.detection.input_size import COCO_IDS, compact_size
from trifocal.errors import OptionError, PictureError, PresetError
from trifocal.evaluation import CompareOptions, Curve, EvaluateOptions, evaluate, rate_at, read_means
from trifocal.evaluation.candidates.candidate import decoded_image
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.layer_ablations import (
    BASE_LAYER_DETECTORS,
    BaseLayerCandidate,
    DownscaledCandidate,
    UnconditionedCandidate,
)
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS
from trifocal.evaluation.candidates.variant import Variant, expand_variants, parse_variant
from trifocal.evaluation.compare import compare
from trifocal.evaluation.tasks.detectors import CompactDetector, create_detector
from trifocal.pictures import Picture
from trifocal.presets import PRESETS


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> TwoJpegCodec:
    return use_two_jpeg_preset(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bright_images(tmp_path)


# ── subjects ──


def test_base_layer_is_measured_by_its_own_file(two: TwoJpegCodec) -> None:
    shown = Picture(bright_image(0))
    subject = BaseLayerCandidate(Variant("two", layers="base"))
    file = subject.encode(shown, 30)
    stream = Bitstream.from_bytes(file)
    assert two.asked == [(Rate(), BaseLayerOptions(30))]
    assert [layer.tag for layer in stream.layers] == [Tag.BASE, Tag.PART] and stream.layers[0].chunks[0]
    assert stream.layers[0].chunks[0][0] == 30 and len(file) < len(stream.layers[0].chunks[0]) + 60
    assert (subject.name, subject.weights) == ("two:base", "0000beef")
    with pytest.raises(OptionError, match=r"takes whole qualities, not 12\.5"):
        subject.encode(shown, 12.5)


def test_base_layer_can_be_measured_without_refinement(two: TwoJpegCodec) -> None:
    subject = create_candidate(parse_variant("two:unfitted"))
    assert isinstance(subject, BaseLayerCandidate)
    subject.encode(Picture(bright_image(0)), 30)
    assert two.asked == [(Rate(), BaseLayerOptions(30, 0))]
    assert (subject.name, parse_variant(subject.name).title) == (
        "two:unfitted",
        "Trifocal two, base layer without refinement",
    )


def test_own_detector_reads_the_layer_and_others_the_base_preview(two: TwoJpegCodec) -> None:
    shown, subject, judge = (
        Picture(bright_image(0)),
        BaseLayerCandidate(Variant("two", layers="base")),
        BrightDetector(),
    )
    file = subject.encode(shown, 80)
    outcome = decoded_image(subject, file, subject.decode(file), shown, "a.png")
    assert outcome.find is not None and outcome.decoded.shape == (HEIGHT, WIDTH, 3)
    own = outcome.find("bright", judge)
    assert two.detected == 1 and judge.seen == [] and np.abs(own.boxes - BRIGHT_BOX).max() < 4
    other = outcome.find("another", judge)
    assert (
        two.detected == 1 and judge.seen == [(HEIGHT, WIDTH)] and np.abs(other.boxes - BRIGHT_BOX).max() < 4
    )


def test_unconditioned_enhancement_uses_no_base_preview(two: TwoJpegCodec) -> None:
    shown, subject = Picture(bright_image(0)), UnconditionedCandidate(Variant("two", layers="apart"))
    file = subject.encode(shown, 40)
    assert two.asked == [(Rate(40), BaseLayerOptions(condition_enhancement=False))]
    assert subject.decode(file).shape == (HEIGHT, WIDTH, 3)


def test_other_codec_at_the_detectors_size_is_not_enlarged(two: TwoJpegCodec) -> None:
    shown, subject, judge = (
        Picture(bright_image(0)),
        DownscaledCandidate(PILLOW_CODECS["jpeg"]),
        BrightDetector(),
    )
    width, height = compact_size(WIDTH, HEIGHT)
    assert width % 32 == height % 32 == 0 and width < WIDTH
    file = subject.encode(shown, 60)
    assert decode_image(file).shape == (height, width, 3)
    outcome = decoded_image(subject, file, subject.decode(file), shown, "a.png")
    assert outcome.decoded.shape == outcome.original.shape and outcome.find is not None
    found = outcome.find("bright", judge)
    assert judge.seen == [(height, width)] and np.abs(found.boxes - BRIGHT_BOX).max() < 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("compact:base", "compact has no base layer; use two"),
        ("compact:apart", "compact has no base layer"),
        ("compact:unfitted", "compact has no base layer"),
        ("jpeg:base", "no preset 'jpeg'"),
    ],
)
def test_layer_settings_are_refused_for_other_presets(name: str, said: str, two: TwoJpegCodec) -> None:
    with pytest.raises(PresetError, match=said):
        create_candidate(parse_variant(name))


def test_layered_presets_can_be_measured_by_their_base_layer(two: TwoJpegCodec) -> None:
    def expand(names: list[str], layers: str | None) -> list[str]:
        return [variant.name for variant in expand_variants([*map(parse_variant, names)], layers=layers)]

    assert expand(["two", "compact", "jpeg"], "base") == ["two:base", "compact", "jpeg"]
    assert expand(["two:base", "jpeg"], "base") == ["two:base", "jpeg"]
    assert expand(["compact"], None) == ["compact"]
    with pytest.raises(OptionError, match="--layers base needs a scalable preset; .*two"):
        expand(["compact", "jpeg"], "base")
    with pytest.raises(OptionError, match="accepts only \"base\", not 'enhancement'"):
        EvaluateOptions(layers="enhancement")


def test_every_layered_preset_has_a_detector() -> None:
    assert {preset.name for preset in PRESETS if preset.has_base_layer} <= BASE_LAYER_DETECTORS.keys()


def test_titles_describe_the_setting() -> None:
    assert parse_variant("dual-layer-compact:base").title == "Trifocal dual-layer-compact, base layer"
    assert parse_variant("webp:small").title == "WebP (Pillow, method 6), at the detector's size"
    assert parse_variant("taco-compact:true").title == "Trifocal taco-compact:true"


# ── runs ──


def test_ap_of_the_base_layer_and_other_codecs(two: TwoJpegCodec, folder: Path, tmp_path: Path) -> None:
    judge = BrightDetector()
    results = evaluate(
        ["two", "jpeg", "jpeg:small"],
        folder,
        tmp_path / "r.csv",
        EvaluateOptions(
            {"two:base": [20, 80], "jpeg": [50], "jpeg:small": [60]},
            metrics=["psnr"],
            task=detection_task(folder, judge, "bright"),
            layers="base",
        ),
    )
    means = {(mean.preset, mean.quality): mean for mean in results.means}
    assert set(means) == {("two:base", 20), ("two:base", 80), ("jpeg", 50), ("jpeg:small", 60), ("png", 100)}
    assert all(mean.values["ap50:bright"] == 1 for mean in means.values())
    width, height = compact_size(WIDTH, HEIGHT)
    assert two.detected == 4 and judge.seen == 2 * [(HEIGHT, WIDTH)] + 2 * [(height, width)] + 2 * [
        (HEIGHT, WIDTH)
    ]
    row = next(row for row in results.rows if row.preset == "jpeg:small")
    assert row.bpp == pytest.approx(8 * row.bytes / (WIDTH * HEIGHT)) and (row.width, row.height) == (
        WIDTH,
        HEIGHT,
    )
    assert 15 < (means["two:base", 80].values["psnr"] or 0) < 50


def test_other_detectors_get_the_base_preview(two: TwoJpegCodec, folder: Path, tmp_path: Path) -> None:
    judge = BrightDetector()
    task = detection_task(folder, judge, "another")
    means = evaluate(
        ["two:base"], folder, tmp_path / "r.csv", EvaluateOptions([80], task=task, metrics=["psnr"])
    ).means
    assert two.detected == 0 and len(judge.seen) == 4 and means[0].values["ap50:another"] == 1


def test_each_candidate_needs_qualities(two: TwoJpegCodec, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least one quality for jpeg"):
        evaluate(
            ["two:base", "jpeg"],
            folder,
            tmp_path / "r.csv",
            EvaluateOptions({"two:base": [20]}, metrics=["psnr"]),
        )
    with pytest.raises(OptionError, match="0 to 100, not 101"):
        evaluate(["jpeg"], folder, tmp_path / "r.csv", EvaluateOptions({"jpeg": [101]}, metrics=["psnr"]))
    assert not (tmp_path / "r.csv").exists()
    rows = evaluate(["png"], folder, tmp_path / "r.csv", EvaluateOptions({}, metrics=["psnr"])).rows
    assert {row.quality for row in rows} == {100}


def test_report_plots_ap_against_rate_and_shows_base_layer_bytes(
    two: TwoJpegCodec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "trifocal.evaluation.report.measurements.peak_memory",
        lambda variant, *more: asked.append(variant.name),
    )
    task = detection_task(folder, BrightDetector(), "bright")
    page = compare(
        ["two", "jpeg:small", "jpeg"],
        folder,
        tmp_path / "report",
        CompareOptions([10, 90], metrics=["psnr"], task=task, layers="base"),
    )
    text = page.read_text("utf-8")
    assert "AP (bright; 1.000 on the originals)" in text and "Trifocal two, base layer" in text
    assert "JPEG (Pillow, progressive, 4:2:0), at the detector&#39;s size" in text
    assert list(page.parent.glob("plot-*-ap-bright-light.png")) and asked[:2] == ["two:base", "jpeg:small"]
    study = json.loads((page.parent / "report.json").read_text())
    assert [(one["codec"], sorted(one["layers"])) for one in study["layers"]] == [
        ("Trifocal two, base layer", ["BASE", "PART", "header"])
    ]
    assert study["own"] == ["Trifocal two, base layer"] and (page.parent / "two-base.json").exists()


def test_missing_base_layer_is_refused_before_measuring(
    two: TwoJpegCodec, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="--layers base needs a scalable preset; choose one of: two"):
        evaluate(["jpeg"], folder, tmp_path / "r.csv", EvaluateOptions([50], layers="base"))
    with pytest.raises(PictureError, match="compact has no base layer"):
        evaluate(
            ["compact:base", "jpeg"], folder, tmp_path / "r.csv", EvaluateOptions([50], metrics=["psnr"])
        )
    assert {mean.preset for mean in read_means(tmp_path / "r_summary.csv")} == {"jpeg"}


def test_command_line_passes_layer_settings_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, page = Recorder(evaluation.EvaluationResults([], [])), Recorder(Path("report/index.html"))
    monkeypatch.setattr("trifocal.evaluation.evaluate", asked)
    monkeypatch.setattr("trifocal.evaluation.compare.compare", page)
    for verb, recorder in (("evaluate", asked), ("compare", page)):
        result = run(verb, "dual-layer-compact", "avif:small", "--data", "pictures", "--layers", "base")
        assert result.exit_code == 0 and recorder.words[-1].layers == "base"


# ── the compact detector as a judge ──


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> SplitDetector:
    """A compact detector that finds a hundred objects everywhere."""
    torch.manual_seed(0)
    network = compact_detector().eval().requires_grad_(False)
    network.network.roi_heads.score_thresh = 0.0
    monkeypatch.setattr("trifocal.detection.detector.load_detector", lambda: network)
    return network


def test_compact_detector_returns_boxes_in_image_pixels(
    untrained: SplitDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = bright_image(0)
    judge = create_detector("compact")
    assert isinstance(judge, CompactDetector) and judge.categories == COCO_IDS and not judge.masks
    found = judge.find(rgb)
    assert found.boxes.shape == (100, 4) and found.boxes.dtype == found.scores.dtype == np.float64
    assert found.boxes[:, 2].max() > 0.8 * WIDTH and np.all(found.boxes <= [WIDTH, HEIGHT] * 2)
    assert set(found.labels) <= set(COCO_IDS)
    size = compact_size(WIDTH, HEIGHT)
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
    seen = rescale(judge.find_in_resized(small), small.shape[:2], (WIDTH, HEIGHT))
    assert np.allclose(seen.boxes, found.boxes, atol=1e-2) and np.array_equal(seen.labels, found.labels)


def test_resized_images_are_not_resized_again(untrained: SplitDetector) -> None:
    """For some sizes the detector's input size for its own resized image is yet another one."""
    sizes: Callable[[int, int], tuple[int, int]] = untrained.input_size
    width, height = next((w, 427) for w in range(97, 900) if sizes(*sizes(w, 427)) != sizes(w, 427))
    shapes: list[tuple[int, ...]] = []
    front = untrained.backbone.front
    front.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape[2:]))
    subject = DownscaledCandidate(PILLOW_CODECS["png"])
    shown = Picture(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    file = subject.encode(shown, 100)
    look = partial(subject.detect, file, (width, height))
    found = look("compact", create_detector("compact"))
    assert shapes == [sizes(width, height)[::-1]] and np.all(
        found.boxes <= np.array([width, height] * 2) + 1e-3
    )


# ── curves ──


def test_rate_at_a_value_by_hand() -> None:
    line = Curve.from_points("line", [(0.1, 0.2), (0.2, 0.3), (0.4, 0.4)])  # straight in log rate
    assert rate_at(line, 0.25) == pytest.approx(0.1 * 2**0.5) and rate_at(line, 0.4) == pytest.approx(0.4)
    assert rate_at(line, 0.19) is None and rate_at(line, 0.41) is None
    assert (
        rate_at(Curve.from_points("one", [(0.1, 0.2)]), 0.2) == 0.1
        and rate_at(Curve.from_points("none", []), 0.2) is None
    )
