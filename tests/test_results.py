"""The tables in results/ are of the weights that ship, whole, and true where that can be seen without the pictures."""

from pathlib import Path

import pytest

from trifocal.evaluation import evaluate, means, read_means, read_rows
from trifocal.presets import DEFAULT, PRESETS, load

RESULTS = Path(__file__).resolve().parent.parent / "results"
SAMPLE = "grace_hopper.jpg"  # 512×600, comes with matplotlib


PLAIN = [preset.name for preset in PRESETS if preset.ships and not preset.words and not preset.preference]
PREFERRING = [preset.name for preset in PRESETS if preset.ships and preset.preference]
WHOLE = {"kodak": 24, "coco": 160, "sample": 1}  # tables, and their pictures
WORDED = [preset.name for preset in PRESETS if preset.ships and preset.words]


@pytest.mark.parametrize(
    ("preset", "table", "pictures"),
    [
        *((preset, table, pictures) for preset in PLAIN for table, pictures in WHOLE.items()),
        (DEFAULT, "kodak", WHOLE["kodak"]),
        (DEFAULT, "machine_decoded", WHOLE["coco"]),
        (DEFAULT, "sample", WHOLE["sample"]),
    ],
)
def test_rows_are_of_the_weights_that_ship(preset: str, table: str, pictures: int) -> None:
    check_rows(preset, preset, table, pictures)


@pytest.mark.parametrize("preset", WORDED)
@pytest.mark.parametrize("kind", ["true", "empty", "mismatched"])
@pytest.mark.parametrize(("table", "pictures"), [("words_kodak", 24), ("words_coco", 160)])
def test_rows_with_words_are_too(preset: str, kind: str, table: str, pictures: int) -> None:
    check_rows(preset, f"{preset}:{kind}", table, pictures)


@pytest.mark.parametrize("preset", PREFERRING)
@pytest.mark.parametrize("preference", ["0", "0.5", "1"])
@pytest.mark.parametrize(("table", "pictures"), [("preference_kodak", 24), ("preference_coco", 160)])
def test_rows_for_people_and_machines_are_too(
    preset: str, preference: str, table: str, pictures: int
) -> None:
    check_rows(preset, f"{preset}:{preference}", table, pictures)


def check_rows(preset: str, name: str, table: str, pictures: int) -> None:
    rows = [row for row in read_rows(RESULTS / f"{table}.csv") if row.preset == name]
    assert {row.weights for row in rows} == {f"{load(preset).fingerprint:04x}"}
    whole = {row.picture for row in rows}
    assert len(whole) == pictures
    for quality in {row.quality for row in rows}:
        assert {row.picture for row in rows if row.quality == quality} == whole


def test_the_summary_has_the_means_of_the_rows() -> None:
    ours = {(mean.preset, mean.quality): mean for mean in means(read_rows(RESULTS / "kodak.csv"))}
    summary = read_means(RESULTS / "kodak_summary.csv")
    assert {(mean.preset, mean.quality) for mean in summary} == set(ours)
    for mean in summary:
        of_rows = ours[mean.preset, mean.quality]
        assert mean.pictures == of_rows.pictures and mean.bpp == pytest.approx(of_rows.bpp, abs=1e-5)
        assert mean.values["psnr"] == pytest.approx(of_rows.values["psnr"], abs=1e-4)


@pytest.mark.parametrize("preset", [*PLAIN, DEFAULT])
def test_rows_of_a_photograph_that_everybody_has_come_out_again(preset: str, tmp_path: Path) -> None:
    """`trifocal evaluate PRESET --data grace_hopper.jpg --out results/sample.csv` made them.

    Transforms are floats, so another processor may round a value of the latent to its neighbour now and then.
    """
    data = Path(pytest.importorskip("matplotlib").get_data_path(), "sample_data", SAMPLE)
    rows = {row.key: row for row in read_rows(RESULTS / "sample.csv") if row.preset == preset}
    for row in evaluate([preset], data, tmp_path / "again.csv", [30, 70]).rows:
        published = rows[row.key]
        assert (row.width, row.height) == (published.width, published.height) == (512, 600)
        assert row.bytes == pytest.approx(published.bytes, rel=0.002)
        for metric in ("psnr", "ms_ssim"):
            assert row.values[metric] == pytest.approx(published.values[metric], rel=0.0005)
