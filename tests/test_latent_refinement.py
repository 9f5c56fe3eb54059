"""Encoder-side refinement of a base layer's latent: fewer bits, better detections, and an ordinary file."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import trifocal
from helpers.dual_layer import small_dual_layer_compact
from helpers.images import random_rgb
from trifocal.codecs.dual_layer import TextGuided
from trifocal.codecs.gradient_graph import GradientGraph
from trifocal.codecs.latent_refinement import refined
from trifocal.codecs.refinement_steps import BETAS, Adam, rate_gradient
from trifocal.codecs.scalable import ScalableCodec, detect_objects, resized
from trifocal.codecs.torch_runtime import image_tensor
from trifocal.container import Bitstream
from trifocal.detection.detector import SplitDetector, compact_detector
from trifocal.entropy import RateEstimator
from trifocal.entropy.estimators import THRESHOLDS, logistic_bits
from trifocal.entropy.quantise import quantise
from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.losses.base_layer import DetectorReference, task_cost, task_weight
from trifocal.pictures import Picture
from trifocal.presets import load


@pytest.fixture(scope="module")
def shipped() -> ScalableCodec:
    codec = load("dual-layer-compact")
    assert isinstance(codec, ScalableCodec)
    return codec


@pytest.fixture(scope="module")
def detector() -> SplitDetector:
    torch.manual_seed(5)
    return compact_detector().eval().requires_grad_(False)


def small_x(codec: ScalableCodec, picture: Picture) -> torch.Tensor:
    """The input of the base layer, [1, 3, H, W]."""
    size = codec.runtime.base.input_size(picture.width, picture.height)
    return image_tensor(resized(picture, size), torch.device("cpu"))


@pytest.mark.parametrize("quality", [0, 80])
def test_refined_latent_has_a_lower_loss(shipped: ScalableCodec, quality: int) -> None:
    """With the decoded latent and the bytes of its tables; most of the gain is in the detector's outputs."""
    base, x = shipped.network.base, small_x(shipped, Picture(random_rgb(320, 240, seed=3)))
    level, original = torch.tensor([8 * quality]), DetectorReference(shipped.network.detector, x)
    costs, places = [], []
    for steps in (0, 2, 6):
        with torch.no_grad():
            y = refined(base, shipped.network.detector, x, base.analyse(x), level, steps)
            meter = RateEstimator(base.entropy.cost())
            y_hat = base.entropy.code_latents(meter, y, level, (y.shape[1], y.shape[2]))
            terms = original.terms(*base.synthesise(y_hat, (x.shape[2], x.shape[3])))
        rate = float(meter.bits.sum()) / (x.shape[2] * x.shape[3])
        costs.append(rate + float(task_weight(level) * task_cost(terms)))
        places.append(float(terms["places"]))
    assert costs[2] < costs[1] < costs[0] and places[2] < 0.8 * places[0]


def test_zero_steps_keep_the_latent(shipped: ScalableCodec) -> None:
    x = small_x(shipped, Picture(random_rgb(96, 64)))
    with torch.inference_mode():
        y = shipped.network.base.analyse(x)
        assert torch.equal(
            refined(shipped.network.base, shipped.network.detector, x, y, torch.tensor([160]), 0), y
        )


def test_adam_equals_torchs() -> None:
    generator = torch.Generator().manual_seed(2)
    own, other = torch.ones(7, 33), torch.ones(7, 33, requires_grad=True)
    adam, theirs = Adam(0.02), torch.optim.Adam([other], 0.02, BETAS)
    for step in range(6):
        gradient = torch.randn(own.shape, generator=generator) * 10.0 ** (1 - step)
        own = adam.step(own, gradient)
        other.grad = gradient
        theirs.step()
        assert torch.allclose(own, other, atol=1e-6)


@pytest.mark.parametrize("size", [(320, 240), (200, 330)])
def test_both_engines_refine_to_the_same_latent(size: tuple[int, int]) -> None:
    """On inputs of both orientations; the gradient on ONNX Runtime is that of torch."""
    picture, found = Picture(random_rgb(*size, seed=3)), []
    for engine in ("torch", "onnx"):
        base = load("dual-layer-compact", engine=engine).runtime.base  # type: ignore[attr-defined]
        small = resized(picture, base.input_size(*size))
        y = base.analyse(small)
        found.append((y, base.refine(small, y, 160, 2)))
        assert base.refine(small, y, 160, 0) is y or np.array_equal(base.refine(small, y, 160, 0), y)
    (y, ours), (_, theirs) = found
    difference, moved = abs(ours - theirs), abs(ours - y)
    assert moved.mean() > 0.01 and difference.mean() < 1e-3 * moved.mean()


def test_the_gradient_of_the_rate_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(4)
    value = (3 * torch.randn(500, generator=generator)).double().requires_grad_()
    index = 30 * torch.rand(500, generator=generator).double()
    (wanted,) = torch.autograd.grad(logistic_bits(value, index).sum(), value)
    assert np.allclose(rate_gradient(value.detach().numpy(), index.numpy()), wanted.numpy(), atol=1e-9)


