"""Text in the encoder of taco-compact: bit allocation, its cost, and decoding without text."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from helpers.codecs import small_codec
from helpers.images import random_rgb
from helpers.text import attend_left_half
from trifocal.cli import app
from trifocal.codecs.attention_map import attention_map
from trifocal.codecs.codec import Codec
from trifocal.codecs.mask import log2_gain_map
from trifocal.codecs.taco_compact import TacoCompact
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.container import Bitstream
from trifocal.entropy import RateEstimator, Reader, Writer
from trifocal.entropy.importance import LARGEST, QUARTERS, code_importance
from trifocal.errors import Damaged, PresetError
from trifocal.pictures import Picture, canvas
from trifocal.types import Condition, TextEmbedding


def words(count: int = 1) -> TextEmbedding:
    return TextEmbedding(
        torch.zeros(count, 3, 256), torch.ones(count, 3, dtype=torch.bool), torch.zeros(count, 256)
    )


@pytest.fixture(scope="module")
def taco():
    plain = small_codec(noise=0.0)
    parts = plain.network
    network = TacoCompact(parts.analysis, parts.entropy, parts.synthesis, parts.receptive_field)
    network.text_probability = attend_left_half
    codec = Codec(TorchRuntime(network.eval()))
    codec.preset_id = 1
    return codec


def smooth_rgb(width: int, height: int) -> np.ndarray:
    """An image that the small codec's few coefficients can represent, so its errors are the quantiser's."""
    return np.asarray(Image.fromarray(random_rgb(width, height, seed=3)).filter(ImageFilter.GaussianBlur(8)))


def error(decoded: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    return (decoded.astype(float) - rgb) ** 2


def test_importance_map_is_decoded_from_the_file(taco):
    """Encoder and decoder have the same quantised map, and the rate estimator includes its bits."""
    torch.manual_seed(0)
    importance_map = torch.randn(1, 16, 24, 1).cumsum(1).numpy() / 3
    like = np.array([0])
    writer, meter = Writer(taco.network.entropy.models()), RateEstimator(taco.network.entropy.cost())
    sent = code_importance(writer, importance_map, (16, 24), like)
    assert np.array_equal(code_importance(meter, importance_map, (16, 24), like), sent)
    data = writer.bytes()
    reader = Reader(taco.network.entropy.models(), data)
    assert np.array_equal(code_importance(reader, None, (16, 24), like), sent)
    assert abs(len(data) - float(meter.bits.sum()) / 8) < 8
    limit = 2.0 ** (LARGEST / QUARTERS)
    assert sent.max() <= limit and sent.min() >= 1 / limit and sent.shape == (1, 16, 24, 1)


def test_file_without_text_grows_by_less_than_a_byte(taco):
    meter = RateEstimator(taco.network.entropy.cost())
    factor = code_importance(meter, np.zeros((1, 32, 48, 1)), (32, 48), np.array([0]))
    assert (factor == 1).all() and float(meter.bits.sum()) < 8


def test_box_in_the_importance_map_takes_a_few_bytes(taco):
    importance_map = np.full((1, 32, 48, 1), -0.25)
    importance_map[:, 8:20, 12:32] = 0.75
    meter = RateEstimator(taco.network.entropy.cost())
    code_importance(meter, importance_map, (32, 48), np.array([0]))
    assert 8 < float(meter.bits.sum()) < 8 * 30


def test_text_moves_bits_to_the_named_object(taco):
    """At no more bytes the named half is better and the rest is worse; the decoder has no text."""
    picture = Picture(smooth_rgb(256, 192))
    plain = taco.encode(picture, quality=30)
    steered = taco.encode(picture, max_bytes=plain.size, condition=Condition(words()))
    assert steered.size <= plain.size
    before, after = (error(taco.decode(s).picture.rgb, picture.rgb) for s in (plain, steered))
    assert after[:, :112].mean() < 0.9 * before[:, :112].mean()
    assert after[:, 144:].mean() > before[:, 144:].mean()


def test_log2_gain_follows_the_error_weights():
    """Error weight 4 halves the step, and the mean is unchanged."""
    p = np.zeros((1, 4, 4))
    p[:, :2] = 1.0
    importance_map = log2_gain_map(p, error_weight=4.0)
    assert importance_map[0, 0, 0] - importance_map[0, 3, 0] == pytest.approx(1.0)
    weight = 1 + 3 * p
    assert np.allclose(np.exp2(2 * importance_map) * weight.mean(), weight)
    assert np.abs(log2_gain_map(np.full((1, 4, 4), 0.3))).max() < 1e-6


def test_forward_equals_decode(taco):
    rgb = random_rgb(192, 128, seed=2)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    condition = Condition(
        importance_map=torch.from_numpy(
            log2_gain_map(torch.rand(1, 8, 12, generator=torch.manual_seed(1)).numpy())
        )
    )
    with torch.inference_mode():
        output = taco.network(x, torch.tensor([400]), condition)
    stream = taco.encode(Picture(rgb), quality=50, condition=condition)
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(taco.decode(stream).picture.rgb, pixels)
    payload, bits = len(stream.layers[0].chunks[0]), float(output.bits)
    assert abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


def test_without_text_it_equals_compact(taco):
    """The same image, for one more byte at most."""
    picture = Picture(random_rgb(192, 128))
    trunk = small_codec(noise=0.0)
    stream, plain = taco.encode(picture), trunk.encode(picture)
    assert 0 <= stream.size - plain.size <= 1
    assert np.array_equal(taco.decode(stream).picture.rgb, trunk.decode(plain).picture.rgb)


def test_tiles_use_their_part_of_the_importance_map(taco, monkeypatch):
    """An image in tiles has one map, and a region is decoded alone."""
    monkeypatch.setattr(canvas, "TILE", 128)
    picture = Picture(smooth_rgb(300, 270))
    stream = Bitstream.from_bytes(taco.encode(picture, quality=30, condition=Condition(words())).to_bytes())
    assert len(stream.layers[0].chunks) == 9
    whole = taco.decode(stream).picture.rgb
    errors = error(whole, picture.rgb)
    assert errors[:, :100].mean() < 0.8 * errors[:, 200:].mean()
    region = taco.decode(stream, region=(150, 100, 60, 70)).picture.rgb
    assert np.abs(region.astype(int) - whole[100:170, 150:210]).max() <= 1


def test_training_uses_the_text(taco):
    """`forward` computes the map for its crops, and its loss has gradients."""
    taco.network.train()
    x = torch.from_numpy(random_rgb(128, 64)).permute(2, 0, 1)[None].float() / 255
    output = taco.network(x.repeat(2, 1, 1, 1), torch.tensor([300, 500]), Condition(words(2)))
    output.bits.sum().backward()
    gradient = taco.network.analysis.linear.weight.grad
    taco.network.zero_grad()
    taco.network.eval()
    assert gradient is not None and torch.isfinite(gradient).all() and output.bits.shape == (2,)


def test_damage_raises_or_is_greyed_out(taco):
    picture = Picture(random_rgb(192, 128))
    stream = taco.encode(picture, condition=Condition(words()))
    chunk = stream.layers[0].chunks[0]
    for length in (0, 1, len(chunk) // 2):
        broken = stream.with_layer(type(stream.layers[0])(stream.layers[0].tag, (chunk[:length],)))
        try:
            taco.decode(broken)
        except Damaged as failure:
            assert "tile 0" in str(failure)


def test_attention_map_highlights_the_named_object(taco):
    """Named parts keep their colours; the rest is grey and dark. Size and image are the original's."""
    picture = Picture(smooth_rgb(200, 136))
    drawn = attention_map(taco, picture, Condition(words())).rgb
    assert drawn.shape == picture.rgb.shape
    assert np.abs(drawn[:, :60].astype(int) - picture.rgb[:, :60]).max() <= 4
    assert drawn[:, 160:].mean() < 0.3 * picture.rgb[:, 160:].mean()
    assert (
        np.ptp(drawn[:, 160:].astype(int), axis=2).mean()
        < 0.1 * np.ptp(picture.rgb[:, 160:].astype(int), axis=2).mean()
    )


