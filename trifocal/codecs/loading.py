"""Codecs with trained weights, on either engine.

The torch engine runs every preset, on any of its devices. The ONNX engine runs the compact presets on CPUs,
without torch; both read and write the same files.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from trifocal.codecs.codec import Codec
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Header
from trifocal.entropy.numpy_model import ARITHMETICS
from trifocal.errors import MissingExtra, WeightsError
from trifocal.types import DEAD_ZONE
from trifocal.weights import (
    BASE_QUANTISER,
    QUANTISER,
    WEIGHTS_FOLDER,
    fingerprint,
    kind_of_fingerprint,
    read_arrays,
    read_dead_zones,
    read_decodable_fingerprints,
)

if TYPE_CHECKING:
    from trifocal.codecs.torch_runtime import TorchRuntime

__all__ = ["Engine", "fingerprints_in", "onnx_codec", "torch_codec", "where_weights_are"]

GENERATIONS = Path(__file__).parent.parent / "weights" / "generations.csv"
Engine: TypeAlias = Literal["onnx", "torch"]


def torch_codec(build: Callable[[], Codec], path: Path, shared: str, device: str) -> Codec:
    """A codec on the torch engine.

    Args:
        build: makes it with untrained weights.
        path: of its weights.
        shared: a bundled file with the tensors that it lacks.
        device: of torch.

    Raises:
        MissingExtra: without torch.
        WeightsError: if the weights are missing or damaged, or do not fit.
    """
    if find_spec("torch") is None:
        raise MissingExtra("torch", "The torch engine")
    import torch

    from trifocal.codecs.torch_runtime import TorchRuntime
    from trifocal.weights import load_weights, set_dead_zones

    with torch.inference_mode(False):  # refinement and training need gradients
        codec = build()
        load_weights(codec.network, path, shared)
        set_dead_zones(codec.network, read_dead_zones(path))
        codec.network.to(device).eval()
        if isinstance(codec.runtime, TorchRuntime):
            codec.runtime.accept_fingerprints(read_decodable_fingerprints(path))
        return codec


def onnx_codec(name: str, has_base_layer: bool, build: Callable[[], Codec], path: Path, shared: str) -> Codec:
    """A codec on the ONNX engine.

    Args:
        name: of the preset, whose graphs are bundled.
        has_base_layer: whether it has a base layer.
        build, path, shared: as for `torch_codec`; `build` is called when its torch network is needed.

    Raises:
        WeightsError: if the weights are missing or damaged, or do not fit.
    """
    from trifocal.codecs.onnx_runtime import OnnxRuntime, ScalableOnnxRuntime

    def on_torch() -> TorchRuntime:
        runtime = torch_codec(build, path, shared, "cpu").runtime
        return cast("TorchRuntime", runtime)

    weights = read_arrays(path, WEIGHTS_FOLDER / shared if shared else None)
    zones = read_dead_zones(path)
    own, base = (zones.get(key, DEAD_ZONE) for key in (QUANTISER, BASE_QUANTISER))
    parts = (name, path.name, weights, read_decodable_fingerprints(path), on_torch, own)
    if has_base_layer:
        return ScalableCodec(ScalableOnnxRuntime(*parts, base_dead_zone=base))
    return Codec(OnnxRuntime(*parts))


@lru_cache(maxsize=256)
def fingerprints_in(path: Path, changed: int, shared: str, version: int) -> frozenset[int | None]:
    """The fingerprints of the files that the weights at `path` decode; empty if it is no weight file.
    `changed`, the time of its last change, is part of the cache's key.
    """
    try:
        weights = read_arrays(path, WEIGHTS_FOLDER / shared if shared else None)
    except WeightsError:
        return frozenset()
    listed = read_decodable_fingerprints(path)
    return frozenset().union(
        *(
            listed.get(kind_of_fingerprint(version, arithmetic), frozenset())
            | {fingerprint(weights, version, arithmetic)}
            for arithmetic in ARITHMETICS
        )
    )


def where_weights_are(preset: str, header: Header) -> str:
    """A sentence: which version of Trifocal has the weights of a file, from generations.csv."""
    with open(GENERATIONS, encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            marks = [mark for kind, mark in row.items() if kind.startswith(f"fingerprint_{header.version}")]
            if row["preset"] == preset and header.fingerprint_hex in marks:
                return (
                    f"The weights {header.fingerprint_hex} are trifocal/weights/{row['file']} of Trifocal "
                    f"{row['release']} (commit {row['commit']}, SHA-256 {row['sha256']}); name that file "
                    "with --weights, or its folder with TRIFOCAL_WEIGHTS."
                )
    return "Name its weights with --weights, or install the version of Trifocal that made the file."
