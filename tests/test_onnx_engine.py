"""The ONNX engine: the same files as the torch engine, and no torch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trifocal
from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal.codecs.codec import Codec
from trifocal.codecs.graph_export import OPSET, codec_network, export_networks, folded
from trifocal.codecs.loading import Engine
from trifocal.codecs.preview import preview_pixels
from trifocal.container import Bitstream, Tag
from trifocal.demo import PHOTOGRAPH
from trifocal.detection.compact_onnx import load_compact_detector, suppress
from trifocal.entropy.integer_arithmetic import depthwise, linear, placed_linear
from trifocal.entropy.latent_coding import read_latents, write_latents
from trifocal.entropy.numpy_networks import threaded_depthwise, threaded_linear, threaded_placed_linear
from trifocal.errors import Damaged, OptionError, PresetError, WeightsError
from trifocal.graphs.session import GRAPHS, Graphs, has_graphs, record
from trifocal.pictures import Picture
from trifocal.preset_table import PRESETS
from trifocal.presets import find
from trifocal.text.compact_onnx import load_compact_onnx
from trifocal.types import DEAD_ZONE, BasePreview, Condition
from trifocal.utils.arrays import image_array
from trifocal.weights import WEIGHTS_FOLDER, fingerprint, read_arrays, read_weights, write_weights

COMPACT = ("compact", "dual-layer-compact")
OTHERS = tuple(p.name for p in PRESETS if has_graphs(p.name) and p.name not in COMPACT)
GREY_LEVEL = 1 / 255
ENGINES: tuple[Engine, ...] = ("torch", "onnx")

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # every import of it fails
import trifocal
from trifocal.pictures import Picture
for preset in ("compact", "dual-layer-compact"):
    stream = trifocal.encode(sys.argv[1], preset, quality=40)
    again = trifocal.Bitstream.from_bytes(stream.to_bytes())
    decoded = trifocal.decode(again).picture
    print(preset, decoded.rgb.shape, trifocal.detect(again).names)
print(trifocal.detect(sys.argv[1]).names)
try:
    trifocal.load("compact", engine="torch")
except trifocal.errors.MissingExtra as error:
    print(error)
"""


def photograph(width: int = 192, height: int = 128) -> Picture:
    return Picture(np.ascontiguousarray(Picture.open(PHOTOGRAPH).rgb[60 : 60 + height, 150 : 150 + width]))


def engines(preset: str) -> tuple[Codec, Codec]:
    """The shared codecs of both engines."""
    return tuple(trifocal.presets.shared_codec(preset, engine=one) for one in ("torch", "onnx"))  # type: ignore[return-value]


def test_encode_decode_and_detect_without_torch(tmp_path: Path) -> None:
    photograph(256, 256).save(path := tmp_path / "photo.png")
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(path)], check=False, capture_output=True, text=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 4, run.stderr
    assert lines[0].startswith("compact (256, 256, 3)") and lines[1].startswith("dual-layer-compact (256, ")
    assert "person" in lines[2] and 'pip install "trifocal[torch]"' in lines[3]


@pytest.mark.parametrize("level", [0, 333, 800])
def test_both_engines_code_the_same_latents_to_the_same_bytes(level: int) -> None:
    torch_codec, onnx_codec = engines("dual-layer-compact")
    ours, theirs = torch_codec.runtime, onnx_codec.runtime
    rgb, at = photograph().rgb, np.array([level])
    for one, other, y in (
        (ours.entropy(), theirs.entropy(), ours.analyse(rgb, None)[..., :384]),
        (ours.base.entropy(), theirs.base.entropy(), ours.base.analyse(rgb)),  # type: ignore[attr-defined]
    ):
        data, y_hat, _ = write_latents(one, np.ascontiguousarray(y), at)
        again, found, _ = write_latents(other, np.ascontiguousarray(y), at)
        assert data == again and np.array_equal(y_hat, found)
        assert np.array_equal(read_latents(other, data, at, (y.shape[1], y.shape[2]))[0], y_hat)


