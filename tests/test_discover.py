"""DISCOVER with a small Stable Diffusion: files, seeds, regions, damage, components, and sampling."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.cli import run
from helpers.codec_checks import check_forged_payloads, check_tiled_analysis
from helpers.diffusion import (
    FOLDER,
    SIZES,
    UNET,
    N,
    make_stable_diffusion,
    small_discover,
    tiny_discover,
)
from helpers.images import random_rgb
from helpers.summation_order import count_mismatches, random_images, with_reordered_layers
from trifocal.codecs import discover as paper
from trifocal.codecs.diffusion_codec import DiffusionCodec
from trifocal.codecs.discover import Discover, sampling_steps
from trifocal.container import Bitstream, Component, Layer, Tag
from trifocal.container.parts import merge, without
from trifocal.container.seed import read_seed, seed_layer
from trifocal.detection.detections import Pixels
from trifocal.diffusion import sampling
from trifocal.diffusion.control import control_module, copy_encoder
from trifocal.diffusion.sampling import decode_in_windows, sample, start_noise, windows
from trifocal.diffusion.stable_diffusion import (
    NOISE,
    VAE,
    StableDiffusion,
    load_stable_diffusion,
    untrained_stable_diffusion,
)
from trifocal.entropy.latent_coding import join_hyper_latent, split_hyper_latent
from trifocal.errors import Damaged, MissingExtra, MissingLayer, OptionError, PresetError, WeightsError
from trifocal.grounding.grounder import Grounded
from trifocal.pictures import Picture, canvas
from trifocal.presets import find
from trifocal.transforms.latent_synthesis import LatentSynthesis
from trifocal.types import Condition
from trifocal.weights import write_weights

M = sum(SIZES)
PICTURE = Picture(random_rgb(130, 100, seed=1))
OBJECTS = [Component("person", (1, 1, 5, 6)), Component("car", (4, 2, 7, 5))]


@pytest.fixture(scope="module", autouse=True)
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small Stable Diffusion; 3 steps for people, 2 for machines."""
    folder = tmp_path_factory.mktemp("networks")
    make_stable_diffusion(folder / FOLDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIFOCAL_NETWORKS", str(folder))
        patch.setattr(paper, "STEPS", (3, 2))
        yield folder


@pytest.fixture(scope="module")
def codec() -> DiffusionCodec:
    return small_discover()


@pytest.fixture(scope="module")
def stream(codec: DiffusionCodec) -> Bitstream:
    return Bitstream.from_bytes(codec.encode(PICTURE).to_bytes())


@pytest.fixture(scope="module")
def parted(codec: DiffusionCodec) -> Bitstream:
    return Bitstream.from_bytes(codec.encode(PICTURE, components=OBJECTS).to_bytes())


def pixels(codec: DiffusionCodec, stream: Bitstream, **options: Any) -> np.ndarray:
    rgb: np.ndarray = codec.decode(stream, **options).picture.rgb
    return rgb


# ── files ──


def test_the_same_file_gives_the_same_image(codec: DiffusionCodec, stream: Bitstream) -> None:
    first = pixels(codec, stream)
    assert first.shape == (100, 130, 3) and first.std() > 5
    assert np.array_equal(first, pixels(codec, stream))
    assert codec.encode(PICTURE).to_bytes() == stream.to_bytes()


def test_the_seed_in_the_file_changes_the_image(codec: DiffusionCodec, stream: Bitstream) -> None:
    other = codec.encode(PICTURE, layers=(seed_layer(7),))
    assert read_seed(other) == 7 and read_seed(stream) > 0
    assert other.layer(Tag.LATENT) == stream.layer(Tag.LATENT)
    assert not np.array_equal(pixels(codec, stream), pixels(codec, other))
    with pytest.raises(OptionError, match="from 0 to 4294967295"):
        seed_layer(1 << 32)


def test_the_noise_of_a_seed_never_changes() -> None:
    """FORMAT.md specifies it."""
    noise = start_noise(5, (8, 16))
    assert noise.shape == (1, 4, 8, 16) and noise.dtype == torch.float32
    assert noise[0, :, 0, 0].tolist() == pytest.approx([0.44122748, -0.33087015, 2.43077119, -0.25209213])


def test_the_preference_selects_the_steps(codec: DiffusionCodec, stream: Bitstream) -> None:
    images = [
        pixels(codec, stream, condition=Condition(preference=np.array([p], np.float32))) for p in (0, 1)
    ]
    assert np.array_equal(images[0], pixels(codec, stream)) and not np.array_equal(images[0], images[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "STEPS", (50, 8))
        assert [sampling_steps(p) for p in (0, 0.5, 1)] == [50, 29, 8]


def test_encoding_needs_no_diffusion_model(codec: DiffusionCodec, stream: Bitstream) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Discover, "find_diffusion", None)
        assert codec.encode(PICTURE).to_bytes() == stream.to_bytes()
        assert codec.encode(PICTURE, max_bytes=stream.size).size <= stream.size


def test_bits_are_those_of_the_file(codec: DiffusionCodec, stream: Bitstream) -> None:
    estimate = codec.network.estimate(torch.from_numpy(PICTURE.rgb).permute(2, 0, 1)[None] / 255)
    (latent, _), size = stream.layers, float(estimate.bits.detach()) / 8
    assert abs(latent.size - size) <= 0.01 * size + 4
    assert estimate.x_hat.shape == (1, 3, 100, 130)


def test_latents_are_exact_in_another_order_of_summation(codec: DiffusionCodec) -> None:
    assert count_mismatches(codec, with_reordered_layers(codec), random_images(2)) == 0


def test_latents_can_be_decoded_and_synthesised(codec: DiffusionCodec, stream: Bitstream) -> None:
    decoded = codec.decode_latents(stream)
    assert decoded.y.shape == (1, 8, 12, M + N)
    assert np.array_equal(codec.synthesise(decoded).rgb, pixels(codec, stream))
    again = codec.encode_latents(codec.analyse(PICTURE))
    assert again.to_bytes() == stream.to_bytes()


def test_the_hyper_latent_is_joined_to_the_latent() -> None:
    y_hat, z_hat = torch.randn(2, 8, 12, 5), torch.randn(2, 2, 3, 4)
    joined = join_hyper_latent(y_hat, z_hat)
    assert torch.equal(joined[:, 4:8, 8:12, 5:], z_hat[:, 1:, 2:].expand(-1, 4, 4, -1))
    parts = split_hyper_latent(joined, 5)
    assert torch.equal(parts[0], y_hat) and torch.equal(parts[1], z_hat)
    assert np.array_equal(join_hyper_latent(y_hat.numpy(), z_hat.numpy()), joined.numpy())


# ── tiles, regions, damage ──


@pytest.fixture
def tiled(codec: DiffusionCodec, monkeypatch: pytest.MonkeyPatch) -> Bitstream:
    """The file of an image of four tiles."""
    monkeypatch.setattr(canvas, "TILE", 128)
    return Bitstream.from_bytes(codec.encode(Picture(random_rgb(200, 180, seed=5))).to_bytes())


def test_a_region_is_a_part_of_the_whole(codec: DiffusionCodec, tiled: Bitstream) -> None:
    done: list[float] = []
    whole = pixels(codec, tiled, progress=done.append)
    assert len(tiled.layers[0].chunks) == 4 and whole.shape == (180, 200, 3)
    assert done == sorted(done) and done[-1] == pytest.approx(1) and len(done) >= 4 + 3
    region = (100, 60, 90, 100)
    assert np.array_equal(pixels(codec, tiled, region=region), whole[60:160, 100:190])
    check_tiled_analysis(codec)


def test_best_effort_decodes_the_other_tiles(codec: DiffusionCodec, tiled: Bitstream) -> None:
    data = bytearray(tiled.to_bytes())
    data[-6] ^= 0x55  # the last tile's chunk; four bytes of the seed follow
    with pytest.raises(Damaged) as refusal:
        Bitstream.from_bytes(bytes(data))
    assert refusal.value.tiles == (3,)
    decoded = codec.decode(Bitstream.from_bytes(bytes(data), best_effort=True), best_effort=True)
    assert decoded.damaged == (3,)
    rgb = decoded.picture.rgb
    assert (rgb[128:, 128:] == 128).all() and rgb[:128].std() > 5 and rgb[128:, :128].std() > 5


def test_a_damaged_or_missing_seed(codec: DiffusionCodec, stream: Bitstream) -> None:
    data = bytearray(stream.to_bytes())
    data[-1] ^= 1
    with pytest.raises(Damaged, match="its SEED layer"):
        Bitstream.from_bytes(bytes(data))
    damaged = Bitstream.from_bytes(bytes(data), best_effort=True)
    with pytest.raises(Damaged, match="SEED layer of this file is damaged"):
        codec.decode(damaged)
    zero = codec.encode(PICTURE, layers=(seed_layer(0),))
    assert np.array_equal(pixels(codec, damaged, best_effort=True), pixels(codec, zero))
    with pytest.raises(MissingLayer, match="lacks its SEED layer"):
        codec.decode(dataclasses.replace(stream, layers=stream.layers[:1]))
    short = dataclasses.replace(stream, layers=(stream.layers[0], Layer(Tag.SEED, (b"one",))))
    with pytest.raises(Damaged, match="SEED layer does not have 4 bytes"):
        Bitstream.from_bytes(short.to_bytes())


def test_forged_payloads(codec: DiffusionCodec) -> None:
    check_forged_payloads(codec, Picture(random_rgb(64, 64)), 2)


# ── components ──


def test_components_decode_alone_and_merge(codec: DiffusionCodec, parted: Bitstream) -> None:
    people = Bitstream.from_bytes(parted.only("person").to_bytes())
    others = Bitstream.from_bytes(without(parted, "person").to_bytes())
    assert people.is_partial and people.size < parted.size
    decoded = codec.decode(people)
    assert decoded.missing == ("car", "the rest")
    assert "generated from the side information" in (decoded.missing_notice or "")
    whole = codec.decode(parted)
    assert whole.missing == () and not np.array_equal(whole.picture.rgb, decoded.picture.rgb)
    assert merge(others, people).to_bytes() == parted.to_bytes()
    with pytest.raises(MissingLayer, match="merge"):
        codec.decode(others)


def test_a_partial_file_has_the_latents_of_its_objects_and_all_side_information(
    codec: DiffusionCodec, parted: Bitstream
) -> None:
    whole, part = (codec.decode_latents(one).y[0] for one in (parted, parted.only("person")))
    assert parted.layout is not None
    numbers = np.frombuffer(parted.layout.positions(0), np.uint8).reshape(whole.shape[:2])
    assert np.array_equal(part[..., M:], whole[..., M:]) and whole[..., M:].any()
    assert np.array_equal(part[numbers == 1, :M], whole[numbers == 1, :M]) and whole[numbers == 1, :M].any()
    assert not part[numbers != 1, :M].any() and whole[numbers != 1, :M].any()


def test_damaged_components_count_as_missing(codec: DiffusionCodec, parted: Bitstream) -> None:
    latent = parted.layers[0]
    for index, missing in ((1, ("person", "the rest")), (0, ("person", "car", "the rest"))):
        chunks = (*latent.chunks[:index], None, *latent.chunks[index + 1 :])
        damaged = parted.with_layer(Layer(Tag.LATENT, chunks))
        with pytest.raises(Damaged):
            codec.decode(damaged)
        decoded = codec.decode(damaged, best_effort=True)
        assert decoded.missing == missing and decoded.picture.rgb.shape == (100, 130, 3)


class OnePerson:
    """A grounder that finds one object."""

    vocabulary = None

    def find(self, pixels: Pixels, labels: Sequence[str]) -> Grounded:
        return Grounded(np.array([[20.0, 20.0, 70.0, 90.0]]), tuple(labels[:1]), np.array([0.9]))


def test_labels_are_found_in_the_image(codec: DiffusionCodec, parted: Bitstream) -> None:
    coded = codec.encode(PICTURE, components="person", grounder=OnePerson())
    assert coded.components == (Component("person", (1, 1, 5, 6)),)
    with pytest.raises(PresetError, match="no base layer"):
        codec.encode(PICTURE, base_quality=20)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects first: encode, strip, decode for machines, merge."""
    preset = dataclasses.replace(find("discover"), build=tiny_discover)
    monkeypatch.setattr("trifocal.presets.PRESETS", (preset,))
    monkeypatch.setattr("trifocal.codecs.components.load_grounder", lambda name: OnePerson())
    monkeypatch.chdir(tmp_path)
    write_weights(small_discover().network, Path("w.safetensors"))
    PICTURE.save("a.png")
    weights = ("--weights", "w.safetensors")
    refused = run("encode", "a.png", "--preset", "discover")
    assert refused.exit_code == 1 and "no trained weights" in " ".join(refused.stderr.split())
    assert run("encode", "a.png", "--preset", "discover", *weights, "--components", "person").exit_code == 0
    for option, name in (("--components", "people.tri"), ("--without", "others.tri")):
        assert run("strip", "a.tri", option, "person", "-o", name).exit_code == 0
    done = run("decode", "people.tri", *weights, "--preference", "1")
    assert done.exit_code == 0 and "generated from the side information" in " ".join(done.stderr.split())
    assert Picture.open("people.png").rgb.shape == (100, 130, 3)
    assert run("merge", "others.tri", "people.tri", "-o", "again.tri").exit_code == 0
    assert Path("again.tri").read_bytes() == Path("a.tri").read_bytes()
    facts = json.loads(run("info", "people.tri", "--json").stdout)
    assert [layer["name"] for layer in facts["layers"]] == ["LATENT", "COMPONENTS", "SEED"]
    assert [one["label"] for one in facts["components"]] == ["side information", "person", "the rest"]


# ── sampling ──


class Perfect(StableDiffusion):
    """Knows the latent z_0 of each image, and gives the noise that leads there."""

    def predict_noise(self, z: Tensor, time: Tensor, control: Any, z_c: Tensor) -> Tensor:
        from diffusers import DDIMScheduler

        share = DDIMScheduler.from_config(self.schedule).alphas_cumprod[time]
        return (z - share.sqrt() * z_c) / (1 - share).sqrt()


@pytest.fixture
def perfect() -> StableDiffusion:
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(**NOISE)
    return Perfect(None, None, torch.zeros(1), scheduler.config)


@pytest.mark.parametrize("side", [8, 40])
def test_sampling_with_the_true_noise_ends_at_the_latent(
    perfect: StableDiffusion, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one window and in several."""
    monkeypatch.setattr(sampling, "WINDOW", 16)
    z_0, done = torch.randn(1, 4, side, 24), list[float]()
    found = sample(perfect, None, z_0, start_noise(1, (side, 24)), 4, done.append)
    assert torch.allclose(found, z_0, atol=0.2) and done[-1] == 1
    assert len(done) == 4 * len(windows(side, 24))


def test_windows_cover_a_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "WINDOW", 16)
    assert windows(16, 8) == [(slice(0, 16), slice(0, 8))]
    for height, width in ((24, 40), (16, 96), (104, 17)):
        count = np.zeros((height, width), int)
        for rows, columns in windows(height, width):
            assert count[rows, columns].shape == (min(16, height), min(16, width))
            count[rows, columns] += 1
        assert count.min() == 1 and count.max() <= 9


