"""Measuring: bytes counted from files, metrics that the field trusts, curves against named anchors."""

from trifocal.evaluation.baselines import Rival, rivals
from trifocal.evaluation.certainty import Sure, certainty
from trifocal.evaluation.curves import Curve, Delta, anchors, bd_metric, bd_rate, bd_rate_by, rate_at
from trifocal.evaluation.evaluate import DEFAULT_METRICS, Results, evaluate
from trifocal.evaluation.exchange import published_curves, read_results, write_results
from trifocal.evaluation.metrics import METRICS, Metric, metric_of, ms_ssim, psnr, ssimulacra2
from trifocal.evaluation.models import labelled
from trifocal.evaluation.rows import Mean, Row, means, read_means, read_rows, write_means
from trifocal.evaluation.sets import SETS
from trifocal.evaluation.subjects import Subject
from trifocal.evaluation.tasks import Task, task_of
from trifocal.evaluation.wording import Effect, Paired, paired

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "SETS",
    "Curve",
    "Delta",
    "Effect",
    "Mean",
    "Metric",
    "Paired",
    "Results",
    "Rival",
    "Row",
    "Subject",
    "Sure",
    "Task",
    "anchors",
    "bd_metric",
    "bd_rate",
    "bd_rate_by",
    "certainty",
    "evaluate",
    "labelled",
    "means",
    "metric_of",
    "ms_ssim",
    "paired",
    "psnr",
    "published_curves",
    "rate_at",
    "read_means",
    "read_results",
    "read_rows",
    "rivals",
    "ssimulacra2",
    "task_of",
    "write_means",
    "write_results",
]
