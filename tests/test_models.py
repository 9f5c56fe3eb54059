"""Presets with the user's weights, LABEL=PRESET:WEIGHTS, beside the bundled ones; and the device that presets
run on.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.cli import is_one_sentence, run
from helpers.codecs import small_codec, small_ug_icm
from helpers.detection import use_two_jpeg_preset
from helpers.images import random_rgb
from helpers.text import VowelEncoder, text_codec
from trifocal.errors import OptionError, PresetError, TrifocalError, WeightsError
from trifocal.evaluation import CompareOptions, EvaluateOptions, evaluate, read_means, read_results
from trifocal.evaluation.codecs.candidates import PresetCandidate
from trifocal.evaluation.codecs.factory import load_custom_weights
from trifocal.evaluation.codecs.variant import Variant, expand_variants, parse_variant
from trifocal.evaluation.compare import compare
from trifocal.evaluation.memory import main as print_peak
from trifocal.presets import PRESETS
from trifocal.weights import write_weights

BUILDS: dict[str, tuple[Callable[[], Any], dict[str, object]]] = {
    "plain": (partial(small_codec, noise=0.0), {}),
    "late": (partial(text_codec, "decoder"), {"text_reader": "decoder", "text_encoder": "letters"}),
    "both": (small_ug_icm, {"preference": True}),
}


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small presets with bundled weights, two pictures with captions, and `mine.safetensors` of plain."""
    made = []
    for number, (name, (build, more)) in enumerate(BUILDS.items(), start=50):
        write_weights(build().network, tmp_path / f"{name}.safetensors")
        changes: dict[str, Any] = {"id": number, "weights": f"{name}.safetensors", **more}
        made.append(replace(PRESETS[0], name=name, build=build, **changes))
    monkeypatch.setattr("trifocal.presets.PRESETS", tuple(made))
    monkeypatch.setattr("trifocal.weights.FOLDER", tmp_path)
    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", lambda name, device: VowelEncoder())
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(random_rgb(96, 64, seed)).save(tmp_path / "pictures" / name)
    (tmp_path / "captions.json").write_text(json.dumps({"a.png": "a dog", "b.png": "a cat"}))
    monkeypatch.chdir(tmp_path)
    train_on(tmp_path / "mine.safetensors")
    return tmp_path


def train_on(path: Path, seed: int = 1) -> None:
    """Other weights of the preset `plain`."""
    write_weights(small_codec(seed, noise=0.01).network, path)


def measured(path: Path) -> dict[str, str]:
    """The weights of each subject in a table."""
    return {row.preset: row.weights for row in read_results(path)}


def test_own_weights_are_measured_under_their_labels(room: Path) -> None:
    train_on(room / "more.safetensors", seed=2)
    subjects = ["mine=plain:mine.safetensors", "plain", f"my 2nd=plain:{room / 'more.safetensors'}", "jpeg"]
    evaluate(subjects, "pictures", "out.csv", EvaluateOptions([20, 60], metrics=["psnr"]))
    weights = measured(room / "out.csv")
    assert list(weights) == ["mine", "plain", "my 2nd", "jpeg"]
    assert len(set(weights.values())) == 4 and weights["jpeg"] == ""
    rows = {row.key: row for row in read_results(room / "out.csv")}
    assert weights["mine"] == PresetCandidate(load_custom_weights(subjects)[0]).weights
    assert rows["mine", "a.png", 20].values != rows["plain", "a.png", 20].values
    assert {mean.preset: mean.weights for mean in read_means(room / "out_summary.csv")} == weights


def test_resume_drops_rows_of_a_label_whose_weights_changed(room: Path) -> None:
    ask = partial(evaluate, ["mine=plain:mine.safetensors", "jpeg"], "pictures", "out.csv")
    options = EvaluateOptions([20, 60], metrics=["psnr"])
    ask(options)
    before = measured(room / "out.csv")
    kept = (room / "out.csv").read_bytes()
    ask(replace(options, resume=True))
    assert (room / "out.csv").read_bytes() == kept
    train_on(room / "mine.safetensors", seed=3)
    said: list[str] = []
    ask(replace(options, qualities=[20], resume=True), note=said.append)
    after = measured(room / "out.csv")
    assert (
        after["mine"] != before["mine"] and "4 rows of mine are dropped: they have other weights" in said[0]
    )
    assert {row.weights for row in read_results(room / "out.csv") if row.preset == "mine"} == {after["mine"]}
    assert {(m.preset, m.quality) for m in read_means(room / "out_summary.csv")} == {
        ("mine", 20),
        ("jpeg", 20),
    }


