"""Measuring: bytes counted from files, metrics that the field trusts, curves against named anchors."""

from trifocal.evaluation.baselines import Rival, rivals
from trifocal.evaluation.curves import Curve, Delta, anchors, bd_metric, bd_rate
from trifocal.evaluation.evaluate import Subject, evaluate
from trifocal.evaluation.metrics import ms_ssim, psnr
from trifocal.evaluation.rows import Mean, Row, means, read_rows, write_means

__all__ = [
    "Curve",
    "Delta",
    "Mean",
    "Rival",
    "Row",
    "Subject",
    "anchors",
    "bd_metric",
    "bd_rate",
    "evaluate",
    "means",
    "ms_ssim",
    "psnr",
    "read_rows",
    "rivals",
    "write_means",
]
