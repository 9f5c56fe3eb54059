"""Trifocal, a learned image codec.

    trifocal.encode("photo.jpg", quality=60).save("photo.tri")
    trifocal.decode("photo.tri").picture.save("photo.png")
    trifocal.detect("photo.tri").names

or, with a codec that is loaded once:

    codec = trifocal.load()
    stream = codec.encode("photo.jpg", max_bytes=20_000)
    codec.decode(stream).picture.rgb  # uint8 [H, W, 3]

`import trifocal` is fast: torch, networks and weights are loaded on first use.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trifocal import errors as errors
    from trifocal import presets as presets
    from trifocal.api import EncodeOptions as EncodeOptions
    from trifocal.api import Encoder as Encoder
    from trifocal.api import decode as decode
    from trifocal.api import detect as detect
    from trifocal.api import encode as encode
    from trifocal.codecs.codec import Decoded as Decoded
    from trifocal.container import Bitstream as Bitstream
    from trifocal.container import Component as Component
    from trifocal.detection.detections import Detections as Detections
    from trifocal.errors import TrifocalError as TrifocalError
    from trifocal.errors import TrifocalWarning as TrifocalWarning
    from trifocal.pictures import FrameConverter as FrameConverter
    from trifocal.pictures import Picture as Picture
    from trifocal.preset_table import Preset as Preset
    from trifocal.presets import load as load
    from trifocal.presets import register as register
    from trifocal.utils.limits import limit_pixels as limit_pixels

    __version__: str

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle OpenMP threads sleep; benchmarks/busy.py

__all__ = [
    "Bitstream",
    "Component",
    "Decoded",
    "Detections",
    "EncodeOptions",
    "Encoder",
    "FrameConverter",
    "Picture",
    "Preset",
    "TrifocalError",
    "TrifocalWarning",
    "__version__",
    "decode",
    "detect",
    "encode",
    "errors",
    "limit_pixels",
    "load",
    "presets",
    "register",
]

_MODULES = {
    "Bitstream": "container",
    "Component": "container",
    "Decoded": "codecs.codec",
    "Detections": "detection.detections",
    "EncodeOptions": "options",
    "Encoder": "api",
    "FrameConverter": "pictures",
    "Picture": "pictures",
    "Preset": "preset_table",
    "TrifocalError": "errors",
    "TrifocalWarning": "errors",
    "decode": "api",
    "detect": "api",
    "encode": "api",
    "limit_pixels": "utils.limits",
    "load": "presets",
    "register": "presets",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("trifocal")
    if name in ("errors", "presets"):
        return import_module(f"trifocal.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'trifocal' has no attribute {name!r}")
    return getattr(import_module(f"trifocal.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
