"""Cross-modal with real files: bytes, tiles, damage, and text that only the decoder has."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers.images import random_rgb
from helpers.text import TEXT_CHANNELS, random_text_embedding
from trifocal.codecs.codec import Codec
from trifocal.codecs.cross_modal import cross_modal, cross_modal_cheng2020
from trifocal.container import Bitstream, Layer, Tag
from trifocal.entropy import RateEstimator, Reader, Writer
from trifocal.errors import FormatError
from trifocal.pictures import Picture, canvas
from trifocal.transforms.ssa import SemanticSpatialBlock, TextConditionedNorm
from trifocal.types import Condition, TextEmbedding


def condition_of(seed: int = 0) -> Condition:
    return Condition(random_text_embedding(1, seed))


def randomised(codec: Codec, seed: int = 0) -> Codec:
    """Random weights so that no path is zero, latents of several steps, and collected statistics."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in codec.network.named_parameters():
            if "strength" in name:
                parameter.fill_(0.5)
            elif "entropy" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "hyper_synthesis" in name:
                parameter.mul_(2)
        for layer in (
            last_convolution(codec.network.analysis),
            last_convolution(codec.network.entropy.hyper_analysis),
        ):
            layer.weight.mul_(6)
    codec.network.train()
    with torch.no_grad():
        for _ in range(20):
            codec.network(
                torch.rand(2, 3, 64, 64), torch.tensor([100, 700]), Condition(random_text_embedding(2))
            )
    codec.preset_id = 1
    codec.network.eval()
    return codec


def last_convolution(network: nn.Module) -> nn.Conv2d:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]


def small_hific() -> Codec:
    return randomised(
        cross_modal(
            width=3, latent_channels=12, hyper_channels=6, residual_blocks=1, text_channels=TEXT_CHANNELS
        )
    )


def small_cheng() -> Codec:
    return randomised(cross_modal_cheng2020(channels=8, hyper_channels=6, text_channels=TEXT_CHANNELS))


@pytest.fixture(scope="module", params=[small_hific, small_cheng], ids=["hific", "cheng2020"])
def codec(request):
    return request.param()


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(canvas, "TILE", 128)


