#!/usr/bin/env python3
"""Train the generator of missing latents on the files of cache.py, or export its weights.

    python benchmarks/composition/train.py train CACHE OUT --minutes 60
    python benchmarks/composition/train.py export OUT/checkpoint.pt generator.safetensors

The loss: distance in features of EfficientNet-Lite0, discriminators on these features and on pixels, colour
means, the energy of the bands of the latent, and repeated details, all of missing positions. OUT gets
checkpoint.pt every five minutes and at the end, and log.csv.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from model import (
    HELD_OUT,
    NOISE,
    Generator,
    export_generator,
    load_generator,
    load_network,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from trifocal.detection.efficientnet_lite import EfficientNetLite
from trifocal.entropy.component_coding import kept_positions
from trifocal.training.components import partial_crop
from trifocal.transforms.composition import LATENT_CHANNELS, WIDTH
from trifocal.types import LATENT_STRIDE

BATCH = 6
WINDOW, INNER, MARGIN = 12, 160, 8  # latent positions of a crop; pixels that the loss sees, and beside them
STAGES, STAGE_CHANNELS = (0, 1, 2, 3), (16, 24, 40, 112)  # of EfficientNet-Lite0
BANDS, LOWEST_BAND = 24, 2  # of 16 latent channels each; the energy of the lowest ones has no known sign
MOST_TRIES = 1000  # to find a crop
RAMP = 300  # steps until the discriminators have their whole weight
SAVE_SECONDS, LOG_STEPS = 300, 100
COLUMNS = "step seconds processor feature means adversarial hinge real fake preview_feature energy repeated"


class Batch(NamedTuple):
    latent: Tensor  # [B, h, w, M]
    preview: Tensor  # [B, h, w, M]
    features: Tensor  # [B, h, w, C]
    kept: Tensor  # bool, [B, h, w]
    pixels: Tensor  # 0..1, [B, 3, H, W]
    preview_pixels: Tensor  # [B, 3, H, W]
    level: Tensor  # [B]


class Crops:
    """Random crops of cached images in which more than 0.3 of the positions are missing."""

    def __init__(self, files: Sequence[Path], random: np.random.Generator) -> None:
        self.files, self.random = files, random

    def batch(self, count: int) -> Batch:
        y, p, f, kept, pixels, preview, level = zip(*(self.crop() for _ in range(count)))
        x, small = (torch.stack(part).permute(0, 3, 1, 2).float() / 255 for part in (pixels, preview))
        latent, prediction, features, mask = (torch.stack(part) for part in (y, p, f, kept))
        return Batch(latent, prediction, features, mask, x, small, torch.tensor(level))

    def crop(self) -> tuple[Any, ...]:
        """The fields of Batch for a crop, images as bytes [H, W, 3].

        Raises SystemExit after MOST_TRIES cached images without one.
        """
        for _ in range(MOST_TRIES):
            item = torch.load(self.files[int(self.random.integers(len(self.files)))], weights_only=False)
            height, width = item["y"].shape[:2]
            if min(height, width) < WINDOW:
                continue
            sides = LATENT_STRIDE * width, LATENT_STRIDE * height
            tile = partial_crop(np.asarray(item["boxes"]), *sides, self.random)
            kept = kept_positions(tile.numbers, tile.missing)
            for _ in range(4):
                top, left = (int(self.random.integers(side - WINDOW + 1)) for side in (height, width))
                window = slice(top, top + WINDOW), slice(left, left + WINDOW)
                if (~kept[window]).mean() > 0.3:
                    area = tuple(slice(LATENT_STRIDE * s.start, LATENT_STRIDE * s.stop) for s in window)
                    latents = (item[name][window].float() for name in "ypf")
                    mask = torch.from_numpy(kept[window].copy())
                    return *latents, mask, item["x"][area], item["pv"][area], item["level"]
        raise SystemExit(
            f"No cached image has a crop of {WINDOW} × {WINDOW} positions of which more than 0.3 are "
            "missing; encode larger images with cache.py."
        )


class FeatureNetwork:
    """Features of EfficientNet-Lite0, divided by their root mean square per channel."""

    def __init__(self, pixels: Tensor) -> None:
        self.network = EfficientNetLite(0).to(memory_format=torch.channels_last)
        self.scales = [torch.ones(())] * len(STAGES)
        with torch.no_grad():
            squares = [one.square().mean((0, 2, 3), keepdim=True) for one in self(pixels)]
        self.scales = [square.sqrt().clamp(min=1e-2) for square in squares]

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> [B, channels, h, w] for each of STAGES."""
        with bfloat16():
            stages = self.network.stages(pixels.contiguous(memory_format=torch.channels_last), STAGES)
        return [one.float() / scale for one, scale in zip(stages, self.scales)]


