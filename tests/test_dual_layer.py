"""The dual-layer codec at a fraction of its size: attention windows in tiles, conditions, text, both layers
in files, and training.
"""

import copy
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck, ResNet

from helpers.codec_checks import check_thread_counts
from helpers.dual_layer import CONDITION_CHANNELS, TEXT_CHANNELS, small_dual_layer, small_input_size
from helpers.images import random_rgb
from helpers.summation_order import count_mismatches, encode_latents, random_images, with_reordered_layers
from trifocal.codecs import scalable
from trifocal.codecs.dual_layer import TextGuided, dual_layer
from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream, Tag
from trifocal.detection import faster_rcnn
from trifocal.detection.input_size import torchvision_size
from trifocal.entropy.latent_coding import write_latents
from trifocal.errors import FormatError, WeightsError
from trifocal.losses import bits_per_pixel, level_weight, quality_lambda
from trifocal.losses.dual_layer import DualLayerObjective
from trifocal.pictures import Picture, canvas
from trifocal.transforms import swin
from trifocal.transforms.conditioned import ConditionedSynthesis, UNet, conditioned_receptive_field
from trifocal.transforms.swin import SwinAnalysis, WindowAttention, swin_receptive_field
from trifocal.types import BasePreview, Batch, Condition, Output, TextEmbedding


