"""The effect of text: kinds of text, paired differences by hand, and runs of small presets that read text."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.cli import Recorder, run
from helpers.codecs import small_codec
from helpers.images import random_rgb
from helpers.text import VowelEncoder, attend_left_half, text_codec
from trifocal import evaluation
from trifocal.codecs.codec import Codec
from trifocal.codecs.taco_compact import TacoCompact
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.container import Bitstream
from trifocal.container.text import embedded_text
from trifocal.detection.image_encoder import ImageEncoder
from trifocal.errors import NotMeasured, OptionError, PictureError, WeightsError
from trifocal.evaluation import (
    METRICS,
    CompareOptions,
    EvaluateOptions,
    ImageResult,
    PairedDifference,
    TextEffect,
    compare,
    evaluate,
    paired_difference,
    peak_memory,
    psnr,
)
from trifocal.evaluation.candidates.candidate import PresetCandidate, TextCandidate
from trifocal.evaluation.candidates.variant import (
    TEXT_KINDS,
    TextKind,
    Variant,
    expand_variants,
    parse_variant,
)
from trifocal.evaluation.images import captions_for
from trifocal.evaluation.metrics.metric_set import MetricSet
from trifocal.evaluation.metrics.per_image import Pair
from trifocal.evaluation.text_ablation import TextKinds, bootstrap_interval, text_effects
from trifocal.pictures import Picture
from trifocal.presets import PRESETS
from trifocal.types import TextEmbedding
from trifocal.weights import read_weights, write_weights

DOG, CAT, EMU = "a brown dog catches a red frisbee", "a cat sleeps on a bed", "an emu looks at you"
PSNR, LPIPS = METRICS["psnr"], METRICS["lpips-alex"]


# ── words ──


def test_texts_of_each_kind() -> None:
    captions = {"a.png": (DOG, "a dog"), "b.png": (DOG,), "c.png": (CAT, DOG), "d.png": (EMU,)}
    wording = TextKinds(captions, ["more/d.png", "c.png", "b.png", "a.png"])
    assert [wording.text("true", name) for name in ("a.png", "c.png", "more/d.png")] == [DOG, CAT, EMU]
    assert wording.text("empty", "a.png") == "" and wording.text("none", "a.png") is None
    mismatched = {
        name: wording.text("mismatched", name) for name in ("a.png", "b.png", "c.png", "more/d.png")
    }
    assert mismatched == {"a.png": CAT, "b.png": CAT, "c.png": EMU, "more/d.png": DOG}


@pytest.mark.parametrize(
    ("captions", "kind", "said"),
    [
        ({"b.png": [DOG]}, "true", "a.png has no caption"),
        ({"b.png": [DOG]}, "mismatched", "a.png has no caption"),
        ({"a.png": [DOG], "b.png": [DOG]}, "mismatched", "no other image has another caption"),
    ],
)
def test_missing_texts_are_refused(captions: dict[str, list[str]], kind: TextKind, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        TextKinds(captions, ["a.png", "b.png"]).text(kind, "a.png")


def test_presets_with_text_are_measured_once_per_kind(workspace: Path) -> None:
    def expand(names: Sequence[str], text: Sequence[Any]) -> list[str]:
        return [variant.name for variant in expand_variants([*map(parse_variant, names)], text)]

    assert expand(["early", "jpeg", "plain"], ["true", "none", "true"]) == [
        "early:true", "early:none", "jpeg", "plain"
    ]  # fmt: skip
    assert expand(["jpeg"], []) == ["jpeg"]
    with pytest.raises(
        OptionError, match="no kind of text 'wrong'; choose from: best, true, empty, mismatched"
    ):
        EvaluateOptions(text=["true", "wrong"])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="needs a preset that reads text; choose one of: early, late, taco"):
        expand(["jpeg", "plain"], ["true"])


# ── the paired_difference answer, by hand ──


def linear_rows(
    codec: str, picture: str, above: float, metric: str = "psnr", factor: float = 1.0
) -> list[ImageResult]:
    """A straight line in log rate, shifted up; `textless_bpp` is twice `bpp`, unlike real values."""
    rates = [factor * rate for rate in (0.25, 0.5, 1.0)]
    return [
        ImageResult(
            codec, picture, 8, 8, q, 9, rate, 1, 1, "", "", {metric: 30 + q + above, "textless_bpp": 2 * rate}
        )
        for q, rate in enumerate(rates)
    ]


def test_paired_difference_of_two_images() -> None:
    """Differences of 0.5 and 1.5: the mean of a resample is 0.5, 1 or 1.5 with odds of 1 : 2 : 1."""
    rows = [
        *linear_rows("p:true", "a", 0.5),
        *linear_rows("p:true", "b", 2.5),
        *linear_rows("p:empty", "b", 1.0),
        *linear_rows("p:empty", "a", 0.0),
        *linear_rows("p:empty", "only there", 9.0),
    ]
    found = paired_difference(rows, PSNR, "p:true", "p:empty")
    assert found.mean == pytest.approx(1) and found.pictures == 2
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(1.5)
    back = paired_difference(rows, PSNR, "p:empty", "p:true")
    assert back.mean == pytest.approx(-1) and back.high == pytest.approx(-0.5)


def test_sign_is_inverted_for_metrics_that_are_better_when_lower() -> None:
    rows = [
        replace(row, values={"lpips_alex": 100 - row.values["psnr"]})  # type: ignore[operator]
        for codec, above in (("p:true", 0.2), ("p:empty", 0.0))
        for row in linear_rows(codec, "a", above)
    ]
    found = paired_difference(rows, LPIPS, "p:true", "p:empty")
    assert found == PairedDifference(found.mean, None, None, 1) and found.mean == pytest.approx(0.2)


def test_equal_files_have_no_difference() -> None:
    rows = [row for codec in ("p:true", "p:empty") for name in "abc" for row in linear_rows(codec, name, 0.0)]
    effect = TextEffect(
        "p", "psnr", "true", "empty", True, paired_difference(rows, PSNR, "p:true", "p:empty")
    )
    assert effect.paired == PairedDifference(0, 0, 0, 3)
    assert effect.sentence == "The interval includes zero: no difference between true text and empty text."


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "The interval excludes zero: true text is better than no text."),
        (-0.3, -0.1, "The interval excludes zero: true text is worse than no text."),
        (None, None, "True text and no text cannot be compared: fewer than two images"),
    ],
)
def test_interval_that_excludes_zero_is_marked(low: float | None, high: float | None, said: str) -> None:
    assert TextEffect(
        "p", "psnr", "true", "none", True, PairedDifference(0.2, low, high, 9)
    ).sentence.startswith(said)


def test_images_without_overlapping_curves_are_not_counted() -> None:
    rows = [*linear_rows("p:true", "a", 1.0), *linear_rows("p:empty", "a", 0.0, factor=100)]
    assert paired_difference(rows, PSNR, "p:true", "p:empty") == PairedDifference(None, None, None, 0)
    unknown = [replace(row, values={"psnr": None}) for row in rows]
    assert paired_difference(unknown, PSNR, "p:true", "p:empty") == PairedDifference(None, None, None, 0)


def test_text_bytes_count_or_are_left_out() -> None:
    """The metric rises by 1 as the rate doubles, so twice the bytes are worth −1; without the text both have
    the same bytes.
    """
    rows = [*linear_rows("p:true", "a", 0.0, factor=2), *linear_rows("p:empty", "a", 0.0)]
    assert paired_difference(rows, PSNR, "p:true", "p:empty").mean == pytest.approx(-1)
    rows = [
        replace(row, values={**row.values, "text_bytes": 5.0 * ("true" in row.preset), "textless_bpp": rate})
        for row, rate in zip(rows, (0.25, 0.5, 1.0) * 2)
    ]
    assert paired_difference(rows, PSNR, "p:true", "p:empty", count_text_bytes=False).mean == pytest.approx(0)
    found = text_effects([*rows, *linear_rows("jpeg", "a", 0.0)], [PSNR])
    assert [(e.preset, e.text, e.against, e.counted) for e in found] == [
        ("p", "true", "empty", True), ("p", "true", "empty", False)
    ]  # fmt: skip
    assert text_effects([row for row in rows if row.quality == 0], [PSNR]) == []


def test_interval_of_many_images_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(values)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.08 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.08 * error)
    assert bootstrap_interval(values) == (low, high)


# ── runs ──


class Faint(VowelEncoder):
    """Letters, so quiet that a picture that is a little brighter is still the better the more bytes it
    has.
    """

    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        words = super().__call__(texts)
        return replace(words, pooled=words.pooled / 40)


def taco() -> Codec:
    """A preset whose attention finds any text but an empty one in the left half of the image."""
    parts = small_codec(noise=0.0).network
    network = TacoCompact(parts.analysis, parts.entropy, parts.synthesis, parts.receptive_field)
    network.text_probability = lambda x, words: attend_left_half(x, words) * (words.pooled.mean() > 0)
    return Codec(TorchRuntime(network))


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small presets (`plain`, `early`: text for the encoder, `late`: for the decoder, `taco`); three images
    with captions.
    """
    made = []
    builds: dict[str, tuple[Callable[[], Any], str]] = {
        "plain": (partial(text_codec, ""), ""),
        "early": (partial(text_codec, "encoder"), "encoder"),
        "late": (partial(text_codec, "decoder"), "decoder"),
        "taco": (taco, "encoder"),
    }
    for number, (name, (build, reads)) in enumerate(builds.items(), start=50):
        write_weights(build().network, tmp_path / f"{name}.safetensors")
        changes: dict[str, Any] = {"id": number, "weights": f"{name}.safetensors", "text_used_by": reads}
        made.append(replace(PRESETS[0], name=name, text_encoder="letters", build=build, **changes))
    monkeypatch.setattr("trifocal.presets.PRESETS", tuple(made))
    monkeypatch.setattr("trifocal.weights.WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", lambda name, device: Faint())
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(random_rgb(96, 64, seed)).save(tmp_path / "pictures" / name)
    said = {"a.png": [DOG, "a dog"], "b.png": CAT, "c.png": EMU}
    (tmp_path / "captions.json").write_text(json.dumps(said))
    return tmp_path