class FeatureDiscriminator(nn.Module):
    """Scores [B, h, w] of features of an image, beside those of the preview."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            spectral_norm(nn.Conv2d(2 * channels, width, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 1, 3, padding=1)),
        )

    def forward(self, features: Tensor, preview: Tensor) -> Tensor:
        return self.net(torch.cat([features, preview], 1))[:, 0]


class PixelDiscriminator(nn.Module):
    """Scores [B, H / 8, W / 8] of pixels, beside those of the preview."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((6, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1)))

    def forward(self, pixels: Tensor, preview: Tensor) -> Tensor:
        return self.net(2 * torch.cat([pixels, preview], 1) - 1)[:, 0]


def discriminators() -> nn.ModuleList:
    """Those of the features, and that of the pixels."""
    heads = nn.ModuleList(FeatureDiscriminator(channels) for channels in STAGE_CHANNELS)
    return nn.ModuleList([heads, PixelDiscriminator()])


def scores(networks: nn.ModuleList, view: View, preview: View) -> list[Tensor]:
    """Scores of each discriminator, [B, h, w]."""
    heads: Any = networks[0]
    with bfloat16():
        parts = [head(*pair) for head, *pair in zip(heads, view.features, preview.features)]
        return [part.float() for part in (*parts, networks[1](view.pixels, preview.pixels))]


class View(NamedTuple):
    """Pixels [B, 3, INNER, INNER] and their features."""

    pixels: Tensor
    features: list[Tensor]

    def detach(self) -> View:
        return View(self.pixels.detach(), [one.detach() for one in self.features])


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def missing_mean(values: Tensor, missing: Tensor) -> Tensor:
    """Mean of values [B, h, w] over the missing pixels [B, H, W]."""
    weight = F.interpolate(missing[:, None], size=values.shape[1:], mode="area")[:, 0]
    return (values * weight).sum() / weight.sum().clamp(min=1)


