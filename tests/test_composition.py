"""`benchmarks/composition/model.py`: the generator of missing latents."""

import torch

from helpers.scripts import ROOT, load_script


def test_trained_generator_keeps_known_latents() -> None:
    script = load_script("benchmarks/composition/model.py")
    generator = script.Generator(torch.ones(script.LATENT)).eval()
    weights = script.load_file(ROOT / "benchmarks/composition/generator.safetensors")
    generator.load_state_dict({name: value.float() for name, value in weights.items()})
    known, features, noise = (torch.zeros(1, 4, 6, n) for n in (script.LATENT, script.FEATURES, script.NOISE))
    kept = torch.zeros(1, 4, 6, dtype=torch.bool)
    kept[:, :2] = True
    with torch.no_grad():
        latent = generator(known, kept, known, features, torch.tensor([script.MIDDLE_LEVEL]), noise)
    assert latent.shape == (1, 4, 6, script.LATENT)
    assert not latent[kept].any() and latent[~kept].any()
