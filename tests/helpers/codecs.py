"""Small codecs with random weights."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch

from helpers.images import random_rgb
from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.codecs.ug_icm_compact import UgIcmCompact
from trifocal.entropy import EntropyModel
from trifocal.pictures import Picture, canvas
from trifocal.transforms import Analysis, Synthesis
from trifocal.transforms.preference_conditioned import PreferenceConditionedSynthesis
from trifocal.types import Condition


def small_codec(seed: int = 0, noise: float = 0.05) -> Codec:
    """A small codec of the classes of `compact`. All weights get random noise, so that no path is zero."""
    torch.manual_seed(seed)
    steps = torch.logspace(2.0, 0.8, 8)
    network = CodecNetwork(
        analysis=Analysis(channels=16, latent_channels=48, blocks=2),
        entropy=EntropyModel(latent_channels=48, hyper_channels=8, width=16, blocks=1, step_sizes=steps),
        synthesis=Synthesis(channels=16, latent_channels=48, blocks=2, knots=8),
        receptive_field=16,
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".linear." not in name and "log_gain" not in name and "normalise" not in name:
                parameter.add_(noise * torch.randn_like(parameter))
    codec = Codec(TorchRuntime(network.eval()))
    codec.preset_id = 1
    return codec


def largest_seam(codec: Codec, condition: Condition, monkeypatch: pytest.MonkeyPatch) -> int:
    """The largest difference in levels between an image decoded in six tiles and decoded at once."""
    picture = Picture(random_rgb(300, 200, seed=5))
    monkeypatch.setattr(canvas, "TILE", 128)
    stream = codec.encode(picture, quality=60)
    assert len(stream.layers[0].chunks) == 6
    by_tile = codec.decode(stream, condition=condition).picture.rgb
    y_hat = torch.from_numpy(codec.decode_latents(stream).y)
    with torch.inference_mode():
        at_once = codec.network.synthesise(y_hat, torch.tensor([480]), condition)[0, :, :200, :300]
    return int(np.abs(at_once.permute(1, 2, 0).mul(255).round().clamp(0, 255).numpy() - by_tile).max())


def randomise_weights(codec: Codec, seed: int) -> Codec:
    """Randomise the weights so that latents span several steps and images are near grey."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in codec.network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        y = codec.network.analyse(torch.rand(1, 3, 128, 128))
        codec.network.entropy.gain.log_gain.table.sub_(y.std().log())
        codec.network.entropy.exact_side.context.normalise.table.mul_(y.std())
    codec.preset_id = 1
    codec.network.eval()
    return codec


def small_codec_with(
    network: type[CodecNetwork],
    make_synthesis: Callable[[], Synthesis],
    added: Sequence[str],
    preset_id: int,
    noise: float,
) -> Codec:
    """`small_codec` with a synthesis that starts from its weights; the `added` parts get random noise."""
    plain = small_codec(noise=0.0).network
    torch.manual_seed(3)
    synthesis = make_synthesis()
    synthesis.load_state_dict(plain.synthesis.state_dict(), strict=False)
    codec = Codec(TorchRuntime(network(plain.analysis, plain.entropy, synthesis, receptive_field=32)))
    with torch.no_grad():
        for name in added:
            for parameter in synthesis.get_submodule(name).parameters():
                parameter.add_(noise * torch.randn_like(parameter))
    codec.preset_id = preset_id
    codec.network.eval()
    return codec


def small_ug_icm(noise: float = 0.05) -> Codec:
    """A small codec of the classes of `ug-icm-compact`; the parameters for machines get random noise."""
    synthesis = partial(PreferenceConditionedSynthesis, 16, 48, 2, 8, preference_blocks=1)
    return small_codec_with(UgIcmCompact, synthesis, ("preferring", "detail"), 9, noise)
