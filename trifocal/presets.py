"""Presets by name and by file: their codecs with the right weights, their text towers, and which options they take."""

from __future__ import annotations

import copy
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.preset_table import DEFAULT, PRESETS, Preset
from trifocal.utils.timing import gc_paused

GENERATIONS = Path(__file__).with_name("weights") / "generations.csv"

if TYPE_CHECKING:
    from trifocal.codecs.codec import Codec
    from trifocal.container import Header
    from trifocal.losses import Objective
    from trifocal.text import TextEncoder
    from trifocal.types import Condition


def find(name: str) -> Preset:
    """The preset of that name.

    Raises:
        PresetError: if there is none; the message lists those there are.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise PresetError(f"There is no preset {name!r}; there are: {', '.join(p.name for p in PRESETS)}.")


def preset_of(header: Header) -> Preset:
    """The preset that a file was made with.

    Raises:
        PresetError: if this version of Trifocal does not know it.
    """
    for preset in PRESETS:
        if preset.id == header.preset:
            return preset
    raise PresetError(
        f"The file was made with preset number {header.preset}, which this version does not know."
    )


def load(name: str = DEFAULT, device: str = "cpu", weights: str | PathLike[str] | None = None) -> Codec:
    """A codec with its trained weights, ready to encode and decode. It is the caller's own, to be trained or changed.

    Args:
        name: of the preset.
        device: torch's name of it.
        weights: a file (.safetensors) of your own training, in the place of those that ship.

    Raises:
        PresetError: if there is no such preset.
        WeightsError: if its weights are missing or damaged, or do not fit it.
    """
    return copy.deepcopy(shared_codec(name, device, weights))


@gc_paused()
def shared_codec(
    name: str = DEFAULT, device: str = "cpu", weights: str | PathLike[str] | None = None
) -> Codec:
    """As `load`, the same object for the same arguments; not to be changed."""
    from trifocal.weights import FOLDER

    preset = find(name)
    path = FOLDER / preset.weights if weights is None else Path(weights).absolute()
    if path.is_dir():
        raise WeightsError(f"{weights} is a folder; name the .safetensors file in it that is to be used.")
    if not path.is_file():
        raise WeightsError(
            f"The preset {name} has no trained weights that ship; train it with `trifocal train {name} --data PICTURES`, "
            "and name them with --weights."
            if weights is None
            else f"There are no weights at {weights}; name the .safetensors file that `trifocal train {name}` wrote."
        )
    return _load(name, device, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(name: str, device: str, path: Path, changed: int) -> Codec:
    """`changed` is when the file was, in ns, so that weights that were trained further are read again."""
    import torch

    from trifocal.weights import load_weights

    preset = find(name)
    with torch.inference_mode(False):  # who encodes may need a gradient
        codec = preset.build()
        codec.preset_id = preset.id
        load_weights(codec, path, preset.shared)
        return codec.to(device).eval()


@gc_paused()
def load_for(header: Header, device: str = "cpu", weights: str | PathLike[str] | None = None) -> Codec:
    """The codec that a file was made with, by the fingerprint in its header; not to be changed.

    Args:
        header: of the file.
        device: torch's name of it.
        weights: a file (.safetensors), or a folder of them in which the right ones are looked for. If None, those that ship are looked
            through, then the folder that the environment variable TRIFOCAL_WEIGHTS names.

    Raises:
        PresetError: if this version of Trifocal does not know the preset.
        WeightsError: if the weights at hand are not those that the file was made with; the message says where they are.
    """
    from trifocal.container.fields import hexadecimal
    from trifocal.weights import FOLDER

    preset = preset_of(header)
    folder = os.environ.get("TRIFOCAL_WEIGHTS") if weights is None else weights
    named = None if weights is None or Path(weights).is_dir() else weights
    have = "none"
    if named is not None or (FOLDER / preset.weights).exists():
        codec = shared_codec(preset.name, device, named)
        mark = codec.fingerprint_in(header.version)
        if mark == header.fingerprint:
            return codec
        have = "others" if mark is None else hexadecimal(mark, header.version)
    if named is None:
        for path in earlier_weights(preset, folder):
            if part_id(path, path.stat().st_mtime_ns, preset.shared, header.version) == header.fingerprint:
                return shared_codec(preset.name, device, path)
    raise WeightsError(
        f"The file was made with weights {header.fingerprint_hex} of the preset {preset.name}, but {have} are at hand; "
        f"{where_weights_are(preset.name, header)}"
    )


def earlier_weights(preset: Preset, folder: str | PathLike[str] | None) -> Iterator[Path]:
    """Files of weights that may be a preset's: its earlier ones that ship, then all in the folder."""
    from trifocal.weights import FOLDER

    yield from (path for name in preset.earlier if (path := FOLDER / name).exists())
    if folder:
        yield from sorted(Path(folder).glob("*.safetensors"))


