"""Rates without a file, latents, masks, and the entropy model alone: the snippets of docs/research.md and
their guarantees.
"""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import trifocal
from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal.cli import app
from trifocal.codecs.codec import Codec
from trifocal.codecs.mask import Mask
from trifocal.codecs.scalable import ScalableCodec
from trifocal.demo import PHOTOGRAPH
from trifocal.entropy import EntropyModel
from trifocal.errors import OptionError, PresetError
from trifocal.pictures import Picture
from trifocal.presets import PRESETS

RESEARCH = Path(__file__).parent.parent / "docs" / "research.md"


@pytest.fixture(scope="module")
def compact() -> Codec:
    return trifocal.load("compact")


@pytest.fixture(scope="module")
def crops() -> list[Picture]:
    """Three crops of the photograph, with sizes that are not multiples of 64."""
    rgb = Picture.open(PHOTOGRAPH).rgb
    return [Picture(rgb[y : y + 150, x : x + 210].copy()) for y, x in ((0, 0), (100, 200), (200, 60))]


def as_x(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture.rgb).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("quality", [20, 80])
def test_estimated_bits_equal_file_sizes(
    compact: Codec, crops: list[Picture], quality: int, training: bool
) -> None:
    """Within 1 % in evaluation mode and 5 % in training mode, over all crops together."""
    network = compact.network.train(training)
    files = [8 * len(compact.encode(crop, quality=quality).layers[0].chunks[0] or b"") for crop in crops]
    bits = [float(network.estimate(as_x(crop), quality).bits.detach()) for crop in crops]
    compact.network.eval()
    assert sum(bits) == pytest.approx(sum(files), rel=0.05 if training else 0.01, abs=64)


def test_estimate_has_x_hat_a_bit_map_and_a_gradient(compact: Codec, crops: list[Picture]) -> None:
    """After an encode, which runs in inference mode."""
    stream = compact.encode(crops[0], quality=60)
    x = as_x(crops[0]).requires_grad_()
    estimate = compact.network.estimate(x, 60)
    pixels = estimate.x_hat[0].detach().permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(pixels, compact.decode(stream).picture.rgb)
    assert estimate.bit_map.shape == estimate.y_hat.shape[:3] == (1, 12, 16)
    assert torch.allclose(estimate.bit_map.sum((1, 2)), estimate.bits)
    estimate.bits.sum().backward()
    assert x.grad is not None and x.grad.abs().mean() > 0


def test_gradient_step_lowers_the_bits() -> None:
    network = small_codec().network
    x = as_x(Picture(random_rgb(100, 70))).requires_grad_()
    before = network.estimate(x, 50).bits
    (gradient,) = torch.autograd.grad(before.sum(), x)
    after = network.estimate((x - 0.002 * gradient.sign()).detach(), 50).bits
    assert float(after.detach()) < 0.99 * float(before.detach())


def test_each_image_has_its_own_quality_and_bits() -> None:
    network = small_codec().network
    x = torch.cat([as_x(Picture(random_rgb(64, 64, seed))) for seed in (1, 2)])
    both = network.estimate(x, torch.tensor([20.0, 90.0])).bits
    alone = [network.estimate(x[i : i + 1], q).bits for i, q in enumerate((20.0, 90.0))]
    assert torch.allclose(both, torch.cat(alone), rtol=1e-4)


def test_estimate_includes_the_base_layer() -> None:
    codec = trifocal.load("dual-layer-compact")
    picture = Picture(random_rgb(150, 100))
    assert isinstance(codec, ScalableCodec)
    stream = codec.encode(picture, quality=40, refinement=0)
    with torch.no_grad():
        bits = float(codec.network.estimate(as_x(picture), 40).bits)
    assert bits == pytest.approx(8 * sum(len(layer.chunks[0] or b"") for layer in stream.layers), rel=0.05)


