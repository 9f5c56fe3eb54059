"""Presets with custom weights, LABEL=PRESET:WEIGHTS, beside the bundled ones; and the device of presets."""

import json
import shutil
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
from trifocal.evaluation.candidates.candidate import PresetCandidate
from trifocal.evaluation.candidates.factory import load_custom_weights
from trifocal.evaluation.candidates.variant import Variant, expand_variants, parse_variant
from trifocal.evaluation.compare import compare
from trifocal.evaluation.peak_memory import main as print_peak
from trifocal.presets import PRESETS
from trifocal.weights import write_weights

BUILDS: dict[str, tuple[Callable[[], Any], dict[str, object]]] = {
    "plain": (partial(small_codec, noise=0.0), {}),
    "late": (partial(text_codec, "decoder"), {"text_used_by": "decoder", "text_encoder": "letters"}),
    "both": (small_ug_icm, {"takes_preference": True}),
}


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of each preset, and `mine.safetensors` of plain."""
    folder = tmp_path_factory.mktemp("weights")
    for name, (build, _) in BUILDS.items():
        write_weights(build().network, folder / f"{name}.safetensors")
    write_other_weights(folder / "mine.safetensors")
    return folder


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, weight_files: Path, tmp_path: Path) -> Path:
    """Small presets with bundled weights, two images with captions, and `mine.safetensors` of plain."""
    shutil.copytree(weight_files, tmp_path, dirs_exist_ok=True)
    made = []
    for number, (name, (build, more)) in enumerate(BUILDS.items(), start=50):
        changes: dict[str, Any] = {"id": number, "weights": f"{name}.safetensors", **more}
        made.append(replace(PRESETS[0], name=name, build=build, **changes))
    monkeypatch.setattr("trifocal.presets.PRESETS", tuple(made))
    monkeypatch.setattr("trifocal.weights.WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", lambda name, device: VowelEncoder())
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(random_rgb(96, 64, seed)).save(tmp_path / "pictures" / name)
    (tmp_path / "captions.json").write_text(json.dumps({"a.png": "a dog", "b.png": "a cat"}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_other_weights(path: Path, seed: int = 1) -> None:
    """Other weights of the preset `plain`."""
    write_weights(small_codec(seed, noise=0.01).network, path)


def weights_by_codec(path: Path) -> dict[str, str]:
    """The weights of each codec in a table."""
    return {row.preset: row.weights for row in read_results(path)}


def test_custom_weights_are_measured_under_their_labels(workspace: Path) -> None:
    write_other_weights(workspace / "more.safetensors", seed=2)
    subjects = [
        "mine=plain:mine.safetensors",
        "plain",
        f"my 2nd=plain:{workspace / 'more.safetensors'}",
        "jpeg",
    ]
    evaluate(subjects, "pictures", "out.csv", EvaluateOptions([20, 60], metrics=["psnr"]))
    weights = weights_by_codec(workspace / "out.csv")
    assert list(weights) == ["mine", "plain", "my 2nd", "jpeg"]
    assert len(set(weights.values())) == 4 and weights["jpeg"] == ""
    rows = {row.key: row for row in read_results(workspace / "out.csv")}
    assert weights["mine"] == PresetCandidate(load_custom_weights(subjects)[0]).weights
    assert rows["mine", "a.png", 20].values != rows["plain", "a.png", 20].values
    assert {mean.preset: mean.weights for mean in read_means(workspace / "out_summary.csv")} == weights


def test_resume_drops_rows_of_a_label_whose_weights_changed(workspace: Path) -> None:
    ask = partial(evaluate, ["mine=plain:mine.safetensors", "jpeg"], "pictures", "out.csv")
    options = EvaluateOptions([20, 60], metrics=["psnr"])
    ask(options)
    before = weights_by_codec(workspace / "out.csv")
    kept = (workspace / "out.csv").read_bytes()
    ask(replace(options, resume=True))
    assert (workspace / "out.csv").read_bytes() == kept
    write_other_weights(workspace / "mine.safetensors", seed=3)
    said: list[str] = []
    ask(replace(options, qualities=[20], resume=True), notify=said.append)
    after = weights_by_codec(workspace / "out.csv")
    assert (
        after["mine"] != before["mine"] and "4 rows of mine are dropped: they have other weights" in said[0]
    )
    assert {row.weights for row in read_results(workspace / "out.csv") if row.preset == "mine"} == {
        after["mine"]
    }
    assert {(m.preset, m.quality) for m in read_means(workspace / "out_summary.csv")} == {
        ("mine", 20),
        ("jpeg", 20),
    }


def test_label_has_the_text_and_preference_settings_of_its_preset(workspace: Path) -> None:
    write_weights(text_codec("decoder").network, workspace / "words.safetensors")
    write_weights(small_ug_icm(noise=0.1).network, workspace / "both2.safetensors")
    evaluate(
        ["told=late:words.safetensors", "mine=plain:mine.safetensors"],
        "pictures",
        "words.csv",
        EvaluateOptions([50], metrics=["psnr"], text=["true", "none"]),
    )
    assert list(weights_by_codec(workspace / "words.csv")) == ["told:true", "told:none", "mine"]
    bytes_of = {row.preset: row.values["text_bytes"] for row in read_results(workspace / "words.csv")}
    assert bytes_of["told:true"] and not bytes_of["told:none"]
    subjects = ["own=both:both2.safetensors", "both"]
    evaluate(
        subjects, "pictures", "preference.csv", EvaluateOptions([50], metrics=["psnr"], preferences=[0, 1])
    )
    rows = {row.key: row for row in read_results(workspace / "preference.csv")}
    assert {name for name, _, _ in rows} == {"own:0", "own:1", "both:0", "both:1"}
    assert rows["own:0", "a.png", 50].values == rows["both:0", "a.png", 50].values
    assert rows["own:1", "a.png", 50].values != rows["both:1", "a.png", 50].values


def test_base_layer_of_a_label_can_be_measured(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_two_jpeg_preset(monkeypatch)
    evaluate(
        ["mine=two:any.safetensors"],
        "pictures",
        "out.csv",
        EvaluateOptions([40], metrics=["psnr"], layers="base"),
    )
    assert weights_by_codec(workspace / "out.csv") == {"mine:base": "0000beef"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": ["true"]}, "needs a preset that reads text; choose one of: late"),
        ({"preferences": [0.5]}, "needs a preset whose decoder takes one; choose one of: both"),
        ({"layers": "base"}, "--layers base needs a scalable preset; there is none"),
    ],
)
def test_settings_that_the_preset_of_a_label_lacks_are_refused(
    workspace: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(OptionError, match=sentence):
        evaluate(["mine=plain:mine.safetensors"], "pictures", "out.csv", EvaluateOptions([50], **options))
    assert not (workspace / "out.csv").exists()


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
def test_invalid_labels_are_refused_before_measuring(
    workspace: Path, subjects: list[str], kind: type[TrifocalError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        evaluate(["jpeg", *subjects], "pictures", "out.csv", EvaluateOptions([50]))
    with pytest.raises(kind, match=sentence):
        compare(["jpeg", *subjects], "pictures", "out", CompareOptions([50]))
    assert not (workspace / "out.csv").exists() and not (workspace / "out").exists()
    result = run("evaluate", "jpeg", *subjects, "--data", "pictures", "-o", "out.csv")
    assert result.exit_code == 1 and is_one_sentence(result.stderr) and not (workspace / "out.csv").exists()


def test_report_has_labels_in_legends_and_tables(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(text_codec("decoder").network, workspace / "words.safetensors")
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


def test_peak_memory_is_measured_with_the_labelled_weights(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = "mine=plain:mine.safetensors"
    print_peak("mine", "pictures/a.png", 50, custom_weights=spec)
    assert capsys.readouterr().out.strip().isdecimal()
    with pytest.raises(PresetError, match="no preset or format 'other'"):
        print_peak("other", "pictures/a.png", 50, custom_weights=spec)


def test_names_and_titles_of_variants(workspace: Path) -> None:
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


def test_presets_run_on_the_requested_device(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_unavailable_device_is_refused_at_once(workspace: Path, device: str, verb: str) -> None:
    result = run(verb, "plain", "--data", "pictures", "-o", "out", "--device", device)
    assert result.exit_code == 1 and is_one_sentence(result.stderr)
    assert f"The device {device!r} cannot be used here" in " ".join(result.stderr.split())
    assert not (workspace / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_decodes_what_it_encodes(workspace: Path) -> None:
    rows = evaluate(
        ["plain"], "pictures", "out.csv", EvaluateOptions([50], metrics=["psnr"], device="cuda")
    ).rows
    again = evaluate(["plain"], "pictures", "cpu.csv", EvaluateOptions([50], metrics=["psnr"])).rows
    for one, other in zip(rows, again, strict=True):
        assert one.values["psnr"] == pytest.approx(other.values["psnr"], abs=0.05)
