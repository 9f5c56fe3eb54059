"""The precision that a run trains in, and the accelerator that it runs on."""

import os
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
    """What `choose_precision` chose.

    Attributes:
        name: "bfloat16" or "float32".
        reason: a sentence that gives it and why.
    """

    name: str
    reason: str

    @property
    def lower(self) -> torch.dtype | None:
        """The dtype of what may be computed in less than float32; None where nothing may."""
        return torch.bfloat16 if self.name == "bfloat16" else None


def choose_precision(asked: str, device: torch.device, subject: str) -> Precision:
    """The precision for a run.

    Args:
        asked: one of PRECISIONS; "auto" is bfloat16 where the device computes in it, and float32 elsewhere.
        device: that the run trains on.
        subject: what trains in bfloat16 then, in the plural; for the sentence.

    Raises:
        OptionError: for another `asked`, or where accelerate was asked for mixed precision.
    """
    if asked not in PRECISIONS:
        raise OptionError(f"The precision is one of {', '.join(PRECISIONS)}, not {asked!r}.")
    if (by_accelerate := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in ("", "no"):
        raise OptionError(
            f"ACCELERATE_MIXED_PRECISION is {by_accelerate}; choose the precision with --precision, and unset it or set it to no."
        )
    unit = bfloat16_unit(device)
    kind = "GPU" if device.type == "cuda" else "processor"
    if asked == "float32":
        return Precision("float32", "Everything trains in float32, as --precision says.")
    if unit:
        return Precision(
            "bfloat16", f"{subject} train in bfloat16, the rest in float32: this {kind} has {unit}."
        )
    lacking = f"this {kind} has no bfloat16 instructions"
    if asked == "bfloat16":
        return Precision(
            "bfloat16", f"{subject} train in bfloat16, as --precision says, and slowly: {lacking}."
        )
    return Precision("float32", f"Everything trains in float32: {lacking}.")


def bfloat16_unit(device: torch.device) -> str:
    """What of a device computes in bfloat16, such as "AMX-BF16"; "" where it can only be emulated."""
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16 arithmetic" if supported else ""
    if device.type != "cpu":
        return ""
    there: Mapping[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older releases of torch lack it
    return " and ".join(name for flag, name in INSTRUCTIONS.items() if there.get(flag))


def new_accelerator(unused: bool = True) -> Accelerator:
    """The accelerator of a run. It leaves precisions alone; `choose_precision` gives them.

    Args:
        unused: whether a step may have no gradient for some parameters, as of networks that read words or learn from a teacher;
            several processes then need more time for each step.
    """
    return Accelerator(
        mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)]
    )
