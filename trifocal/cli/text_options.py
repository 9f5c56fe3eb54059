"""The text of each image of a command, and the encoder that uses it."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trifocal.api import Encoder
    from trifocal.cli.console import Console
    from trifocal.cli.paths import Job
    from trifocal.codecs.loading import Engine
    from trifocal.options import EncodeOptions
    from trifocal.pictures import Picture


def encoder_with_text(
    terminal: "Console",
    jobs: "Sequence[Job]",
    preset: Any,
    options: "EncodeOptions",
    engine: "Engine | None",
    weights: str | None,
    text_file: str | None,
    caption: str | None,
) -> "tuple[Encoder, Callable[[Job, Picture], str | None]]":
    """The encoder, and a function from a job and its image to the image's text. Errors about all images are
    raised here.
    """
    from dataclasses import replace

    from trifocal.api import Encoder
    from trifocal.text_conditioning import read_texts

    options.check(preset)
    texts = {} if text_file is None else read_texts(text_file, [job.source for job in jobs])
    alike, same = caption is None and len({*texts.values()}) <= 1, next(iter(texts.values()), options.text)
    if alike:
        options = replace(options, text=same, text_per_image=False)
    encoder = Encoder(preset, options, engine=engine, weights=weights, notify=terminal.print_notice)
    if alike:
        return encoder, lambda job, picture: same
    if caption is None:
        return encoder, lambda job, picture: texts[job.source]
    from trifocal.errors import optional_packages

    with optional_packages("text", "A captioner"):
        from trifocal.text.captions import CAPTIONER, Captioner

    captioner = Captioner(CAPTIONER if caption == "auto" else caption)
    lock = Lock()  # of the captioner

    def captioned(job: "Job", picture: "Picture") -> str:
        with lock:
            text = captioner(picture.rgb)
        terminal.print_notice(f"{job.source.name}: {text}", style="")
        return text

    return encoder, captioned