def average(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean()


def feature_distance(one: View, other: View, missing: Tensor) -> Tensor:
    pairs = zip(one.features, other.features)
    return average([missing_mean((a - b).abs().mean(1), missing) for a, b in pairs])


def compose(network: Any, generator: Generator, batch: Batch) -> tuple[Tensor, Tensor]:
    """Latents [B, h, w, M] and pixels [B, 3, H, W]."""
    noise = torch.randn(*batch.latent.shape[:3], NOISE)
    with bfloat16():
        inputs = batch.latent, batch.kept, batch.preview, batch.features, batch.level
        latent = generator(*inputs, noise)
        residual = network.synthesis.head(network.synthesis.features(latent, batch.level))
    return latent, network.synthesis.to_image(latent, residual.float())


def quantiser_scale(network: Any, batch: Batch) -> Any:
    """1 / quantiser step, [B, 1, 1, M]."""
    return network.entropy.gain(batch.level).reshape(len(batch.level), 1, 1, -1)


def energy_distance(network: Any, latent: Tensor, batch: Batch) -> Tensor:
    """Distance of the logarithms of the bands' energies, at missing positions."""
    scale = quantiser_scale(network, batch)
    logarithms = []
    for value in (latent, batch.latent):
        bands = (value * scale).square().reshape(*value.shape[:3], BANDS, -1).mean(-1)
        logarithms.append((bands[..., LOWEST_BAND:] + 0.1).log())
    return (logarithms[0] - logarithms[1]).abs()[~batch.kept].mean()


def repetition(network: Any, latent: Tensor, batch: Batch) -> Tensor:
    """How much more alike the added details of two missing positions of a crop are than in the original: the
    mean square of what their cosine exceeds, over all pairs. Bands as for `energy_distance`.
    """
    scale = quantiser_scale(network, batch)
    first = LOWEST_BAND * LATENT_CHANNELS // BANDS
    cosines = []
    for value in (latent, batch.latent):
        detail = ((value - batch.preview) * scale)[..., first:].flatten(1, 2)
        detail = detail / (detail.square().sum(-1, keepdim=True) + 1).sqrt()
        cosines.append(detail @ detail.transpose(1, 2))
    missing = (~batch.kept).flatten(1).float()
    pairs = missing[:, :, None] * missing[:, None, :] * (1 - torch.eye(missing.shape[1]))
    excess = F.relu(cosines[0] - cosines[1]).square()
    return (excess * pairs).sum() / pairs.sum()


class Trainer:
    """The generator, its average, the discriminators and their optimizers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.network = load_network()
        self.random = np.random.default_rng(0)
        files = sorted(options.cache.glob("*.pt"))[options.held_out :]
        if not files:
            raise SystemExit(f"{options.cache} has no more than {options.held_out} files; see --held-out.")
        self.crops = Crops(files, self.random)
        self.features = FeatureNetwork(self.crops.batch(24).pixels)
        self.generator = Generator(self.network.synthesis.std, options.width)
        self.discriminators = discriminators()
        if options.discriminators is not None:
            self.discriminators.load_state_dict(torch.load(options.discriminators, weights_only=True)["D"])
        if options.start is not None:
            self.load(options.start)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        settings = (self.generator, options.lr), (self.discriminators, options.discriminator_lr)
        self.optimizers = [torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.99)) for net, lr in settings]
        self.rates = [lr for _, lr in settings]
        self.steps = 0

    def load(self, start: Path) -> None:
        if start.suffix == ".safetensors":
            self.generator = load_generator(start, self.network).train()
            return
        state = torch.load(start, weights_only=True)
        self.generator.load_state_dict(state["gen"])
        self.discriminators.load_state_dict(state["D"])

    def save(self) -> None:
        networks = {"gen": self.generator, "ema": self.average, "D": self.discriminators}
        state = {name: network.state_dict() for name, network in networks.items()}
        torch.save({**state, "step": self.steps}, self.options.out / "new")
        os.replace(self.options.out / "new", self.options.out / "checkpoint.pt")

    def step(self, progress: float) -> list[float]:
        """One step of the generator and the discriminators; the values of COLUMNS from "feature" on.

        Args:
            progress: 0..1, of the training; sets the learning rates.
        """
        options = self.options
        for optimizer, rate in zip(self.optimizers, self.rates):
            decay = 1 if progress < 0.7 else max(0.02, (1 - progress) / 0.3)
            optimizer.param_groups[0]["lr"] = rate * min(1, self.steps / 100) * decay
        batch = self.crops.batch(BATCH)
        latent, composed = compose(self.network, self.generator, batch)
        last = WINDOW * LATENT_STRIDE - INNER - MARGIN
        top, left = (int(self.random.integers(MARGIN, last + 1)) for _ in range(2))
        inner = ..., slice(top, top + INNER), slice(left, left + INNER)
        gone = (~batch.kept).float().repeat_interleave(LATENT_STRIDE, 1).repeat_interleave(LATENT_STRIDE, 2)
        missing = gone[inner]
        with torch.no_grad():
            real, preview = (
                View(pixels[inner], self.features(pixels[inner]))
                for pixels in (batch.pixels, batch.preview_pixels)
            )
            preview_feature = feature_distance(preview, real, missing)
        fake = View(composed[inner], self.features(composed[inner]))
        feature = feature_distance(fake, real, missing)
        error = (fake.pixels - real.pixels) * missing[:, None]
        means = average([F.avg_pool2d(error, side).abs().mean() for side in (8, 16)])
        energy = energy_distance(self.network, latent, batch)
        repeated = repetition(self.network, latent, batch)
        loss = options.feature * feature + options.means * means + options.energy * energy
        loss = loss + options.repetition * repeated
        adversarial = torch.zeros(())
        if self.steps >= options.warm:
            self.discriminators.requires_grad_(False)
            judged = scores(self.discriminators, fake, preview)
            adversarial = average([missing_mean(-one, missing) for one in judged])
            self.discriminators.requires_grad_(True)
            loss = loss + min(1, (self.steps - options.warm) / RAMP) * adversarial
        self.optimizers[0].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), 2.0)
        self.optimizers[0].step()
        judgement = [torch.zeros(())] * 3
        if self.steps >= options.warm - 100:
            judgement = self.step_discriminators(real, fake.detach(), preview, missing)
        share = 1 - min(0.999, (self.steps + 1) / (self.steps + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.generator.parameters()):
                mean.lerp_(value, share)
        self.steps += 1
        values = feature, means, adversarial, *judgement, preview_feature, energy, repeated
        return [float(v.detach()) for v in values]

    def step_discriminators(self, real: View, fake: View, preview: View, missing: Tensor) -> list[Tensor]:
        """The hinge loss, and the mean scores of real and of composed images."""
        good, bad = (scores(self.discriminators, view, preview) for view in (real, fake))
        hinges = [F.relu(1 - one) for one in good], [F.relu(1 + one) for one in bad]
        loss = average([missing_mean(a, missing) + missing_mean(b, missing) for a, b in zip(*hinges)])
        self.optimizers[1].zero_grad()
        loss.backward()
        self.optimizers[1].step()
        return [loss, *(average([missing_mean(one, missing) for one in part]) for part in (good, bad))]


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options)
    start = saved = time.monotonic()
    values: list[list[float]] = []
    with (options.out / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS.split())
        while (seconds := time.monotonic() - start) < 60 * options.minutes:
            values.append(trainer.step(seconds / 60 / options.minutes))
            if trainer.steps % LOG_STEPS == 0:
                means = np.mean(values, 0).round(4).tolist()
                writer.writerow([trainer.steps, round(seconds), round(time.process_time()), *means])
                file.flush()
                values = []
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                trainer.save()
    trainer.save()
    print(f"{trainer.steps} steps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export", help="write the averaged weights of a checkpoint in float16")
    export.add_argument("checkpoint", type=Path)
    export.add_argument("out", type=Path, help="safetensors file to write")
    export.set_defaults(run=lambda options: export_generator(options.checkpoint, options.out))
    training = commands.add_parser(
        "train", help="train", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    training.add_argument("cache", type=Path, help="folder written by cache.py")
    training.add_argument("out", type=Path, help="folder for the checkpoint and the log")
    training.add_argument("--minutes", type=float, default=60, help="length of the training")
    training.add_argument(
        "--start", type=Path, help="checkpoint, or exported weights (without discriminators), to start from"
    )
    training.add_argument("--width", type=int, default=WIDTH, help="channels of a new generator's blocks")
    training.add_argument("--discriminators", type=Path, help="checkpoint whose discriminators to start from")
    training.add_argument("--feature", type=float, default=2, help="weight of the distance in features")
    training.add_argument("--means", type=float, default=25, help="weight of the means of 8 and 16 pixels")
    training.add_argument("--energy", type=float, default=0.5, help="weight of the energy of bands 3 to 24")
    training.add_argument(
        "--repetition", type=float, default=4, help="weight of details that positions share"
    )
    training.add_argument("--warm", type=int, default=300, help="steps before the adversarial loss starts")
    training.add_argument("--lr", type=float, default=2e-4, help="learning rate of the generator")
    training.add_argument("--discriminator-lr", type=float, default=3e-4, help="of the discriminators")
    training.add_argument("--held-out", type=int, default=HELD_OUT, help="first cached images to leave out")
    training.set_defaults(run=train)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