def annotate(workspace: Path, boxes: dict[str, tuple[int, list[float]]]) -> None:
    """instances.json with one object of a category in each image."""
    images = [{"id": n, "file_name": name, "width": 96, "height": 64} for n, name in enumerate(boxes)]
    items = [{"image_id": n, "category_id": c, "bbox": box} for n, (c, box) in enumerate(boxes.values())]
    kinds = [{"id": category} for category in sorted({c for c, _ in boxes.values()})]
    (workspace / "instances.json").write_text(
        json.dumps({"images": images, "annotations": items, "categories": kinds})
    )


def test_sent_text_is_reported_with_and_without_its_bytes(workspace: Path) -> None:
    results = evaluate(
        ["late", "jpeg"],
        workspace / "pictures",
        workspace / "out.csv",
        EvaluateOptions([20, 80], metrics=["psnr"], text=TEXT_KINDS[1:]),
    )
    rows = {row.key: row for row in results.rows}
    assert len(rows) == 3 * 2 * 5
    file = PresetCandidate(Variant("late"), CAT).encode(Picture.open(workspace / "pictures" / "b.png"), 20)
    bare = PresetCandidate(Variant("late")).encode(Picture.open(workspace / "pictures" / "b.png"), 20)
    assert embedded_text(Bitstream.from_bytes(file)) == CAT
    true, none = (rows[f"late:{kind}", "b.png", 20.0] for kind in ("true", "none"))
    assert true.bytes == len(file) and none.bytes == len(bare)
    assert true.values["text_bytes"] == len(file) - len(bare) and none.values["text_bytes"] == 0
    assert true.values["textless_bpp"] == none.values["textless_bpp"] == none.bpp < true.bpp
    assert true.values["psnr"] != none.values["psnr"] == rows["late:empty", "b.png", 20.0].values["psnr"]
    assert rows["jpeg", "b.png", 20.0].values["text_bytes"] == 0
    mean = next(mean for mean in results.means if mean.preset == "late:true")
    assert mean.values["textless_bpp"] == pytest.approx(
        np.mean([rows["late:none", name, mean.quality].bpp for name in ("a.png", "b.png", "c.png")])
    )
    assert [(e.text, e.against) for e in results.effects if e.counted] == [
        ("true", "empty"), ("true", "mismatched"), ("true", "none"),
        ("empty", "mismatched"), ("empty", "none"), ("mismatched", "none"),
    ]  # fmt: skip
    same = {e.counted: e.paired for e in results.effects if (e.text, e.against) == ("empty", "none")}
    assert same[False].mean == pytest.approx(0, abs=1e-9), "Letters finds no vowels in an empty text"
    assert (same[True].mean or 0) < 0
    with open(workspace / "out_words.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(results.effects) and lines[0]["preset"] == "late"
    assert [line["text_counted"] for line in lines[:2]] == ["yes", "no"]
    assert float(lines[0]["mean"]) == pytest.approx(results.effects[0].paired.mean, rel=1e-4)


def test_encoder_text_takes_no_bytes_and_a_run_is_resumed(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(
        ["early"],
        workspace / "pictures",
        workspace / "out.csv",
        EvaluateOptions([40], metrics=["psnr"], text=["true"]),
    )
    assert all(row.values["text_bytes"] == 0 and row.values["textless_bpp"] == row.bpp for row in first.rows)
    encoded: list[tuple[str, str | None]] = []
    encode = PresetCandidate.encode

    def counting(self: PresetCandidate, picture: Picture, quality: float) -> bytes:
        encoded.append((self.name, self.text))
        return encode(self, picture, quality)

    monkeypatch.setattr(PresetCandidate, "encode", counting)
    said: list[str] = []
    again = evaluate(
        ["early"],
        workspace / "pictures",
        workspace / "out.csv",
        EvaluateOptions([40], resume=True, metrics=["psnr"], text=["true", "mismatched"]),
        notify=said.append,
    )
    assert encoded == [("early:mismatched", text) for text in (CAT, EMU, DOG)]
    assert again.rows[:3] == evaluation.read_results(workspace / "out.csv")[:3] and len(again.rows) == 6
    assert again.effects == [] and not (workspace / "out_words.csv").exists()
    assert said == ["The effect of text is a difference between curves: measure at least two qualities."]


@pytest.mark.parametrize(("preset", "metric"), [("early", "psnr"), ("late", "flip")])
def test_the_best_caption_is_that_of_the_nearest_image(preset: str, metric: str, workspace: Path) -> None:
    captions = {"a.png": [DOG, "aeiou", "xyz"], "b.png": ["sky", EMU], "c.png": CAT}
    (workspace / "captions.json").write_text(json.dumps(captions))
    said: list[str] = []
    options = EvaluateOptions([20, 80], metrics=[metric], text=["best", "true"], best_by=metric)
    results = evaluate([preset], workspace / "pictures", workspace / "out.csv", options, notify=said.append)
    assert len(said) == 1 and "an oracle" in said[0] and metric.upper() in said[0]
    rows = {row.key: row for row in results.rows}
    sign = 1 if metric == "psnr" else -1
    for name, texts in captions.items():
        alone = []
        for number, text in enumerate([texts] if isinstance(texts, str) else texts):
            (workspace / "one.json").write_text(json.dumps({name: text}))
            one = EvaluateOptions([20], metrics=[metric], text=["true"], captions=str(workspace / "one.json"))
            alone += evaluate(
                [preset], workspace / "pictures" / name, workspace / f"{name}{number}.csv", one
            ).rows
        best = rows[f"{preset}:best", name, 20.0]
        nearest = max(alone, key=lambda row: sign * (row.values[metric] or 0))
        assert best.values == nearest.values and best.bytes == nearest.bytes
    gain = results.effects[0]
    assert (gain.text, gain.against) == ("best", "true") and "chosen with the original" in gain.sentence


def test_captions_of_a_named_file_and_set(workspace: Path) -> None:
    table = {"people": {"a.png": [DOG, CAT], "b.png": CAT, "c.png": EMU}, "model": {"a.png": "an owl"}}
    path = workspace / "sets.json"
    path.write_text(json.dumps(table))
    assert captions_for(workspace, f"{path}:model") == {"a.png": ("an owl",)}
    assert captions_for(workspace, f"{path}:people")["a.png"] == (DOG, CAT)
    (workspace / "plain.json").write_text(json.dumps(table["people"]))
    assert captions_for(workspace, str(workspace / "plain.json")) == captions_for(workspace, f"{path}:people")
    for source, said in (
        (path, "name one as FILE:SET; it has the sets people, model"),
        (f"{path}:owls", "has no set 'owls'; it has the sets"),
        (f"{workspace / 'plain.json'}:people", "has no set 'people'; it has no sets"),
        (workspace / "nothing.json", "no file .*nothing.json with captions"),
    ):
        with pytest.raises(OptionError, match=said):
            captions_for(workspace, str(source))
    options = EvaluateOptions([40], metrics=["psnr"], text=["true"], captions=f"{path}:model")
    with pytest.raises(PictureError, match=r"b\.png has no caption, so no true"):
        evaluate(["early"], workspace / "pictures", workspace / "out.csv", options)
    rows = evaluation.read_results(workspace / "out.csv")
    assert [row.picture for row in rows] == ["a.png"]


def test_without_captions_the_other_words_are_measured(workspace: Path) -> None:
    (workspace / "captions.json").unlink()
    said: list[str] = []
    with pytest.raises(PictureError, match="2 failed"):
        evaluate(
            ["early"],
            workspace / "pictures",
            workspace / "o.csv",
            EvaluateOptions([40], metrics=["psnr"], text=["true", "empty", "mismatched"]),
            notify=said.append,
        )
    assert {row.preset for row in evaluation.read_results(workspace / "o.csv")} == {"early:empty"}
    assert len(said) == 3 and all("needs a captions.json" in sentence for sentence in said[1:])


def test_image_without_a_caption_is_reported(workspace: Path) -> None:
    (workspace / "captions.json").write_text(json.dumps({"a.png": DOG, "c.png": EMU}))
    said: list[str] = []
    with pytest.raises(PictureError, match="1 failed"):
        evaluate(
            ["early"],
            workspace / "pictures",
            workspace / "o.csv",
            EvaluateOptions([20, 40], metrics=["psnr"], text=["true", "mismatched"]),
            notify=said.append,
        )
    assert said == ["b.png has no caption, so no true, best or mismatched text."]
    rows = evaluation.read_results(workspace / "o.csv")
    assert len(rows) == 2 * 2 * 2 and {row.picture for row in rows} == {"a.png", "c.png"}


def test_missing_text_encoder_is_reported_once(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, device: str) -> None:
        raise WeightsError("The tower is not here.")

    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", missing)
    said: list[str] = []
    with pytest.raises(PictureError, match="1 failed"):
        evaluate(
            ["early"],
            workspace / "pictures",
            workspace / "o.csv",
            EvaluateOptions([40], metrics=["psnr"], text=["true", "none"]),
            notify=said.append,
        )
    assert said[1:] == ["early:true: The tower is not here."]
    assert {row.preset for row in evaluation.read_results(workspace / "o.csv")} == {"early:none"}


def test_named_objects_improve_and_the_rest_gets_worse(workspace: Path) -> None:
    """The text names the left half, where the boxes of the dog, the cat and the bird are."""
    (workspace / "captions.json").write_text(
        json.dumps({"a.png": DOG, "b.png": CAT, "c.png": "a bird looks at you"})
    )
    left: list[float] = [0, 0, 48, 64]
    annotate(workspace, {"a.png": (18, left), "b.png": (17, left), "c.png": (16, left)})
    metrics = ["psnr-named", "psnr-rest"]
    results = evaluate(
        ["taco"],
        workspace / "pictures",
        workspace / "o.csv",
        EvaluateOptions([20, 50, 80], metrics=metrics, text=["true", "empty"]),
    )
    named, rest = (next(e for e in results.effects if e.metric == metric) for metric in metrics)
    assert named.paired.low is not None and named.paired.low > 0 and "is better than" in named.sentence
    assert rest.paired.high is not None and rest.paired.high < 0 and "is worse than" in rest.sentence


# ── metrics ──


def test_psnr_of_named_objects_by_hand() -> None:
    black = np.zeros((2, 4, 3), np.uint8)
    decoded = black.copy()
    decoded[:, :2], decoded[:, 2:] = 2, 10
    named = np.zeros((2, 4), bool)
    named[:, :2] = True
    pair = Pair(decoded, black, (DOG,), named)
    assert METRICS["psnr-named"].load()(pair) == pytest.approx(10 * math.log10(255**2 / 4))
    assert METRICS["psnr-rest"].load()(pair) == pytest.approx(10 * math.log10(255**2 / 100))
    whole = Pair(decoded, black, (DOG,), np.ones((2, 4), bool))
    assert METRICS["psnr-named"].load()(whole) == pytest.approx(psnr(decoded, black))
    assert METRICS["psnr-rest"].load()(whole) is None
    assert METRICS["psnr-named"].load()(Pair(decoded, black, (DOG,))) is None


def test_boxes_are_of_the_first_caption_and_in_image_pixels(workspace: Path) -> None:
    annotate(workspace, {"a.png": (18, [24, 16, 24, 16]), "b.png": (3, [0, 0, 9, 9])})
    said: list[str] = []
    metrics = MetricSet(["psnr-named"], None, workspace / "pictures", said.append)
    assert metrics.instances is not None and not said
    mask = metrics._boxes("a.png", 64, 96)[0]
    assert mask is not None and mask.sum() == 24 * 16 and mask[16:32, 24:48].all()
    twice = metrics._boxes("a.png", 128, 192)[0]
    assert twice is not None and twice.sum() == 4 * 24 * 16 and twice[32:64, 48:96].all()
    assert metrics._boxes("b.png", 64, 96)[0] is None, "its caption names a cat and a bed, no car"
    assert metrics._boxes("c.png", 64, 96)[0] is None, "instances.json has no such picture"
    row = evaluate(
        ["jpeg"], workspace / "pictures", workspace / "o.csv", EvaluateOptions([50], metrics=["psnr-named"])
    ).rows[1]
    assert row.values["psnr_named"] is None and "a box of something that the caption names" in row.note


def test_named_objects_are_not_measured_without_boxes(workspace: Path) -> None:
    said: list[str] = []
    rows = evaluate(
        ["jpeg"],
        workspace / "pictures",
        workspace / "o.csv",
        EvaluateOptions([50], metrics=["psnr-named", "psnr"]),
        notify=said.append,
    ).rows
    assert rows[0].values.keys() == {"psnr"} and "there is no instances.json in" in said[0]
    (workspace / "instances.json").write_text("[]")
    with pytest.raises(OptionError, match="not in COCO's layout"):
        evaluate(
            ["jpeg"],
            workspace / "pictures",
            workspace / "o.csv",
            EvaluateOptions([50], metrics=["psnr-named"]),
        )


def test_distance_in_the_image_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "towers.safetensors"
    monkeypatch.setattr("trifocal.losses.perceptual.load_image_encoder", lambda: read_weights(path))
    with pytest.raises(
        NotMeasured, match="the weights towers.safetensors are not installed; install Trifocal again"
    ):
        METRICS["tower"].load()
    small = ImageEncoder((4, 8, 8), (1, 1, 1), embedding=8)
    monkeypatch.setattr("trifocal.losses.perceptual.load_image_encoder", lambda: small)
    measure = METRICS["tower"].load()
    original = random_rgb(40, 33)
    near, far = (np.clip(original.astype(int) + step, 0, 255).astype(np.uint8) for step in (3, 60))
    same, little, much = (measure(Pair(pixels, original)) for pixels in (original, near, far))
    assert same == 0 and little is not None and much is not None and 0 < little < much <= 4


# ── the report and the command line ──


def test_report_shows_text_effects(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "trifocal.evaluation.report.measurements.peak_memory",
        lambda variant, *more: asked.append((variant.codec, *more)),
    )
    page = compare.compare(
        ["late", "jpeg"],
        workspace / "pictures",
        workspace / "report",
        CompareOptions([20, 80], metrics=["psnr"], text=["true", "none"]),
    )
    text = page.read_text("utf-8")
    assert '<section id="words">' in text and "95 % interval" in text
    assert "true text" in text and ">not counted<" in text and ">counted<" in text
    assert asked == [
        ("late", workspace / "pictures" / "a.png", 50, DOG),
        ("late", workspace / "pictures" / "a.png", 50, None),
        ("jpeg", workspace / "pictures" / "a.png", 50, None),
    ]
    assert (page.parent / "late-true.json").exists()
    read = json.loads((page.parent / "report.json").read_text())
    assert [(one["text"], one["counted"]) for one in read["text_effects"]] == [
        ("true", True),
        ("true", False),
    ]
    assert (
        read["text_effects"][0]["preset"] == "Trifocal late"
        and read["text_effects"][0]["paired"]["pictures"] == 3
    )
    layers = {one["codec"]: one["layers"] for one in read["layers"]}
    assert "TEXT" in str(layers["Trifocal late:true"]) and "TEXT" not in str(layers["Trifocal late:none"])
    assert {panel["title"] for panel in read["crops"][0]["panels"]} >= {
        "Trifocal late:true",
        "Trifocal late:none",
    }


def test_curves_with_without_text_bits_leave_its_bytes_out(workspace: Path) -> None:
    options = CompareOptions(
        [20, 80], metrics=["psnr"], text=["true"], without_text_bits=True, crops=["a.png"]
    )
    page = compare.compare(["late"], workspace / "pictures", workspace / "report", options)
    (curve,) = json.loads((page.parent / "report.json").read_text())["curves"]["psnr"]
    means = evaluation.read_means(page.parent / "results_summary.csv")
    assert curve["rates"] == pytest.approx([mean.values["textless_bpp"] for mean in means], abs=1e-5)
    assert all((mean.values["textless_bpp"] or 9) < mean.bpp for mean in means)
    assert "do not count the text" in page.read_text("utf-8")


def test_peak_memory_includes_the_text_encoder(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    encode = PresetCandidate.encode

    def watched(self: PresetCandidate, picture: Picture, quality: float) -> bytes:
        seen.append(self.text)
        return encode(self, picture, quality)

    monkeypatch.setattr(PresetCandidate, "encode", watched)
    for text in (None, DOG):
        peak_memory.main("late", str(workspace / "pictures" / "a.png"), 50, text)
    assert seen == [None, DOG] and all(line.isdecimal() for line in capsys.readouterr().out.split())


def test_command_line_passes_text_kinds_on_and_prints_effects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = ImageResult("p:true", "a.png", 8, 8, 50.0, 20, 2.5, 0.1, 0.2, "beef", "", {"psnr": 31.25})
    effects = [
        TextEffect("p", "psnr", "true", "empty", True, PairedDifference(0.25, 0.125, 0.5, 7)),
        TextEffect("p", "psnr", "true", "none", True, PairedDifference(None, None, None, 0)),
    ]
    asked = Recorder(evaluation.EvaluationResults([row], evaluation.mean_results([row]), effects))
    monkeypatch.setattr("trifocal.evaluation.evaluate", asked)
    result = run("evaluate", "taco", "--data", "pictures", "--text", "true", "empty", "--text", "none")
    assert result.exit_code == 0 and asked.words[-1].text == ["true", "empty", "none"]
    assert "+0.125 to +0.5 *" in result.stdout and "+0.25" in result.stdout
    page = Recorder(Path("report/index.html"))
    monkeypatch.setattr("trifocal.evaluation.compare.compare", page)
    assert run("compare", "taco", "jpeg", "--data", "pictures", "--text", "true", "empty").exit_code == 0
    assert page.words[-1].text == ["true", "empty"]


def test_text_candidate_needs_an_image(workspace: Path) -> None:
    subject = TextCandidate(parse_variant("early:true"), TextKinds({"a.png": (DOG,)}, ["a.png"]))
    told = subject.for_image("a.png")
    assert (told.name, told.text, told.weights) == ("early:true", DOG, subject.weights)
    assert not told.loaded.sends_text and not hasattr(subject, "encode")
