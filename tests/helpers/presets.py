"""A preset of the small codec."""

from dataclasses import replace

from helpers.codecs import small_codec
from trifocal import presets


def small_codec_preset() -> presets.Preset:
    """A preset of the small codec, with the recipe of `compact` on small crops."""
    recipe = replace(presets.find("compact").recipe, batch=2, crop=64, warmup=2, ema=0.5)
    return presets.Preset("small", 9, "for tests", small_codec, recipe, "small.safetensors")
