"""The steps of latent refinement, on NumPy arrays; `latent_refinement.py` is for torch.

The gradient of the rate is written out here, and that of the detector's outputs is a graph of the ONNX engine
(`gradient_graph.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trifocal.entropy.coder import Array
from trifocal.entropy.numpy_model import NumpyCodingNetworks, latent_gain
from trifocal.entropy.quantise import ZERO_BELOW, quantise
from trifocal.entropy.tables import ROWS_PER_OCTAVE, SMALLEST_SCALE
from trifocal.graphs.session import Graphs
from trifocal.types import BASE_TASK_WEIGHTS, MAX_LEVEL
from trifocal.utils.arrays import log_spaced

__all__ = ["LEARNING_RATE", "PARAMETER_STEPS", "REFERENCE", "Adam", "refined_array"]

LEARNING_RATE = 0.0125  # of Adam, in quantiser steps
BETAS = (0.8, 0.95)  # short memory for few steps
EPSILON = 1e-8
PARAMETER_STEPS = 2  # after so many steps, means and scales are predicted anew
REFERENCE = ("x", "stage0", "stage1", "stage2", "level0", "level1", "level2", "level3", "classes", "bins")


class Adam:
    """Kingma and Ba 2015, for one array or tensor. Same result as torch.optim.Adam, without importing torch's
    compiler (130 MB).
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.mean: Any = 0.0
        self.square: Any = 0.0

    def step(self, x: Any, gradient: Any) -> Any:
        """x after one step against a gradient of its shape."""
        self.steps += 1
        beta1, beta2 = BETAS
        self.mean = beta1 * self.mean + (1 - beta1) * gradient
        self.square = beta2 * self.square + (1 - beta2) * gradient * gradient
        spread = (self.square / (1 - beta2**self.steps)) ** 0.5 + EPSILON
        return x - self.rate / (1 - beta1**self.steps) * self.mean / spread


def refined_array(
    graphs: Graphs, detector: Graphs, entropy: NumpyCodingNetworks, x: Array, y: Array, level: int, steps: int
) -> Array:
    """As `latent_refinement.refined`, for one image.

    Args:
        graphs: with "base.refinement", the gradient of the detector's outputs by the decoded latent.
        detector: with "reference", the outputs on the image.
        entropy: of the base layer.
        x: the small image, [1, 3, H, W] in 0..1.
        y: its latent, [1, h, w, M].
        level: of the base layer, 0..800.
        steps: number of steps.
    """
    wanted = dict(zip(REFERENCE, (x, *detector.run("reference", x=x)), strict=True))
    at = np.array([level])
    gain, pixels = latent_gain(entropy.weights["gain.log_gain.table"], at), x.shape[2] * x.shape[3]
    weight = float(log_spaced(at, MAX_LEVEL, BASE_TASK_WEIGHTS)[0])
    adam = Adam(LEARNING_RATE * float((1 / gain).mean()))
    for step in range(steps):
        if step % PARAMETER_STEPS == 0:
            mean, index = entropy.predicted_parameters(y, at)
        residual = y * gain - mean
        y_hat = (quantise(residual, ZERO_BELOW[np.rint(index).astype(int)]) + mean) / gain
        last = step == steps - 1
        (task,) = graphs.run("base.refinement", last, y_hat=y_hat.astype(np.float32), **wanted)
        y = adam.step(y, rate_gradient(residual, index) * gain / pixels + weight * task).astype(np.float32)
    return y


def rate_gradient(value: Array, scale_index: Array) -> Array:
    """The derivative of `estimators.logistic_bits` by the value."""
    inverse = np.exp2(-scale_index / ROWS_PER_OCTAVE) / SMALLEST_SCALE
    magnitude = abs(value)
    inside, outside = ((half - magnitude) * inverse for half in (0.5, -0.5))
    # −log₂ σ(inside) − log₂ σ(−outside), by the magnitude
    slope = (sigmoid(-inside) - sigmoid(outside)) * inverse / math.log(2.0)
    gradient: Array = np.sign(value) * slope
    return gradient


def sigmoid(x: Array) -> Array:
    value: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return value
