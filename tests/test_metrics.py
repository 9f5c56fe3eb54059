"""Each metric against an independent value: by hand, by formula, or from the reference package."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from helpers.images import random_rgb
from trifocal.errors import NotMeasured, OptionError
from trifocal.evaluation import DISTRIBUTION_METRICS, METRICS, find_metric, ssimulacra2
from trifocal.evaluation.metrics import perceptual
from trifocal.evaluation.metrics.distribution import DistributionAccumulator, patches, whole
from trifocal.evaluation.metrics.metric_set import MetricSet
from trifocal.evaluation.metrics.per_image import Pair


@pytest.fixture
def pair() -> Pair:
    original = random_rgb(96, 80, seed=1)
    noise = np.random.default_rng(2).normal(0, 20, original.shape)
    return Pair(np.clip(original + noise, 0, 255).astype(np.uint8), original, ("a red door", "a door"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no cache."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(
        "torchvision._internally_replaced_utils.load_state_dict_from_url", refuse, raising=False
    )
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)


def random_backbone(name: str) -> dict[str, torch.Tensor]:
    """Weights of a network of torchvision: fixed random convolutions; the linear layers, which metrics leave
    out, are zero."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in torchvision.models.get_model(name).state_dict().items()}
    random = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(shape, generator=random) * (2 / shape[1:].numel()) ** 0.5
        if len(shape) == 4
        else torch.zeros(shape)
        for key, shape in shapes.items()
    }


@pytest.fixture
def random_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's backbones with fixed random weights, instead of a download."""

    def state(self: Any, *_: object, **__: object) -> dict[str, torch.Tensor]:
        return random_backbone(type(self).__name__.removesuffix("_Weights").lower())

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", state)
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)  # of 124 million parameters


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_authors_package(net: str, pair: Pair, random_backbones: None) -> None:
    lpips = pytest.importorskip("lpips")
    theirs = lpips.LPIPS(net=net, verbose=False).eval()
    scaled = [perceptual.to_tensor(pixels, 2.0) - 1 for pixels in (pair.decoded, pair.original)]
    with torch.inference_mode():
        expected = float(theirs(*scaled))
    value = METRICS[f"lpips-{net}"].load()(pair)
    assert expected > 0.001 and value == pytest.approx(expected, rel=1e-3)
    assert METRICS[f"lpips-{net}"].load()(Pair(pair.original, pair.original)) == pytest.approx(0, abs=1e-6)


def test_dists_by_its_formula(pair: Pair, random_backbones: None) -> None:
    """One minus the weighted texture and structure similarities of six stages (Ding et al. 2020, equation
    7).
    """
    from torchmetrics.functional.image.dists import DISTSNetwork

    torch.manual_seed(0)
    network = DISTSNetwork().eval().requires_grad_(False)
    similarity, weight = 0.0, float(network.alpha.sum() + network.beta.sum())
    with torch.inference_mode():
        stages = [network.forward_once(perceptual.to_tensor(p)) for p in (pair.decoded, pair.original)]
    place = 0
    for x, y in zip(*stages):
        count = x.shape[1]
        alpha, beta = (v.flatten()[place : place + count].double() for v in (network.alpha, network.beta))
        x, y = x[0].flatten(1).double(), y[0].flatten(1).double()
        texture = (2 * x.mean(1) * y.mean(1) + 1e-6) / (x.mean(1) ** 2 + y.mean(1) ** 2 + 1e-6)
        covariance = (x * y).mean(1) - x.mean(1) * y.mean(1)
        spread = x.var(1, correction=0) + y.var(1, correction=0)
        structure = (2 * covariance + 1e-6) / (spread + 1e-6)
        similarity += float((alpha * texture + beta * structure).sum()) / weight
        place += count
    assert METRICS["dists"].load()(pair) == pytest.approx(1 - similarity, abs=1e-4)


def test_ssimulacra2_of_equal_and_bad_images(pair: Pair) -> None:
    assert ssimulacra2(pair.original, pair.original) == 100
    slightly = np.clip(pair.original.astype(int) + 1, 0, 255).astype(np.uint8)
    near, far = ssimulacra2(slightly, pair.original), ssimulacra2(pair.decoded, pair.original)
    assert near is not None and far is not None and 100 > near > far
    assert ssimulacra2(pair.original[:7], pair.original[:7]) is None