def test_a_label_has_words_and_preferences_where_its_preset_has_them(room: Path) -> None:
    write_weights(text_codec("decoder").network, room / "words.safetensors")
    write_weights(small_ug_icm(noise=0.1).network, room / "both2.safetensors")
    evaluate(
        ["told=late:words.safetensors", "mine=plain:mine.safetensors"],
        "pictures",
        "words.csv",
        EvaluateOptions([50], metrics=["psnr"], text=["true", "none"]),
    )
    assert list(measured(room / "words.csv")) == ["told:true", "told:none", "mine"]
    bytes_of = {row.preset: row.values["text_bytes"] for row in read_results(room / "words.csv")}
    assert bytes_of["told:true"] and not bytes_of["told:none"]
    subjects = ["own=both:both2.safetensors", "both"]
    evaluate(
        subjects, "pictures", "preference.csv", EvaluateOptions([50], metrics=["psnr"], preferences=[0, 1])
    )
    rows = {row.key: row for row in read_results(room / "preference.csv")}
    assert {name for name, _, _ in rows} == {"own:0", "own:1", "both:0", "both:1"}
    assert rows["own:0", "a.png", 50].values == rows["both:0", "a.png", 50].values
    assert rows["own:1", "a.png", 50].values != rows["both:1", "a.png", 50].values