def test_large_images_are_grounded_at_a_smaller_size(taco):
    """The map of 2 megapixels is computed on a thumbnail, and the gain has a value for each latent."""
    picture = Picture(np.tile(smooth_rgb(500, 400), (3, 4, 1)))
    assert attention_map(taco, picture, Condition(words())).rgb.shape == (614, 1024, 3)
    prepared = taco.network.prepare(picture, Condition(words()))
    assert prepared.importance_map.shape == (1, 76, 128)
    assert picture.thumbnail(4000) is picture


@pytest.mark.parametrize("condition", [None, Condition()])
def test_attention_map_needs_text(taco, codec, condition):
    with pytest.raises(PresetError, match="taco-compact"):
        attention_map(taco, Picture(random_rgb(64, 64)), condition)
    with pytest.raises(PresetError, match="taco-compact"):
        attention_map(codec, Picture(random_rgb(64, 64)), Condition(words()))


def test_command_line_draws_the_attention_map(tmp_path):
    """With the bundled encoders; for one image, and a preset that reads text."""
    photo, drawn = tmp_path / "photo.png", tmp_path / "map.png"
    Image.fromarray(smooth_rgb(120, 90)).save(photo)
    arguments = ["encode", str(photo), "--text", "a dog", "--attention", str(drawn), "--preset"]
    result = CliRunner().invoke(app, [*arguments, "taco-compact"])
    assert result.exit_code == 0, result.output
    assert Picture.open(drawn).rgb.shape == (90, 120, 3) and (tmp_path / "photo.tri").exists()
    refused = CliRunner().invoke(app, ["encode", str(photo), "--attention", str(drawn), "--force"])
    assert refused.exit_code == 1 and "use a preset such as taco-compact" in " ".join(refused.output.split())
    both = CliRunner().invoke(app, [*arguments, "taco-compact", str(drawn)])
    assert both.exit_code == 2 and "one image" in both.output