class Layers(torch.nn.Module):
    """A cost with the layers of the compact networks: convolutions, dense and depthwise, of stride 1 and 2, a
    linear layer on their transposed output, with and without bias, ReLU, and a crop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(4, 8, 3, padding=1),
            torch.nn.Hardswish(),
            torch.nn.Conv2d(8, 8, 5, padding=2, groups=8),
            torch.nn.Conv2d(8, 8, 3, 2, padding=1, groups=8),
            torch.nn.Conv2d(8, 6, 3, 2, padding=1),
        )
        self.mix, self.out = torch.nn.Linear(6, 7), torch.nn.Linear(7, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.mix(self.layers(x).permute(0, 2, 3, 1)))
        return self.out(hidden)[:, :-1, 1:].square().sum()


def test_a_gradient_graph_is_the_gradient_at_other_sizes_too() -> None:
    torch.manual_seed(0)
    cost = Layers()
    graph = GradientGraph(cost, [torch.rand(1, 4, 22, 34)])
    for size in ((22, 34), (13, 40), (17, 15)):
        x = torch.rand(1, 4, *size, requires_grad=True)
        (wanted,) = torch.autograd.grad(cost(x), x)
        with torch.no_grad():
            assert torch.allclose(graph(x), wanted, atol=1e-5)


class Recorder(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def test_gradient_graphs_have_no_operations_that_onnx_runtime_is_slow_at() -> None:
    cost, x = Layers(), torch.rand(1, 4, 12, 20)
    graph = GradientGraph(cost, [x])
    with torch.no_grad(), Recorder() as ran:
        graph(x)
    assert {"hardsigmoid", "addmm", "constant_pad_nd"} <= ran.names
    assert not {"pow", "where", "sign", "hardswish", "slice_scatter", "bmm"} & ran.names


def test_refining_on_onnx_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np, trifocal; trifocal.encode(np.zeros((64, 96, 3), np.uint8));"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "False\n", run.stderr


def test_predicted_parameters_equal_those_of_coding(detector: SplitDetector) -> None:
    """Values rounded around the means are those of the coding passes, and no table index is beyond the
    coder's.
    """
    base = small_dual_layer_compact(detector).network.base.eval()
    x = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([160, 560])
    with torch.no_grad():
        y = base.analyse(x)
        mean, index = base.entropy.predicted_parameters(y, level)
        gain = base.entropy.gain(level)
        rounded = quantise(y * gain - mean, THRESHOLDS.to(index)[torch.round(index).long()]) + mean
        y_hat = base.entropy.code_latents(
            RateEstimator(base.entropy.cost(), 2), y, level, (y.shape[1], y.shape[2])
        )
    assert mean.shape == index.shape == y.shape
    assert torch.allclose(rounded / gain, y_hat, atol=1e-5) and index.std() > 0


def test_refinement_is_deterministic(shipped: ScalableCodec) -> None:
    """Independent of the caller and of earlier calls; differs from the file without refinement, which every
    decoder also reads.
    """
    rgb = random_rgb(160, 120, seed=1)
    with torch.inference_mode():
        inside = trifocal.encode(rgb).to_bytes()
    assert trifocal.encode(rgb).to_bytes() == inside
    assert trifocal.encode(rgb, refinement=4).to_bytes() == inside
    plain = trifocal.encode(rgb, refinement=0)
    assert plain.to_bytes() != inside
    first, second = (trifocal.decode(data).picture.rgb.astype(float) for data in (plain.to_bytes(), inside))
    assert np.abs(first - second).mean() < 3


def test_refined_base_layer_improves_detections(shipped: ScalableCodec) -> None:
    """Scores are nearer to those of the detector on the original image."""
    rgb = random_rgb(320, 240, seed=3)
    original = detect_objects(Picture(rgb)).scores[:5]
    off = []
    for steps in (0, 8):
        stream = Bitstream.from_bytes(
            shipped.encode(Picture(rgb), base_quality=20, refinement=steps).to_bytes()
        )
        off.append(float(np.abs(shipped.detect(stream).scores[: len(original)] - original).mean()))
    assert len(original) and off[1] < off[0]


def test_encoding_without_refinement_needs_no_detector(detector: SplitDetector) -> None:
    def absent(device: str) -> SplitDetector:
        raise WeightsError("no weights")

    codec = small_dual_layer_compact(detector)
    codec.network.eval()
    codec.network.find_detector, codec.preset_id = absent, 8
    picture = Picture(random_rgb(96, 64))
    with pytest.raises(WeightsError, match="no weights"):
        codec.encode(picture)
    stream = codec.encode(picture, refinement=0)
    assert codec.decode(stream).picture.rgb.shape == (64, 96, 3)
    assert TextGuided.refinement == 0


def test_requested_size_is_met_with_a_refined_base_layer(shipped: ScalableCodec) -> None:
    stream = shipped.encode(Picture(random_rgb(320, 240, seed=3)), max_bytes=6000)
    assert stream.size <= 6000


def test_invalid_numbers_of_steps_are_refused(shipped: ScalableCodec) -> None:
    picture = Picture(random_rgb(32, 32))
    with pytest.raises(OptionError, match="0 steps or more, not -1"):
        shipped.encode(picture, refinement=-1)
    with pytest.raises(PresetError, match="compact has no base layer"):
        trifocal.encode(picture, "compact", refinement=2)
