"""The registry of presets, and codecs with the right weights for a preset or a file."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trifocal.errors import Damaged, OptionError, PresetError, WeightsError
from trifocal.preset_table import DEFAULT, PRESETS, Preset
from trifocal.text_conditioning import encoding_condition
from trifocal.utils.notices import warn
from trifocal.utils.timing import gc_paused

if TYPE_CHECKING:
    from trifocal.codecs.codec import Codec
    from trifocal.codecs.loading import Engine
    from trifocal.codecs.scalable import ScalableCodec
    from trifocal.container import Header, Layer
    from trifocal.text import TextEncoder
    from trifocal.types import Condition

__all__ = [
    "DEFAULT",
    "PRESETS",
    "Preset",
    "all_presets",
    "check_base_layer",
    "check_components",
    "check_preference",
    "check_text",
    "find",
    "load",
    "load_for",
    "preset_for",
    "register",
    "scalable_codec",
    "shared_codec",
    "text_encoder_for",
]

ENTRY_POINTS = "trifocal.presets"  # the group in which installed packages name their presets
PRIVATE_IDS = range(48, 63)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_registered: dict[str, Preset] = {}


def find(preset: str | Preset) -> Preset:
    """The preset of that name: bundled, registered, or of an installed package. A Preset is returned
    unchanged.

    Raises:
        PresetError: if there is none; the message lists all names.
    """
    if isinstance(preset, Preset):
        return preset
    found = _first(lambda known: known.name == preset)
    if found is None:
        names = ", ".join(known.name for known in all_presets())
        raise PresetError(f"There is no preset {preset!r}; there are: {names}.")
    return found


def preset_for(header: Header) -> Preset:
    """The preset that a file was made with.

    Raises:
        PresetError: if its id is unknown.
    """
    found = _first(lambda known: known.id == header.preset_id)
    if found is None:
        remedy = (
            "install the package that has it, or call trifocal.register"
            if header.preset_id in PRIVATE_IDS
            else "update Trifocal"
        )
        raise PresetError(
            f"The file was made with preset number {header.preset_id}, which is not known here; {remedy}."
        )
    return found


def register(preset: Preset) -> Preset:
    """Add a preset to those of this process, by its name and its id. One with the same name and id is
    replaced.

    Its `weights` may be an absolute path. Packages can name presets in the entry point group
    "trifocal.presets" instead.

    Raises:
        PresetError: for an id outside of 48..62, or a name or id that is taken; the message says which.
    """
    check_registration(preset, [known for known in all_presets() if known.name not in _registered])
    for other in _registered.values():
        if (other.name == preset.name) != (other.id == preset.id):
            raise PresetError(taken(preset, other))
    _registered[preset.name] = preset
    return preset


def all_presets() -> tuple[Preset, ...]:
    """The bundled presets, those that were registered, and those of installed packages."""
    known = (*PRESETS, *_registered.values())
    names, ids = {preset.name for preset in known}, {preset.id for preset in known}
    return (*known, *(one for one in _installed() if one.name not in names and one.id not in ids))


def _first(matches: Callable[[Preset], bool]) -> Preset | None:
    """Packages are searched only for what is neither bundled nor registered."""
    for preset in (*PRESETS, *_registered.values()):
        if matches(preset):
            return preset
    return next(filter(matches, all_presets()), None)


@lru_cache(maxsize=1)
def _installed() -> tuple[Preset, ...]:
    """The presets of installed packages, by their entry points. Those that cannot be used are left out with a
    warning.
    """
    from importlib.metadata import entry_points

    found: list[Preset] = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            for preset in _presets_in(entry.load()):
                check_registration(preset, (*PRESETS, *found))
                found.append(preset)
        except Exception as error:  # noqa: BLE001 - code of another package
            warn(f"The presets of the entry point {entry.name} = {entry.value} are left out: {error}")
    return tuple(found)


def _presets_in(loaded: object) -> Iterable[Preset]:
    """An entry point names a Preset, several, or a function that returns either."""
    value = loaded if isinstance(loaded, Preset) or not callable(loaded) else loaded()
    presets = [value] if isinstance(value, Preset) else value
    if not isinstance(presets, list | tuple) or not all(isinstance(one, Preset) for one in presets):
        raise PresetError(f"it gives {type(value).__name__}, not a Preset or a list of presets.")
    return presets


def check_registration(preset: Preset, others: Iterable[Preset]) -> None:
    """Raises PresetError as `register` does."""
    if preset.id not in PRIVATE_IDS:
        raise PresetError(
            f"A registered preset has an id from {PRIVATE_IDS[0]} to {PRIVATE_IDS[-1]}, and {preset.name} "
            f"has {preset.id};"
            " the others belong to bundled presets."
        )
    if not NAME.fullmatch(preset.name):
        raise PresetError(f"The name {preset.name!r} may have letters, digits, dots, hyphens and _ only.")
    for other in others:
        if other.name == preset.name or other.id == preset.id:
            raise PresetError(taken(preset, other))


def taken(preset: Preset, other: Preset) -> str:
    return (
        f"The preset {preset.name} (id {preset.id}) has the name or id of {other.name} (id {other.id}); "
        "choose others."
    )


def load(
    preset: str | Preset = DEFAULT,
    device: str = "cpu",
    weights: str | PathLike[str] | None = None,
    engine: Engine | None = None,
) -> Codec:
    """Load a codec with trained weights, ready to encode and decode. The copy is yours; train or change it
    freely.

    Args:
        preset: a name, or a Preset.
        device: of torch, such as "cpu" or "cuda".
        weights: a .safetensors file instead of the preset's own weights.
        engine: "onnx", which needs no torch, or "torch". By default ONNX on the CPU for the compact presets.

    Raises:
        PresetError: if there is no such preset.
        OptionError: if the engine cannot run the preset or the device.
        MissingExtra: for torch, if it is not installed.
        WeightsError: if its weights are missing or damaged, or do not fit it.
    """
    return copy.deepcopy(shared_codec(preset, device, weights, engine))


@gc_paused()
def shared_codec(
    preset: str | Preset = DEFAULT,
    device: str = "cpu",
    weights: str | PathLike[str] | None = None,
    engine: Engine | None = None,
) -> Codec:
    """As `load`, but the same object for the same arguments; do not change it."""
    from trifocal.weights import WEIGHTS_FOLDER

    preset = find(preset)
    path = WEIGHTS_FOLDER / preset.weights if weights is None else Path(weights).absolute()
    if path.is_dir():
        raise WeightsError(f"{weights} is a folder; name the .safetensors file in it.")
    if not path.is_file():
        raise WeightsError(
            f"The preset {preset.name} has no trained weights; train it with `trifocal train {preset.name} "
            "--data IMAGES`, "
            "and name them with --weights."
            if weights is None
            else f"There are no weights at {weights}; name the .safetensors file that `trifocal train "
            f"{preset.name}` wrote."
        )
    return _load(preset, device, path, path.stat().st_mtime_ns, engine_for(preset, device, engine))


@lru_cache(maxsize=4)
def _load(preset: Preset, device: str, path: Path, changed: int, engine: Engine) -> Codec:
    """`changed` is the time of the file's last change in ns, so that weights that were trained further are
    read again.
    """
    from trifocal.codecs.loading import onnx_codec, torch_codec
    from trifocal.weights import read_level

    codec = (
        onnx_codec(preset.name, preset.has_base_layer, preset.build, path, preset.shared_weights)
        if engine == "onnx"
        else torch_codec(preset.build, path, preset.shared_weights, device)
    )
    codec.preset_id = preset.id
    codec.text_inputs = partial(text_inputs, preset)
    codec.only_level = read_level(path)
    return codec


def engine_for(preset: Preset, device: str, engine: str | None) -> Engine:
    """The engine that runs a preset: by default ONNX where it can, else torch. Raises OptionError for one
    that cannot.
    """
    from trifocal import preset_table
    from trifocal.graphs.session import has_graphs

    if engine not in (None, "onnx", "torch"):
        raise OptionError(f"engine is onnx or torch, not {engine}.")
    if engine == "torch":
        return "torch"
    bundled = any(known.build is preset.build for known in preset_table.PRESETS) and has_graphs(preset.name)
    if bundled and device == "cpu":
        return "onnx"
    if engine == "onnx":
        limit = "runs on the CPU; leave the device out, or" if bundled else f"has no graphs of {preset.name};"
        raise OptionError(f"The ONNX engine {limit} use the torch engine.")
    return "torch"


def text_inputs(preset: Preset, text: str | None, send: bool) -> tuple[Condition | None, tuple[Layer, ...]]:
    """What `Codec.encode` makes of `text` and `send_text`. Raises as `check_text` and
    `encoding_condition`.
    """
    check_text(preset, text is not None, send)
    return encoding_condition(preset, text, send)


@gc_paused()
def load_for(
    header: Header,
    device: str = "cpu",
    weights: str | PathLike[str] | None = None,
    engine: Engine | None = None,
) -> Codec:
    """The codec that a file was made with, by the fingerprint in its header. It is shared; do not change it.

    Args:
        header: of the file.
        device: of torch, such as "cpu" or "cuda".
        engine: as for `load`.
        weights: a .safetensors file, or a folder of them to search. None searches the bundled weights, and
            then the folder in the environment variable TRIFOCAL_WEIGHTS.

    Raises:
        PresetError: if the preset is unknown.
        WeightsError: if no weights with this fingerprint are found; the message says which release has them,
            if that is known.
    """
    from trifocal.codecs.loading import fingerprints_in, where_weights_are
    from trifocal.container.fields import hexadecimal
    from trifocal.weights import WEIGHTS_FOLDER

    preset = preset_for(header)
    folder = os.environ.get("TRIFOCAL_WEIGHTS") if weights is None else weights
    named = None if weights is None or Path(weights).is_dir() else weights
    have = "none"
    if named is not None or (WEIGHTS_FOLDER / preset.weights).exists():
        codec = shared_codec(preset, device, named, engine)
        if codec.can_decode(header, refresh=False):
            return codec
        fingerprint = codec.fingerprint_in(header.version)
        have = "others" if fingerprint is None else hexadecimal(fingerprint, header.version)
    if named is None:
        for path in weight_files_for(preset, folder):
            if header.fingerprint in fingerprints_in(
                path, path.stat().st_mtime_ns, preset.shared_weights, header.version
            ):
                return shared_codec(preset, device, path, engine)
    raise WeightsError(
        f"The file needs the weights {header.fingerprint_hex} of the preset {preset.name}; here are {have}. "
        f"{where_weights_are(preset.name, header)}"
    )


def scalable_codec(
    header: Header, device: str, weights: str | PathLike[str] | None, engine: Engine | None = None
) -> ScalableCodec:
    """The codec of a file that has a base layer. Raises Damaged if its preset has none, and as
    `load_for`.
    """
    preset = preset_for(header)
    if not preset.has_base_layer:
        raise Damaged(f"The file is damaged: it has a base layer, and its preset {preset.name} has none.")
    return cast("ScalableCodec", load_for(header, device, weights, engine))


def weight_files_for(preset: Preset, folder: str | PathLike[str] | None) -> Iterator[Path]:
    """Weight files that may belong to a preset: its bundled earlier ones, then all in the folder."""
    from trifocal.weights import WEIGHTS_FOLDER

    yield from (path for name in preset.earlier_weights if (path := WEIGHTS_FOLDER / name).exists())
    if folder:
        yield from sorted(Path(folder).glob("*.safetensors"))


def text_encoder_for(preset: str | Preset, device: str = "cpu") -> TextEncoder:
    """Load the text encoder of a preset.

    Raises:
        PresetError: if there is no such preset, or it takes no text; the message lists those that do.
        WeightsError, MissingExtra: if the encoder's weights, or the package that loads them, are not
            installed.
    """
    preset = find(preset)
    check_text(preset, True)
    from trifocal.text.encoder import load_text_encoder

    return load_text_encoder(preset.text_encoder, device)


def check_text(preset: Preset, given: bool, send: bool = False) -> None:
    """Check whether a preset takes text, and whether the text may be stored in its files.

    Raises:
        PresetError: if text is given or to be sent, and nothing in the preset reads it; the message lists
            presets that do.
        OptionError: if there is no text to send.
    """
    if (given or send) and not preset.text_used_by:
        *most, last = [other.name for other in all_presets() if other.text_used_by] or ["no preset"]
        able = f"{', '.join(most)} and {last} do" if most else f"{last} does"
        raise PresetError(f"{preset.name} takes no text; {able}.")
    if send and preset.text_used_by != "decoder":
        raise PresetError(f"The decoder of {preset.name} reads no text; do not send it.")
    if send and not given:
        raise OptionError("There is no text to send; give one, or do not ask to send it.")


def check_preference(preset: Preset, preference: float | None) -> None:
    """Check a preference, 0..1; None is right for every preset.

    Raises:
        PresetError: if the preset's decoder takes none; the message lists presets whose decoders do.
        OptionError: for a number out of 0..1.
    """
    if preference is None:
        return
    if not preset.takes_preference:
        able = [other.name for other in all_presets() if other.takes_preference] or ["no preset"]
        raise PresetError(f"{preset.name} takes no preference; use {' or '.join(able)}.")
    if not 0 <= preference <= 1:
        raise OptionError(f"A preference is from 0, for people, to 1, for machines, not {preference:g}.")


def check_base_layer(preset: Preset) -> None:
    """Raises PresetError if a preset has no base layer; the message lists presets that have one."""
    if not preset.has_base_layer:
        able = [other.name for other in all_presets() if other.has_base_layer] or ["no preset"]
        raise PresetError(f"{preset.name} has no base layer; use {' or '.join(able)}.")


def check_components(preset: Preset) -> None:
    """Raises PresetError if the files of a preset have no components; the message lists presets that have."""
    if not (preset.has_base_layer or preset.takes_components):
        able = [other.name for other in all_presets() if other.has_base_layer or other.takes_components]
        raise PresetError(f"{preset.name} takes no components; use {' or '.join(able or ['no preset'])}.")