@pytest.mark.parametrize("preset", COMPACT)
def test_each_engine_decodes_the_files_of_the_other(preset: str) -> None:
    picture = photograph(200, 120)
    codecs = engines(preset)
    options = {"refinement": 0} if preset != "compact" else {}
    for writing in codecs:
        stream = writing.encode(picture, quality=45, **options)  # type: ignore[arg-type]
        both = [reading.decode(stream).picture.rgb.astype(int) for reading in codecs]
        assert abs(both[0] - both[1]).max() <= 1
        y_hats = [reading.decode_latents(stream).y for reading in codecs]
        assert np.array_equal(y_hats[0], y_hats[1])
        assert ((both[0] - picture.rgb) ** 2).mean() < 100


@pytest.mark.slow
@pytest.mark.parametrize("preset", OTHERS)
def test_each_engine_decodes_the_files_of_the_other_presets(preset: str) -> None:
    picture = photograph()
    codecs = engines(preset)
    stream = codecs[1].encode(picture, quality=45)
    both = [reading.decode(stream).picture.rgb.astype(int) for reading in codecs]
    assert abs(both[0] - both[1]).max() <= 1 and codecs[0].fingerprint == codecs[1].fingerprint


@pytest.mark.parametrize("side", ["text", "preference"])
def test_a_graph_with_side_input_agrees_with_its_module(side: str) -> None:
    preset = {"text": "cross-modal-compact", "preference": "ug-icm-compact"}[side]
    torch_codec, onnx_codec = engines(preset)
    condition = (
        trifocal.text_conditioning.condition_for(trifocal.presets.find(preset), ["a dog"])
        if side == "text"
        else Condition(preference=np.ones(1, np.float32))
    )
    y_hat = np.random.default_rng(0).normal(0, 30, (1, 4, 8, 384)).astype(np.float32)
    ours, theirs = (codec.runtime.synthesise(y_hat, 400, condition) for codec in (torch_codec, onnx_codec))
    plain = onnx_codec.runtime.synthesise(y_hat, 400, None)
    assert abs(ours - theirs).max() < 0.01 * GREY_LEVEL < abs(plain - theirs).max()


def test_graphs_agree_with_their_modules() -> None:
    torch_codec, onnx_codec = engines("dual-layer-compact")
    ours, theirs = torch_codec.runtime, onnx_codec.runtime
    random = np.random.default_rng(0)
    preview = BasePreview(random.random((1, 3, 64, 96), np.float32), (180, 120), (-16, -16, 192, 128))
    rgb = random_rgb(192, 128, 3)
    for condition in (None, Condition(preview=preview)):
        y = ours.analyse(rgb, condition)
        assert abs(y - theirs.analyse(rgb, condition)).max() < 0.005
        x_hat = ours.synthesise(y[..., :384], 300, condition)
        assert abs(x_hat - theirs.synthesise(y[..., :384], 300, condition)).max() < 0.01 * GREY_LEVEL
    y = ours.base.analyse(rgb[:96])  # type: ignore[attr-defined]
    assert abs(y - theirs.base.analyse(rgb[:96])).max() < 1e-3  # type: ignore[attr-defined]
    size = rgb.shape[1], 96
    first = ours.base.preview(y, size)  # type: ignore[attr-defined]
    assert abs(first - theirs.base.preview(y, size)).max() < 0.01 * GREY_LEVEL  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(333, 217), (1500, 400), (20, 40)])
def test_both_engines_make_the_same_importance_map_of_a_text(size: tuple[int, int]) -> None:
    """Larger and smaller than the image encoder's input, and narrower than one latent."""
    picture = Picture(np.asarray(Image.fromarray(Picture.open(PHOTOGRAPH).rgb).resize(size)))
    condition = Condition(text=load_compact_onnx()(["a dog"]))
    runtimes = [codec.runtime for codec in engines("taco-compact")]
    prepared: list[Any] = [runtime.prepare(picture, condition) for runtime in runtimes]
    maps = [one.importance_map for one in prepared]
    rows, columns = (4 * -(-side // 64) for side in reversed(size))
    assert all(map_.shape == (1, rows, columns) for map_ in maps)
    assert np.abs(np.asarray(maps[0]) - maps[1]).max() < 1e-5 < np.ptp(maps[1])
    given = replace(condition, importance_map=np.zeros((1, rows, columns), np.float32))
    kept: list[Any] = [codec.runtime.prepare(picture, given) for codec in engines("taco-compact")]
    assert not any(one.importance_map.any() for one in kept)


def test_the_preview_is_interpolated_as_by_torch() -> None:
    random = np.random.default_rng(0)
    for window in ((0, 0, 128, 64), (-16, 32, 96, 176)):
        preview = BasePreview(random.random((1, 3, 32, 48), np.float32), (100, 150), window)
        assert abs(preview.to("cpu").pixels().numpy() - preview_pixels(preview)).max() < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (416, 320)])
