"""The interface that a codec runs on: another runtime codes images without torch."""

import subprocess
import sys

import pytest

from helpers.codecs import small_codec
from trifocal.codecs.codec import Codec
from trifocal.errors import PresetError

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # every import of it fails
import numpy as np
from trifocal.codecs.codec import Codec
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream
from trifocal.entropy.coder import cost_table
from trifocal.entropy.range_coder import range_coder_models
from trifocal.entropy.tables import logistic_frequencies
from trifocal.pictures import Picture

class MeanEntropy:
    passes, dead_zone, joins_hyper_latent = 1, 0.0, False
    tables = logistic_frequencies()
    def scale(self, y, level): return y * 2.0 ** (level / 200)
    def unscale(self, y_hat, level): return (y_hat / 2.0 ** (level / 200)).astype(np.float32)
    def hyper_analysis(self, scaled, level): return np.zeros((1, scaled.shape[1] // 4, scaled.shape[2] // 4, 1))
    def prior(self, level, size): return (np.zeros((1, size[0] // 4, size[1] // 4, 1)),) * 2
    def hyper_synthesis(self, z_hat): return z_hat.repeat(4, 1).repeat(4, 2)
    def predict(self, step, features, y_hat, level):
        shape = (*features.shape[:3], 3)
        return np.full(shape, 0.0), np.full(shape, 50.0)
    def correct(self, step, features, y_hat, level): return y_hat
    def take(self, y, step): return y
    def put(self, part, step): return part
    def models(self): return range_coder_models(self.tables)
    def cost(self): return cost_table(self.tables)

class MeanRuntime:
    receptive_field, latent_channels, has_importance_map, arithmetics = 0, 3, False, (1,)
    def fingerprint(self, version, arithmetic, refresh=True): return 7
    def decodable_fingerprints(self, version, arithmetic): return frozenset()
    def entropy(self, arithmetic=None): return MeanEntropy()
    def prepare(self, picture, condition): return condition
    def analyse(self, rgb, condition):
        h, w, _ = rgb.shape
        return rgb.reshape(1, h // 16, 16, w // 16, 16, 3).mean((2, 4), dtype=np.float32) - np.float32(128)
    def synthesise(self, y_hat, level, condition):
        return ((y_hat + 128) / 255).repeat(16, 1).repeat(16, 2).transpose(0, 3, 1, 2).astype(np.float32)

codec = Codec(MeanRuntime())
codec.preset_id = 62
picture = Picture(np.kron(np.random.default_rng(0).integers(0, 256, (7, 9, 3)), np.ones((16, 16, 1))).astype(np.uint8))
stream = Bitstream.from_bytes(codec.encode(picture, quality=100).to_bytes())
assert np.abs(codec.decode(stream).picture.rgb.astype(int) - picture.rgb).max() <= 1
assert codec.encode(picture, max_bytes=stream.size - 30).size <= stream.size - 30
assert codec.synthesise(codec.decode_latents(stream)).rgb.shape == picture.rgb.shape
try:
    codec.network
except Exception as error:
    print(type(error).__name__)
"""


def test_codec_runs_without_torch() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=False, capture_output=True, text=True)
    assert run.stdout.strip() == "PresetError", run.stderr


def test_network_is_available_only_with_torch(codec: Codec) -> None:
    assert codec.network.entropy.latent_channels == codec.runtime.latent_channels == 48
    with pytest.raises(PresetError, match="without torch"):
        _ = Codec(object()).network  # type: ignore[arg-type]
    names = {name.split(".")[0] for name, _ in small_codec().network.named_parameters()}
    assert names == {"analysis", "entropy", "synthesis"}
