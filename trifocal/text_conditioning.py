"""Words beside a picture: who reads them, and how they get there.

    encode    text ── tower ── Condition ── analysis       where the preset's encoder reads words
              text ── TEXT layer ── file                   where its decoder does, and they are to be sent
    decode    text, or TEXT layer ── tower ── Condition ── synthesis

Words that reach the decoder by another road cost nothing here; those that are sent are bytes of the file as all others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from trifocal.container import Bitstream, Layer, Tag
from trifocal.container.text import embedded_text, normalise_text, text_layer
from trifocal.errors import FormatError, OptionError, PresetError
from trifocal.presets import Preset, check_words, condition_for, find, preset_of

if TYPE_CHECKING:
    from trifocal.types import Condition

__all__ = ["check", "for_decoding", "for_encoding", "texts_from", "unread"]

Note = Callable[[str], None]


def check(preset: Preset, given: bool, send: bool) -> None:
    """Whether a preset's encoder may be given words, and whether they may be sent.

    Raises:
        PresetError: if nobody would read them.
        OptionError: if there are none to send.
    """
    if given or send:
        check_words(preset)
    if send and preset.words != "decoder":
        raise PresetError(f"The decoder of {preset.name} reads no words; leave --send-text out.")
    if send and not given:
        raise OptionError("There are no words to send; give them with --text, or leave --send-text out.")


def for_encoding(
    name: str, text: str | None, send: bool = False, note: Note | None = None
) -> tuple[Condition | None, tuple[Layer, ...]]:
    """What `Codec.encode` of the preset `name` is given for a text: what steers it, and the layers that the file carries.

    Args:
        text: what the picture shows; None for no words, which is not the same as an empty text.
        send: put the text into the file.
        note: called with a sentence for what a person may not expect.

    Raises:
        PresetError, OptionError: as `check`, or for a text that is too long or is not Unicode.
        WeightsError, MissingExtra: if the preset's text tower is not on this machine.
    """
    preset = find(name)
    check(preset, text is not None, send)
    if text is None:
        return None, ()
    if preset.words == "encoder":
        return condition_for(name, [normalise_text(text)], note=note), ()
    if not send and note:
        note(
            "The words are not in the file; send them with --send-text, or give them again when you decode it."
        )
    return None, (text_layer(text),) if send else ()


def for_decoding(
    stream: Bitstream, text: str | None = None, best_effort: bool = False, note: Note | None = None
) -> Condition | None:
    """What steers the decoding of a file: a text that is given, else the one that it carries, else nothing.

    Args:
        stream: the file.
        text: what the picture shows.
        best_effort: go on without the file's words where they are damaged.
        note: called with a sentence for what a person may not expect.

    Raises:
        PresetError: if this version does not know the preset, or for a text that its decoder does not read.
        FormatError: if the file's words cannot be read.
        OptionError: for a text that is not Unicode.
        WeightsError, MissingExtra: if the preset's text tower is not on this machine.
    """
    preset = preset_of(stream.header)
    tell = note or (lambda sentence: None)
    if text is not None:
        check_words(preset)
        if preset.words != "decoder":
            raise PresetError(f"The decoder of {preset.name} needs no words; leave --text out.")
    if preset.words != "decoder":
        if sentence := unread(preset, stream):
            tell(sentence)
        return None
    try:
        said = embedded_text(stream) if text is None else normalise_text(text)
    except FormatError as error:
        if not best_effort:
            raise
        tell(f"{error} It was decoded without them.")
        return None
    if said is None:
        tell("Decoded without words: the file carries none, and --text gave none.")
        return None
    return condition_for(preset.name, [said], note=note)


def unread(preset: Preset, stream: Bitstream) -> str | None:
    """A sentence where a file carries words that the decoder of its preset does not read."""
    if preset.words == "decoder" or stream.layer(Tag.TEXT) is None:
        return None
    return f"The file carries words, and the decoder of {preset.name} does not read them."


def texts_from(file: str | PathLike[str], pictures: Sequence[Path]) -> dict[Path, str]:
    """Words for each picture: from a .json file by the picture's path or name, {"dog.jpg": "a brown dog"}; from any other
    file all that stands in it, the same for all.

    Raises:
        OptionError: if the file is not UTF-8 or not such an object, or has no words for a picture.
        OSError: if it cannot be read.
    """
    path = Path(file)
    try:
        content = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".json":
            return dict.fromkeys(pictures, content)
        texts = json.loads(content)
    except UnicodeDecodeError as error:
        raise OptionError(f"{path.name} is not UTF-8; save it as that.") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise OptionError(
            f'{path.name} is not an object of file names and words; write it like {{"dog.jpg": "a brown dog"}}.'
        )
    key_of = {
        picture: picture.as_posix() if picture.as_posix() in texts else picture.name for picture in pictures
    }
    missing = [picture.name for picture, key in key_of.items() if key not in texts]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise OptionError(f"{path.name} has no words for {missing[0]}{others}; add some, or an empty text.")
    return {picture: texts[key] for picture, key in key_of.items()}