def test_both_engines_detect_the_same_objects(size: tuple[int, int]) -> None:
    from trifocal.detection.detector import load_detector

    x = np.random.default_rng(1).random((1, 3, size[1], size[0]), np.float32)
    if size[0] > 300:
        picture = np.asarray(Picture.open(PHOTOGRAPH).rgb[: size[1], : size[0]])
        x = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    with torch.inference_mode():
        (ours,) = load_detector()(torch.from_numpy(x))
    theirs = load_compact_detector()(x)
    assert len(ours) == len(theirs)
    assert abs(ours.scores - theirs.scores).max(initial=0) < 1e-4
    assert abs(ours.boxes - theirs.boxes).max(initial=0) < 0.05
    assert (ours.labels == theirs.labels).all()


def test_suppression_is_that_of_torchvision() -> None:
    from torchvision.ops import nms

    random = np.random.default_rng(2)
    corners = random.random((300, 2)) * 50
    boxes = np.concatenate([corners, corners + random.random((300, 2)) * 30], axis=1).astype(np.float32)
    scores = random.random(300).astype(np.float32)
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).numpy()
    for most in (0, 1, 40, 300, None):
        assert np.array_equal(suppress(boxes, scores, 0.5, most), expected[:most])
    assert not len(suppress(boxes[:0], scores[:0], 0.5, 3))


def test_fingerprints_of_arrays_are_those_of_tensors() -> None:
    path = WEIGHTS_FOLDER / "compact.safetensors"
    for version in (1, 2):
        assert fingerprint(read_arrays(path), version, 1) == fingerprint(read_weights(path), version, 1)
        ours, theirs = engines("compact")
        assert ours.fingerprint_in(version) == theirs.fingerprint_in(version)


