"""Latent ⇄ bytes: quantisation, tables, exact arithmetic, coders, context and hyperprior."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trifocal.entropy.coder import Coder as Coder
from trifocal.entropy.coder import RateEstimator as RateEstimator
from trifocal.entropy.coder import Reader as Reader
from trifocal.entropy.coder import Writer as Writer

if TYPE_CHECKING:
    from trifocal.entropy.context import ContextModel as ContextModel
    from trifocal.entropy.context import SinglePass as SinglePass
    from trifocal.entropy.conversion import integer_network as integer_network
    from trifocal.entropy.elic import ElicContext as ElicContext
    from trifocal.entropy.estimators import TrainingRateEstimator as TrainingRateEstimator
    from trifocal.entropy.gain import Gain as Gain
    from trifocal.entropy.hyperprior import EntropyModel as EntropyModel
    from trifocal.entropy.hyperprior import ExactNetworks as ExactNetworks
    from trifocal.entropy.hyperprior import Prior as Prior

# Modules that import torch; coding with another runtime does without them.
_TORCH = {
    "ContextModel": "context",
    "EntropyModel": "hyperprior",
    "Gain": "gain",
    "ElicContext": "elic",
    "ExactNetworks": "hyperprior",
    "Prior": "hyperprior",
    "SinglePass": "context",
    "TrainingRateEstimator": "estimators",
    "integer_network": "conversion",
}


def __getattr__(name: str) -> Any:
    if name not in _TORCH:
        raise AttributeError(f"module 'trifocal.entropy' has no attribute {name!r}")
    return getattr(import_module(f"trifocal.entropy.{_TORCH[name]}"), name)
