"""What training minimises."""

from trifocal.losses.objective import Objective
from trifocal.losses.rate_distortion import (
    LAMBDA_RANGE,
    balance,
    bits_per_pixel,
    lambda_of,
    mean_squared_error,
    rate_distortion,
)

__all__ = [
    "LAMBDA_RANGE",
    "Objective",
    "balance",
    "bits_per_pixel",
    "lambda_of",
    "mean_squared_error",
    "rate_distortion",
]
