"""BD-rates by metric name, on curves whose difference is known analytically."""

import math
from collections.abc import Callable, Sequence

import pytest

from trifocal.errors import OptionError
from trifocal.evaluation import METRICS, Curve, bd_metric, bd_rate, bd_rate_by, find_metric
from trifocal.evaluation.report.measurements import compare_curves

Point = tuple[float, float]
VALUES = {  # from the worst to the best
    "psnr": (26.0, 29.5, 33.0, 36.0, 41.0),
    "ms-ssim": (0.90, 0.95, 0.98, 0.99, 0.997),
    "ssimulacra2": (12.0, 41.0, 63.0, 78.0, 92.0),
    "cvvdp": (7.1, 8.6, 9.4, 9.7, 9.9),
    "butteraugli": (6.2, 3.9, 2.4, 1.5, 0.8),
    "flip": (0.21, 0.15, 0.10, 0.07, 0.04),
    "lpips": (0.42, 0.31, 0.2, 0.12, 0.05),
}
OVERLAPS = {name: tuple(sorted((values[0], values[-1]))) for name, values in VALUES.items()}
OVERLAPS["ssimulacra2"] = (30, 90)


def points(values: Sequence[float], factor: float = 1.0) -> list[Point]:
    return [(factor * 0.1 * 1.8**step, value) for step, value in enumerate(values)]


def line(log_rate: Callable[[float], float], values: Sequence[float]) -> list[Point]:
    return [(math.exp(log_rate(value)), value) for value in values]


@pytest.mark.parametrize("name", VALUES)
def test_nine_tenths_of_the_rate_is_minus_ten_percent_for_every_metric(name: str) -> None:
    anchor, test = points(VALUES[name]), points(VALUES[name], 0.9)
    delta = bd_rate_by(name, anchor, test[::-1])
    assert delta.value == pytest.approx(-10) and delta.overlap == pytest.approx(OVERLAPS[name])
    assert bd_rate_by(name, test, anchor).value == pytest.approx(100 * (1 / 0.9 - 1))


@pytest.mark.parametrize("name", VALUES)
def test_bd_rate_equals_that_of_the_package_bjontegaard(name: str) -> None:
    oracle = pytest.importorskip("bjontegaard")
    scaled = find_metric(name).scaled
    anchor, test = ([(rate, scaled(value)) for rate, value in points(VALUES[name], f)] for f in (1.0, 0.8))
    test = [(rate * 1.05**step, value * 1.01) for step, (rate, value) in enumerate(test)]
    columns = [list(column) for pairs in (anchor, test) for column in zip(*pairs)]
    options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
    one, other = Curve.from_points("anchor", anchor), Curve.from_points("test", test)
    assert bd_rate(one, other).value == pytest.approx(oracle.bd_rate(*columns, **options), rel=1e-6)
    assert bd_metric(one, other).value == pytest.approx(oracle.bd_psnr(*columns, **options), rel=1e-6)


@pytest.mark.parametrize("name", ["butteraugli", "flip"])
def test_bd_rate_for_a_metric_that_is_better_when_lower(name: str) -> None:
    """log(rate) is -2x for one and -2.2x for the other, so the gap is -0.2x: its mean over 1..3 is -0.4."""
    anchor, test = line(lambda x: -2 * x, (4, 2.5, 1)), line(lambda x: -2.2 * x, (3, 2, 0.5))
    delta = bd_rate_by(name, anchor, test)
    assert delta.value == pytest.approx(100 * math.expm1(-0.4)) and delta.overlap == (1, 3)


def test_ms_ssim_is_interpolated_in_db() -> None:
    """log(rate) is a tenth of the dB, and 0.12 for the other: the gap 0.02·dB is 0.3 in the mean over 10..20
    dB.
    """
    natural = METRICS["ms-ssim"].natural
    anchor = [(math.exp(0.10 * db), natural(db)) for db in (8, 13, 20)]
    test = [(math.exp(0.12 * db), natural(db)) for db in (10, 14, 25)]
    delta = bd_rate_by("ms-ssim", anchor, test)
    assert delta.value == pytest.approx(100 * math.expm1(0.3)) and delta.overlap == pytest.approx((0.9, 0.99))


@pytest.mark.parametrize(
    ("scores", "overlap", "gap"),
    [
        ((10, 50, 95), (30, 90), -0.2),
        ((10, 50, 70), (30, 70), -0.1),
        ((54, 60, 99), (54, 90), -0.32),
        ((40, 60), (40, 60), -0.1),
    ],
    ids=["over both limits", "below the lower", "above the upper", "within"],
)
def test_ssimulacra2_is_compared_from_30_to_90(scores: Sequence[float], overlap: Point, gap: float) -> None:
    """The gap of log(rate) at a score x is (40 - x) / 100, which is -0.2 in the middle of 30..90."""
    anchor = line(lambda x: x / 20, (5, 45, 97))
    test = line(lambda x: x / 20 + (40 - x) / 100, scores)
    delta = bd_rate_by("ssimulacra2", anchor, test)
    assert delta.overlap == overlap and delta.value == pytest.approx(100 * math.expm1(gap))


def test_points_outside_the_limits_are_ignored() -> None:
    """Below a score of 20 the other codec needs 5 times the rate, above 30 nine tenths of it."""
    scores = (-20, 0, 20, 25, 30, 45, 60, 90, 95)
    anchor = line(lambda x: x / 20, scores)
    test = [(rate * (5 if score < 20 else 0.9), score) for rate, score in anchor]
    assert bd_rate_by("ssimulacra2", anchor, test).value == pytest.approx(-10)
    unlimited = bd_rate(Curve.from_points("anchor", anchor), Curve.from_points("test", test)).value
    assert unlimited is not None and unlimited > 0


@pytest.mark.parametrize("scores", [(5, 20, 30), (90, 93, 97), (98, 99)])
def test_no_bd_rate_if_the_overlap_is_outside_the_limits(scores: Sequence[float]) -> None:
    delta = bd_rate_by("ssimulacra2", line(lambda x: x / 20, (0, 50, 97)), line(lambda x: x / 19, scores))
    assert delta.value is None and delta.overlap is None


def test_report_has_the_same_bd_rate() -> None:
    name = "ssimulacra2"
    anchor, test = points(VALUES[name]), points([value + 2 for value in VALUES[name]])
    expected = bd_rate_by(name, anchor, test)
    [first, _] = compare_curves(
        METRICS[name], [Curve.from_points("test", test), Curve.from_points("anchor", anchor)], []
    )
    assert (first.bd_rate, first.overlap) == (expected.value, expected.overlap)


def test_curves_that_cannot_be_compared_raise() -> None:
    with pytest.raises(OptionError, match="no metric 'vmaf'"):
        bd_rate_by("vmaf", [], [])
    with pytest.raises(OptionError, match="above 0"):
        bd_rate_by("psnr", [(0, 30.0)], [])
    assert bd_rate_by("psnr", [], points(VALUES["psnr"])).value is None
