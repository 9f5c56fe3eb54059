"""Text in the decoder of cross-modal-compact: its effect, where it acts, and decoding without it."""

from functools import partial

import numpy as np
import pytest
import torch

import trifocal
from helpers.codecs import largest_seam, small_codec, small_codec_with
from helpers.images import random_rgb
from helpers.losses import HalfSizeDistance
from trifocal.codecs.codec import Codec
from trifocal.codecs.cross_modal_compact import CrossModalCompact
from trifocal.container import Bitstream, Layer
from trifocal.errors import Damaged
from trifocal.losses import PerceptualObjective
from trifocal.pictures import Picture
from trifocal.presets import find
from trifocal.training.optimisers import parameter_groups
from trifocal.transforms.text_conditioned import TextConditionedSynthesis
from trifocal.types import Batch, Condition, TextEmbedding
from trifocal.weights import WEIGHTS_FOLDER


def words(seed: int = 0, count: int = 1) -> Condition:
    pooled = torch.randn(count, 8, generator=torch.manual_seed(seed))
    return Condition(TextEmbedding(pooled[:, None], torch.ones(count, 1, dtype=torch.bool), pooled))


def small(noise: float = 0.05) -> Codec:
    """A small codec of the classes of the preset; the parameters for text get random noise."""
    synthesis = partial(TextConditionedSynthesis, 16, 48, 2, 8, text_channels=8, text_blocks=1)
    return small_codec_with(CrossModalCompact, synthesis, ("worded", "detail"), 1, noise)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return small()


def test_untrained_network_equals_compact():
    """The text branch is initially zero."""
    picture = Picture(random_rgb(120, 90))
    plain, new = small_codec(noise=0.0), small(noise=0.0)
    stream, same = new.encode(picture), plain.encode(picture)
    assert stream.layers == same.layers
    expected = plain.decode(same).picture.rgb
    for condition in (None, words()):
        assert np.array_equal(new.decode(stream, condition=condition).picture.rgb, expected)


def test_text_changes_the_image_and_not_the_file(codec):
    picture = Picture(random_rgb(192, 128))
    stream = codec.encode(picture, condition=words(0))
    assert stream.to_bytes() == codec.encode(picture).to_bytes()
    with_words, with_others, without = (
        codec.decode(stream, condition=condition).picture.rgb for condition in (words(0), words(1), None)
    )
    assert (with_words != with_others).any() and (with_words != without).any()


@pytest.mark.parametrize("condition", [None, words(0)])
def test_forward_equals_decode(codec, condition):
    rgb = random_rgb(192, 128, seed=2)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = codec.network(x, torch.tensor([400]), condition)
    stream = codec.encode(Picture(rgb), quality=50)
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(codec.decode(stream, condition=condition).picture.rgb, pixels)
    payload, bits = len(stream.layers[0].chunks[0]), float(output.bits)
    assert abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


def test_tiles_equal_the_whole_image(codec, monkeypatch):
    """Also with text: the receptive field of its branch is within the halo."""
    assert largest_seam(codec, words(0), monkeypatch) <= 1


def test_damage_raises_or_is_greyed_out(codec):
    stream = codec.encode(Picture(random_rgb(120, 90)))
    layer = stream.layers[0]
    forged = bytes([255]) * 9
    broken = Bitstream(stream.header, (Layer(layer.tag, (forged,)),))
    try:
        codec.decode(broken, condition=words())
    except Damaged as failure:
        assert "tile 0" in str(failure)


def test_only_the_synthesis_is_trained():
    """A few steps of the recipe lower the loss; analysis and entropy model do not change, so files stay
    valid.
    """
    torch.manual_seed(0)
    codec = small()
    codec.network.train()
    recipe = find("cross-modal-compact").recipe
    before = {name: w.clone() for name, w in codec.network.state_dict().items()}
    optimiser = torch.optim.Adam(parameter_groups(codec.network, recipe), lr=2e-3)
    objective = PerceptualObjective(perceptual=HalfSizeDistance(), perceptual_weight=6.0)
    x = torch.from_numpy(random_rgb(64, 64)).permute(2, 0, 1)[None].float() / 255
    batch = Batch(x.repeat(2, 1, 1, 1), torch.tensor([200, 500]), words(0, 2))
    losses = []
    for step in range(12):
        torch.manual_seed(1)
        ((part, loss),) = objective.losses(codec.network, batch, step)
        assert part == "codec"
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    changed = {
        name.split(".")[0]
        for name, w in codec.network.state_dict().items()
        if not torch.equal(w, before[name])
    }
    assert changed == {"synthesis"} and losses[-1] < losses[0]
    plain = codec.network.eval()(batch.x, batch.level)
    judged = objective.held_out_metrics(codec.network, batch.x, batch.level, plain)["distance"]
    assert torch.equal(judged, HalfSizeDistance()(plain.x_hat, batch.x))


def test_bundled_weights_share_latents_with_compact():
    """Those of 0.1: the same analysis and gains; only the frequency tables were counted again."""
    plain = trifocal.load("compact", weights=WEIGHTS_FOLDER / "compact-0.1.safetensors")
    worded = trifocal.load("cross-modal-compact")
    assert isinstance(plain, Codec) and isinstance(worded.network, CrossModalCompact)
    ours, theirs = worded.network.state_dict(), plain.network.state_dict()
    other = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    assert {name.split(".")[0] for name in other} == {"synthesis", "entropy"}
    assert {name for name in other if name.startswith("entropy.")} == {"entropy.frequencies"}
