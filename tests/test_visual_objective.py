"""SSIMULACRA2 and ColorVideoVDP as training losses, and the objective made of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from trifocal.errors import OptionError
from trifocal.losses import (
    Cvvdp,
    Ssimulacra2,
    VisualObjective,
    bits_per_pixel,
    level_weight,
    mean_squared_error,
    quality_lambda,
    ssimulacra2_score,
)
from trifocal.types import Output

PHOTOGRAPH = Path(__file__).parent.parent / "trifocal" / "demo" / "astronaut.png"


def tensor(image: Image.Image) -> Tensor:
    """[1, 3, H, W] in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def coded(image: Image.Image, format: str, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format, quality=quality)
    return Image.open(stream).convert("RGB")


def pairs() -> list[tuple[str, Image.Image, Image.Image]]:
    """Twenty pairs: parts of a photograph, of even and odd sizes, coded at all qualities or blurred."""
    with Image.open(PHOTOGRAPH) as image:
        photograph = image.convert("RGB")
    places = [(0, 0, 256, 256), (180, 20, 437, 211), (60, 250, 290, 501)]
    parts = [photograph.crop(place) for place in places]
    made = []
    for number, quality in enumerate((3, 8, 15, 25, 40, 60, 75, 85, 93, 98)):
        part = parts[number % 3]
        made.append((f"JPEG {quality}", part, coded(part, "JPEG", quality)))
    for number, quality in enumerate((2, 20, 50, 80, 95)):
        part = parts[(number + 1) % 3]
        made.append((f"WebP {quality}", part, coded(part, "WEBP", quality)))
    for number, radius in enumerate((0.4, 0.8, 1.5, 3)):
        part = parts[number % 3]
        made.append((f"blur {radius}", part, part.filter(ImageFilter.GaussianBlur(radius))))
    made.append(("darker", parts[0], parts[0].point(lambda value: int(0.9 * value))))
    return made


@pytest.fixture(scope="module")
def ssimulacra2() -> Ssimulacra2:
    return Ssimulacra2()


@pytest.mark.parametrize(
    ("name", "original", "decoded"), pairs(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_score_equals_the_package(
    name: str, original: Image.Image, decoded: Image.Image, ssimulacra2: Ssimulacra2
) -> None:
    from trifocal.evaluation.metrics.per_image import ssimulacra2 as package

    published = package(np.array(decoded), np.array(original))
    score = float(ssimulacra2_score(ssimulacra2(tensor(decoded), tensor(original))))
    assert published is not None
    assert score == pytest.approx(published, abs=0.5 if published > 30 else 1.0)


def test_test_pairs_cover_the_whole_range(ssimulacra2: Ssimulacra2) -> None:
    scores = [float(ssimulacra2_score(ssimulacra2(tensor(b), tensor(a)))) for _, a, b in pairs()]
    assert len(scores) == 20
    for low, high in ((-1000, 0), (0, 30), (30, 50), (50, 70), (70, 80), (80, 90), (90, 100)):
        assert any(low <= score < high for score in scores), f"no score in {low}..{high}"


@pytest.mark.parametrize("loss", [Ssimulacra2(), Cvvdp()], ids=["ssimulacra2", "cvvdp"])
def test_equal_images_have_no_loss_and_finite_gradients(loss: torch.nn.Module) -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x_hat = x.clone().requires_grad_()
    value = loss(x_hat, x)
    value.sum().backward()
    assert value.shape == (2,) and value.abs().max() < 1e-2
    assert x_hat.grad is not None and torch.isfinite(x_hat.grad).all()


@pytest.mark.parametrize("loss", [Ssimulacra2(), Cvvdp()], ids=["ssimulacra2", "cvvdp"])
def test_gradient_step_lowers_the_loss(loss: torch.nn.Module) -> None:
    with Image.open(PHOTOGRAPH) as image:
        x = tensor(image.convert("RGB").crop((180, 20, 308, 148)))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x_hat = (x + 0.05 * noise).clamp(0.01, 0.99).requires_grad_()
    before = loss(x_hat, x)
    (gradient,) = torch.autograd.grad(before.sum(), x_hat)
    after = loss(x_hat.detach() - 0.05 * gradient / gradient.norm(), x)
    assert float(after) < float(before.detach())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 90), (33, 31), (300, 21)])
def test_sizes_from_16_pixels_are_accepted(height: int, width: int, ssimulacra2: Ssimulacra2) -> None:
    """With fewer scales if a side falls below 8 pixels, as in the package."""
    from trifocal.evaluation.metrics.per_image import ssimulacra2 as package

    random = np.random.default_rng(0)
    a = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    b = np.clip(a + random.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    published = package(b, a)
    score = float(ssimulacra2_score(ssimulacra2(tensor(Image.fromarray(b)), tensor(Image.fromarray(a)))))
    assert published is not None and score == pytest.approx(published, abs=0.5 if published > 30 else 1.0)


def test_too_small_image_is_refused(ssimulacra2: Ssimulacra2) -> None:
    with pytest.raises(OptionError, match="8 pixels a side, not 7"):
        ssimulacra2(torch.zeros(1, 3, 7, 20), torch.zeros(1, 3, 7, 20))


def test_each_image_of_a_batch_has_its_own_loss() -> None:
    x = torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    x_hat = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    for loss in (Ssimulacra2(), Cvvdp()):
        together = loss(x_hat, x)
        apart = torch.cat([loss(x_hat[i : i + 1], x[i : i + 1]) for i in range(3)])
        assert torch.allclose(together, apart, rtol=1e-3)


def test_cvvdp_equals_the_package() -> None:
    """Our faster blur gives the same result."""
    from pycvvdp import cvvdp

    with Image.open(PHOTOGRAPH) as image:
        original = image.convert("RGB").crop((100, 40, 356, 240))
    x, x_hat = tensor(original), tensor(coded(original, "JPEG", 20))
    jod, _ = cvvdp(display_name="standard_4k", device=torch.device("cpu"), quiet=True).predict(
        x_hat[:, :, None], x[:, :, None], dim_order="BCFHW"
    )
    assert 10 - float(Cvvdp()(x_hat, x)) == pytest.approx(float(jod), abs=1e-4)


def test_objective_is_the_documented_sum() -> None:
    objective = VisualObjective(0.2, 0.3, 0.5, ssimulacra2_rate=10.0, cvvdp_rate=90.0)
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    x_hat = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    output = Output(x_hat, torch.zeros(0), torch.full((4,), 5000.0))
    level = torch.tensor([0, 100, 400, 800])
    parts = (
        0.2 * mean_squared_error(x_hat, x),
        0.3 * 10 * Ssimulacra2()(x_hat, x),
        0.5 * 90 * Cvvdp()(x_hat, x),
    )
    expected = (bits_per_pixel(output, x) + quality_lambda(level) * sum(parts)) * level_weight(level)
    judged = objective.held_out_metrics(torch.nn.Identity(), x, level, output)
    assert torch.allclose(judged["objective"], expected, rtol=1e-4)
    half = objective.distortion(output, x, share=0.5)
    assert torch.allclose(half[:2], parts[0][:2] + parts[1][:2] + 2 * parts[2][:2], rtol=1e-3)
    assert torch.allclose(half[2:], parts[0][2:] + parts[1][2:], rtol=1e-3)
