"""TACO: text changes the file through the injectors only, and the decoder needs no text."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.codec_checks import (
    check_forged_payloads,
    check_forward_matches_decode,
    check_thread_counts,
    check_tiles_leave_no_seams,
)
from helpers.codecs import randomise_weights
from helpers.images import random_rgb
from trifocal import presets
from trifocal.codecs.codec import Codec
from trifocal.codecs.taco import Taco, taco
from trifocal.container import Bitstream
from trifocal.losses import level_weight, rate_distortion
from trifocal.pictures import Picture, canvas
from trifocal.transforms import adapters
from trifocal.transforms.adapters import CrossAttention, Extractor, Injector
from trifocal.transforms.elic import elic_receptive_field
from trifocal.types import Condition, TextEmbedding

D = 8


def small_taco(seed: int = 0, gamma: float = 1.0, mask_padding: bool = True) -> Any:
    """A small TACO with open gates."""
    torch.manual_seed(seed)
    codec: Any = taco(12, (4, 4, 6, 8, 10), (12, 8), 1, text_channels=D, heads=4, mask_padding=mask_padding)
    with torch.no_grad():
        for injector in (codec.network.inject_quarter, codec.network.inject_eighth):
            injector.gamma.fill_(gamma)
    randomise_weights(codec, seed)
    return codec


def words(count: int = 1, tokens: int = 5, padding: int = 0, seed: int = 0) -> Condition:
    return Condition(random_words(count, tokens, padding, seed))


def random_words(count: int, tokens: int = 5, padding: int = 0, seed: int = 0) -> TextEmbedding:
    generator = torch.Generator().manual_seed(seed)
    there = torch.randn(count, tokens, D, generator=generator)
    mask = torch.ones(count, tokens + padding, dtype=torch.bool)
    mask[:, tokens:] = False
    return TextEmbedding(F.pad(there, (0, 0, 0, padding), value=3.0), mask, there[:, -1])


@pytest.fixture(scope="module")
def codec() -> Codec:
    return small_taco()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.from_numpy(random_rgb(64, 64)).permute(2, 0, 1)[None].float() / 255


@torch.inference_mode()
def test_round_trip_with_text_in_the_encoder_only(codec):
    rgb = random_rgb(192, 128, seed=2)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    output = codec.network(x, torch.tensor([480]), words())
    stream = Bitstream.from_bytes(codec.encode(Picture(rgb), quality=60, condition=words()).to_bytes())
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(codec.decode(stream).picture.rgb, pixels)
    assert np.array_equal(codec.decode(stream, condition=words(seed=9)).picture.rgb, pixels)
    payload, bits = len(stream.layers[0].chunks[0] or b""), float(output.bits)
    assert abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


def test_round_trip_without_text(codec):
    check_forward_matches_decode(codec)
    check_forged_payloads(codec, Picture(random_rgb(64, 64)), 1)


def test_text_is_used_in_tiles(codec, monkeypatch):
    """Each tile is conditioned on the text, and the Extractor uses that tile alone; decoded tiles have no
    seams.
    """
    monkeypatch.setattr(canvas, "TILE", 128)
    picture = Picture(random_rgb(300, 270, seed=5))
    stream = codec.encode(picture, quality=60, condition=words())
    assert all(
        one != other
        for one, other in zip(
            stream.layers[0].chunks, codec.encode(picture, quality=60).layers[0].chunks, strict=True
        )
    )
    check_tiles_leave_no_seams(stream, codec)


def test_analysis_works_in_bfloat16(codec):
    rounded = copy.deepcopy(codec)
    rounded.network.analysis.bfloat16()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        near, y = rounded.network.analyse(x, words()), codec.network.analyse(x, words())
    assert near.dtype == torch.float32 and 0 < (near - y).abs().max() < 0.1 * y.abs().max()
    check_thread_counts(rounded, 1)


@torch.inference_mode()
def test_text_changes_the_latent_through_the_injectors_only(codec, x):
    for open_gates in ((), ("quarter",), ("eighth",), ("quarter", "eighth")):
        other = copy.deepcopy(codec)
        other.network.inject_quarter.gamma *= "quarter" in open_gates
        other.network.inject_eighth.gamma *= "eighth" in open_gates
        same = torch.equal(other.network.analyse(x, words()), other.network.analyse(x))
        assert same == (not open_gates)
        assert torch.equal(other.network.analyse(x, words()), other.network.analyse(x, words(seed=1))) == (
            not open_gates
        )


def test_gates_are_initially_zero():
    torch.manual_seed(0)
    codec: Any = taco(12, (4, 4), (4, 4), 1, text_channels=D, heads=4)
    assert not codec.network.inject_quarter.gamma.any() and not codec.network.inject_eighth.gamma.any()
    assert codec.network.receptive_field == elic_receptive_field(1)


@torch.inference_mode()
def test_second_injector_uses_tokens_with_image_features(codec, x):
    other = copy.deepcopy(codec)
    other.network.inject_quarter.gamma.zero_()
    before = other.network.analyse(x, words())
    other.network.extract.attention.out.weight.zero_()
    other.network.extract.attention.out.bias.zero_()
    assert not torch.equal(other.network.analyse(x, words()), before)


@torch.inference_mode()
def test_injector_without_text_is_a_normalisation(codec):
    image = 5 + 3 * torch.randn(2, 3, 4, 12)
    injector = Injector(12, D, heads=4)
    assert torch.allclose(injector(image, None), F.layer_norm(image, (12,)), atol=1e-6)
    assert torch.equal(injector(image, random_words(2).tokens), injector(image, None)), "γ starts at 0"


@torch.inference_mode()
def test_masked_padding_has_no_effect_and_unmasked_padding_has(codec, x):
    y, padded = codec.network.analyse(x, words()), codec.network.analyse(x, words(padding=33))
    assert torch.allclose(y, padded, atol=1e-5)
    published = small_taco(mask_padding=False).network
    assert torch.allclose(published.analyse(x, words()), y, atol=1e-5)
    assert (published.analyse(x, words(padding=33)) - y).abs().max() > 0.01


@torch.inference_mode()
def test_batch_takes_a_text_per_image_or_one_for_all(codec, x):
    both = torch.cat([x, x.flip(3)])
    y = codec.network.analyse(both, words(2))
    for number in range(2):
        own = Condition(random_words(2).select(slice(number, number + 1)))
        assert torch.allclose(
            codec.network.analyse(both[number : number + 1], own), y[number : number + 1], atol=1e-4
        )
    for_all = codec.network.analyse(both, words(1))
    assert torch.allclose(for_all[1:], codec.network.analyse(both[1:], words(1)), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("padding", [0, 3])
def test_cross_attention_equals_torchs(padding):
    """Values, and the mass that is not on the first key, against `nn.MultiheadAttention` with the same
    weights.
    """
    torch.manual_seed(0)
    ours, theirs = CrossAttention(12, 4), nn.MultiheadAttention(12, 4, batch_first=True)
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, keys = torch.randn(2, 9, 12), torch.randn(2, 5, 12)
    mask = torch.arange(5).expand(2, 5) < 5 - padding
    expected, weights = theirs(queries, keys, keys, key_padding_mask=~mask)
    assert torch.allclose(ours(queries, keys, mask), expected, atol=1e-5)
    assert torch.allclose(ours.mass(queries, keys, mask), 1 - weights[..., 0], atol=1e-5)


@torch.inference_mode()
def test_chunked_attention_gives_the_same_result(monkeypatch):
    torch.manual_seed(0)
    attention, queries, keys = CrossAttention(12, 4), torch.randn(2, 50, 12), torch.randn(2, 6, 12)
    mask = torch.arange(6).expand(2, 6) < 4
    whole = attention(queries, keys, mask), attention.mass(queries, keys, mask)
    monkeypatch.setattr(adapters, "SCORES", 2 * 4 * 6 * 7)
    assert [part.shape[1] for part in attention._chunks(queries, keys)] == [7] * 7 + [1]
    assert torch.allclose(attention(queries, keys, mask), whole[0], atol=1e-6)
    assert torch.allclose(attention.mass(queries, keys, mask), whole[1], atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize(("queries", "keys"), [(750_000, 77), (77, 187_500)])
def test_attention_memory_is_bounded_for_twelve_megapixels(monkeypatch, queries, keys):
    """Positions at 1/4 attend to tokens, and tokens attend to positions at 1/8."""
    sizes = []

    def attend(query, key, value, mask):
        sizes.append(query[..., 0].numel() * key.shape[2])
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    CrossAttention(8, 8)(torch.zeros(1, queries, 8), torch.zeros(1, keys, 8))
    assert sum(sizes) == 8 * queries * keys and max(sizes) <= adapters.SCORES


@torch.inference_mode()
def test_attention_map_by_hand(codec, x):
    there = codec.network.text_relevance(x, words())
    assert there.shape == (1, 16, 16) and 0 < there.min() and there.max() < 1 and there.std() > 1e-4
    assert torch.allclose(codec.network.text_relevance(x, words(padding=6)), there, atol=1e-5)
    assert not codec.network.text_relevance(x, words(tokens=1)).any(), "only the token that every text has"
    with pytest.raises(ValueError, match="needs a text"):
        codec.network.text_relevance(x, Condition())


def test_training_lowers_the_loss_and_opens_the_gates():
    codec = small_taco(seed=7, gamma=0.0)
    codec.network.train()
    before = codec.network.extract.project.weight.detach().clone()
    x = torch.from_numpy(np.stack([random_rgb(64, 64, seed) for seed in range(2)]))
    x, level, condition = x.permute(0, 3, 1, 2).float() / 255, torch.tensor([250, 550]), words(2, padding=2)
    optimiser = torch.optim.Adam(codec.network.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = (rate_distortion(codec.network(x, level, condition), x, level) * level_weight(level)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    assert (
        codec.network.inject_quarter.gamma.abs().max() > 0.01
        and codec.network.inject_eighth.gamma.abs().max() > 0.01
    )
    assert not torch.equal(codec.network.extract.project.weight, before)


def test_published_sizes(monkeypatch):
    """ELIC's 32.1 M, 1.6 M in the adapter at CLIP's width, and the prior and gains that depend on the
    quality.
    """
    for draw in ("kaiming_uniform_", "uniform_", "kaiming_normal_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *args, **options: tensor)
    codec = presets.find("taco").build()
    assert isinstance(codec.network, Taco) and codec.network.mask_padding
    adapter = (codec.network.inject_quarter, codec.network.extract, codec.network.inject_eighth)
    inside = [sum(p.numel() for p in part.parameters()) for part in adapter]
    assert inside == [247_680, 1_151_488, 247_680]
    assert sum(p.numel() for p in codec.network.parameters()) - sum(inside) == 32_075_800
    assert [part.attention.heads for part in adapter] == [8, 8, 8]
    assert isinstance(codec.network.extract, Extractor) and codec.network.extract.project.out_features == 512
    assert codec.network.receptive_field == 144 and codec.network.entropy.exact_side.context.passes == 10


def test_recipe_equals_the_papers():
    preset = presets.find("taco")
    recipe = preset.recipe
    assert (preset.id, preset.text_used_by, preset.text_encoder) == (
        2,
        "encoder",
        "openai/clip-vit-base-patch32",
    )
    assert (recipe.learning_rate, recipe.betas, recipe.clip) == (1e-4, (0.9, 0.999), 1.0)
    assert (recipe.batch, recipe.crop, recipe.decay) == (8, 256, ((0.9, 0.1), (0.96, 0.01)))
