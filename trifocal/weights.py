"""Find, read, verify and write the weights that ship: float16 safetensors under trifocal/weights/."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trifocal.errors import WeightsError
from trifocal.files import replacing

FOLDER = Path(__file__).with_name("weights")
Weights = dict[str, Tensor]


def load_weights(codec: nn.Module, name: str | Path, shared: str = "") -> int:
    """Puts weights into a codec, strictly, and returns their fingerprint, 0..65535.

    Args:
        name: a file of those that ship, or the whole path of another.
        shared: a file of those that ship, which has what `name` has not.

    Raises:
        WeightsError: if the file is missing, is not a whole safetensors file, or does not fit the codec.
    """
    path = FOLDER / name
    weights = (read_weights(FOLDER / shared) if shared else {}) | read_weights(path)
    try:
        codec.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights {path.name} do not fit this preset in this version; name others, or install Trifocal again."
        ) from error
    return fingerprint(weights)


def read_weights(path: Path) -> Weights:
    """Tensors of a safetensors file; floats come as float32."""
    if not path.exists():
        raise WeightsError(
            f"The weights {path.name} are not installed; install Trifocal again, or train them."
        )
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"The weights {path.name} are damaged, or no safetensors file; name others, or install Trifocal again."
        ) from error
    return {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}


def load_part(path: Path, prefix: str) -> Weights:
    """Those tensors of a file whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): w for name, w in read_weights(path).items() if name.startswith(prefix)}


def write_weights(codec: nn.Module, path: Path, shared: str = "") -> None:
    """Writes the codec's state as float16 safetensors; integer tables stay integers. What is in `shared`, a file of those
    that ship, is left out."""
    weights = {name: w.detach().cpu() for name, w in codec.state_dict().items()}
    halved = {name: w.half().contiguous() if w.is_floating_point() else w for name, w in weights.items()}
    if shared:
        there = read_weights(FOLDER / shared)
        halved = {
            name: w
            for name, w in halved.items()
            if name not in there or not torch.equal(w, there[name].to(w))
        }
    for name, w in halved.items():
        if not torch.isfinite(w).all():
            raise WeightsError(f"The weights of {name} do not fit into float16; the run has diverged.")
    with replacing(path) as stream:
        stream.write(save(halved, metadata={"format": "pt"}))


def fingerprint(weights: Weights) -> int:
    """The first 16 bits of the SHA-256 over names, shapes and float16 bytes of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        w = weights[name]
        digest.update(f"{name}{tuple(w.shape)}".encode())
        digest.update((w.half() if w.is_floating_point() else w).contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest()[:2], "big")


def check_fingerprint(have: int, wanted: int, preset: str) -> None:
    """Raises WeightsError if a file was made with other weights than those at hand."""
    if have != wanted:
        raise WeightsError(
            f"The file was made with weights {wanted:04x} of the preset {preset}, but {have:04x} are at hand; "
            "name its weights with --weights, or install the version of Trifocal that made the file."
        )