def test_windows_of_the_vae_are_blended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder without a receptive field gives the same image in windows."""

    class Enlarging(StableDiffusion):
        def decode(self, z: Tensor) -> Tensor:
            return z[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

    z, diffusion = torch.randn(1, 4, 24, 40), Enlarging(None, None, torch.zeros(1), None)
    monkeypatch.setattr(sampling, "WINDOW", 16)
    assert torch.allclose(decode_in_windows(diffusion, z), diffusion.decode(z), atol=1e-5)


# ── networks ──


def test_the_control_module_starts_as_a_copy_of_the_encoder() -> None:
    diffusion = load_stable_diffusion()
    network: Any = small_discover().network
    network.begin_training()
    copied, original = network.synthesis.control.state_dict(), diffusion.unet.state_dict()
    shared = copied.keys() & original.keys()
    assert {name.partition(".")[0] for name in shared} == {
        "conv_in",
        "time_embedding",
        "down_blocks",
        "mid_block",
    }
    assert all(torch.equal(copied[name], original[name]) for name in shared)
    z, time, z_c = torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 4, 8, 8)
    steered = diffusion.predict_noise(z, time, network.synthesis.control, z_c)
    assert torch.allclose(steered, diffusion.unet(z, time, diffusion.prompt).sample, atol=1e-6)
    with pytest.raises(WeightsError, match="other sizes"):
        copy_encoder(control_module(UNET | {"block_out_channels": (8, 24)}), diffusion.unet)


def test_images_and_latents_of_the_vae() -> None:
    diffusion = load_stable_diffusion()
    assert diffusion is load_stable_diffusion()
    x = torch.rand(2, 3, 64, 32)
    z = diffusion.encode(x)
    assert z.shape == (2, 4, 8, 4) and diffusion.decode(z).shape == x.shape
    assert torch.equal(z[1:], diffusion.encode(x[1:]))
    assert not any(p.requires_grad for net in (diffusion.unet, diffusion.vae) for p in net.parameters())


def test_models_that_cannot_be_used(tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="cannot be loaded; download it to FOLDER/empty"):
        load_stable_diffusion(str(tmp_path / "empty"))
    make_stable_diffusion(tmp_path / "velocity", prediction="v_prediction")
    with pytest.raises(WeightsError, match="does not predict noise"):
        load_stable_diffusion(str(tmp_path / "velocity"))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r'pip install "trifocal\[discover\]"'):
        paper.discover(N, SIZES, (12, 8), 1, UNET)


def test_the_published_sizes() -> None:
    """Parameters at full size, counted without memory for the weights; the U-Net has 865 M, the VAE 84 M."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from trifocal.diffusion.stable_diffusion import UNET as FULL

    with torch.device("meta"):
        trained = count(control_module(FULL)), count(LatentSynthesis(192, 320))
        published = count(UNet2DConditionModel(**FULL)), count(AutoencoderKL(**VAE))
    assert published == (865_910_724, 83_653_863)
    assert trained == (363_888_832, 10_381_444)
    preset = find("discover")
    assert preset.takes_preference and preset.takes_components and not preset.has_weights


def test_an_untrained_model_has_shapes_only() -> None:
    sizes = UNET | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    diffusion = untrained_stable_diffusion(sizes)
    z, control = torch.randn(2, 4, 8, 8, device="meta"), control_module(UNET).to("meta")
    assert diffusion.predict_noise(z, torch.zeros(2, device="meta"), control, z).shape == z.shape
    assert diffusion.encode(torch.rand(1, 3, 64, 32, device="meta")).shape == (1, 4, 8, 4)
    assert diffusion.noise_steps == 1000


def count(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
