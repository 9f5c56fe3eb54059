"""Latent ⇄ bytes: quantisation, tables, exact arithmetic, coders, context and hyperprior."""

from trifocal.entropy.coder import Coder, RateEstimator, Reader, TrainingRateEstimator, Writer
from trifocal.entropy.context import ContextModel, SinglePass
from trifocal.entropy.exact import integer_twin
from trifocal.entropy.groups import Groups
from trifocal.entropy.hyperprior import EntropyModel, IntegerNetworks, Prior
from trifocal.entropy.quantise import Gain

__all__ = [
    "Coder",
    "ContextModel",
    "EntropyModel",
    "Gain",
    "Groups",
    "IntegerNetworks",
    "Prior",
    "RateEstimator",
    "Reader",
    "SinglePass",
    "TrainingRateEstimator",
    "Writer",
    "integer_twin",
]
