"""Measure codecs on real files: metrics, machine tasks, rate–distortion curves and reports."""

from trifocal.evaluation.candidates.candidate import Candidate
from trifocal.evaluation.candidates.factory import load_custom_weights
from trifocal.evaluation.candidates.pillow_codecs import PillowCodec, pillow_codecs
from trifocal.evaluation.candidates.variant import Variant, parse_variant
from trifocal.evaluation.evaluate import EvaluationResults, evaluate
from trifocal.evaluation.metrics.distribution import DISTRIBUTION_METRICS
from trifocal.evaluation.metrics.pair import Pair
from trifocal.evaluation.metrics.per_image import METRICS, Metric, find_metric, ms_ssim, psnr, ssimulacra2
from trifocal.evaluation.options import DEFAULT_METRICS, CompareOptions, EvaluateOptions
from trifocal.evaluation.report.compressai_json import read_compressai, write_compressai
from trifocal.evaluation.report.curves import (
    BjontegaardDelta,
    Curve,
    anchors,
    bd_metric,
    bd_rate,
    bd_rate_by,
    rate_at,
)
from trifocal.evaluation.report.published import published_curves
from trifocal.evaluation.report.results_table import (
    ImageResult,
    MeanResult,
    mean_results,
    read_means,
    read_results,
    write_means,
)
from trifocal.evaluation.tasks.confidence import APWithError, ap_with_errors
from trifocal.evaluation.tasks.task import Task, create_task
from trifocal.evaluation.text_ablation import PairedDifference, TextEffect, paired_difference

__all__ = [
    "DEFAULT_METRICS",
    "DISTRIBUTION_METRICS",
    "METRICS",
    "APWithError",
    "BjontegaardDelta",
    "Candidate",
    "CompareOptions",
    "Curve",
    "EvaluateOptions",
    "EvaluationResults",
    "ImageResult",
    "MeanResult",
    "Metric",
    "Pair",
    "PairedDifference",
    "PillowCodec",
    "Task",
    "TextEffect",
    "Variant",
    "anchors",
    "ap_with_errors",
    "bd_metric",
    "bd_rate",
    "bd_rate_by",
    "create_task",
    "evaluate",
    "find_metric",
    "load_custom_weights",
    "mean_results",
    "ms_ssim",
    "paired_difference",
    "parse_variant",
    "pillow_codecs",
    "psnr",
    "published_curves",
    "rate_at",
    "read_compressai",
    "read_means",
    "read_results",
    "ssimulacra2",
    "write_compressai",
    "write_means",
]
