"""Latent ⇄ bytes: quantisation, tables, exact arithmetic, coders, context and hyperprior."""

from trifocal.entropy.coder import Coder, Meter, Reader, TrainingMeter, Writer
from trifocal.entropy.context import ContextModel, SinglePass
from trifocal.entropy.exact import exact_twin
from trifocal.entropy.groups import Groups
from trifocal.entropy.hyperprior import EntropyModel, ExactSide, Prior
from trifocal.entropy.quantise import Gain

__all__ = [
    "Coder",
    "ContextModel",
    "EntropyModel",
    "ExactSide",
    "Gain",
    "Groups",
    "Meter",
    "Prior",
    "Reader",
    "SinglePass",
    "TrainingMeter",
    "Writer",
    "exact_twin",
]
