"""Two layers in one file: the base layer alone for detection, and both for the image."""

import numpy as np
import pytest
import torch

from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal.codecs.base_layer import BaseLayer, ScalableTorchRuntime
from trifocal.codecs.dual_layer_compact import DualLayerCompact
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.codecs.scalable import UNCONDITIONED, ScalableCodec, detect_objects
from trifocal.container import Bitstream, Layer, Tag
from trifocal.container.parts import merge, strip
from trifocal.detection.detector import compact_detector
from trifocal.detection.feature_codec import CompactBaseAnalysis, CompactBaseSynthesis, PreviewSynthesis
from trifocal.entropy import EntropyModel
from trifocal.entropy.latent_coding import write_latents
from trifocal.errors import Damaged, MissingLayer, OptionError
from trifocal.pictures import Picture, canvas
from trifocal.transforms import Analysis, Synthesis
from trifocal.types import BasePreview, Condition


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(5)
    return compact_detector().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def dual(detector):
    plain = small_codec(noise=0.0)
    torch.manual_seed(6)
    listening = CompactBaseAnalysis(24, 32, 1)
    listening.init_from_detector(detector)
    base = BaseLayer(
        listening,
        EntropyModel(32, hyper_channels=8, width=16, blocks=1, step_sizes=torch.logspace(0.3, -0.6, 8)),
        CompactBaseSynthesis(32, 24, 96, 1),
        PreviewSynthesis(96, 8, 24, 1),
    )
    analysis, synthesis = plain.network.analysis, plain.network.synthesis
    assert isinstance(analysis, Analysis) and isinstance(synthesis, Synthesis)
    codec = ScalableCodec(
        ScalableTorchRuntime(
            DualLayerCompact(base, analysis, plain.network.entropy, synthesis, plain.network.receptive_field)
        )
    )
    codec.network.find_detector = lambda device: detector
    codec.preset_id = 8
    codec.network.eval()
    return codec


def test_base_layer_is_first_and_suffices_for_detection(dual):
    picture = Picture(random_rgb(300, 200))
    stream = Bitstream.from_bytes(dual.encode(picture, quality=30, base_quality=70).to_bytes())
    assert [layer.tag for layer in stream.layers] == [Tag.BASE, Tag.ENHANCEMENT]
    assert (stream.layers[0].chunks[0] or b"")[0] == 70
    base = Bitstream.from_bytes(strip(stream, "base").to_bytes())
    found, alone = dual.detect(stream), dual.detect(base)
    assert np.array_equal(found.boxes, alone.boxes) and np.array_equal(found.scores, alone.scores)
    assert (found.boxes[:, 2::4] <= 300 + 1e-3).all() and (found.boxes >= 0).all()
    first = dual.base_preview(base)
    assert (first.width, first.height) == (300, 200)


@pytest.mark.parametrize(
    ("asked", "base"),
    [
        ({"quality": 30}, 15),
        ({"quality": 90}, 20),
        ({"quality": 99.5, "base_quality": 99}, 99),
        ({"bpp": 3.0}, 0),
        ({"bpp": 60.0}, 20),
    ],
)
def test_base_quality_is_as_requested_or_the_default(dual, asked, base):
    stream = dual.encode(Picture(random_rgb(96, 64)), **asked)
    assert stream.layers[0].chunks[0][0] == base


def test_missing_layers_raise_missing_layer(dual):
    stream = dual.encode(Picture(random_rgb(96, 64)))
    base, rest = strip(stream, "base"), strip(stream, "enhancement")
    with pytest.raises(MissingLayer, match="only a base layer"):
        dual.decode(base)
    for ask in (dual.decode, dual.detect, dual.base_preview):
        with pytest.raises(MissingLayer, match="merge"):
            ask(rest)
    again = merge(base, rest)
    assert again.to_bytes() == stream.to_bytes()
    assert np.array_equal(dual.decode(again).picture.rgb, dual.decode(stream).picture.rgb)