@pytest.mark.parametrize(
    ("spoiled", "authors", "within"),
    [
        (lambda o: o // 4 * 4 + 2, 93.6445, 0.5),
        (lambda o: o // 6 * 6 + 3, 89.6713, 0.5),
        (lambda o: o // 12 * 12 + 6, 16.4271, 0.5),
        (lambda o: np.roll(o, 1, axis=1), 16.7523, 2),
    ],
    ids=["steps of 4", "steps of 6", "steps of 12", "moved"],
)
def test_ssimulacra2_is_near_the_authors_tool(spoiled: Any, authors: float, within: float) -> None:
    """`ssimulacra2` of libjxl 0.11.1 on the same pixels as PNG files: a part of scikit-image's coffee.png
    (Rachel Michetti, CC0).
    """
    with Image.open(Path(__file__).parent / "golden" / "coffee.png") as image:
        original = np.asarray(image)
    assert ssimulacra2(spoiled(original), original) == pytest.approx(authors, abs=within)


def test_clip_scores_are_cosines(pair: Pair, tmp_path: Path) -> None:
    """Of a small CLIP with random weights in a folder of its own, loaded as the published one is."""
    transformers = pytest.importorskip("transformers")
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "door</w>", *"aredo", "d</w>", "r</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(words)}
    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**size, **tokens},
            vision_config={**size, "image_size": 32, "patch_size": 16},
            projection_dim=4,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    small = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**small), tokenizer)
    processor.save_pretrained(tmp_path)
    with torch.inference_mode():
        seen = processor(images=pair.decoded, return_tensors="pt")["pixel_values"]
        picture = model.visual_projection(model.vision_model(seen).pooler_output)[0]
        texts = [tokenizer(caption, return_tensors="pt")["input_ids"] for caption in pair.captions]
        text = [model.text_projection(model.text_model(ids).pooler_output)[0] for ids in texts]
    picture, *text = (vector / vector.norm() for vector in (picture, *text))
    cosines = float(100 * picture @ text[0]), float(100 * text[0] @ text[1])
    plain, nearest = (max(0.0, cosine) for cosine in cosines)
    name = str(tmp_path)
    assert perceptual.load_clip_score(False, name)(pair) == pytest.approx(plain, abs=0.01)
    expected = 2 * plain * nearest / (plain + nearest) if plain + nearest else 0
    assert perceptual.load_clip_score(True, name)(pair) == pytest.approx(expected, abs=0.01)
    assert perceptual.load_clip_score(False, name)(Pair(pair.decoded, pair.original)) is None


def test_nima_is_the_mean_of_its_ratings(pair: Pair, tmp_path: Path, random_backbones: None) -> None:
    """With a last layer that knows only two ratings, 3 and 8, a third and two thirds."""
    state = {key: value for key, value in random_backbone("vgg16").items() if "features" in key}
    state["classifier.1.weight"] = torch.zeros(10, 25088)
    state["classifier.1.bias"] = torch.full((10,), -1e4)
    state["classifier.1.bias"][[2, 7]] = torch.tensor([0.0, math.log(2)])
    torch.save(state, tmp_path / "nima.pth")
    assert find_metric(f"nima:{tmp_path / 'nima.pth'}").load()(pair) == pytest.approx(
        3 / 3 + 8 * 2 / 3, abs=1e-4
    )
    (tmp_path / "no.pth").write_bytes(b"nonsense")
    for bad in ("no.pth", "none.pth"):
        with pytest.raises(NotMeasured, match=bad):
            find_metric(f"nima:{tmp_path / bad}").load()


@pytest.mark.parametrize("name", ["lpips-alex", "dists"])
def test_missing_weights_are_noted_and_give_no_value(name: str, offline: None) -> None:
    with pytest.raises(NotMeasured, match=r"is not measured: .*; run it once .*\.$"):
        METRICS[name].load()


def test_unknown_metric_is_refused() -> None:
    assert find_metric("lpips") is METRICS["lpips-alex"] and find_metric("ms_ssim") is METRICS["ms-ssim"]
    with pytest.raises(OptionError, match="there are: psnr, ssim"):
        find_metric("vmaf")


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_lpips_unscaled_is_fed_0_to_1(pair: Pair, random_backbones: None) -> None:
    lpips = pytest.importorskip("lpips")
    theirs = lpips.LPIPS(net="alex", verbose=False).eval()
    with torch.inference_mode():
        expected = float(theirs(perceptual.to_tensor(pair.decoded), perceptual.to_tensor(pair.original)))
    value = METRICS["lpips-unscaled"].load()(pair)
    assert value == pytest.approx(expected, rel=1e-3)
    assert value != pytest.approx(METRICS["lpips-alex"].load()(pair), rel=0.05)