@lru_cache(maxsize=256)
def part_id(path: Path, changed: int, shared: str, version: int) -> int | None:
    """The fingerprint of a file of weights; None where it is none. `changed` is that of `_load`."""
    from trifocal.entropy.exact import ARITHMETIC
    from trifocal.weights import FOLDER, fingerprint, read_weights

    try:
        weights = read_weights(path, FOLDER / shared if shared else None)
    except WeightsError:
        return None
    return fingerprint(weights, version, ARITHMETIC)


def where_weights_are(preset: str, header: Header) -> str:
    """The end of a sentence: which version of Trifocal had the weights of a file, by generations.csv."""
    with open(GENERATIONS, encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["preset"] == preset and row[f"fingerprint_{header.version}"] == header.fingerprint_hex:
                return (
                    f"they are trifocal/weights/{row['file']} of Trifocal {row['release']} (commit {row['commit']}, SHA-256 "
                    f"{row['sha256']}); name that file with --weights, or its folder with TRIFOCAL_WEIGHTS."
                )
    return "name its weights with --weights, or install the version of Trifocal that made the file."


def condition_for(
    name: str,
    texts: Sequence[str],
    device: str = "cpu",
    note: Callable[[str], None] | None = None,
) -> Condition:
    """Texts as what steers a preset: B texts for a batch of B pictures, through the preset's own tower.

    Args:
        name: of the preset.
        texts: a text for each picture; it may be empty.
        device: torch's name of it.
        note: called with a sentence for each thing of the texts that the tower leaves out or does not know.

    Raises:
        PresetError: if there is no such preset, or it takes no words; the message lists those that do.
        WeightsError, MissingExtra: if the tower's weights, or what loads them, are not on this machine.
    """
    import torch

    from trifocal.types import Condition

    tower = text_encoder_for(name, device)
    if note:
        for sentence in tower.notes(texts):
            note(sentence)
    with torch.no_grad():
        return Condition(tower(texts))


def text_encoder_for(name: str, device: str = "cpu") -> TextEncoder:
    """The text tower of the preset `name`. Raises as `condition_for` does."""
    preset = find(name)
    check_words(preset)
    from trifocal.text.encoder import load_text_encoder

    return load_text_encoder(preset.tower, device)


def objective_of(preset: Preset, stage: int) -> Callable[[], Objective]:
    """What makes the objective of a stage of training, 1 for the first.

    Raises:
        OptionError: where the preset has not so many stages.
    """
    stages = (preset.objective, *preset.stages)
    if not 1 <= stage <= len(stages):
        have = f"stages 1 to {len(stages)}, not {stage}" if preset.stages else "one stage; leave --stage out"
        raise OptionError(f"The preset {preset.name} has {have}.")
    return stages[stage - 1]


def check_words(preset: Preset) -> None:
    """Raises PresetError where nobody reads words; the message lists the presets whose words are read."""
    if preset.words:
        return
    names = [other.name for other in PRESETS if other.words]
    *most, last = names or ["no preset"]
    able = f"{', '.join(most)} and {last} do" if most else f"{last} does"
    raise PresetError(f"{preset.name} takes no words; {able}.")


def with_preference(
    preset: Preset, condition: Condition | None, preference: float | None
) -> Condition | None:
    """What steers the decoding of a file, and for whom: 0 for people … 1 for machines; None says nothing.

    Raises:
        PresetError: where the decoder knows no preference; the message names the presets whose decoders do.
        OptionError: for a number out of 0..1.
    """
    check_preference(preset, preference)
    if preference is None:
        return condition
    import torch

    from trifocal.types import Condition

    return replace(condition or Condition(), preference=torch.tensor([float(preference)]))


def check_preference(preset: Preset, preference: float | None) -> None:
    """Raises as `with_preference` does; None is right everywhere."""
    if preference is None:
        return
    if not preset.preference:
        able = [other.name for other in PRESETS if other.preference] or ["no preset"]
        raise PresetError(f"{preset.name} knows no preference; take {' or '.join(able)}.")
    if not 0 <= preference <= 1:
        raise OptionError(f"A preference goes from 0, for people, to 1, for machines, not {preference:g}.")


def check_layers(preset: Preset) -> None:
    """Raises PresetError where a preset makes no base layer; the message names those that do."""
    if not preset.layers:
        able = [other.name for other in PRESETS if other.layers] or ["no preset"]
        raise PresetError(f"{preset.name} makes no base layer; take {' or '.join(able)}.")


def base_layer_options(preset: Preset, **options: int | None) -> dict[str, int]:
    """Those options of a base layer that are not None. Raises PresetError where there are some and the preset makes none."""
    said = {name: value for name, value in options.items() if value is not None}
    if said:
        check_layers(preset)
    return said
