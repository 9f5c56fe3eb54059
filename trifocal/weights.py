"""Read, verify and write weights: safetensors, bundled under trifocal/weights/ or of your own.

Floats are float16, or packed (`trifocal.utils.packed_weights`).
Reading gives NumPy arrays; only what takes a torch network imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from trifocal.errors import WeightsError
from trifocal.types import DEAD_ZONE, Arrays
from trifocal.utils.files import atomic_write
from trifocal.utils.packed_weights import unpack
from trifocal.utils.threads import pool

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_FOLDER = Path(__file__).with_name("weights")
StateDict: TypeAlias = "dict[str, Tensor]"
DecodableFingerprints = dict[str, frozenset[int]]  # fingerprints by `kind_of_fingerprint`
DECODES, LEVEL, SYNTHESIS = "decodes", "level", "synthesis."
QUANTISER, BASE_QUANTISER = "dead_zone", "base_dead_zone"
ENTROPY_MODELS = {"entropy": QUANTISER, "base.entropy": BASE_QUANTISER}  # of codecs and of their base layers
FINGERPRINT_BYTES = {1: 2, 2: 4}  # by version of the file format
Number = TypeVar("Number", int, float)
INTEGERS = {2: "int16", 4: "int32", 8: "int64"}  # torch's, by their bytes


def load_weights(network: nn.Module, name: str | Path, shared: str = "") -> None:
    """Load weights into a network, strictly.

    Args:
        name: a bundled file, or the absolute path of another.
        shared: a bundled file with the tensors that `name` lacks.

    Raises:
        WeightsError: if the file is missing, incomplete, does not fit the network, or holds values that are
            not finite or invalid frequency tables.
    """
    path = WEIGHTS_FOLDER / name
    weights = read_weights(path, WEIGHTS_FOLDER / shared if shared else None)
    check_dtypes(weights, network.state_dict(), path.name)
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights {path.name} do not fit this preset in this version; give others, or install "
            "Trifocal again."
        ) from error
    for module in network.modules():
        if check := getattr(module, "check_weights", None):
            check()


def check_arrays(weights: Arrays, wanted: Mapping[str, Sequence[Any]], file_name: str) -> None:
    """Raises WeightsError as `load_weights` does, unless weights are the wanted tensors.

    Args:
        wanted: for each name the kind of its values, "f" or "i", and its shape.
    """
    for name in weights.keys() & wanted.keys():
        if (weights[name].dtype.kind == "f") != (wanted[name][0] == "f"):
            raise WeightsError(wrong_kind(file_name, name, weights[name].dtype.kind == "f"))
    if {name: list(w.shape) for name, w in weights.items()} != {name: w[1] for name, w in wanted.items()}:
        raise WeightsError(
            f"The weights {file_name} do not fit this preset in this version; give others, or install "
            "Trifocal again."
        )


def wrong_kind(file_name: str, name: str, floats: bool) -> str:
    """The message about a tensor of integers that must hold floats, or of floats that must hold integers."""
    kinds = ("whole numbers", "floating-point numbers")
    return (
        f"The weights {file_name} hold {kinds[floats]} in {name} instead of {kinds[not floats]}; give others."
    )


def check_dtypes(weights: StateDict, wanted: Mapping[str, Tensor], file_name: str) -> None:
    """Raises WeightsError where a tensor holds integers in place of floats, or floats in place of
    integers.
    """
    for name in weights.keys() & wanted.keys():
        if weights[name].is_floating_point() != wanted[name].is_floating_point():
            raise WeightsError(wrong_kind(file_name, name, weights[name].is_floating_point()))


def read_weights(path: Path, shared: Path | None = None) -> StateDict:
    """`read_arrays` as tensors."""
    import torch

    return {name: torch.from_numpy(w) for name, w in read_arrays(path, shared).items()}


def read_arrays(path: Path, shared: Path | None = None) -> Arrays:
    """Tensors of a safetensors file, and those of `shared` that it lacks; floats as float32.

    Raises WeightsError for a file that is missing or damaged, and for values that are not finite.
    """
    others = {} if shared is None else read_arrays(shared)
    if not path.exists():
        raise WeightsError(f"The weights {path.name} are not installed; install Trifocal again.")
    try:
        weights = unpack(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The weights {path.name} are damaged, or no safetensors file; give others, or install Trifocal "
            "again."
        ) from error
    if invalid := convert_to_float32(weights):
        raise WeightsError(
            f"The weights {path.name} hold values in {min(invalid)} that are not finite; give others."
        )
    return others | weights


def convert_to_float32(weights: Arrays) -> list[str]:
    """Convert floats in place, on two threads. Returns the names of those that are not finite."""
    names, invalid = deque(name for name, w in weights.items() if w.dtype.kind == "f"), []

    def convert() -> None:
        while True:
            try:
                name = names.popleft()
            except IndexError:  # no name is left
                return
            weights[name] = weights[name].astype(np.float32, copy=False)
            if not np.isfinite(weights[name]).all():
                invalid.append(name)

    other = pool().submit(convert)
    convert()
    if not other.cancel():
        other.result()
    return invalid


def load_part(path: Path, prefix: str) -> StateDict:
    """The tensors of a file whose names start with a prefix, without the prefix."""
    return {name.removeprefix(prefix): w for name, w in read_weights(path).items() if name.startswith(prefix)}


def write_weights(
    network: nn.Module,
    path: Path,
    shared: str = "",
    decodable_fingerprints: DecodableFingerprints | None = None,
    level: int | None = None,
) -> None:
    """Write the state of a network as float16 safetensors; integer tables stay integers. Dead zones that are
    not the default are stored in the metadata.

    Args:
        network: the network.
        path: of the file.
        shared: a bundled file whose tensors are left out.
        decodable_fingerprints: fingerprints of other weights whose files these weights decode, from
            `decodable`; stored in the file's metadata.
        level: the quality level of a single-rate model, 0..800; stored there too.

    Raises:
        WeightsError: for values outside the range of float16.
    """
    import torch
    from safetensors.torch import save

    halved = as_float16(network.state_dict())
    if shared:
        there = read_weights(WEIGHTS_FOLDER / shared)
        halved = {
            name: w
            for name, w in halved.items()
            if name not in there or not torch.equal(w, there[name].to(w))
        }
    for name, w in halved.items():
        if not torch.isfinite(w).all():
            raise WeightsError(f"The weights of {name} do not fit into float16; the run has diverged.")
    metadata = {"format": "pt"}
    if decodable_fingerprints:
        metadata[DECODES] = json.dumps(
            {kind: sorted(marks) for kind, marks in decodable_fingerprints.items() if marks}
        )
    if level is not None:
        metadata[LEVEL] = str(level)
    zones = network_dead_zones(network).items()
    metadata |= {key: str(zone) for key, zone in zones if zone != DEAD_ZONE}
    with atomic_write(path) as stream:
        stream.write(save(halved, metadata=metadata))


def as_float16(weights: Mapping[str, Tensor]) -> StateDict:
    """Weights as `write_weights` stores them."""
    return {
        name: w.detach().cpu().half().contiguous() if w.is_floating_point() else w.detach().cpu()
        for name, w in weights.items()
    }


def decodable(
    network: nn.Module, start: Path, arithmetics: Sequence[int], shared: str = ""
) -> DecodableFingerprints:
    """Fingerprints of the weights whose files a network decodes besides its own, if only its synthesis
    differs from `start`.

    Such a synthesis was trained on frozen latents: it reconstructs images from the files that `start` wrote.

    Args:
        network: the network after training.
        start: the weights that training started from.
        arithmetics: of the network's entropy model.
        shared: a bundled file with the tensors that `start` lacks.

    Returns:
        By `kind_of_fingerprint`: the fingerprints of `start`, and those that `start` lists itself.

    Raises:
        WeightsError: if other tensors than those of the synthesis differ, or `start` cannot be read.
    """
    import torch

    before = read_weights(start, WEIGHTS_FOLDER / shared if shared else None)
    now, then = as_float16(network.state_dict()), as_float16(before)
    changed = sorted(
        name
        for name in now.keys() | then.keys()
        if not name.startswith(SYNTHESIS)
        and (name not in now or name not in then or not torch.equal(now[name], then[name].to(now[name])))
    )
    if changed:
        raise WeightsError(
            f".tri files made with {start.name} can be decoded with {start.name} only: {changed[0]} and "
            f"{len(changed) - 1} other tensors outside the synthesis differ. Train the synthesis alone."
        )
    listed = read_decodable_fingerprints(start)
    marks = {}
    for version in FINGERPRINT_BYTES:
        for arithmetic in arithmetics:
            kind, mark = kind_of_fingerprint(version, arithmetic), fingerprint(before, version, arithmetic)
            marks[kind] = listed.get(kind, frozenset()) | (frozenset() if mark is None else {mark})
    return {kind: found for kind, found in marks.items() if found}


def kind_of_fingerprint(version: int, arithmetic: int) -> str:
    """The name of a kind of fingerprint in the metadata of weights: by version of the file format, and after
    a point the id of an arithmetic other than 1.
    """
    return f"{version}" if arithmetic == 1 else f"{version}.{arithmetic}"


def read_decodable_fingerprints(path: Path) -> DecodableFingerprints:
    """The fingerprints that `write_weights` stored in a file; empty for other files."""
    try:
        found = json.loads(metadata_of(path).get(DECODES, "{}"))
        return {kind: frozenset(map(int, values)) for kind, values in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def read_level(path: Path) -> int | None:
    """The quality level of a single-rate model, 0..800; None for weights of all rates."""
    return stored_number(path, LEVEL, int)


def entropy_models(network: nn.Module) -> dict[str, Any]:
    """The entropy models of a codec, by the name of their dead zone in metadata; empty for other networks."""
    modules = dict(network.named_modules())
    return {key: modules[name] for name, key in ENTROPY_MODELS.items() if name in modules}


def network_dead_zones(network: nn.Module) -> dict[str, float]:
    """The dead zones of a codec's quantisers: QUANTISER, and BASE_QUANTISER of a base layer."""
    return {key: model.dead_zone for key, model in entropy_models(network).items()}