def test_ssim_of_two_greys_by_hand(pair: Pair) -> None:
    """Constant images differ in luminance only: (2ab + c1) / (a² + b² + c1), c1 = (0.01 · 255)²."""
    measure = METRICS["ssim"].load()
    dark, light = np.full((12, 20, 3), 60, np.uint8), np.full((12, 20, 3), 200, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert measure(Pair(dark, light)) == pytest.approx((2 * 60 * 200 + c1) / (60**2 + 200**2 + c1), abs=1e-4)
    assert measure(Pair(pair.original, pair.original)) == pytest.approx(1)
    value = measure(pair)
    assert value is not None and 0 < value < 0.99
    assert measure(Pair(dark[:10], light[:10])) is None


# ── of all pictures together ──


class Brightness(nn.Module):
    """A fake Inception network: three numbers per image."""

    num_features = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean((2, 3)) / 255


@pytest.fixture
def pictures() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    levels = rng.integers(30, 220, (12, 2, 3))
    return [tuple(np.broadcast_to(level, (20, 20, 3)).astype(np.uint8) for level in pair) for pair in levels]  # type: ignore[misc]


def features(pictures: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [np.array([p[side].mean((0, 1)) / 255 for p in pictures]) for side in (0, 1)]


def test_fid_by_its_formula(pictures: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """|m1 - m2|² + tr(C1 + C2 - 2·(C1·C2)^½), Heusel et al. 2017, equation 6."""
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import FrechetInceptionDistance

    fid = DistributionAccumulator(FrechetInceptionDistance(feature=Brightness()), whole, compares=True)
    for decoded, original in pictures:
        fid.add(decoded, original)
    one, other = features(pictures)
    c1, c2 = np.cov(one.T), np.cov(other.T)
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert fid.result() == pytest.approx(expected, rel=1e-3)
    fid.begin()
    assert fid.result() is None


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_kid_by_its_formula(pictures: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The unbiased squared MMD with the kernel (x·y/d + 1)³, Bińkowski et al. 2018, section 4."""
    from torchmetrics.image.kid import KernelInceptionDistance

    kid = DistributionAccumulator(KernelInceptionDistance(feature=Brightness()), whole, compares=True)
    for decoded, original in pictures:
        kid.add(decoded, original)
    one, other = features(pictures)
    n = len(pictures)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 3 + 1) ** 3

    within = sum((kernel(a, a).sum() - np.trace(kernel(a, a))) / (n * (n - 1)) for a in (one, other))
    assert kid.result() == pytest.approx(within - 2 * kernel(one, other).mean(), rel=1e-3)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save", r"ignore:std\(\)")
def test_inception_score_by_its_formula(pictures: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """exp of the mean KL divergence of p(y|x) from p(y), Salimans et al. 2016, section 4."""
    from torchmetrics.image.inception import InceptionScore

    score = DistributionAccumulator(InceptionScore(feature=Brightness(), splits=1), whole, compares=False)
    for decoded, original in pictures:
        score.add(decoded, original)
    odds = np.exp(features(pictures)[0])
    given = odds / odds.sum(1, keepdims=True)
    divergence = (given * np.log(given / given.mean(0))).sum(1).mean()
    assert score.result() == pytest.approx(math.exp(divergence), rel=1e-4)


def test_networks_of_metrics_run_on_a_cuda_device_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No machine of the tests has a GPU: what is loaded is replaced, and says which device it was given."""
    given: list[str] = []

    def load(device: str = "cpu") -> Any:
        given.append(device)
        return DistributionAccumulator(None, whole, compares=False)

    monkeypatch.setitem(METRICS, "lpips-alex", replace(METRICS["lpips-alex"], load=load))
    monkeypatch.setitem(DISTRIBUTION_METRICS, "fid", replace(DISTRIBUTION_METRICS["fid"], load=load))
    for device in ("cpu", "mps", "cuda:1"):
        MetricSet(["psnr", "lpips", "fid"], None, tmp_path, print, device=device)
    assert given == ["cpu"] * 4 + ["cuda:1"] * 2
    assert {name for name, metric in METRICS.items() if metric.takes_device} == {
        "lpips-alex", "lpips-unscaled", "lpips-vgg", "dists", "clip-score", "ref-clip-score", "nima", "tower",
    }  # fmt: skip


def test_the_network_gets_batches_of_one_size() -> None:
    sizes: list[tuple[int, ...]] = []

    class Metric:
        def reset(self) -> None: ...

        def update(self, batch: torch.Tensor, real: bool) -> None:
            sizes.append((real, *batch.shape))

        def compute(self) -> float:
            return 0.5

    small, large = np.zeros((200, 300, 3), np.uint8), np.zeros((2000, 1500, 3), np.uint8)
    total = DistributionAccumulator(Metric(), whole, compares=True)
    for _ in range(2):
        total.begin()
        for image in (*[small] * 40, large, large):
            total.add(image, image)
        assert total.result() == 0.5
        ours = [size[1:] for size in sizes if not size[0]]
        assert ours == [(34, 3, 200, 300), (6, 3, 200, 300), (1, 3, 2000, 1500), (1, 3, 2000, 1500)]
        assert ours == [size[1:] for size in sizes if size[0]]
        sizes.clear()


def test_patches_are_256_pixels_and_shifted_by_half() -> None:
    rgb = np.zeros((512, 700, 3), np.uint8)
    rgb[128, 128] = 7
    cut = list(patches(rgb))
    assert len(cut) == 2 * 2 + 1 * 2 and all(part.shape == (256, 256, 3) for part in cut)
    assert cut[4][0, 0, 0] == 7
    assert list(patches(np.zeros((255, 999, 3), np.uint8))) == []


def test_distribution_metrics_are_named_after_their_patches() -> None:
    assert {"fid", "fid-whole", "kid", "kid-whole", "is"} == set(DISTRIBUTION_METRICS)
    assert all("patches" in m.title or "whole" in m.title for m in DISTRIBUTION_METRICS.values())
