"""Measuring: bytes counted from files, metrics that the field trusts, curves against named anchors."""

from trifocal.evaluation.codecs.candidates import Candidate
from trifocal.evaluation.codecs.custom_weights import labelled
from trifocal.evaluation.codecs.pillow_codecs import PillowCodec, pillow_codecs
from trifocal.evaluation.evaluate import DEFAULT_METRICS, Results, evaluate
from trifocal.evaluation.metrics.distribution import SETS
from trifocal.evaluation.metrics.per_image import METRICS, Metric, metric_of, ms_ssim, psnr, ssimulacra2
from trifocal.evaluation.report.compressai_json import published_curves, read_results, write_results
from trifocal.evaluation.report.curves import Curve, Delta, anchors, bd_metric, bd_rate, bd_rate_by, rate_at
from trifocal.evaluation.report.results_table import Mean, Row, means, read_means, read_rows, write_means
from trifocal.evaluation.tasks.confidence import APWithError, certainty
from trifocal.evaluation.tasks.task import Task, task_of
from trifocal.evaluation.text_ablation import PairedDifference, TextEffect, paired

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "SETS",
    "APWithError",
    "Candidate",
    "Curve",
    "Delta",
    "Mean",
    "Metric",
    "PairedDifference",
    "PillowCodec",
    "Results",
    "Row",
    "Task",
    "TextEffect",
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
    "pillow_codecs",
    "psnr",
    "published_curves",
    "rate_at",
    "read_means",
    "read_results",
    "read_rows",
    "ssimulacra2",
    "task_of",
    "write_means",
    "write_results",
]
