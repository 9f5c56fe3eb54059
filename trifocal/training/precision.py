"""The precision of a training run, and its accelerator."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from trifocal.errors import OptionError

__all__ = ["PRECISIONS", "Precision", "choose_precision", "new_accelerator"]

PRECISIONS = ("auto", "bfloat16", "float32")
INSTRUCTIONS = {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX-BF16"}


@dataclass(frozen=True)
class Precision:
    """The precision of a run.

    Attributes:
        name: "bfloat16" or "float32".
        reason: a sentence that states it and why.
    """

    name: str
    reason: str

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype of operations that may be computed in less than float32, or None."""
        return torch.bfloat16 if self.name == "bfloat16" else None


def choose_precision(requested: str, device: torch.device, operations: str) -> Precision:
    """Choose the precision of a run.

    Args:
        requested: one of PRECISIONS; "auto" is bfloat16 where the device computes in it, and float32
            elsewhere.
        device: of the run.
        operations: the operations that are computed in bfloat16, in the plural, for the sentence.

    Raises:
        OptionError: for another `requested`, or where accelerate was asked for mixed precision.
    """
    if requested not in PRECISIONS:
        raise OptionError(f"The precision is one of {', '.join(PRECISIONS)}, not {requested!r}.")
    if (by_accelerate := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in ("", "no"):
        raise OptionError(
            f"ACCELERATE_MIXED_PRECISION is {by_accelerate}; unset it, and choose the precision with "
            "--precision."
        )
    unit = bfloat16_unit(device)
    kind = "GPU" if device.type == "cuda" else "processor"
    if requested == "float32":
        return Precision("float32", "Everything trains in float32, as requested.")
    if unit:
        return Precision(
            "bfloat16", f"{operations} train in bfloat16, the rest in float32: this {kind} has {unit}."
        )
    lacking = f"this {kind} has no bfloat16 instructions"
    if requested == "bfloat16":
        return Precision("bfloat16", f"{operations} train in bfloat16, as requested, but slowly: {lacking}.")
    return Precision("float32", f"Everything trains in float32: {lacking}.")


def bfloat16_unit(device: torch.device) -> str:
    """The bfloat16 instructions of a device, such as "AMX-BF16", or "" if bfloat16 is emulated."""
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16 arithmetic" if supported else ""
    if device.type != "cpu":
        return ""
    flags: Mapping[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older releases of torch lack it
    return " and ".join(name for flag, name in INSTRUCTIONS.items() if flags.get(flag))


def new_accelerator(unused: bool = True) -> Accelerator:
    """The accelerator of a run, without mixed precision; see `choose_precision`.

    Args:
        unused: whether a step may leave parameters without a gradient, as in networks with optional text.
            Several processes then need more time per step.
    """
    warnings.filterwarnings(
        "ignore", message="Grad strides do not match"
    )  # of several processes: depthwise layers in channels-last format
    launched = "LOCAL_RANK" in os.environ  # by torchrun, accelerate or `in_processes`
    return Accelerator(
        cpu=launched and not torch.accelerator.is_available(),  # else each process would train alone
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )
