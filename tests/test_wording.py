"""Does the text do anything? Kinds of words, the paired_difference answer by hand, and runs of small presets
that read words.
"""

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
    memory,
    paired_difference,
    psnr,
)
from trifocal.evaluation.codecs.candidates import PresetCandidate, TextCandidate
from trifocal.evaluation.codecs.variant import TEXT_KINDS, TextKind, Variant, expand_variants, parse_variant
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


def test_each_kind_of_words() -> None:
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
def test_words_that_a_picture_has_not(captions: dict[str, list[str]], kind: TextKind, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        TextKinds(captions, ["a.png", "b.png"]).text(kind, "a.png")


def test_presets_that_take_words_are_measured_once_for_each_kind(room: Path) -> None:
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


def rows_of(
    codec: str, picture: str, above: float, metric: str = "psnr", factor: float = 1.0
) -> list[ImageResult]:
    """A straight line in log rate, moved up; `textless_bpp` is twice `bpp`, no matter how that may be."""
    rates = [factor * rate for rate in (0.25, 0.5, 1.0)]
    return [
        ImageResult(
            codec, picture, 8, 8, q, 9, rate, 1, 1, "", "", {metric: 30 + q + above, "textless_bpp": 2 * rate}
        )
        for q, rate in enumerate(rates)
    ]


def test_the_paired_answer_of_two_pictures() -> None:
    """Differences of 0.5 and 1.5: a resample's mean is 0.5, 1 or 1.5 with odds of 1 : 2 : 1."""
    rows = [
        *rows_of("p:true", "a", 0.5),
        *rows_of("p:true", "b", 2.5),
        *rows_of("p:empty", "b", 1.0),
        *rows_of("p:empty", "a", 0.0),
        *rows_of("p:empty", "only there", 9.0),
    ]
    found = paired_difference(rows, PSNR, "p:true", "p:empty")
    assert found.mean == pytest.approx(1) and found.pictures == 2
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(1.5)
    back = paired_difference(rows, PSNR, "p:empty", "p:true")
    assert back.mean == pytest.approx(-1) and back.high == pytest.approx(-0.5)


def test_where_less_is_better_the_sign_turns() -> None:
    rows = [
        replace(row, values={"lpips_alex": 100 - row.values["psnr"]})  # type: ignore[operator]
        for codec, above in (("p:true", 0.2), ("p:empty", 0.0))
        for row in rows_of(codec, "a", above)
    ]
    found = paired_difference(rows, LPIPS, "p:true", "p:empty")
    assert found == PairedDifference(found.mean, None, None, 1) and found.mean == pytest.approx(0.2)


def test_the_same_files_are_no_difference() -> None:
    rows = [row for codec in ("p:true", "p:empty") for name in "abc" for row in rows_of(codec, name, 0.0)]
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
def test_what_an_interval_says(low: float | None, high: float | None, said: str) -> None:
    assert TextEffect(
        "p", "psnr", "true", "none", True, PairedDifference(0.2, low, high, 9)
    ).sentence.startswith(said)


def test_pictures_whose_curves_do_not_overlap_are_not_counted() -> None:
    rows = [*rows_of("p:true", "a", 1.0), *rows_of("p:empty", "a", 0.0, factor=100)]
    assert paired_difference(rows, PSNR, "p:true", "p:empty") == PairedDifference(None, None, None, 0)
    unknown = [replace(row, values={"psnr": None}) for row in rows]
    assert paired_difference(unknown, PSNR, "p:true", "p:empty") == PairedDifference(None, None, None, 0)


def test_bytes_of_words_count_or_not() -> None:
    """The metric rises by 1 as the rate doubles, so what costs twice as much is 1 behind; without words both
    cost as much.
    """
    rows = [*rows_of("p:true", "a", 0.0, factor=2), *rows_of("p:empty", "a", 0.0)]
    assert paired_difference(rows, PSNR, "p:true", "p:empty").mean == pytest.approx(-1)
    rows = [
        replace(row, values={**row.values, "text_bytes": 5.0 * ("true" in row.preset), "textless_bpp": rate})
        for row, rate in zip(rows, (0.25, 0.5, 1.0) * 2)
    ]
    assert paired_difference(rows, PSNR, "p:true", "p:empty", counted=False).mean == pytest.approx(0)
    found = text_effects([*rows, *rows_of("jpeg", "a", 0.0)], [PSNR])
    assert [(e.preset, e.text, e.against, e.counted) for e in found] == [
        ("p", "true", "empty", True), ("p", "true", "empty", False)
    ]  # fmt: skip
    assert text_effects([row for row in rows if row.quality == 0], [PSNR]) == []


def test_the_interval_of_many_is_that_of_the_normal_distribution() -> None:
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
    """One whose look finds any words but empty ones in the left half of the picture."""
    parts = small_codec(noise=0.0).network
    network = TacoCompact(parts.analysis, parts.entropy, parts.synthesis, parts.receptive_field)
    network.text_probability = lambda x, words: attend_left_half(x, words) * (words.pooled.mean() > 0)
    return Codec(TorchRuntime(network))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small presets (`plain`, `early`: words for the encoder, `late`: for the decoder, `taco`); three
    pictures with captions.
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
        changes: dict[str, Any] = {"id": number, "weights": f"{name}.safetensors", "text_reader": reads}
        made.append(replace(PRESETS[0], name=name, text_encoder="letters", build=build, **changes))
    monkeypatch.setattr("trifocal.presets.PRESETS", tuple(made))
    monkeypatch.setattr("trifocal.weights.FOLDER", tmp_path)
    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", lambda name, device: Faint())
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(random_rgb(96, 64, seed)).save(tmp_path / "pictures" / name)
    said = {"a.png": [DOG, "a dog"], "b.png": CAT, "c.png": EMU}
    (tmp_path / "captions.json").write_text(json.dumps(said))
    return tmp_path


def annotate(room: Path, boxes: dict[str, tuple[int, list[float]]]) -> None:
    """instances.json with one object of a category in each picture."""
    images = [{"id": n, "file_name": name, "width": 96, "height": 64} for n, name in enumerate(boxes)]
    items = [{"image_id": n, "category_id": c, "bbox": box} for n, (c, box) in enumerate(boxes.values())]
    kinds = [{"id": category} for category in sorted({c for c, _ in boxes.values()})]
    (room / "instances.json").write_text(
        json.dumps({"images": images, "annotations": items, "categories": kinds})
    )


def test_sent_words_are_counted_both_ways(room: Path) -> None:
    results = evaluate(
        ["late", "jpeg"],
        room / "pictures",
        room / "out.csv",
        EvaluateOptions([20, 80], metrics=["psnr"], text=TEXT_KINDS[1:]),
    )
    rows = {row.key: row for row in results.rows}
    assert len(rows) == 3 * 2 * 5
    file = PresetCandidate(Variant("late"), CAT).encode(Picture.open(room / "pictures" / "b.png"), 20)
    bare = PresetCandidate(Variant("late")).encode(Picture.open(room / "pictures" / "b.png"), 20)
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
    with open(room / "out_words.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(results.effects) and lines[0]["preset"] == "late"
    assert [line["text_counted"] for line in lines[:2]] == ["yes", "no"]
    assert float(lines[0]["mean"]) == pytest.approx(results.effects[0].paired.mean, rel=1e-4)


def test_words_of_the_encoder_cost_no_bytes_and_a_run_is_resumed(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(
        ["early"], room / "pictures", room / "out.csv", EvaluateOptions([40], metrics=["psnr"], text=["true"])
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
        room / "pictures",
        room / "out.csv",
        EvaluateOptions([40], resume=True, metrics=["psnr"], text=["true", "mismatched"]),
        note=said.append,
    )
    assert encoded == [("early:mismatched", text) for text in (CAT, EMU, DOG)]
    assert again.rows[:3] == evaluation.read_results(room / "out.csv")[:3] and len(again.rows) == 6
    assert again.effects == [] and not (room / "out_words.csv").exists()
    assert said == ["The effect of text is a difference between curves: measure at least two qualities."]


@pytest.mark.parametrize(("preset", "metric"), [("early", "psnr"), ("late", "flip")])
def test_the_best_caption_is_that_of_the_nearest_image(preset: str, metric: str, room: Path) -> None:
    captions = {"a.png": [DOG, "aeiou", "xyz"], "b.png": ["sky", EMU], "c.png": CAT}
    (room / "captions.json").write_text(json.dumps(captions))
    said: list[str] = []
    options = EvaluateOptions([20, 80], metrics=[metric], text=["best", "true"], best_by=metric)
    results = evaluate([preset], room / "pictures", room / "out.csv", options, note=said.append)
    assert len(said) == 1 and "an oracle" in said[0] and metric.upper() in said[0]
    rows = {row.key: row for row in results.rows}
    sign = 1 if metric == "psnr" else -1
    for name, texts in captions.items():
        alone = []
        for number, text in enumerate([texts] if isinstance(texts, str) else texts):
            (room / "one.json").write_text(json.dumps({name: text}))
            one = EvaluateOptions([20], metrics=[metric], text=["true"], captions=str(room / "one.json"))
            alone += evaluate([preset], room / "pictures" / name, room / f"{name}{number}.csv", one).rows
        best = rows[f"{preset}:best", name, 20.0]
        nearest = max(alone, key=lambda row: sign * (row.values[metric] or 0))
        assert best.values == nearest.values and best.bytes == nearest.bytes
    gain = results.effects[0]
    assert (gain.text, gain.against) == ("best", "true") and "chosen with the original" in gain.sentence


def test_captions_of_a_named_file_and_set(room: Path) -> None:
    table = {"people": {"a.png": [DOG, CAT], "b.png": CAT, "c.png": EMU}, "model": {"a.png": "an owl"}}
    path = room / "sets.json"
    path.write_text(json.dumps(table))
    assert captions_for(room, f"{path}:model") == {"a.png": ("an owl",)}
    assert captions_for(room, f"{path}:people")["a.png"] == (DOG, CAT)
    (room / "plain.json").write_text(json.dumps(table["people"]))
    assert captions_for(room, str(room / "plain.json")) == captions_for(room, f"{path}:people")
    for source, said in (
        (path, "name one as FILE:SET; it has the sets people, model"),
        (f"{path}:owls", "has no set 'owls'; it has the sets"),
        (f"{room / 'plain.json'}:people", "has no set 'people'; it has no sets"),
        (room / "nothing.json", "no file .*nothing.json with captions"),
    ):
        with pytest.raises(OptionError, match=said):
            captions_for(room, str(source))
    options = EvaluateOptions([40], metrics=["psnr"], text=["true"], captions=f"{path}:model")
    with pytest.raises(PictureError, match=r"b\.png has no caption, so no true"):
        evaluate(["early"], room / "pictures", room / "out.csv", options)
    rows = evaluation.read_results(room / "out.csv")
    assert [row.picture for row in rows] == ["a.png"]


def test_without_captions_the_other_words_are_measured(room: Path) -> None:
    (room / "captions.json").unlink()
    said: list[str] = []
    with pytest.raises(PictureError, match="2 failed"):
        evaluate(
            ["early"],
            room / "pictures",
            room / "o.csv",
            EvaluateOptions([40], metrics=["psnr"], text=["true", "empty", "mismatched"]),
            note=said.append,
        )
    assert {row.preset for row in evaluation.read_results(room / "o.csv")} == {"early:empty"}
    assert len(said) == 3 and all("needs a captions.json" in sentence for sentence in said[1:])


def test_a_picture_without_a_caption_is_one_sentence(room: Path) -> None:
    (room / "captions.json").write_text(json.dumps({"a.png": DOG, "c.png": EMU}))
    said: list[str] = []
    with pytest.raises(PictureError, match="1 failed"):
        evaluate(
            ["early"],
            room / "pictures",
            room / "o.csv",
            EvaluateOptions([20, 40], metrics=["psnr"], text=["true", "mismatched"]),
            note=said.append,
        )
    assert said == ["b.png has no caption, so no true, best or mismatched text."]
    rows = evaluation.read_results(room / "o.csv")
    assert len(rows) == 2 * 2 * 2 and {row.picture for row in rows} == {"a.png", "c.png"}


def test_a_missing_text_tower_is_said_once(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, device: str) -> None:
        raise WeightsError("The tower is not here.")

    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", missing)
    said: list[str] = []
    with pytest.raises(PictureError, match="1 failed"):
        evaluate(
            ["early"],
            room / "pictures",
            room / "o.csv",
            EvaluateOptions([40], metrics=["psnr"], text=["true", "none"]),
            note=said.append,
        )
    assert said[1:] == ["early:true: The tower is not here."]
    assert {row.preset for row in evaluation.read_results(room / "o.csv")} == {"early:none"}


def test_what_words_name_gets_better_and_the_rest_pays(room: Path) -> None:
    """The words find the left half, where the dog, the cat and, says its box, a bird are."""
    (room / "captions.json").write_text(
        json.dumps({"a.png": DOG, "b.png": CAT, "c.png": "a bird looks at you"})
    )
    left: list[float] = [0, 0, 48, 64]
    annotate(room, {"a.png": (18, left), "b.png": (17, left), "c.png": (16, left)})
    metrics = ["psnr-named", "psnr-rest"]
    results = evaluate(
        ["taco"],
        room / "pictures",
        room / "o.csv",
        EvaluateOptions([20, 50, 80], metrics=metrics, text=["true", "empty"]),
    )
    named, rest = (next(e for e in results.effects if e.metric == metric) for metric in metrics)
    assert named.paired.low is not None and named.paired.low > 0 and "is better than" in named.sentence
    assert rest.paired.high is not None and rest.paired.high < 0 and "is worse than" in rest.sentence


# ── metrics ──


def test_psnr_of_what_is_named_by_hand() -> None:
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


def test_boxes_are_those_of_the_first_caption_at_the_size_of_the_picture(room: Path) -> None:
    annotate(room, {"a.png": (18, [24, 16, 24, 16]), "b.png": (3, [0, 0, 9, 9])})
    said: list[str] = []
    metrics = MetricSet(["psnr-named"], None, room / "pictures", said.append)
    assert metrics.instances is not None and not said
    mask = metrics._named(metrics.instances, "a.png", 64, 96)
    assert mask is not None and mask.sum() == 24 * 16 and mask[16:32, 24:48].all()
    twice = metrics._named(metrics.instances, "a.png", 128, 192)
    assert twice is not None and twice.sum() == 4 * 24 * 16 and twice[32:64, 48:96].all()
    assert metrics._named(metrics.instances, "b.png", 64, 96) is None, (
        "its caption names a cat and a bed, no car"
    )
    assert metrics._named(metrics.instances, "c.png", 64, 96) is None, "instances.json has no such picture"
    row = evaluate(
        ["jpeg"], room / "pictures", room / "o.csv", EvaluateOptions([50], metrics=["psnr-named"])
    ).rows[1]
    assert row.values["psnr_named"] is None and "a box of something that the caption names" in row.note


def test_without_boxes_what_is_named_is_not_measured(room: Path) -> None:
    said: list[str] = []
    rows = evaluate(
        ["jpeg"],
        room / "pictures",
        room / "o.csv",
        EvaluateOptions([50], metrics=["psnr-named", "psnr"]),
        note=said.append,
    ).rows
    assert rows[0].values.keys() == {"psnr"} and "there is no instances.json in" in said[0]
    (room / "instances.json").write_text("[]")
    with pytest.raises(OptionError, match="not in COCO's layout"):
        evaluate(["jpeg"], room / "pictures", room / "o.csv", EvaluateOptions([50], metrics=["psnr-named"]))


def test_the_distance_in_the_tower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "towers.safetensors"
    monkeypatch.setattr("trifocal.losses.perceptual.load_image_encoder", lambda: read_weights(path))
    with pytest.raises(NotMeasured, match="the weights towers.safetensors are not installed; .*train them"):
        METRICS["tower"].load()
    small = ImageEncoder((4, 8, 8), (1, 1, 1), embedding=8)
    monkeypatch.setattr("trifocal.losses.perceptual.load_image_encoder", lambda: small)
    measure = METRICS["tower"].load()
    original = random_rgb(40, 33)
    near, far = (np.clip(original.astype(int) + step, 0, 255).astype(np.uint8) for step in (3, 60))
    same, little, much = (measure(Pair(pixels, original)) for pixels in (original, near, far))
    assert same == 0 and little is not None and much is not None and 0 < little < much <= 4


# ── the report and the command line ──


def test_the_report_says_what_words_change(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "trifocal.evaluation.report.measurements.peak_memory",
        lambda variant, *more: asked.append((variant.codec, *more)),
    )
    page = compare.compare(
        ["late", "jpeg"],
        room / "pictures",
        room / "report",
        CompareOptions([20, 80], metrics=["psnr"], text=["true", "none"]),
    )
    text = page.read_text("utf-8")
    assert '<section id="words">' in text and "95 % interval" in text
    assert "true text" in text and ">not counted<" in text and ">counted<" in text
    assert asked == [
        ("late", room / "pictures" / "a.png", 50, DOG),
        ("late", room / "pictures" / "a.png", 50, None),
        ("jpeg", room / "pictures" / "a.png", 50, None),
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


def test_curves_with_free_text_leave_its_bytes_out(room: Path) -> None:
    options = CompareOptions([20, 80], metrics=["psnr"], text=["true"], free_text=True, crops=["a.png"])
    page = compare.compare(["late"], room / "pictures", room / "report", options)
    (curve,) = json.loads((page.parent / "report.json").read_text())["curves"]["psnr"]
    means = evaluation.read_means(page.parent / "results_summary.csv")
    assert curve["rates"] == pytest.approx([mean.values["textless_bpp"] for mean in means], abs=1e-5)
    assert all((mean.values["textless_bpp"] or 9) < mean.bpp for mean in means)
    assert "do not count the text" in page.read_text("utf-8")


def test_the_peak_memory_is_that_of_a_preset_with_its_words(
    room: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    encode = PresetCandidate.encode

    def watched(self: PresetCandidate, picture: Picture, quality: float) -> bytes:
        seen.append(self.text)
        return encode(self, picture, quality)

    monkeypatch.setattr(PresetCandidate, "encode", watched)
    for text in (None, DOG):
        memory.main("late", str(room / "pictures" / "a.png"), 50, text)
    assert seen == [None, DOG] and all(line.isdecimal() for line in capsys.readouterr().out.split())


def test_the_command_line_hands_the_kinds_over_and_prints_the_effects(
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


def test_a_worded_subject_is_no_subject_until_it_has_a_picture(room: Path) -> None:
    subject = TextCandidate(parse_variant("early:true"), TextKinds({"a.png": (DOG,)}, ["a.png"]))
    told = subject.for_image("a.png")
    assert (told.name, told.text, told.weights) == ("early:true", DOG, subject.weights)
    assert not told.loaded.sends_text and not hasattr(subject, "encode")