@pytest.mark.parametrize(
    ("x", "level", "message"),
    [
        (torch.zeros(1, 3, 500, 700), torch.tensor([400]), "multiples of 64, not 500 and 700"),
        (torch.zeros(1, 3, 64, 64), torch.tensor([-8]), r"0 to 800 \(8 · quality\), not -8"),
        (torch.zeros(1, 3, 64, 64), torch.tensor([900]), "not 900"),
        (torch.zeros(1, 3, 64, 64), torch.tensor([400.0]), r"not torch.float32 \[1\]"),
        (torch.zeros(1, 3, 64, 64), torch.tensor([400, 400]), r"integer tensor \[1\]"),
        (torch.zeros(1, 3, 64, 64), 400, "not int"),
        (torch.zeros(1, 64, 64, 3), torch.tensor([400]), r"not float32 \[1, 64, 64, 3\]"),
        (torch.zeros(1, 3, 64, 64).byte(), torch.tensor([400]), "not uint8"),
    ],
)
def test_invalid_input_of_forward_raises(x: torch.Tensor, level: torch.Tensor, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        small_codec().network(x, level)


@pytest.mark.parametrize("quality", [-1, 101, float("nan"), torch.tensor([1.0, 2.0])])
def test_invalid_qualities_are_refused(quality: float | torch.Tensor) -> None:
    with pytest.raises(OptionError, match="[Qq]uality"):
        small_codec().network.estimate(torch.zeros(1, 3, 64, 64), quality)


def test_latents_can_be_read_changed_and_written(codec: Codec, picture: Picture) -> None:
    latents = codec.analyse(picture)
    assert codec.encode_latents(latents, 60).to_bytes() == codec.encode(picture, 60).to_bytes()
    changed = replace(latents, y=0.5 * latents.y)
    stream = codec.encode_latents(changed, 60)
    decoded = codec.decode_latents(stream)
    assert np.array_equal(codec.synthesise(decoded).rgb, codec.decode(stream).picture.rgb)
    assert np.abs(decoded.y - changed.y).mean() < np.abs(decoded.y - latents.y).mean()
    near = codec.synthesise(latents, 60).rgb.astype(int) - codec.decode(codec.encode(picture, 60)).picture.rgb
    assert np.abs(near).mean() < 20


def test_latents_of_another_shape_are_refused(codec: Codec, picture: Picture) -> None:
    latents = codec.analyse(picture)
    with pytest.raises(OptionError, match=r"200 x 136 pixels have the shape \[1, 12, 16, 48\]"):
        codec.encode_latents(replace(latents, y=latents.y[:, 1:]), 50)
    with pytest.raises(OptionError, match="Quality"):
        codec.synthesise(latents, 300)


def test_entropy_model_codes_a_latent_alone() -> None:
    torch.manual_seed(0)
    entropy = EntropyModel(16, hyper_channels=8, width=16, blocks=1, step_sizes=torch.full((8,), 0.5)).eval()
    y, level = np.random.default_rng(0).normal(size=(1, 8, 12, 16)).astype(np.float32), np.array([400])
    data = entropy.compress(y, level)
    y_hat = entropy.decompress(data, level, (8, 12))
    assert y_hat.shape == y.shape and np.abs(y_hat - y).max() < 0.5
    for shape in ((1, 7, 12, 16), (1, 8, 12, 15), (8, 12, 16)):
        with pytest.raises(OptionError, match="multiples of 4"):
            entropy.compress(np.zeros(shape, np.float32), level)


# ── masks ──


def error(codec: Codec, stream: trifocal.Bitstream, picture: Picture) -> np.ndarray:
    return (codec.decode(stream).picture.rgb.astype(float) - picture.rgb) ** 2


@pytest.mark.parametrize("kind", ["bool", "uint8", "float", "picture"])
def test_mask_moves_bits(crops: list[Picture], kind: str) -> None:
    codec, picture = trifocal.load("taco-compact"), crops[0]
    inside = np.zeros((150, 210), bool)
    inside[:, :105] = True
    grey = np.repeat(255 * inside.astype(np.uint8)[..., None], 3, axis=2)
    masks: dict[str, Mask] = {
        "bool": inside,
        "uint8": grey[..., 0],
        "float": inside.astype(float),
        "picture": Picture(grey),
    }
    plain = codec.encode(picture, quality=40)
    masked = codec.encode(picture, max_bytes=plain.size, mask=masks[kind])
    before, after = error(codec, plain, picture), error(codec, masked, picture)
    assert masked.size <= plain.size
    assert (
        after[:, :100].mean() < 0.8 * before[:, :100].mean()
        and after[:, 110:].mean() > before[:, 110:].mean()
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((10, 10)), r"size, 210 x 150 pixels"),
        (np.full((150, 210), 2.0), "floats in 0..1"),
        (np.full((150, 210), np.nan), "floats in 0..1"),
        (np.zeros((150, 210), np.int64), "floats in 0..1"),
    ],
)
def test_invalid_mask_is_refused(crops: list[Picture], mask: np.ndarray, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        trifocal.load("taco-compact").encode(crops[0], mask=mask)


def test_mask_is_refused_for_presets_that_ignore_it(compact: Codec, crops: list[Picture]) -> None:
    with pytest.raises(PresetError) as refusal:
        compact.encode(crops[0], mask=np.ones((150, 210)))
    built = {p.name for p in PRESETS if "compact" in p.name and p.build().runtime.has_importance_map}
    assert built == {p.name for p in PRESETS if p.has_importance_map}
    assert built == {p.name for p in PRESETS if p.name in re.split("[ .]", str(refusal.value))}


def test_command_line_takes_a_mask(tmp_path: Path, crops: list[Picture]) -> None:
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(crops[0].rgb).save(photo)
    half = np.zeros((150, 210), np.uint8)
    half[:, :105] = 255
    Image.fromarray(half).save(mask)
    arguments = ["encode", str(photo), "--mask", str(mask), "-q", "30", "--preset"]
    done = CliRunner().invoke(app, [*arguments, "taco-compact"])
    assert done.exit_code == 0, done.output
    expected = trifocal.load("taco-compact").encode(crops[0], quality=30, mask=half)
    assert photo.with_suffix(".tri").read_bytes() == expected.to_bytes()
    refused = CliRunner().invoke(app, [*arguments, "compact", "--force"])
    assert refused.exit_code == 1 and "does not read a mask" in " ".join(refused.output.split())


# ── docs/research.md ──


BLOCKS = re.findall(r"```python\n(.*?)```", RESEARCH.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_snippets_of_the_page_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is run separately, on a small photo.jpg."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(random_rgb(100, 70)).save("photo.jpg")
    (tmp_path / "snippet.py").write_text(BLOCKS[number], "utf-8")
    runpy.run_path("snippet.py")
