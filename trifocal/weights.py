"""Find, read, verify and write the weights that ship: float16 safetensors under trifocal/weights/."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trifocal.errors import WeightsError
from trifocal.utils.files import atomic_write

FOLDER = Path(__file__).with_name("weights")
Weights = dict[str, Tensor]
FINGERPRINT_BYTES = {1: 2, 2: 4}  # by the version of the file format
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def load_weights(codec: nn.Module, name: str | Path, shared: str = "") -> None:
    """Puts weights into a codec, strictly.

    Args:
        name: a file of those that ship, or the whole path of another.
        shared: a file of those that ship, which has what `name` has not.

    Raises:
        WeightsError: if the file is missing, is not a whole safetensors file, does not fit the codec, or holds values that are not
            finite or tables that no coder can use.
    """
    path = FOLDER / name
    weights = read_weights(path, FOLDER / shared if shared else None)
    check_kinds(weights, codec.state_dict(), path.name)
    try:
        codec.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights {path.name} do not fit this preset in this version; name others, or install Trifocal again."
        ) from error
    for module in codec.modules():
        if check := getattr(module, "check_weights", None):
            check()


def check_kinds(weights: Weights, wanted: Mapping[str, Tensor], file_name: str) -> None:
    """Raises WeightsError where numbers are whole that should not be, or the other way round."""
    for name in weights.keys() & wanted.keys():
        if weights[name].is_floating_point() != wanted[name].is_floating_point():
            kinds = ("whole numbers", "floating-point numbers")
            has, should = kinds[weights[name].is_floating_point()], kinds[wanted[name].is_floating_point()]
            raise WeightsError(
                f"The weights {file_name} hold {has} in {name} instead of {should}; name others."
            )


def read_weights(path: Path, shared: Path | None = None) -> Weights:
    """Tensors of a safetensors file, and those of `shared` that it has not; floats come as float32.

    Raises WeightsError for a file that is missing or damaged, and for values that are not finite.
    """
    others = {} if shared is None else read_weights(shared)
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
    for name, w in weights.items():
        if w.is_floating_point() and not torch.isfinite(w.float()).all():
            raise WeightsError(
                f"The weights {path.name} hold values in {name} that are not finite; name others."
            )
    return others | {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}


def load_part(path: Path, prefix: str) -> Weights:
    """Those tensors of a file whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): w for name, w in read_weights(path).items() if name.startswith(prefix)}


def write_weights(codec: nn.Module, path: Path, shared: str = "", reads: Sequence[int] = ()) -> None:
    """Write a network's state as float16 safetensors; integer tables stay integers.

    Args:
        shared: a bundled file; tensors that it holds already are left out.
        reads: fingerprints of other weights whose files can be decoded with these, for the metadata `reads`.
    """
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
    metadata = {"format": "pt"} | ({"reads": ",".join(f"{mark:08x}" for mark in reads)} if reads else {})
    with atomic_write(path) as stream:
        stream.write(save(halved, metadata=metadata))


def readable_fingerprints(path: Path) -> tuple[int, ...]:
    """The fingerprints of other weights whose files can be decoded with these, from the metadata `reads`."""
    with safe_open(path, "pt") as file:
        marks = (file.metadata() or {}).get("reads", "")
    return tuple(int(mark, 16) for mark in marks.split(",") if mark)


def fingerprint(weights: Mapping[str, Tensor], version: int, arithmetic: int) -> int | None:
    """What a file says of the weights that wrote it: the first bits of a SHA-256 over names, shapes and values of all tensors.

    Args:
        version: of the file format. In version 1 there are 16 bits, over values as float16; in version 2 there are 32, over values as
            float32 or int32 and the id of the arithmetic.
        arithmetic: `entropy.exact.ARITHMETIC`.

    Returns:
        None in version 1 for weights that float16 does not hold exactly, which no file of it can name.
    """
    digest = hashlib.sha256()
    if version > 1:
        digest.update(f"arithmetic {arithmetic}".encode())
    for name in sorted(weights):
        w = weights[name].detach().cpu()
        digest.update(f"{name}{tuple(w.shape)}".encode())
        if version == 1:
            halved = w.half() if w.is_floating_point() else w
            if not torch.equal(halved.to(w.dtype), w):
                return None
            digest.update(halved.contiguous().numpy().tobytes())
        else:
            kept = w.float() if w.is_floating_point() else w.int()
            digest.update(kept.contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest()[: FINGERPRINT_BYTES[version]], "big")


def checksum(module: nn.Module) -> tuple[int, ...]:
    """Changes when a weight does, also by an optimiser that leaves no trace of it in the tensor's version; a few milliseconds."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple(torch.stack([checksum_of(w) for w in tensors]).tolist()) if tensors else ()


def checksum_of(w: Tensor) -> Tensor:
    """Of the bits of a tensor, an int64 scalar."""
    if w.is_floating_point():
        w = w.detach().contiguous().view(BITS[w.element_size()])
    return w.sum(dtype=torch.int64)