def test_a_label_is_measured_by_its_base_layer(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_two_jpeg_preset(monkeypatch)
    evaluate(
        ["mine=two:any.safetensors"],
        "pictures",
        "out.csv",
        EvaluateOptions([40], metrics=["psnr"], layers="base"),
    )
    assert measured(room / "out.csv") == {"mine:base": "0000beef"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": ["true"]}, "needs a preset that reads text; choose one of: late"),
        ({"preferences": [0.5]}, "needs a preset whose decoder takes one; choose one of: both"),
        ({"layers": "base"}, "--layers base needs a layered preset; there is none"),
    ],
)
def test_what_the_preset_of_a_label_has_not_is_refused(
    room: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(OptionError, match=sentence):
        evaluate(["mine=plain:mine.safetensors"], "pictures", "out.csv", EvaluateOptions([50], **options))
    assert not (room / "out.csv").exists()


@pytest.mark.parametrize(
    ("subjects", "kind", "sentence"),
    [
        (["plain=plain:mine.safetensors"], OptionError, "'plain' is the name of a preset"),
        (["avif=plain:mine.safetensors"], OptionError, "'avif' is the name of a preset or format"),
        (["png=plain:mine.safetensors"], OptionError, "'png' is the name"),
        (
            ["a=plain:mine.safetensors", "a=late:late.safetensors"],
            OptionError,
            "The label 'a' is used twice",
        ),
        (["a/b=plain:mine.safetensors"], OptionError, "letters, digits"),
        (["a:true=plain:mine.safetensors"], OptionError, "letters, digits"),
        (["mine=plain"], OptionError, "is not LABEL=PRESET:WEIGHTS"),
        (["mine=plain:"], OptionError, "is not LABEL=PRESET:WEIGHTS"),
        (["=plain:mine.safetensors"], OptionError, "is not LABEL=PRESET:WEIGHTS"),
        (["mine=plan:mine.safetensors"], PresetError, "no preset 'plan'; there are: plain, late, both"),
        (["mine=plain:gone.safetensors"], WeightsError, "mine: There are no weights at gone"),
        (["mine=both:mine.safetensors"], WeightsError, "mine: The weights mine.safetensors do not fit"),
        (["mine=plain:captions.json"], WeightsError, "mine: The weights captions.json are damaged"),
        (["mine=plain:pictures"], WeightsError, "mine: pictures is a folder"),
    ],
)
def test_what_is_wrong_with_a_label_is_said_before_anything_is_measured(
    room: Path, subjects: list[str], kind: type[TrifocalError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        evaluate(["jpeg", *subjects], "pictures", "out.csv", EvaluateOptions([50]))
    with pytest.raises(kind, match=sentence):
        compare(["jpeg", *subjects], "pictures", "out", CompareOptions([50]))
    assert not (room / "out.csv").exists() and not (room / "out").exists()
    result = run("evaluate", "jpeg", *subjects, "--data", "pictures", "-o", "out.csv")
    assert result.exit_code == 1 and is_one_sentence(result.stderr) and not (room / "out.csv").exists()


def test_the_report_has_labels_in_legends_and_tables(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(text_codec("decoder").network, room / "words.safetensors")
    page = compare(
        ["mine=plain:mine.safetensors", "told=late:words.safetensors", "plain"],
        "pictures",
        "report",
        CompareOptions([20, 80], metrics=["psnr"], text=["true", "none"]),
    )
    study = json.loads((page.parent / "report.json").read_text())
    titles = ["mine", "told:true", "told:none", "Trifocal plain"]
    assert [curve["name"] for curve in study["curves"]["psnr"]] == titles
    assert [speed["codec"] for speed in study["speeds"]] == titles
    assert all(speed["peak_bytes"] is None for speed in study["speeds"][3:])  # no such preset elsewhere
    assert study["own"] == titles and "mine" in page.read_text("utf-8")
    assert study["text_effects"][0]["preset"] == "told"
    assert json.loads((page.parent / "mine.json").read_text())["name"] == "mine"
    assert (page.parent / "told-true.json").exists()
    rows = {row.preset: row.weights for row in read_results(page.parent / "results.csv")}
    assert rows["mine"] != rows["plain"]


def test_the_peak_memory_is_of_the_labelled_weights(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = "mine=plain:mine.safetensors"
    print_peak("mine", "pictures/a.png", 50, own=spec)
    assert capsys.readouterr().out.strip().isdecimal()
    with pytest.raises(PresetError, match="no preset or format 'other'"):
        print_peak("other", "pictures/a.png", 50, own=spec)


def test_names_and_titles_of_variants(room: Path) -> None:
    mine, own, plain = load_custom_weights(
        ["mine=plain:mine.safetensors", "own=both:both.safetensors", "plain"]
    )
    assert [one.name for one in (mine, own, plain)] == ["mine", "own", "plain"]
    assert own.weights_option == "own=both:both.safetensors" and plain == Variant("plain")
    expanded = expand_variants([mine, own, plain], preferences=[0.5])
    assert [one.name for one in expanded] == ["mine", "own:0.5", "plain"]
    labels = {"mine": mine, "own": own}
    assert parse_variant("own:0.5", labels=labels).title == "own, preference 0.5"
    assert parse_variant("mine:small", labels=labels).title == "mine, at the detector's size"
    assert plain.title == "Trifocal plain"


def test_presets_run_on_the_device_that_was_asked_for(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trifocal.presets import shared_codec

    asked: list[str] = []

    def watched(name: str, device: str = "cpu", weights: Path | None = None) -> object:
        asked.append(device)
        return shared_codec(name, device, weights)

    monkeypatch.setattr("trifocal.presets.shared_codec", watched)
    evaluate(
        ["plain", "mine=plain:mine.safetensors"], "pictures", "out.csv", EvaluateOptions([50], device="cpu:0")
    )
    assert set(asked) == {"cpu:0"} and len(asked) >= 3


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", "cuda:99", ""])
@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_device_that_cannot_be_used_is_refused_at_once(room: Path, device: str, verb: str) -> None:
    result = run(verb, "plain", "--data", "pictures", "-o", "out", "--device", device)
    assert result.exit_code == 1 and is_one_sentence(result.stderr)
    assert f"The device {device!r} cannot be used here" in " ".join(result.stderr.split())
    assert not (room / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_decodes_what_it_encodes(room: Path) -> None:
    rows = evaluate(
        ["plain"], "pictures", "out.csv", EvaluateOptions([50], metrics=["psnr"], device="cuda")
    ).rows
    again = evaluate(["plain"], "pictures", "cpu.csv", EvaluateOptions([50], metrics=["psnr"])).rows
    for one, other in zip(rows, again, strict=True):
        assert one.values["psnr"] == pytest.approx(other.values["psnr"], abs=0.05)
