"""Export networks as ONNX graphs, with their weights or with the weights' names only.

A graph without weights refers to each weight as an external initialiser, by the name that it has in the
.safetensors file; `graphs.session` gives it the values. So a package has one copy of each weight, and one
graph serves all weights of a network, also a user's own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from trifocal.errors import MissingExtra, PresetError
from trifocal.utils.files import atomic_write

if TYPE_CHECKING:
    import onnx

    from trifocal.codecs.codec import Codec
    from trifocal.codecs.graph_sources import Source

__all__ = ["OPSET", "Network", "codec_network", "export_networks", "exporter", "shared_networks"]

OPSET = 20
PREFIX = "network."  # of the weights' names inside a source


@dataclass(frozen=True)
class Network:
    """A network that is exported as one or several graphs.

    Attributes:
        sources: the source of each graph, by the graph's name.
        sizes: facts for the record, such as the number of channels; see `graphs.session.record`.
    """

    sources: Mapping[str, Source]
    sizes: Mapping[str, Any]


def exporter() -> str:
    """The exporter and its version, for the record."""
    return f"torch.onnx.export of torch {torch.__version__.split('+')[0]}"


def graph_bytes(source: Source, with_weights: bool) -> tuple[bytes, list[str]]:
    """The ONNX file of a source, and the names of its weights. Raises MissingExtra."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch imports it

        from trifocal.codecs.graph_rewriting import rewritten
    except ImportError:
        raise MissingExtra("export", "Exporting ONNX graphs") from None
    dynamic = {name: dict(source.dynamic[name]) for name in source.inputs}
    shapes: Any = dynamic if len(dynamic) == 1 else tuple(dynamic.values())
    if source.variadic:
        shapes = (shapes,)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel has no ONNX form
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            program = torch.onnx.export(
                source.module,
                tuple(source.inputs.values()),
                dynamo=True,
                optimize=False,  # it would fold small weights into constants
                opset_version=OPSET,
                dynamic_shapes=shapes,
                input_names=list(source.inputs),
                output_names=list(source.outputs),
                verbose=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert program is not None
    model = program.model_proto
    names = simplify(model, source.module.state_dict(), with_weights, onnx.TensorProto.EXTERNAL)
    return rewritten(folded(model, names)).SerializeToString(deterministic=True), names


def simplify(
    model: onnx.ModelProto, weights: Mapping[str, object], with_weights: bool, external: int
) -> list[str]:
    """Remove metadata, and the weights unless `with_weights`. Returns the names of the weights, sorted."""
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
    renamed = {}
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        if tensor.name not in weights:
            continue
        renamed[tensor.name] = tensor.name.removeprefix(PREFIX)
        tensor.name = renamed[tensor.name]
        if not with_weights:
            tensor.ClearField("raw_data")
            tensor.data_location = external
            tensor.external_data.add(key="location", value="weights")
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    return sorted(renamed.values())


def folded(model: onnx.ModelProto, weights: Sequence[str]) -> onnx.ModelProto:
    """The graph after ONNX Runtime's basic optimisations, which need no knowledge of the processor.

    Args:
        weights: names of initialisers that must stay; they are inputs while the graph is optimised.
    """
    import onnx
    import onnxruntime

    graph, names = model.graph, {*weights}
    kept = [tensor for tensor in graph.initializer if tensor.name in names]
    others = [tensor for tensor in graph.initializer if tensor.name not in names]
    inputs = [*graph.input]
    del graph.initializer[:]
    graph.initializer.extend(others)
    for tensor in kept:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    with TemporaryDirectory(prefix="trifocal-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(options.optimized_model_filepath)
    del found.graph.input[:], found.opset_import[:], found.graph.value_info[:]
    found.graph.input.extend(inputs)
    found.graph.initializer.extend(kept)
    found.opset_import.extend(model.opset_import)
    return found


def export_networks(
    networks: Mapping[str, Network], folder: Path, with_weights: bool, exported: Callable[[str], None]
) -> None:
    """Write the graphs of networks to a folder, each distinct graph once, and the record `graphs.json`.

    Args:
        networks: by name.
        folder: it is made.
        with_weights: whether the graphs hold their weights.
        exported: called with the name of each file.

    Raises:
        MissingExtra: without onnx and onnxscript.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[bytes, str] = {}
    named: dict[str, list[str]] = {}
    entries: dict[str, dict[str, Any]] = {}
    large: set[str] = set()
    for name, network in networks.items():
        graphs = {}
        for graph, source in network.sources.items():
            content, weights = graph_bytes(source, with_weights)
            file = files.setdefault(content, f"{name}.{graph}.onnx")
            graphs[graph], named[file] = file, weights
            large |= {file} if source.large else set()
            with atomic_write(folder / file) as stream:
                stream.write(content)
            exported(file)
        entries[name] = {**network.sizes, "graphs": graphs}
    record = {
        "opset": OPSET,
        "exporter": exporter(),
        "networks": entries,
        "weights": named,
        "large": sorted(large),
    }
    with atomic_write(folder / "graphs.json") as stream:
        stream.write(json.dumps(record, separators=(",", ":"), sort_keys=True).encode() + b"\n")


def codec_network(codec: Codec, sides: Sequence[str]) -> Network:
    """The graphs and sizes of a compact codec on torch. Raises PresetError for other codecs.

    Args:
        sides: as for `graph_sources.codec_sources`.
    """
    from trifocal.codecs.graph_sources import codec_sources
    from trifocal.transforms import Analysis

    network = codec.network
    if not isinstance(network.analysis, Analysis):
        raise PresetError("Only compact presets can be exported; choose one with compact in its name.")
    sizes = {
        "receptive_field": network.receptive_field,
        "latent_channels": network.entropy.latent_channels,
        "reads_importance": network.has_importance_map,
        "tensors": {
            name: ["f" if w.is_floating_point() else "i", list(w.shape)]
            for name, w in network.state_dict().items()
        },
    }
    return Network(codec_sources(network, sides), sizes)


def shared_networks() -> dict[str, Network]:
    """The networks beside those of presets: bundled detector, bundled text encoder, and composition."""
    from trifocal.codecs.composition_graph import composition_sources
    from trifocal.codecs.graph_sources import detector_sources, text_sources
    from trifocal.detection.detector import load_detector
    from trifocal.detection.image_encoder import load_image_encoder
    from trifocal.text.compact import load_compact
    from trifocal.text.grounding import load_grounding_head

    text = text_sources(load_compact().network, load_image_encoder(), load_grounding_head())
    return {
        "detector": Network(detector_sources(load_detector()), {}),
        "text": Network(text, {}),
        "composition": Network(composition_sources(), {}),
    }
