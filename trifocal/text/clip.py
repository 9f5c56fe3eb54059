"""CLIP (Radford et al. 2021, arXiv 2103.00020) through transformers: its text half, and its image half for losses.

Both take any name on the hub or any folder that transformers' own loader takes. What is on this machine is used without
asking the hub. Both are frozen, and their pooled vectors lie in one space of `projection_dim` numbers.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.errors import MissingExtra, OptionError, WeightsError
from trifocal.types import TextEmbedding

CLIP = "openai/clip-vit-base-patch32"


class ClipTextEncoder:
    """Texts → Words, by CLIP's text transformer: a `TextEncoder`.

    Tokens are the last hidden states after the final layer norm; pooled is that of the end token, projected into the
    space of the pictures. Tokens are bytes and pairs of them, so that no character is unknown.

    Args:
        name: on the hub, or a folder.
        device: where it computes.
        pad_to: cut and pad every text to so many tokens, not to the longest of the batch (TACO's code pads to 38; that it
            cuts there too is our reading).

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded.
        OptionError: if `pad_to` leaves no place for a token, or is more than the model has places.
    """

    def __init__(self, name: str = CLIP, device: str = "cpu", pad_to: int | None = None) -> None:
        model, self.tokenizer = load(name, tokenizer=True)
        places: int = model.config.text_config.max_position_embeddings
        if pad_to is not None and not 3 <= pad_to <= places:
            raise OptionError(f"Texts of {name} can be padded to 3 to {places} tokens, not to {pad_to}.")
        self.name = name
        self.width: int = model.config.projection_dim
        if model.config.text_config.hidden_size != self.width:
            raise WeightsError(
                f"{name} has tokens of {model.config.text_config.hidden_size} numbers and pooled vectors of {self.width};"
                " name a CLIP where both are equal."
            )
        self.length = pad_to or places
        self.pads = pad_to is not None
        self.network = model.text_model.to(device)
        self.projection = model.text_projection.to(device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        """B texts → Words: tokens [B, T, D], pooled [B, D], not normalised."""
        encoded = self.tokenizer(
            [readable(text) for text in texts],
            padding="max_length" if self.pads else "longest",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).to(self.projection.weight.device)
        seen = self.network(**encoded)
        pooled = self.projection(seen.pooler_output)
        return TextEmbedding(seen.last_hidden_state, encoded["attention_mask"].bool(), pooled)

    def notes(self, texts: Sequence[str]) -> list[str]:
        """Sentences on what is cut, and on letters that CLIP has hardly seen."""
        said = []
        for text in texts:
            plain = readable(text)
            count = len(self.tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"])
            if count > self.length - 2:
                said.append(f"The text has {count} tokens; the first {self.length - 2} count.")
            if any(c.isalpha() and not unicodedata.name(c, "").startswith("LATIN") for c in plain):
                said.append(
                    "The text has letters that are not Latin; CLIP has learned English and will make little of them."
                )
            if plain != text:
                said.append("The text has broken characters; each is read as a question mark.")
        return list(dict.fromkeys(said))


class ClipImages(nn.Module):
    """Pictures → their vectors by CLIP's image half, with a gradient to the picture: [B, 3, H, W] in 0..1 → [B, D].

    The picture is shrunk (or enlarged) to a short side of 224 pixels, bicubic and antialiased, and its centre is taken, as
    CLIP's own preparation does, but without rounding to 8 bits. The vectors are not normalised; those of the texts are
    `ClipTextEncoder(name)(texts).pooled`.

    Args:
        name: on the hub, or a folder.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str = CLIP) -> None:
        super().__init__()
        model, _ = load(name, tokenizer=False)
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        self.title = Path(name).name if Path(name).is_dir() else name
        self.side: int = model.config.vision_config.image_size
        self.network = model.vision_model
        self.projection = model.visual_projection
        self.register_buffer("mean", torch.tensor(OPENAI_CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(OPENAI_CLIP_STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.network(pixel_values=self.prepared(x)).pooler_output
        vectors: Tensor = self.projection(pooled)
        return vectors

    def prepared(self, x: Tensor) -> Tensor:
        """What the network sees, [B, 3, side, side]."""
        height, width = x.shape[-2:]
        short = min(height, width)
        size = [self.side * height // short, self.side * width // short]
        if size != [height, width]:
            x = F.interpolate(x, size, mode="bicubic", antialias=True)
        top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        return (x[..., top : top + self.side, left : left + self.side] - self.mean) / self.deviation


def load(name: str, tokenizer: bool) -> tuple[Any, Any]:
    """transformers' CLIPModel, frozen, and its tokenizer, or None; from this machine if they are here.

    Raises MissingExtra or WeightsError.
    """
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ImportError:
        raise MissingExtra("text", "CLIP") from None
    try:
        with quiet():
            model, found = fetch(CLIPModel, name, output_loading_info=True)
            texts = fetch(AutoTokenizer, name) if tokenizer else None
    except Exception as error:  # OSError, and nearly anything on foreign files
        raise WeightsError(
            f"The CLIP {name!r} could not be loaded; get it where there is a network, put it in a folder, and name that."
        ) from error
    if found["missing_keys"]:
        raise WeightsError(f"{name!r} is no CLIP, or not all of one: it lacks {min(found['missing_keys'])}.")
    return model.eval().requires_grad_(False), texts


def fetch(kind: Any, name: str, **options: bool) -> Any:
    """From this machine, or else from the hub, which is tried for some time."""
    try:
        return kind.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        return kind.from_pretrained(name, **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Neither bars nor reports nor a line for each try: our sentence says what failed."""
    from transformers.utils import logging as theirs

    hub = logging.getLogger("huggingface_hub")
    before = hub.level, theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(before[0])
        theirs.set_verbosity(before[1])
        if before[2]:
            theirs.enable_progress_bar()


def readable(text: str) -> str:
    """Halves of characters, which a terminal with another encoding may hand over, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