def set_dead_zones(network: nn.Module, zones: Mapping[str, float]) -> None:
    """Set the dead zones of a codec's quantisers; those without a value here get the default."""
    for key, model in entropy_models(network).items():
        model.dead_zone = zones.get(key, DEAD_ZONE)


def read_dead_zones(path: Path) -> dict[str, float]:
    """The dead zones of the quantisers of these weights that are not the default."""
    stored = {key: stored_number(path, key, float) for key in ENTROPY_MODELS.values()}
    return {key: zone for key, zone in stored.items() if zone is not None}


def stored_number(path: Path, key: str, parse: Callable[[str], Number]) -> Number | None:
    """A number in the metadata of a file; None if it has none."""
    found = metadata_of(path).get(key)
    try:
        return None if found is None else parse(found)
    except ValueError:
        return None


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files."""
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def fingerprint(weights: Mapping[str, Any], version: int, arithmetic: int) -> int | None:
    """The fingerprint by which a file identifies its weights: the first bits of a SHA-256 over names, shapes
    and values of all tensors.

    Args:
        weights: NumPy arrays or tensors.
        version: of the file format. Version 1 has 16 bits, over values as float16; version 2 has 32, over
            values as float32 or int32 and the id of the arithmetic.
        arithmetic: its id, see FORMAT.md.

    Returns:
        None in version 1 for another arithmetic than 1, and for weights that float16 does not represent
        exactly, since no file of that version names them.
    """
    if version == 1 and arithmetic != 1:
        return None
    digest = hashlib.sha256()
    if version > 1:
        digest.update(f"arithmetic {arithmetic}".encode())
    for name in sorted(weights):
        w = as_array(weights[name])
        digest.update(f"{name}{tuple(w.shape)}".encode())
        if version == 1:
            with np.errstate(over="ignore"):
                halved = w.astype(np.float16) if w.dtype.kind == "f" else w
            if not np.array_equal(halved.astype(w.dtype), w):
                return None
            digest.update(np.ascontiguousarray(halved).tobytes())
        else:
            values = w.astype(np.float32 if w.dtype.kind == "f" else np.int32, copy=False)
            digest.update(np.ascontiguousarray(values).data)
    return int.from_bytes(digest.digest()[: FINGERPRINT_BYTES[version]], "big")


def as_array(w: Any) -> NDArray[Any]:
    """A NumPy array or a tensor as a NumPy array; bfloat16, which NumPy lacks, as float32."""
    if isinstance(w, np.ndarray):
        return w
    w = w.detach().cpu()
    array: NDArray[Any] = (w.float() if str(w.dtype) == "torch.bfloat16" else w).numpy()
    return array


def checksum(module: nn.Module) -> tuple[int, ...]:
    """A checksum of all parameters and buffers. It also detects changes by fused optimisers, which do not
    increment `Tensor._version`. Takes a few milliseconds.
    """
    return checksums([*module.parameters(), *module.buffers()])


def checksum_without_synthesis(network: nn.Module) -> tuple[int, ...]:
    """`checksum` of all that is not part of the synthesis."""
    return checksums(w for name, w in network.state_dict().items() if not name.startswith(SYNTHESIS))


def checksums(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """`tensor_checksum` of each tensor."""
    import torch

    sums = [tensor_checksum(w) for w in tensors]
    return tuple(torch.stack(sums).tolist()) if sums else ()


def tensor_checksum(w: Tensor) -> Tensor:
    """The sum of a tensor's bits, an int64 scalar."""
    import torch

    if w.is_floating_point():
        w = w.detach().contiguous().view(getattr(torch, INTEGERS[w.element_size()]))
    return w.sum(dtype=torch.int64)