def test_regions_and_damage_on_the_onnx_engine() -> None:
    codec = trifocal.load("compact", engine="onnx")
    rgb = np.ascontiguousarray(np.tile(Picture.open(PHOTOGRAPH).rgb[:64], (1, 3, 1)))  # two tiles
    stream = codec.encode(Picture(rgb), quality=20)
    whole = codec.decode(stream).picture.rgb
    part = codec.decode(stream, region=(700, 10, 40, 30)).picture.rgb
    assert abs(part.astype(int) - whole[10:40, 700:740]).max() <= 1
    data = bytearray(stream.to_bytes())
    data[len(data) // 3] ^= 255
    with pytest.raises(Damaged):
        codec.decode(bytes(data))
    assert codec.decode(bytes(data), best_effort=True).damaged


def test_the_engine_is_chosen() -> None:
    assert type(trifocal.load("compact").runtime).__name__ == "OnnxRuntime"
    assert type(trifocal.load("compact", engine="torch").runtime).__name__ == "TorchRuntime"
    assert type(trifocal.load("compact", device="cpu:0").runtime).__name__ == "TorchRuntime"
    with pytest.raises(OptionError, match="ONNX engine runs on the CPU"):
        trifocal.load("compact", device="cuda", engine="onnx")
    with pytest.raises(OptionError, match="onnx or torch"):
        trifocal.load("compact", engine="jax")  # type: ignore[arg-type]


def test_a_codec_moves_to_torch_when_its_network_is_asked_for() -> None:
    codec, other = (trifocal.load("compact", engine="onnx") for _ in range(2))
    mark = codec.fingerprint
    with torch.no_grad():
        next(codec.network.parameters()).add_(1)
    assert type(codec.runtime).__name__ == "TorchRuntime" and codec.fingerprint != mark
    assert other.fingerprint == mark and type(other.runtime).__name__ == "OnnxRuntime"


@pytest.mark.parametrize("threads", ["1", "3", "7"])
def test_layers_on_several_threads_equal_those_on_one(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr("trifocal.utils.threads.COST_PER_THREAD", 1.0)
    random = np.random.default_rng(0)
    weight, bias = random.standard_normal((12, 8)), random.standard_normal(8)
    x = random.standard_normal((1, 5, 4, 12))
    assert np.array_equal(threaded_linear(x, weight, bias, 0.0), linear(x, weight, bias, 0.0))
    nine, own = random.standard_normal((9, 12)), random.standard_normal(12)
    assert np.array_equal(threaded_depthwise(x, nine, own), depthwise(x, nine, own))
    places = random.standard_normal((4, 12, 8))
    assert np.array_equal(threaded_placed_linear(x, places, bias), placed_linear(x, places, bias))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = (
        "import os; os.environ['OMP_NUM_THREADS'] = '2'\n"
        "from trifocal.utils.threads import for_rows\n"
        "for_rows(lambda part: None, 10, 1e9)\n"
        "child = os.fork()\n"
        "for_rows(lambda part: None, 10, 1e9)\n"
        "child and print(os.waitpid(child, 0)[1])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "0\n", run.stderr


def test_weights_that_do_not_fit_are_refused() -> None:
    for engine in ("torch", "onnx"):
        with pytest.raises(WeightsError, match="do not fit this preset"):
            trifocal.load("compact", weights=WEIGHTS_FOLDER / "detector.safetensors", engine=engine)


def test_the_record_names_every_graph_and_only_weights_that_ship() -> None:
    found = record()
    assert found["opset"] == 20 and found["exporter"].startswith("torch.onnx.export of torch ")
    files = {path.name for path in (WEIGHTS_FOLDER / "graphs").glob("*.onnx")}
    used = {file for network in found["networks"].values() for file in network["graphs"].values()}
    assert files == used == set(found["weights"])
    assert sum(path.stat().st_size for path in (WEIGHTS_FOLDER / "graphs").iterdir()) < 2_000_000
    assert json.loads((WEIGHTS_FOLDER / "graphs" / "graphs.json").read_text("utf-8")) == found


def test_prefetched_graphs_give_the_same_and_raise_their_errors_when_they_run() -> None:
    weights = read_arrays(WEIGHTS_FOLDER / "detector.safetensors")
    x = np.random.default_rng(4).random((1, 3, 64, 96), np.float32)
    (expected,) = Graphs("detector", weights).run("front", x=x)
    early = Graphs("detector", weights)
    early.prefetch("front", "front", "reference")
    assert np.array_equal(early.run("front", x=x)[0], expected)
    without = Graphs("detector", {})
    without.prefetch("front")
    for _ in range(2):
        with pytest.raises(WeightsError, match="do not fit the graph detector.front.onnx"):
            without.run("front", x=x)


def test_folding_a_graph_keeps_weights_inputs_and_results() -> None:
    """Constants are computed, and what depends on the weights is not."""
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    helper, numeric = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Constant", [], ["two"], value=helper.make_tensor("", numeric, [], [2.0])),
        helper.make_node("Mul", ["two", "two"], ["four"]),
        helper.make_node("Mul", ["w", "four"], ["scaled"]),
        helper.make_node("Add", ["x", "scaled"], ["y"]),
    ]
    places = [helper.make_tensor_value_info(name, numeric, ["n"]) for name in "xy"]
    weight = onnx.TensorProto(name="w", data_type=numeric, dims=[1])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights")
    graph = helper.make_graph(nodes, "small", places[:1], places[1:], [weight])
    found = folded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]), ["w"])
    assert [node.op_type for node in found.graph.node] == ["Mul", "Add"]
    assert [own.name for own in found.graph.input] == ["x"]
    assert found.graph.initializer[-1] == weight
    options = onnxruntime.SessionOptions()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.array([3.0], np.float32))]
    options.add_external_initializers(["w"], values)
    session = onnxruntime.InferenceSession(found.SerializeToString(), options)
    assert session.run(None, {"x": np.array([1.0, 5.0], np.float32)})[0].tolist() == [13.0, 17.0]


