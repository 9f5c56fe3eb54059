"""The tables in results/ are of the bundled weights, complete, and consistent as far as can be checked
without the images.
"""

import csv
from pathlib import Path

import pytest

from helpers.scripts import ROOT, load_script
from trifocal.evaluation import EvaluateOptions, evaluate, mean_results, read_means, read_results
from trifocal.presets import DEFAULT, load

RESULTS = Path(__file__).resolve().parent.parent / "results"
SAMPLE = "grace_hopper.jpg"  # 512×600, comes with matplotlib


KODAK = ("compact", DEFAULT, "compact-psnr")  # in README's table
WHOLE = {"kodak": 24, "coco": 40, "words_kodak": 24, "words_coco": 160, "preference_kodak": 24}
WHOLE |= {"words_minilm_coco": 160}
WHOLE |= {"preference_coco": 160, "machine_decoded": 160, "machine_coco": 160, "machine_own": 160}


@pytest.mark.parametrize("preset", KODAK)
@pytest.mark.parametrize("table", ["kodak", "sample"])
def test_rows_are_of_the_bundled_weights(preset: str, table: str) -> None:
    """In any of the arithmetics, which differ by less than 0.2 % of the bytes."""
    rows = [row for row in read_results(RESULTS / f"{table}.csv") if row.preset == preset]
    codec = load(preset)
    marks = {f"{codec.fingerprint_in(2, arithmetic):08x}" for arithmetic in codec.runtime.arithmetics}
    assert len({row.weights for row in rows}) == 1 and {row.weights for row in rows} <= marks


@pytest.mark.parametrize("table", WHOLE)
def test_tables_are_complete(table: str) -> None:
    """Each preset with one set of weights, at each quality on all images."""
    rows = read_results(RESULTS / f"{table}.csv")
    for preset in {row.preset for row in rows}:
        mine = [row for row in rows if row.preset == preset]
        assert len({row.weights for row in mine}) == 1
        whole = {row.picture for row in mine}
        assert len(whole) == WHOLE[table]
        for quality in {row.quality for row in mine}:
            assert {row.picture for row in mine if row.quality == quality} == whole


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_kodak_table_is_up_to_date(page: str) -> None:
    """`python scripts/results.py readme` writes it."""
    script = load_script("scripts/results.py")
    text = (RESULTS.parent / page).read_text("utf-8")
    shown = text.partition(f"{script.BEGIN}\n")[2].partition(script.END)[0]
    assert shown == script.kodak_table(fingerprints=page != "README.md")


def test_summary_has_the_means_of_the_rows() -> None:
    ours = {(mean.preset, mean.quality): mean for mean in mean_results(read_results(RESULTS / "kodak.csv"))}
    summary = read_means(RESULTS / "kodak_summary.csv")
    assert {(mean.preset, mean.quality) for mean in summary} == set(ours)
    for mean in summary:
        of_rows = ours[mean.preset, mean.quality]
        assert mean.pictures == of_rows.pictures and mean.bpp == pytest.approx(of_rows.bpp, abs=1e-5)
        assert mean.values["psnr"] == pytest.approx(of_rows.values["psnr"], abs=1e-4)


@pytest.mark.parametrize("preset", KODAK)
def test_rows_of_a_public_photograph_are_reproduced(preset: str, tmp_path: Path) -> None:
    """`trifocal evaluate PRESET --data grace_hopper.jpg --out results/sample.csv` made them.

    Transforms are floats, so another processor may round a value of the latent to its neighbour now and then.
    """
    data = Path(pytest.importorskip("matplotlib").get_data_path(), "sample_data", SAMPLE)
    rows = {row.key: row for row in read_results(RESULTS / "sample.csv") if row.preset == preset}
    for row in evaluate([preset], data, tmp_path / "again.csv", EvaluateOptions([30, 70])).rows:
        published = rows[row.key]
        assert (row.width, row.height) == (published.width, published.height) == (512, 600)
        assert row.bytes == pytest.approx(published.bytes, rel=0.002)
        for metric in ("psnr", "ms_ssim"):
            assert row.values[metric] == pytest.approx(published.values[metric], rel=0.0005)


def test_runs_of_a_preset_have_numbers_of_their_own() -> None:
    with (ROOT / "results/training.csv").open(encoding="utf-8", newline="") as stream:
        runs = [(row["preset"], row["run"]) for row in csv.DictReader(stream)]
    assert len(runs) == len(set(runs)) > 70