@pytest.mark.parametrize("conditions", [True, False])
def test_forward_equals_decode(dual, conditions):
    """Also the file's base layer equals that of the forward pass."""
    rgb = random_rgb(192, 128, seed=2)
    stream = dual.encode_picture(
        Picture(rgb), Rate(50), BaseLayerOptions(40, condition_enhancement=conditions)
    )
    flags, y_hat, size = dual._decode_base(stream)
    assert bool(flags & UNCONDITIONED) is not conditions
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    first = BasePreview(
        dual.network.base.synthesise(torch.from_numpy(y_hat), size[::-1])[1], (192, 128), (0, 0, 192, 128)
    )
    with torch.inference_mode():
        if conditions:
            output = dual.network(x, torch.tensor([400]), Condition(preview=first))
        else:
            output = CodecNetwork._forward(dual.network, x, torch.tensor([400]), None, None)
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(dual.decode(stream).picture.rgb, pixels)
    payload, bits = len(stream.layers[1].chunks[0]), float(output.bits)
    assert abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


def test_base_layer_estimate_equals_its_bytes(dual):
    """And the rate estimator's y_hat equals the decoder's."""
    x = torch.from_numpy(random_rgb(320, 256, seed=4)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = dual.network.base(x, torch.tensor([8 * 60]))
        base, level = dual.network.base, np.array([8 * 60])
        data, written, _ = write_latents(base.entropy.arrays(), base.analyse(x).numpy(), level)
        read = torch.from_numpy(base.entropy.decompress(data, level, (16, 20)))
        y_hat = torch.from_numpy(written)
        h_hat, _ = dual.network.base.synthesise(read, (256, 320))
    assert torch.equal(read, y_hat) and y_hat.abs().max() > 0
    assert torch.allclose(h_hat, output.h_hat, atol=1e-5)
    assert abs(len(data) - float(output.bits) / 8) <= 0.005 * len(data) + 16


def test_enhancement_codes_the_residual_of_the_base_preview(dual):
    """If the preview is correct, the enhancement layer is small; the decoded image is the same."""
    rgb = random_rgb(192, 128, seed=3)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    told = Condition(preview=BasePreview(x, (192, 128), (0, 0, 192, 128)))
    with torch.inference_mode():
        left, all_of_it = dual.network.analyse(x, told), dual.network.analyse(x)
        assert left[..., :-1].abs().sum() < 1e-3 * all_of_it[..., :-1].abs().sum()
        level = torch.tensor([400])
        back = (
            dual.network.synthesise(left[..., :-1], level, told),
            dual.network.synthesise(all_of_it[..., :-1], level),
        )
    assert torch.allclose(*back, atol=1e-4)


def test_tiles_equal_the_whole_image(dual, monkeypatch):
    picture = Picture(random_rgb(300, 270))
    whole = dual.decode(dual.encode(picture, quality=60)).picture.rgb
    monkeypatch.setattr(canvas, "TILE", 128)
    stream = dual.encode(picture, quality=60)
    assert len(stream.layer(Tag.ENHANCEMENT).chunks) == 9
    tiled = dual.decode(stream).picture.rgb
    assert (
        np.abs(tiled.astype(int) - whole) <= 1
    ).mean() > 0.98  # what is coded differs a little at the tiles' edges
    region = dual.decode(stream, region=(150, 100, 60, 70)).picture.rgb
    assert np.abs(region.astype(int) - tiled[100:170, 150:210]).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (33, 65)])
def test_images_of_unusual_sizes_round_trip(dual, size):
    picture = Picture(random_rgb(*size))
    stream = Bitstream.from_bytes(dual.encode(picture, quality=80).to_bytes())
    assert dual.decode(stream).picture.rgb.shape == picture.rgb.shape
    assert dual.base_preview(stream).rgb.shape == picture.rgb.shape
    assert len(dual.detect(stream).boxes) <= 100


def test_base_layer_size_does_not_grow_with_the_image(dual):
    """The base layer's bytes do not grow with the picture."""
    small, large = (Picture(np.kron(random_rgb(480, 352), np.ones((n, n, 1), np.uint8))) for n in (1, 4))
    sizes = [dual.encode(p, quality=0, base_quality=50).layers[0].size for p in (small, large)]
    assert sizes[1] < 1.3 * sizes[0]


