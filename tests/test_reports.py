"""The scripts that make the tables in results/: what they compute, without measuring anything."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from trifocal.evaluation import Mean, anchors
from trifocal.losses import lambda_of
from trifocal.types import Output

ROOT = Path(__file__).resolve().parent.parent


def module_at(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_an_anchor_as_our_result_is_equal_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    script = module_at("scripts/kodak_results.py")
    vtm, similar = anchors("psnr")["VTM 9.1"], anchors("ms_ssim")["VTM 9.1"]
    table = [
        Mean("us", number, 24, rate, 0.1, 0.2, "beef", {"psnr": psnr, "ms_ssim": 1 - 10 ** (-decibels / 10)})
        for number, (rate, psnr, decibels) in enumerate(zip(vtm.rates, vtm.values, similar.values))
    ]
    rows = {(row[1], row[2]): row for row in script.compare("us", table)}
    assert len(rows) == sum(len(anchors(metric)) for metric in script.ANCHORED)
    for metric in ("psnr", "ms_ssim"):
        assert abs(float(rows["VTM 9.1", metric][3])) < 0.001
    assert float(rows["bmshj2018-hyperprior", "psnr"][3]) == pytest.approx(100 / 1.305 - 100, abs=0.1)
    script.report(table, list(rows.values()))
    assert "+0.00 %" in capsys.readouterr().out


def test_no_overlap_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    script = module_at("scripts/kodak_results.py")
    table = [
        Mean("us", q, 2, 0.1 + q / 100, 0.1, 0.2, "", {"psnr": 5 + q / 10, "ms_ssim": None})
        for q in (0.0, 50.0)
    ]
    rows = list(script.compare("us", table))
    assert {row[3] for row in rows} == {""}
    script.report(table, rows)
    assert "no overlap" in capsys.readouterr().out
    script.report(table, [])
    assert "with fewer there is nothing to compare" in capsys.readouterr().out


def lap(total: float, **parts: float) -> dict[str, Any]:
    return {"encode": {**parts, "total": total}, "decode": {**parts, "total": 2 * total}, "bytes": 900}


def test_speed_is_told_by_medians_within_turns() -> None:
    speed = module_at("benchmarks/speed.py")
    ours = speed.Contender("Trifocal", print, [lap(1, coding=0.1), lap(5, coding=0.5), lap(2, coding=0.3)])
    anchor = speed.Contender(speed.ANCHOR, print, [lap(2), lap(20), lap(4)])
    absent = speed.Contender("CompressAI Elic2022Official", None)
    assert ours.seconds("encode") == 2 and ours.seconds("encode", "walk") is None
    assert ours.ratio("encode", anchor) == 0.5 and absent.ratio("encode", anchor) is None
    ours.peak = 3 << 20
    rows = speed.table([ours, anchor, absent])
    assert (rows[0]["encode_ratio"], rows[1]["decode_ratio"]) == ("0.500", "1.000")
    facts = dict.fromkeys(("machine", "cores", "threads", "repeats", "torch", "date"), "?") | {
        "load_s": "1.00",
        "torch_s": "0.90",
    }
    text = speed.markdown(rows, facts)
    assert "| Trifocal | encode | 2000.0 |  |  |  | 300.0 |  | 0.500 | 3 |" in text
    assert "not measured: pip install compressai" in text
    assert "15.0% of encode and 7.5% of decode" in text


def test_turns_after_the_first_count() -> None:
    speed = module_at("benchmarks/speed.py")
    turns = iter(range(100))
    contenders = [speed.Contender("one", lambda: next(turns)), speed.Contender("absent", None)]
    speed.take_turns(contenders, 3)
    assert contenders[0].laps == [1, 2, 3] and contenders[1].laps == []


def test_exchange_rates_are_slopes_of_the_rate_curve() -> None:
    """Of a codec with a known curve: R = log2(1/D), so −dR/dD is 1 / (D · ln 2)."""
    script = module_at("scripts/exchange_rates.py")

    class Known(torch.nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Output:
            d = torch.exp2(-level / 100.0)
            return Output(x + d[:, None, None, None], x, torch.log2(1 / d) * x.shape[-1] * x.shape[-2])

    x = torch.zeros(2, 3, 16, 16)
    (row,) = script.exchange_rates(
        Known(),
        x,
        {"d": lambda a, b: (a - b).mean((1, 2, 3))},
        lambda fraction: None,
        levels=(400,),
    )
    slope = 1 / (2.0**-4 * math.log(2)) / float(lambda_of(torch.tensor(400.0)))
    assert row[0] == pytest.approx(slope, rel=0.02)
