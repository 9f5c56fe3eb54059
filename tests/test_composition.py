"""`benchmarks/composition`: the generator of missing latents, and a term of its loss."""

from types import SimpleNamespace

import pytest
import torch

from helpers.scripts import ROOT, load_script


def test_trained_generator_keeps_known_latents() -> None:
    script = load_script("benchmarks/composition/model.py")
    network = SimpleNamespace(synthesis=SimpleNamespace(std=torch.ones(script.LATENT)))
    generator = script.load_generator(ROOT / "benchmarks/composition/generator.safetensors", network)
    known, features, noise = (torch.zeros(1, 4, 6, n) for n in (script.LATENT, script.FEATURES, script.NOISE))
    kept = torch.zeros(1, 4, 6, dtype=torch.bool)
    kept[:, :2] = True
    with torch.no_grad():
        latent = generator(known, kept, known, features, torch.tensor([script.MIDDLE_LEVEL]), noise)
    assert latent.shape == (1, 4, 6, script.LATENT)
    assert not latent[kept].any() and latent[~kept].any()


def test_only_details_that_the_original_does_not_repeat_count_as_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/composition"))
    script = load_script("benchmarks/composition/train.py")
    network = SimpleNamespace(entropy=SimpleNamespace(gain=lambda level: torch.ones(len(level), 384)))
    preview, kept = torch.zeros(1, 3, 4, 384), torch.zeros(1, 3, 4, dtype=torch.bool)
    kept[:, 0] = True
    noise = 9 * torch.randn(1, 3, 4, 384, generator=torch.Generator().manual_seed(1))
    pattern = noise[:, :1, :1].expand_as(noise)

    def repetition(composed: torch.Tensor, original: torch.Tensor) -> float:
        batch = script.Batch(original, preview, preview, kept, preview, preview, torch.tensor([400]))
        return float(script.repetition(network, composed, batch))

    assert repetition(pattern, noise) > 0.8
    assert repetition(pattern, pattern) < 1e-6 and repetition(noise, pattern) < 1e-6
    mixed = torch.where(kept[..., None], pattern, noise)
    assert repetition(mixed, noise) < 1e-6
