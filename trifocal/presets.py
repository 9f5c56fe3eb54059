"""A name for method, sizes, recipe, weights and what was measured. `PRESETS` is the whole list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from trifocal.errors import PresetError

if TYPE_CHECKING:
    from trifocal.codec import Codec
    from trifocal.container import Header
    from trifocal.losses import Objective

KNOTS = 8
FIRST_STEP = 4.1


@dataclass(frozen=True)
class Recipe:
    """How a preset is trained; `trifocal train` reads it.

    Attributes:
        learning_rate: Adam's, at its height.
        factors: of it, for parameters with this in their name: the linear paths that start as a DCT move slowly,
            scale indices (in sixths of an octave) and gains fast.
        warmup: steps until the height.
        cooldown: the last part of the run, 0..1, in which the rate falls linearly to a fiftieth.
        batch, crop: pictures a step and their side in pixels.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are the ones that ship.
        seed: of weights, crops and noise.
        betas: Adam's.
    """

    learning_rate: float
    factors: Mapping[str, float]
    warmup: int
    cooldown: float
    batch: int
    crop: int
    clip: float
    ema: float
    seed: int
    betas: tuple[float, float] = (0.9, 0.99)


def rate_distortion() -> Objective:
    """bpp + λ · MSE."""
    from trifocal.losses import Objective

    return Objective()


@dataclass(frozen=True)
class Preset:
    """A model by its name.

    Attributes:
        name: as the user writes it.
        id: as the file's header has it, 1..62; given by hand, never reused.
        summary: one line.
        build: makes the codec with untrained weights.
        recipe: how it is trained.
        weights: file name under trifocal/weights/.
        objective: makes what training minimises.
        words: who reads them: "encoder", "decoder", or "" where nobody does.
        tower: the text tower that makes vectors of them: "compact", or a name or folder for transformers' CLIP.
    """

    name: str
    id: int
    summary: str
    build: Callable[[], Codec]
    recipe: Recipe
    weights: str
    objective: Callable[[], Objective] = rate_distortion
    words: Literal["", "encoder", "decoder"] = ""
    tower: str = ""


def compact() -> Codec:
    """DESIGN section 9: one variable-rate model, lapped 16×16 DCT start, four-pass context, latent of 384 channels at 1/16."""
    import torch

    from trifocal.codec import Codec
    from trifocal.entropy import EntropyModel
    from trifocal.layers import Knots
    from trifocal.losses import lambda_of
    from trifocal.transforms import Analysis, Synthesis

    steps = FIRST_STEP / lambda_of(torch.arange(KNOTS) * Knots.SPACING).sqrt()
    return Codec(
        analysis=Analysis(channels=128, latent_channels=384, blocks=4),
        entropy=EntropyModel(latent_channels=384, hyper_channels=96, width=192, blocks=2, steps=steps),
        synthesis=Synthesis(channels=128, latent_channels=384, blocks=4, knots=KNOTS),
        reach=32,
    )


PRESETS = (
    Preset(
        name="compact",
        id=1,
        summary="variable rate, 3.6 M parameters, for people who look at a picture",
        build=compact,
        recipe=Recipe(
            learning_rate=2e-3,
            factors={".linear.": 0.03, ".lapping.": 0.1, "index.table": 20.0, "log_gain": 3.0},
            warmup=100,
            cooldown=0.5,
            batch=4,
            crop=256,
            clip=2.0,
            ema=0.998,
            seed=1,
        ),
        weights="compact.safetensors",
    ),
)


def find(name: str) -> Preset:
    """The preset of that name.

    Raises:
        PresetError: if there is none; the message lists those there are.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise PresetError(f"There is no preset {name!r}; there are: {', '.join(p.name for p in PRESETS)}.")


@lru_cache(maxsize=4)
def load(name: str = "compact", device: str = "cpu") -> Codec:
    """A codec with its trained weights, ready to encode and decode. The same object is returned for the same arguments.

    Raises:
        PresetError: if there is no such preset.
        WeightsError: if its weights are missing or damaged.
    """
    from trifocal.weights import load_weights

    preset = find(name)
    codec = preset.build()
    codec.preset_id = preset.id
    codec.fingerprint = load_weights(codec, preset.weights)
    return codec.to(device).eval()


def load_for(header: Header, device: str = "cpu") -> Codec:
    """The codec that a file was made with.

    Raises:
        PresetError: if this version of Trifocal does not know the preset.
        WeightsError: if the weights at hand are not those that the file was made with.
    """
    from trifocal.weights import check_fingerprint

    for preset in PRESETS:
        if preset.id == header.preset:
            codec = load(preset.name, device)
            check_fingerprint(codec.fingerprint, header.fingerprint, preset.name)
            return codec
    raise PresetError(
        f"The file was made with preset number {header.preset}, which this version does not know."
    )