def test_bundled_graphs_were_folded() -> None:
    """Otherwise the optimisers that opening leaves out would be missed."""
    onnx = pytest.importorskip("onnx")
    assert {*record()["large"]} == {"detector.reference.onnx", "dual-layer-compact.base.refinement.onnx"}
    for name in record()["weights"]:
        graph = onnx.load(GRAPHS / name, load_external_data=False).graph
        assert not any(node.op_type == "Constant" for node in graph.node), name


@pytest.mark.slow
def test_exported_graphs_agree_with_their_modules_and_need_no_other_file(tmp_path: Path) -> None:
    import onnxruntime

    codec = small_codec()
    names: list[str] = []
    export_networks({"small": codec_network(codec, [])}, tmp_path, True, names.append)
    assert names == ["small.analysis.onnx", "small.synthesis.onnx", "small.hyper_analysis.onnx"]
    rgb = random_rgb(160, 96, 1)
    y = codec.runtime.analyse(rgb, None)
    sessions = [onnxruntime.InferenceSession(tmp_path / name) for name in names[:2]]
    (found,) = sessions[0].run(None, {"x": image_array(rgb)})
    assert abs(found - y).max() < 1e-3 * max(1, abs(y).max())
    (x_hat,) = sessions[1].run(None, {"y_hat": y, "level": np.array([400])})
    assert abs(x_hat - codec.runtime.synthesise(y, 400, None)).max() < 0.01 * GREY_LEVEL
    shared = tmp_path / "shared"
    export_networks({"small": codec_network(codec, [])}, shared, False, names.append)
    found_record = json.loads((shared / "graphs.json").read_text("utf-8"))
    assert "analysis.stem.weight" in found_record["weights"]["small.analysis.onnx"]
    weights = sum(w.numel() * 4 for w in codec.network.analysis.state_dict().values())
    assert (tmp_path / names[0]).stat().st_size - (shared / names[0]).stat().st_size > 0.9 * weights


def test_both_engines_round_with_the_dead_zone_of_the_weights(tmp_path: Path) -> None:
    network = trifocal.load("compact-psnr", engine="torch").network
    plain = tmp_path / "plain.safetensors"
    network.entropy.dead_zone = 0.0
    write_weights(network, plain)
    picture = photograph(64, 64)
    usual = trifocal.encode(picture, "compact-psnr", quality=40)
    for engine in ENGINES:
        codec = trifocal.load("compact-psnr", weights=plain, engine=engine)
        assert codec.runtime.entropy().dead_zone == 0
        stream = codec.encode(picture, quality=40)
        assert stream.size > usual.size  # more values than with the dead zone
        assert codec.decode(stream).picture.rgb.shape == picture.rgb.shape


def test_both_engines_round_base_layers_with_the_dead_zone_of_the_weights(tmp_path: Path) -> None:
    network: Any = trifocal.load("dual-layer-compact", engine="torch").network
    network.base.entropy.dead_zone = 0.0
    plain = tmp_path / "plain.safetensors"
    write_weights(network, plain)
    usual = base_bytes(trifocal.encode(photograph(64, 64), "dual-layer-compact", quality=40))
    for engine in ENGINES:
        codec = trifocal.load("dual-layer-compact", weights=plain, engine=engine)
        runtime: Any = codec.runtime
        assert (runtime.entropy().dead_zone, runtime.base.entropy().dead_zone) == (DEAD_ZONE, 0)
        assert base_bytes(codec.encode(photograph(64, 64), quality=40)) > usual


def base_bytes(stream: Bitstream) -> int:
    return next(layer.size for layer in stream.layers if layer.tag == Tag.BASE)


def test_only_compact_codecs_are_exported() -> None:
    with pytest.raises(PresetError, match="Only compact presets"):
        codec_network(find("taco").build(), [])