def test_decoding_images_needs_no_detector(dual, monkeypatch):
    """Nor its weights: only detection and base layer refinement load it."""
    monkeypatch.setattr(dual.network, "find_detector", None)
    stream = dual.encode(Picture(random_rgb(96, 64)), refinement=0)
    assert dual.decode(stream).picture.rgb.shape == (64, 96, 3)
    assert dual.base_preview(stream).rgb.shape == (64, 96, 3)
    with pytest.raises(TypeError):
        dual.detect(stream)


def test_base_layer_takes_a_share_of_a_requested_size(dual):
    """Or has its minimum size."""
    picture = Picture(random_rgb(192, 128))
    least, best = (dual.encode(picture, quality=0, base_quality=q).layers[0].size for q in (0, 20))
    front = dual.encode(picture, quality=0, base_quality=0).size
    sizes = (front + 40, 8 * front, 100 * front)
    bases = [dual.encode(picture, max_bytes=size).layers[0] for size in sizes]
    assert bases[0].size == least and bases[2].size == best
    assert all(base.size <= max(least, 0.15 * size + 1) for base, size in zip(bases, sizes))
    assert [(base.chunks[0] or b"")[0] for base in bases[::2]] == [0, 20]


def test_damaged_base_layer_raises_damaged(dual):
    stream = dual.encode(Picture(random_rgb(96, 64)))
    chunk = stream.layers[0].chunks[0]
    for wrong in (b"", bytes([101]) + chunk[1:], chunk[:1]):
        broken = stream.with_layer(Layer(Tag.BASE, (wrong,)))
        for ask in (dual.decode, dual.detect):
            try:
                ask(broken)
            except Damaged as failure:
                assert "base" in str(failure) or "latent" in str(failure)
            else:
                assert wrong == chunk[:1]  # a range coder may read zeros past its end
    random = np.random.default_rng(1)
    for _ in range(20):
        forged = bytearray(chunk)
        forged[random.integers(1, len(forged))] ^= 1 << random.integers(8)
        try:
            dual.detect(stream.with_layer(Layer(Tag.BASE, (bytes(forged),))))
        except Damaged:
            pass


def test_base_layer_has_its_own_timing(dual):
    encode: dict[str, float] = {}
    decode: dict[str, float] = {}
    stream = dual.encode(Picture(random_rgb(64, 48)), quality=30, timings=encode)
    dual.decode(stream, timings=decode)
    assert encode.keys() == {"base", "analysis", "entropy", "coding"} and min(encode.values()) > 0
    assert decode.keys() == {"base", "entropy", "coding", "synthesis"} and min(decode.values()) > 0


def test_rate_control_counts_both_layers(dual):
    picture = Picture(random_rgb(256, 192))
    stream = dual.encode(picture, max_bytes=20_000)
    assert stream.size <= 20_000 and len(stream.to_bytes()) == stream.size
    with pytest.raises(OptionError, match="base_quality"):
        dual.encode(picture, base_quality=101)


def test_enhancement_training_freezes_the_base_layer(dual):
    """The base layer is in evaluation mode and gets no gradient."""
    dual.network.train()
    assert not dual.network.base.training and dual.network.analysis.training
    x = torch.from_numpy(random_rgb(128, 128)).permute(2, 0, 1)[None].float() / 255
    output = dual.network(x.repeat(2, 1, 1, 1), torch.tensor([300, 500]))
    (output.bits.sum() + output.x_hat.square().sum()).backward()
    assert dual.network.trust.grad is not None and dual.network.trust.grad.abs().sum() > 0
    assert all(p.grad is None for p in dual.network.base.parameters())
    dual.network.zero_grad()
    dual.network.eval()


def test_objects_are_detected_in_a_file(detector):
    found = detect_objects(Picture(random_rgb(500, 40)), detector)
    assert found.boxes.shape[1] == 4 and found.boxes.shape[0] == len(found.labels) == len(found.scores)
