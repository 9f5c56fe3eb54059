"""Latent ⇄ bytes: quantisation, tables, exact arithmetic, coders, context and hyperprior."""

from trifocal.entropy.coder import Coder, Meter, Reader, TrainingMeter, Writer
from trifocal.entropy.exact import exact_twin
from trifocal.entropy.hyperprior import EntropyModel

__all__ = ["Coder", "EntropyModel", "Meter", "Reader", "TrainingMeter", "Writer", "exact_twin"]