def as_x(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255


def as_rgb(x_hat: torch.Tensor) -> np.ndarray:
    return x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()


@pytest.mark.parametrize("condition", [None, condition_of()], ids=["without", "with words"])
def test_forward_equals_decode(codec, condition):
    rgb = random_rgb(192, 128, seed=2)
    for quality in (0, 37.5, 100):
        with torch.inference_mode():
            output = codec.network(as_x(rgb), torch.tensor([round(8 * quality)]), condition)
        stream = codec.encode(Picture(rgb), quality=quality, condition=condition)
        decoded = codec.decode(Bitstream.from_bytes(stream.to_bytes()), condition=condition)
        assert np.array_equal(decoded.picture.rgb, as_rgb(output.x_hat))
        payload, bits = len(stream.layers[0].chunks[0]), float(output.bits)
        assert payload > 100 and abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


def test_file_does_not_depend_on_the_text(codec):
    """Text is used by the decoder only (section 4.4): one file gives different images for different texts."""
    picture = Picture(random_rgb(100, 80))
    plain = codec.encode(picture, quality=50)
    assert codec.encode(picture, quality=50, condition=condition_of()).to_bytes() == plain.to_bytes()
    pictures = [
        codec.decode(plain, condition=c).picture.rgb for c in (None, condition_of(1), condition_of(2))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(pictures[one], pictures[other])


def test_text_acts_only_through_the_blocks(codec):
    """With γ0 zero, as at the start of training, the text has no effect; otherwise it has."""
    deaf = copy.deepcopy(codec.network)
    with torch.no_grad():
        for name, parameter in deaf.named_parameters():
            if "strength" in name:
                parameter.zero_()
        y_hat, level = torch.randn(1, 4, 4, codec.network.entropy.latent_channels), torch.tensor([400])
        said = [model.synthesise(y_hat, level, condition_of()) for model in (deaf, codec.network)]
        unsaid = [model.synthesise(y_hat, level) for model in (deaf, codec.network)]
    assert torch.equal(said[0], unsaid[0])
    assert (said[1] - unsaid[1]).abs().max() > 0.01


def test_text_of_one_image_is_used_for_a_batch(codec):
    y_hat, level = torch.randn(3, 4, 4, codec.network.entropy.latent_channels), torch.tensor([400] * 3)
    one, many = random_text_embedding(1), random_text_embedding(3)
    with torch.no_grad():
        for words, parts in (
            (one, [one] * 3),
            (many, [TextEmbedding(*(p[i : i + 1] for p in vars(many).values())) for i in range(3)]),
        ):
            whole = codec.network.synthesise(y_hat, level, Condition(words))
            for number, part in enumerate(parts):
                alone = codec.network.synthesise(y_hat[number : number + 1], level[:1], Condition(part))
                assert torch.allclose(whole[number], alone[0], atol=1e-4)


def test_encoder_and_decoder_agree_for_any_summation_order(codec):
    """The decoder's hyper synthesis has its hidden channels in another order, so all sums after them are
    computed differently.
    """
    other = copy.deepcopy(codec)
    torch.manual_seed(0)
    with torch.no_grad():
        for branch in other.network.entropy.exact_side.hyper_synthesis:
            for layer, following in ((branch[0], branch[2]), (branch[2], branch[4])):
                order = torch.randperm(layer.weight.shape[1])
                layer.weight.copy_(layer.weight[:, order])
                layer.bias.copy_(layer.bias[order])
                axis = 0 if isinstance(following, nn.ConvTranspose2d) else 1
                following.weight.copy_(following.weight.index_select(axis, order))
    other.network.train().eval()  # drops the integer networks that were built
    for seed, number in enumerate((0, 300, 800)):
        level = torch.tensor([number])
        with torch.inference_mode():
            y = codec.network.analyse(as_x(random_rgb(128, 64, seed)))
            writer, meter = (
                Writer(codec.network.entropy.models()),
                RateEstimator(codec.network.entropy.cost()),
            )
            y_hat = codec.network.code_latents(writer, y, level, (4, 8))
            assert torch.equal(codec.network.code_latents(meter, y, level, (4, 8)), y_hat)
            read = other.network.code_latents(
                Reader(other.network.entropy.models(), writer.bytes()), None, level, (4, 8)
            )
        assert torch.equal(read, y_hat) and y_hat.abs().max() > 0


def test_tiles_equal_the_whole_image(codec, small_tiles, monkeypatch):
    """Synthesis of all latents at once and tile by tile differ by at most one grey level, also with text."""
    picture, condition = Picture(random_rgb(300, 270, seed=5)), condition_of()
    stream = codec.encode(picture, quality=60)
    assert len(stream.layers[0].chunks) == 9
    by_tile = codec.decode(stream, condition=condition).picture.rgb
    whole = torch.from_numpy(codec.decode_latents(stream).y)
    with torch.inference_mode():
        at_once = as_rgb(codec.network.synthesise(whole, torch.tensor([480]), condition))[:270, :300]
    assert at_once.std() > 5
    assert np.abs(by_tile.astype(int) - at_once).max() <= 1


def test_receptive_field_is_large_enough(codec):
    """A latent beyond the receptive field changes no pixel, and the farthest that does is within it."""
    places = codec.network.receptive_field // 16
    far = torch.zeros(1, 2 * places + 3, 4, codec.network.entropy.latent_channels)
    near = far.clone()
    near[:, places + 1] = 3 * torch.randn(near.shape[-1])
    with torch.inference_mode():
        pictures = [codec.network.synthesise(y, torch.tensor([400]), condition_of()) for y in (far, near)]
    changed = (pictures[0] != pictures[1]).any(dim=1).any(dim=2)[0].nonzero().flatten()
    middle = 16 * (places + 1)
    assert (
        middle - codec.network.receptive_field
        <= int(changed.min())
        <= middle - codec.network.receptive_field + 48
    )
    assert (
        middle + codec.network.receptive_field - 48
        <= int(changed.max())
        < middle + 16 + codec.network.receptive_field
    )


def test_analysis_of_a_tile_equals_that_of_the_whole_image(codec, small_tiles):
    rgb = random_rgb(256, 192, seed=8)
    stream = codec.encode(Picture(rgb), quality=80)
    with torch.inference_mode():
        y = codec.network.analyse(as_x(rgb))
        for index, (rows, columns) in enumerate(
            [(slice(0, 8), slice(0, 8)), (slice(0, 8), slice(8, 16)), (slice(8, 12), slice(0, 8))]
        ):
            tile = y[:, rows, columns].contiguous()
            writer = Writer(codec.network.entropy.models())
            codec.network.code_latents(writer, tile, torch.tensor([640]), (tile.shape[1], tile.shape[2]))
            size = len(stream.layers[0].chunks[index])
            assert abs(len(writer.bytes()) - size) <= 4 + 0.001 * size


@pytest.mark.parametrize("seed", range(8))
def test_forged_payload_raises_only_trifocal_errors(codec, seed):
    random = np.random.default_rng(seed)
    picture = Picture(random_rgb(100, 70))
    stream = codec.encode(picture, quality=40)
    payload = bytearray(stream.layers[0].chunks[0])
    for place in random.integers(0, len(payload), 1 + seed % 5):
        payload[place] = random.integers(256)
    for content in (bytes(payload), bytes(payload[: len(payload) // 2]), random.bytes(seed * 30)):
        forged = dataclasses.replace(stream, layers=(Layer(Tag.LATENT, (content,)),))
        try:
            decoded = codec.decode(Bitstream.from_bytes(forged.to_bytes()), condition=condition_of())
            assert decoded.picture.rgb.shape == picture.rgb.shape
        except FormatError as error:
            assert str(error).endswith(".")
    damaged = bytearray(stream.to_bytes())
    damaged[-1 - seed] ^= 1
    with pytest.raises(FormatError):
        Bitstream.from_bytes(bytes(damaged))


def test_psnr_increases_with_file_size(codec):
    sizes = [codec.encode(Picture(random_rgb(128, 128)), quality=q).size for q in (0, 25, 50, 75, 100)]
    assert sizes == sorted(sizes) and sizes[0] < 0.8 * sizes[-1]


def test_text_changes_pixels_inside_the_mask():
    torch.manual_seed(0)
    layer = TextConditionedNorm(4, TEXT_CHANNELS).eval()
    x, words, mask = torch.randn(2, 3, 3, 4), torch.randn(2, TEXT_CHANNELS), torch.rand(2, 3, 3, 1)
    mask[:, 0] = 0
    assert torch.equal(layer(x, words, mask), layer(x, None, None)), "γ and β start at zero"
    for network in (layer.gamma, layer.beta):
        nn.init.normal_(last_linear(network).weight)
    layer.norm.load_state_dict(
        {"running_mean": torch.full((4,), 0.5), "running_var": torch.full((4,), 4.0)}, strict=False
    )
    normal = (x - 0.5) / math.sqrt(4 + 1e-5)
    gamma, beta = (network(words)[:, None, None] for network in (layer.gamma, layer.beta))
    moved = layer(x, words, mask)
    assert torch.allclose(moved, mask * (gamma * normal + beta) + normal, atol=1e-5)
    assert torch.allclose(moved[:, 0], normal[:, 0]), "outside the mask the signal stays"
    assert (moved[:, 1:] - normal[:, 1:]).abs().min() > 0


def test_block_is_initially_the_identity_and_can_be_trained():
    torch.manual_seed(0)
    block = SemanticSpatialBlock(6, TEXT_CHANNELS)
    x, words = torch.randn(2, 5, 5, 6), torch.randn(2, TEXT_CHANNELS)
    assert torch.equal(block(x, words), x)
    mask = block.mask(x).detach()
    assert mask.shape == (2, 5, 5, 1) and 0 < float(mask.min()) < float(mask.max()) < 1
    optimiser = torch.optim.Adam(block.parameters(), 0.02)
    for _ in range(2):
        optimiser.zero_grad()
        (block(x, words) - words.mean()).square().mean().backward()
        optimiser.step()
    # The strength moves first, then γ and β, and only then what lies before their last layers.
    assert block.strength.item() != 0
    for norm in block.norms:
        assert isinstance(norm, TextConditionedNorm)
        for network in (norm.gamma, norm.beta):
            assert last_linear(network).weight.any()


def last_linear(network: nn.Module) -> nn.Linear:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]


def test_tile_is_normalised_like_the_whole_image_in_evaluation():
    torch.manual_seed(0)
    block = SemanticSpatialBlock(6, TEXT_CHANNELS)
    nn.init.constant_(block.strength, 1.0)
    for _ in range(5):
        block(3 * torch.randn(4, 6, 6, 6) + 1, torch.randn(4, TEXT_CHANNELS))
    x, words = torch.randn(1, 20, 8, 6), torch.randn(1, TEXT_CHANNELS)
    for training in (False, True):
        block.train(training)
        whole, tile = block(x, words)[:, :10], block(x[:, : 10 + block.RECEPTIVE_FIELD], words)[:, :10]
        assert torch.allclose(whole, tile, atol=1e-5) != training
