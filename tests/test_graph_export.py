"""The export of ONNX graphs: bundled graphs and the modules they come from, and the files of an export."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trifocal
from helpers.cli import run
from helpers.codecs import small_codec
from trifocal.codecs import graph_export, graph_sources
from trifocal.codecs.composition import load_composition
from trifocal.codecs.graph_export import Network, codec_network, export_networks, graph_bytes, simplify
from trifocal.codecs.graph_sources import Source
from trifocal.detection.compact_onnx import load_compact_detector
from trifocal.errors import MissingExtra
from trifocal.graphs.session import Graphs, record
from trifocal.text.compact_onnx import load_graphs

# ── sources ──


class Autograd(nn.Module):
    """The gradient of a cost by its first input, as a `GradientGraph` without tracing."""

    def __init__(self, cost: nn.Module, inputs: object) -> None:
        super().__init__()
        self.cost = cost

    def forward(self, y_hat: Tensor, *others: Tensor) -> Tensor:
        with torch.enable_grad():
            x = y_hat.detach().requires_grad_()
            return torch.autograd.grad(self.cost(x, *others), x)[0]


def varied(value: Tensor, generator: torch.Generator) -> Tensor:
    """An example input; random where it is constant."""
    constant = value.is_floating_point() and bool((value == value.flatten()[0]).all())
    return torch.rand(value.shape, generator=generator) if constant else value


def assert_agree(sources: Mapping[str, Source], graphs: Graphs) -> None:
    """Each bundled graph gives what its module gives."""
    generator = torch.Generator().manual_seed(0)
    for name, source in sources.items():
        given = {key: varied(value, generator) for key, value in source.inputs.items()}
        with torch.inference_mode(False), torch.no_grad():
            wanted = source.module(*given.values())
        found = graphs.run(name, **{key: value.numpy() for key, value in given.items()})
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        assert len(found) == len(source.outputs) == len(wanted), name
        for one, other in zip(found, wanted):
            assert np.abs(one - other.numpy()).max() <= 2e-3 * max(1e-3, float(other.abs().max())), name


@pytest.mark.parametrize(
    ("preset", "sides"),
    [
        ("dual-layer-compact", ["preview"]),
        ("cross-modal-compact", ["text"]),
        ("ug-icm-compact", ["preference"]),
        ("taco-compact", []),
    ],
)
def test_bundled_graphs_agree_with_the_modules_they_are_exported_from(
    preset: str, sides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_sources, "GradientGraph", Autograd)
    codec = trifocal.presets.shared_codec(preset, engine="torch")
    runtime: Any = trifocal.presets.shared_codec(preset, engine="onnx").runtime
    sources = codec_network(codec, sides).sources
    assert sources.keys() == record()["networks"][preset]["graphs"].keys()
    if preset != "dual-layer-compact":  # others differ from it in a side input alone
        sources = {name: source for name, source in sources.items() if "." in name or name == "analysis"}
    assert_agree(sources, runtime.graphs.with_weights(load_compact_detector().graphs.weights))


def test_bundled_graphs_agree_with_detector_text_encoder_and_composition() -> None:
    networks = graph_export.shared_networks()
    graphs = {
        "detector": load_compact_detector().graphs,
        "text": load_graphs(),
        "composition": load_composition(),
    }
    assert networks.keys() == graphs.keys()
    for name, network in networks.items():
        assert network.sources.keys() == record()["networks"][name]["graphs"].keys()
        assert_agree(network.sources, graphs[name])


# ── files ──


def test_weights_are_left_out_of_a_graph_or_kept() -> None:
    onnx: Any = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "network.weight")
    constant = onnx.numpy_helper.from_array(np.ones(2, np.float32), "constant")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "network.weight"], ["product"], doc_string="a line of source"),
        onnx.helper.make_node("Add", ["product", "constant"], ["y"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3)), ("y", (1, 2)))
    ]
    for kept in (True, False):
        graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, constant])
        model = onnx.helper.make_model(graph)
        model.metadata_props.add(key="made", value="here")
        names = simplify(model, {"network.weight": None}, kept, onnx.TensorProto.EXTERNAL)
        assert names == ["weight"] and model.graph.node[0].input[:] == ["x", "weight"]
        assert not model.metadata_props and not model.graph.node[0].doc_string
        first, second = model.graph.initializer
        assert (first.name, second.name) == ("weight", "constant") and second.raw_data
        assert bool(first.raw_data) is kept is not bool(first.external_data)


def test_equal_graphs_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def content(source: Source, with_weights: bool) -> tuple[bytes, list[str]]:
        return bytes(source.inputs["x"].tolist()), ["weight"]

    monkeypatch.setattr(graph_export, "graph_bytes", content)
    source_one, source_two = (
        Source(nn.Identity(), {"x": torch.tensor([n])}, {"x": {}}, ("y",)) for n in (1, 2)
    )
    networks = {
        "first": Network({"analysis": source_one, "synthesis": source_two}, {"channels": 4}),
        "second": Network({"analysis": source_one}, {"channels": 5}),
    }
    names: list[str] = []
    export_networks(networks, tmp_path / "new" / "folder", True, names.append)
    assert names == ["first.analysis.onnx", "first.synthesis.onnx", "first.analysis.onnx"]
    written = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").glob("*.onnx")}
    assert written == {"first.analysis.onnx": b"\1", "first.synthesis.onnx": b"\2"}
    found = json.loads((tmp_path / "new" / "folder" / "graphs.json").read_text("utf-8"))
    assert found["networks"]["second"] == {"channels": 5, "graphs": {"analysis": "first.analysis.onnx"}}
    assert found["weights"].keys() == written.keys() and found["opset"] == 20


def test_command_exports_what_the_record_of_the_bundled_graphs_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def content(source: Source, with_weights: bool) -> tuple[bytes, list[str]]:
        asked.append(with_weights)
        return str(len(asked)).encode(), []

    monkeypatch.setattr(graph_export, "graph_bytes", content)
    done = run("export-onnx", "compact", "--without-weights", "-o", tmp_path / "graphs")
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "graphs" / "graphs.json").read_text("utf-8"))["networks"]
    assert found == {
        name: record()["networks"][name] for name in ("compact", "composition", "detector", "text")
    }
    files = sorted(path.name for path in (tmp_path / "graphs").glob("*.onnx"))
    assert sorted(done.stderr.split()) == sorted(["Wrote"] * len(files) + [f"{file}." for file in files])
    assert len(asked) == len(files) and not any(asked)
    done = run("export-onnx", "ug-icm-compact", "--quiet", "-o", tmp_path / "own")
    assert done.exit_code == 0 and not done.stderr and all(asked[len(files) :])
    assert (tmp_path / "own" / "ug-icm-compact.synthesis.preference.onnx").exists()


def test_export_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    source = codec_network(small_codec(), []).sources["analysis"]
    with pytest.raises(MissingExtra, match=r'^Exporting ONNX .*; run: pip install "trifocal\[export\]"$'):
        graph_bytes(source, True)