def random_words(count: int = 1, tokens: int = 5, padding: int = 0, seed: int = 0) -> TextEmbedding:
    there = torch.randn(count, tokens, TEXT_CHANNELS, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(tokens + padding).expand(count, -1) < tokens
    return TextEmbedding(F.pad(there, (0, 0, 0, padding), value=3.0), mask, there[:, -1])


def first_of(width: int, height: int, seed: int = 3, count: int = 1) -> BasePreview:
    small = torch.from_numpy(np.stack([random_rgb(24, 20, seed + n) for n in range(count)]))
    return BasePreview(small.permute(0, 3, 1, 2).float() / 255, (width, height), (0, 0, width, height))


def as_x(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255


def as_rgb(x_hat: Tensor) -> np.ndarray:
    rgb: np.ndarray = x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    return rgb


def preview_of(stream: Bitstream, codec: ScalableCodec) -> BasePreview:
    """The base preview that encoder and decoder take from a file's base layer."""
    _, y_hat, size = codec._decode_base(stream)
    _, small = codec.network.base.synthesise(torch.from_numpy(y_hat), size[::-1])
    width, height = stream.header.width, stream.header.height
    return BasePreview(small, (width, height), (0, 0, width, height))


@pytest.fixture(scope="module")
def codec() -> ScalableCodec:
    return small_dual_layer()


@pytest.fixture
def x() -> Tensor:
    return as_x(random_rgb(64, 64))


# ── windows ──


@pytest.mark.parametrize("shifted", [False, True])
@torch.inference_mode()
def test_positions_attend_to_their_window_only(shifted):
    """Against attention computed position by position; positions beyond the edge are zeros."""
    torch.manual_seed(0)
    window, heads, channels = 4, 2, 6
    attention = WindowAttention(channels, heads, window, shifted)
    x = torch.randn(1, 8, 8, channels)
    shift = window // 2 if shifted else 0
    wide = F.pad(x, (0, 0, *[shift] * 4))[0]
    query, key, value = (
        part.unflatten(-1, (heads, -1)) for part in attention.project_in(wide).chunk(3, dim=-1)
    )
    out = torch.empty(8, 8, channels)
    for row in range(8):
        for column in range(8):
            top, left = ((p + shift) // window * window for p in (row, column))
            there = [(r, c) for r in range(top, top + window) for c in range(left, left + window)]
            own = (row + shift, column + shift)
            numbers = [(own[0] - r + 3) * 7 + own[1] - c + 3 for r, c in there]
            scores = torch.stack([(query[own] * key[p]).sum(-1) for p in there]) * 3**-0.5
            weights = (scores + attention.distance[numbers]).softmax(0)
            attended = (weights[..., None] * torch.stack([value[p] for p in there])).sum(0)
            out[row, column] = attention.project_out(attended.flatten())
    assert torch.allclose(attention(x)[0], out, atol=1e-5)


@torch.inference_mode()
def test_chunked_windows_give_the_same_result(monkeypatch):
    torch.manual_seed(0)
    attention, x = WindowAttention(8, 2, 4, True), torch.randn(2, 16, 12, 8)
    whole = attention(x)
    monkeypatch.setattr(swin, "POSITIONS", 7 * 16)
    assert torch.allclose(attention(x), whole, atol=1e-6)


@pytest.mark.parametrize(("depths", "window"), [((2, 1, 2), 2), ((1, 2, 3), 4), ((2, 2, 2), 8)])
def test_swin_receptive_field_is_exact(depths, window):
    """From a square of the grid: a change at the receptive field's edge has an effect, a change beyond it has
    none.
    """
    torch.manual_seed(0)
    begins = swin_receptive_field(depths, window) // 64 * 64 + 64
    width = begins + 64
    analysis = SwinAnalysis((1, 1, 1), 4, 4, depths, heads=2, window=window).double()
    residual = torch.rand(1, 64, width, 3, dtype=torch.float64, requires_grad=True)
    known = [torch.rand(1, 64 // s, width // s, 1, dtype=torch.float64) for s in (1, 2, 4)]
    y = analysis.latent(analysis.eighth(analysis.quarter(residual, known)))
    y[:, :, begins // 16 :].square().sum().backward()
    assert residual.grad is not None
    columns = residual.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert begins - int(columns.min()) == swin_receptive_field(depths, window)


def test_receptive_field_of_the_published_sizes():
    assert swin_receptive_field((2, 4, 6), 8) == 273 and conditioned_receptive_field(3) == 122


# ── conditions ──


def positive(network: nn.Module) -> nn.Module:
    """Make all weights positive, so that no influence is hidden by a ReLU or cancelled by another."""
    for parameter in network.double().parameters():
        nn.init.constant_(parameter, 0.1)
    return network


@torch.inference_mode()
def test_unet_gives_conditions_at_three_scales():
    known = UNet(CONDITION_CHANNELS)(torch.rand(2, 64, 32, 3))
    assert [c.shape for c in known] == [(2, 64, 32, 4), (2, 32, 16, 4), (2, 16, 8, 8)]


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_receptive_field_of_the_conditions(scale):
    furthest = 0
    for place in range(4):
        first = torch.rand(1, 4, 160, 3, dtype=torch.float64, requires_grad=True)
        middle = 80 + place
        known = positive(UNet((2, 2, 2)))(first + 1)
        known[scale][:, :, middle >> scale].sum().backward()
        assert first.grad is not None
        columns = first.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        furthest = max(furthest, int((columns - middle).abs().max()))
    assert furthest == UNet.RECEPTIVE_FIELD if scale == 0 else 0 < furthest < UNet.RECEPTIVE_FIELD


@pytest.mark.parametrize("bottlenecks", [1, 2])
def test_receptive_field_of_the_synthesis_with_conditions(bottlenecks):
    torch.manual_seed(0)
    size, middle = 320, 160
    unet, synthesis = positive(UNet((2, 2, 2))), positive(ConditionedSynthesis((2, 2, 2), 2, 2, bottlenecks))
    first = torch.rand(1, 64, size, 3, dtype=torch.float64, requires_grad=True)
    y_hat = torch.rand(1, 4, size // 16, 2, dtype=torch.float64, requires_grad=True)
    synthesis(y_hat, unet(first + 1))[:, :, middle].sum().backward()
    assert first.grad is not None and y_hat.grad is not None
    pixels = first.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    latents = 16 * y_hat.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int((pixels - middle).abs().max()) <= conditioned_receptive_field(bottlenecks)
    assert conditioned_receptive_field(bottlenecks) - 16 <= int((latents - middle).abs().max())
    assert int((latents - middle).abs().max()) <= conditioned_receptive_field(bottlenecks)


@torch.inference_mode()
def test_conditions_affect_analysis_and_synthesis_at_each_scale(codec, x):
    condition = Condition(preview=first_of(64, 64))
    y = codec.network.analyse(x, condition)
    x_hat = codec.network.synthesise(y, torch.tensor([400]), condition)
    for scale in range(3):
        other = copy.deepcopy(codec)
        known = other.network.conditions.forward
        other.network.conditions.forward = lambda f: [c * (n != scale) for n, c in enumerate(known(f))]  # noqa: B023
        assert not torch.allclose(other.network.analyse(x, condition), y, atol=1e-4)
        assert not torch.allclose(
            other.network.synthesise(y, torch.tensor([400]), condition), x_hat, atol=1e-5
        )


@torch.inference_mode()
def test_grey_replaces_a_missing_base_preview(codec, x):
    grey = Condition(preview=BasePreview(torch.full((1, 3, 4, 4), 0.5), (64, 64), (0, 0, 64, 64)))
    y = codec.network.analyse(x)
    assert torch.allclose(codec.network.analyse(x, grey), y, atol=1e-5)
    level = torch.tensor([400])
    assert torch.allclose(
        codec.network.synthesise(y, level, grey), codec.network.synthesise(y, level), atol=1e-5
    )


@torch.inference_mode()
def test_untrained_synthesis_returns_the_base_preview(x):
    codec = dual_layer(
        8, (4, 4), (4, 4), 1, CONDITION_CHANNELS, 8, (1, 1, 1), 2, TEXT_CHANNELS, 2, features=8
    )
    codec.network.eval()
    condition = Condition(preview=first_of(64, 64))
    x_hat = codec.network.synthesise(codec.network.analyse(x, condition), torch.tensor([400]), condition)
    assert torch.allclose(x_hat, first_of(64, 64).pixels(), atol=1e-6)


# ── words ──


@torch.inference_mode()
def test_text_changes_the_latent_through_the_injectors_only(codec, x):
    words = Condition(random_words(), preview=first_of(64, 64))
    for open_gates in ((), ("quarter",), ("eighth",), ("quarter", "eighth")):
        other = copy.deepcopy(codec)
        other.network.inject_quarter.gamma *= "quarter" in open_gates
        other.network.inject_eighth.gamma *= "eighth" in open_gates
        without = other.network.analyse(x, Condition(preview=first_of(64, 64)))
        assert torch.equal(other.network.analyse(x, words), without) == (not open_gates)


@torch.inference_mode()
def test_second_injector_uses_tokens_with_image_features(codec, x):
    other = copy.deepcopy(codec)
    other.network.inject_quarter.gamma.zero_()
    before = other.network.analyse(x, Condition(random_words()))
    other.network.extract.attention.out.weight.zero_()
    other.network.extract.attention.out.bias.zero_()
    assert not torch.equal(other.network.analyse(x, Condition(random_words())), before)


def test_gates_are_initially_zero_and_receptive_field_is_aligned():
    """113 pixels for windows and 27 for conditions, rounded up to squares of 64."""
    codec: Any = dual_layer(
        8, (4, 4), (4, 4), 1, CONDITION_CHANNELS, 8, (2, 2, 2), 8, TEXT_CHANNELS, 2, features=8
    )
    assert not codec.network.inject_quarter.gamma.any() and not codec.network.inject_eighth.gamma.any()
    assert swin_receptive_field((2, 2, 2), 8) == 113 and codec.network.receptive_field == 192


@torch.inference_mode()
def test_text_padding_has_no_effect(codec, x):
    y = codec.network.analyse(x, Condition(random_words()))
    assert torch.allclose(codec.network.analyse(x, Condition(random_words(padding=33))), y, atol=1e-5)


@torch.inference_mode()
def test_batch_takes_a_text_per_image_or_one_for_all(codec, x):
    both, words = torch.cat([x, x.flip(3)]), random_words(2)
    y = codec.network.analyse(both, Condition(words))
    for number in range(2):
        part = slice(number, number + 1)
        assert torch.allclose(
            codec.network.analyse(both[part], Condition(words.select(part))), y[part], atol=1e-4
        )
    for_all = codec.network.analyse(both, Condition(words.select(slice(1))))
    assert torch.allclose(for_all[0], y[0], atol=1e-4) and not torch.allclose(for_all[1], y[1], atol=1e-3)


# ── the road ──


@pytest.mark.parametrize("words", [None, random_words()], ids=["wordless", "worded"])
@torch.inference_mode()
def test_forward_equals_decode(codec, words):
    rgb = random_rgb(192, 128, seed=2)
    made = codec.encode(Picture(rgb), quality=60, condition=Condition(words))
    stream = Bitstream.from_bytes(made.to_bytes())
    output = codec.network(
        as_x(rgb), torch.tensor([480]), Condition(words, preview=preview_of(stream, codec))
    )
    assert np.array_equal(codec.decode(stream).picture.rgb, as_rgb(output.x_hat))
    other = Condition(random_words(seed=9))
    assert np.array_equal(codec.decode(stream, condition=other).picture.rgb, as_rgb(output.x_hat))
    enhancement = stream.layer(Tag.ENHANCEMENT)
    assert enhancement is not None and enhancement.chunks[0] is not None
    bits = float(output.bits)
    assert abs(len(enhancement.chunks[0]) - bits / 8) <= 0.005 * bits / 8 + 16


@torch.inference_mode()
def test_encoder_and_decoder_have_the_same_latents_in_both_layers(codec, monkeypatch):
    picture = Picture(random_rgb(128, 64, seed=4))
    stream = codec.encode(picture, quality=40, base_quality=70)
    base_runtime = codec.runtime.base
    y = base_runtime.analyse(scalable.resized(picture, small_input_size(128, 64)))
    data, y_hat, _ = write_latents(base_runtime.entropy(), y, np.array([560]))
    base = stream.layer(Tag.BASE)
    assert base is not None and base.chunks == (bytes([70]) + data,)
    assert np.array_equal(codec._decode_base(stream)[1], y_hat) and np.abs(y_hat).max() > 0
    condition = Condition(preview=preview_of(stream, codec))
    written = codec.network(as_x(picture.rgb), torch.tensor([320]), condition).y_hat
    read: list[Tensor] = []

    def synthesise(y_hat: Tensor, level: Tensor, condition: Condition | None) -> Tensor:
        read.append(y_hat)
        return TextGuided.synthesise(codec.network, y_hat, level, condition)

    monkeypatch.setattr(codec.network, "synthesise", synthesise)
    codec.decode(stream)
    assert torch.equal(read[0], written)


def test_decoder_with_another_summation_order_agrees(codec):
    assert count_mismatches(codec, with_reordered_layers(codec), random_images(3)) == 0


@torch.inference_mode()
def test_base_preview_conditions_encoder_and_decoder_or_neither(codec):
    picture = Picture(random_rgb(128, 64, seed=4))
    alone, fed = (
        codec.encode_picture(picture, Rate(), BaseLayerOptions(condition_enhancement=c))
        for c in (False, True)
    )
    chunks = [stream.layer(Tag.ENHANCEMENT).chunks for stream in (alone, fed)]
    assert chunks[0] != chunks[1]
    x_hat = codec.network(
        as_x(picture.rgb), torch.tensor([400]), Condition(preview=preview_of(fed, codec))
    ).x_hat
    assert np.array_equal(codec.decode(fed).picture.rgb, as_rgb(x_hat))
    y_hat, _, _ = encode_latents(codec, picture.rgb, 400)
    x_hat = codec.network.synthesise(y_hat, torch.tensor([400]))
    assert np.array_equal(codec.decode(alone).picture.rgb, as_rgb(x_hat))


@pytest.mark.parametrize("size", [(1, 1), (1, 77), (63, 65), (200, 130)])
def test_images_of_any_size_round_trip(codec, size):
    picture = Picture(random_rgb(*size))
    stream = Bitstream.from_bytes(codec.encode(picture, condition=Condition(random_words())).to_bytes())
    assert codec.decode(stream).picture.rgb.shape == picture.rgb.shape
    assert codec.base_preview(stream).rgb.shape == picture.rgb.shape
    assert codec.detect(stream).boxes.shape[1] == 4


@pytest.mark.parametrize("seed", range(5))
def test_forged_payload_raises_only_trifocal_errors(codec, seed):
    picture, random = Picture(random_rgb(64, 64)), np.random.default_rng(seed)
    stream = codec.encode(picture, quality=40)
    for number, layer in enumerate(stream.layers):
        payload = bytearray(layer.chunks[0])
        for place in random.integers(0, len(payload), 1 + seed):
            payload[place] = random.integers(256)
        for content in (bytes(payload), bytes(payload[: random.integers(len(payload))]), random.bytes(90)):
            layers = list(stream.layers)
            layers[number] = type(layer)(layer.tag, (content,))
            data = type(stream)(stream.header, tuple(layers)).to_bytes()
            try:
                assert codec.decode(Bitstream.from_bytes(data)).picture.rgb.shape == picture.rgb.shape
            except FormatError as error:
                assert str(error).endswith(".")


def test_codec_works_in_bfloat16(codec):
    rounded = copy.deepcopy(codec)
    for part in (rounded.network.analysis, rounded.network.synthesis):
        part.bfloat16()
    condition = Condition(random_words(), preview=first_of(64, 64))
    with torch.inference_mode():
        x = torch.rand(1, 3, 64, 64)
        near, y = rounded.network.analyse(x, condition), codec.network.analyse(x, condition)
        assert near.dtype == torch.float32 and 0 < (near - y).abs().max() < 0.2 * y.abs().max()
        assert rounded.network.synthesise(y, torch.tensor([400]), condition).dtype == torch.float32
    check_thread_counts(rounded, 1)


# ── tiles ──


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(canvas, "TILE", 128)


@torch.inference_mode()
def test_analysis_of_a_tile_equals_that_of_the_whole_image(small_tiles, codec):
    """Without text: windows of a tile are windows of the whole image."""
    rgb = random_rgb(512, 192, seed=7)
    shape = canvas.Canvas(512, 192, codec.network.receptive_field)
    condition = Condition(preview=first_of(512, 192))
    whole = codec.network.analyse(as_x(rgb), condition)
    for tile in shape.tiles():
        core = shape.core(tile)
        halo = shape.halo(core)
        y = codec.network.analyse(as_x(shape.crop(rgb, halo)), condition.within(*canvas.region_slices(halo)))
        rows, columns = shape.within_halo(core, 16)
        there = canvas.region_slices(core)
        assert torch.allclose(y[:, rows, columns], whole[:, there[0], there[1]], atol=1e-5)


@torch.inference_mode()
def test_analysis_with_a_misaligned_halo_differs(codec):
    """A halo that is not aligned to the grid shifts the windows."""
    rgb, condition = random_rgb(384, 64, seed=7), Condition(preview=first_of(384, 64))
    whole = codec.network.analyse(as_x(rgb), condition)
    part = condition.within(slice(0, 4), slice(1, 21))
    moved = codec.network.analyse(as_x(rgb[:, 16:336].copy()), part)
    assert (moved[:, :, 9:11] - whole[:, :, 10:12]).abs().max() > 1e-3


@pytest.fixture(scope="module")
def tiled(codec: ScalableCodec) -> Iterator[Bitstream]:
    """An image of nine tiles, with text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "TILE", 128)
        picture = Picture(random_rgb(300, 270, seed=5))
        yield codec.encode(picture, quality=60, condition=Condition(random_words()))


@torch.inference_mode()
def test_tiles_equal_the_whole_image(small_tiles, tiled, codec, monkeypatch):
    """Synthesis of all latents at once and tile by tile differ by at most one grey level, with text and
    conditions.
    """
    by_tile = codec.decode(tiled).picture.rgb
    y_hat = torch.from_numpy(codec.decode_latents(tiled).y)
    condition = Condition(preview=preview_of(tiled, codec)).within(slice(0, 20), slice(0, 20))
    at_once = codec.network.synthesise(y_hat, torch.tensor([480]), condition)
    whole = as_rgb(at_once)[:270, :300].astype(int)
    assert np.abs(by_tile - whole).max() <= 1 and whole.std() > 3


@pytest.mark.parametrize("region", [(5, 7, 1, 1), (200, 0, 100, 270)])
def test_decoded_region_equals_the_part_of_the_whole_image(small_tiles, tiled, codec, region):
    """Also if it is not aligned to the grid of 64 pixels."""
    x, y, width, height = region
    whole = codec.decode(tiled).picture.rgb[y : y + height, x : x + width].astype(int)
    assert np.abs(codec.decode(tiled, region=region).picture.rgb - whole).max() <= 1


# ── learning ──


class MeanDistance(nn.Module):
    """The squared difference of means, instead of a perceptual network."""

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return (x_hat.mean((2, 3)) - x.mean((2, 3))).square().sum(1)


class ConstantCodec(nn.Module):
    """A codec that always returns the same output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None) -> Output:
        return self.output


class MeanColour(nn.Module):
    """The mean colour as the embedding of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + 0.1


def objective() -> DualLayerObjective:
    return DualLayerObjective(perceptual=MeanDistance(), images=MeanColour())


def test_training_lowers_the_loss_and_keeps_the_base_layer():
    codec = small_dual_layer(seed=7, gamma=0.0)
    codec.network.train()
    base = {name: value.clone() for name, value in codec.network.base.state_dict().items()}
    x = torch.cat([as_x(random_rgb(64, 64, seed)) for seed in range(2)])
    batch = Batch(x, torch.tensor([250, 550]), Condition(random_words(2, padding=2)))
    parameters = [p for name, p in codec.network.named_parameters() if not name.startswith("base.")]
    optimiser = torch.optim.Adam(parameters, 5e-3)
    losses, goal = [], objective()
    for step in range(6):
        torch.manual_seed(0)
        ((part, loss),) = goal.losses(codec.network, batch, step)
        assert part == "codec"
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert codec.network.inject_quarter.gamma.any() and codec.network.inject_eighth.gamma.any()
    assert all(p.grad is not None for p in codec.network.conditions.parameters())
    assert all(p.grad is None for p in codec.network.base.parameters())
    assert all(torch.equal(value, base[name]) for name, value in codec.network.base.state_dict().items())


def test_training_works_without_text():
    codec = small_dual_layer(seed=7)
    codec.network.train()
    ((_, loss),) = objective().losses(
        codec.network, Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 800])), 0
    )
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is None for p in codec.network.extract.parameters())
    assert all(p.grad is not None for p in codec.network.analysis.parameters())


def test_objective_by_hand():
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([0, 800])
    x_hat = x + torch.tensor([0.1, 0.01])[:, None, None, None]
    output = Output(x_hat, torch.zeros(1), torch.tensor([4096.0, 8192.0]))
    ((_, loss),) = objective().losses(ConstantCodec(output), Batch(x, level), 0)
    assert bits_per_pixel(output, x).tolist() == [1, 2]
    means = [F.normalize(picture.mean((2, 3)) + 0.1, dim=1) for picture in (x_hat, x)]
    apart = (means[0] - means[1]).square().sum(1)
    change = torch.tensor([0.01, 0.0001])
    terms = torch.tensor([1.0, 2.0]) + (150 * change + 3 * change + apart) / torch.tensor([2.0, 0.01])
    assert torch.allclose(quality_lambda(level, (2.0, 0.01)), torch.tensor([2.0, 0.01]))
    assert torch.allclose(loss, (terms * level_weight(level, limits=(0.5, 100))).mean(), rtol=1e-4)
    said = objective().description()
    assert (said["objective"], said["mse_weight"], said["lambdas"]) == (
        "DualLayerObjective",
        150.0,
        [2.0, 0.01],
    )


# ── the detector of the paper's size, and the sizes ──


def thin_network(**options: object) -> tv.FasterRCNN:
    """torchvision's Faster R-CNN on a thin ResNet with a pyramid; random weights."""
    torch.manual_seed(0)
    body = ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8)
    stages = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(body, stages, [256, 512, 1024, 2048], 16)
    return tv.FasterRCNN(backbone, 91, min_size=96, max_size=128, rpn_post_nms_top_n_test=50).eval()


@pytest.fixture
def requested_weights(monkeypatch):
    """torchvision's builder returns the thin network, and records its arguments."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(
        faster_rcnn, "fasterrcnn_resnet50_fpn", lambda **options: asked.update(options) or thin_network()
    )
    faster_rcnn.load_faster_rcnn.cache_clear()
    yield asked
    faster_rcnn.load_faster_rcnn.cache_clear()


@torch.inference_mode()
def test_split_faster_rcnn_equals_the_original(requested_weights):
    cut, uncut = faster_rcnn.load_faster_rcnn(), thin_network()
    for network in (cut.network, uncut):
        network.roi_heads.score_thresh = 0.0
    x = as_x(random_rgb(128, 96))
    found, wanted = cut(x)[0], uncut([x[0]])[0]
    assert len(found) == 100
    for part, key in ((found.boxes, "boxes"), (found.labels, "labels"), (found.scores, "scores")):
        assert np.array_equal(part, wanted[key].numpy())
    assert cut.front_features(x).shape == (
        1,
        96 // faster_rcnn.STRIDE,
        128 // faster_rcnn.STRIDE,
        faster_rcnn.CHANNELS,
    )


def test_detector_is_torchvisions_with_coco_weights(requested_weights):
    detector = faster_rcnn.load_faster_rcnn()
    assert requested_weights["weights"] is tv.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    assert requested_weights["box_score_thresh"] == 0.02
    assert not detector.training and not any(p.requires_grad for p in detector.parameters())
    assert detector is faster_rcnn.load_faster_rcnn()
    assert TextGuided.find_detector is faster_rcnn.load_faster_rcnn
    assert TextGuided.input_size is torchvision_size


def test_failed_weights_download_raises_weights_error(monkeypatch, tmp_path):
    searched = []

    def refuse(**options: object) -> None:
        searched.append(torch.hub.get_dir())
        raise URLError("no network")

    monkeypatch.setattr(faster_rcnn, "fasterrcnn_resnet50_fpn", refuse)
    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(tmp_path))
    faster_rcnn.load_faster_rcnn.cache_clear()
    said = (
        r"put fasterrcnn_resnet50_fpn_coco-.*\.pth into FOLDER/checkpoints, and name .*TRIFOCAL_NETWORKS\.$"
    )
    with pytest.raises(WeightsError, match=said):
        faster_rcnn.load_faster_rcnn()
    assert searched == [str(tmp_path)] and torch.hub.get_dir() != str(tmp_path)


def test_published_sizes(monkeypatch):
    """Building the network neither draws random weights nor downloads any."""
    for draw in ("kaiming_uniform_", "uniform_", "kaiming_normal_", "xavier_uniform_", "trunc_normal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *args, **options: tensor)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    codec = dual_layer()

    def counted(module: nn.Module) -> dict[str, int]:
        return {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}

    sizes = counted(codec.network)
    assert (
        sum(sizes.values()) == 52_687_101
        and sizes["entropy"] == counted(codec.network.base)["entropy"] == 17_400_533
    )
    assert (sizes["analysis"], sizes["synthesis"], sizes["conditions"]) == (2_373_536, 6_850_147, 624_800)
    assert codec.network.receptive_field == 320
    assert codec.network.entropy.latent_channels == codec.network.base.entropy.latent_channels == 320
    assert (
        codec.network.entropy.exact_side.context.passes
        == codec.network.base.entropy.exact_side.context.passes
        == 10
    )
