"""CLIP's text and image encoders, through the package transformers.

Radford et al. 2021, arXiv 2103.00020.

Both accept the name of a model on the Hugging Face Hub or a folder. A model in the folder of networks
(`utils.local_networks`) or in the cache is used without access to the network.

Both are frozen, and their pooled embeddings share one space of `projection_dim` numbers.
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
from trifocal.utils.local_networks import HOW_TO_NAME, local_model

CLIP = "openai/clip-vit-base-patch32"


class ClipTextEncoder:
    """CLIP's text transformer as a `TextEncoder`.

    `tokens` are the last hidden states after the final layer norm. `pooled` is that of the end token,
    projected to the space of the image embeddings. The tokenizer is byte-level, so no character is unknown.

    Args:
        name: of a model on the Hugging Face Hub, or a folder.
        device: the torch device.
        pad_to: truncate and pad all texts to this number of tokens, instead of padding to the longest text of
            the batch. TACO's code pads to 38; we assume that it truncates there, too.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded.
        OptionError: if `pad_to` is less than 3, or more than the model's maximum length.
    """

    def __init__(self, name: str = CLIP, device: str = "cpu", pad_to: int | None = None) -> None:
        model, self.tokenizer = load_clip(name, tokenizer=True)
        max_length: int = model.config.text_config.max_position_embeddings
        if pad_to is not None and not 3 <= pad_to <= max_length:
            raise OptionError(f"pad_to must be 3 to {max_length} tokens for {name}, not {pad_to}.")
        self.name = name
        self.width: int = model.config.projection_dim
        if model.config.text_config.hidden_size != self.width:
            raise WeightsError(
                f"{name} has token embeddings of {model.config.text_config.hidden_size} numbers and pooled"
                " embeddings"
                f" of {self.width}; choose a CLIP model where both are equal."
            )
        self.length = pad_to or max_length
        self.pads = pad_to is not None
        self.network = model.text_model.to(device)
        self.projection = model.text_projection.to(device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        """B texts → tokens [B, T, D], mask [B, T] and pooled [B, D], not normalised."""
        encoded = self.tokenizer(
            [replace_surrogates(text) for text in texts],
            padding="max_length" if self.pads else "longest",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).to(self.projection.weight.device)
        hidden = self.network(**encoded)
        pooled = self.projection(hidden.pooler_output)
        return TextEmbedding(hidden.last_hidden_state, encoded["attention_mask"].bool(), pooled)

    def notices(self, texts: Sequence[str]) -> list[str]:
        """A notice for each limitation that applies: truncation, or characters unlike the training data."""
        notices = []
        for text in texts:
            plain = replace_surrogates(text)
            count = len(self.tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"])
            if count > self.length - 2:
                notices.append(f"The text has {count} tokens; only the first {self.length - 2} are used.")
            if any(c.isalpha() and not unicodedata.name(c, "").startswith("LATIN") for c in plain):
                notices.append(
                    "The text has non-Latin letters; CLIP was trained on English text and may not"
                    " understand them."
                )
            if plain != text:
                notices.append("The text has invalid characters; each is replaced by a question mark.")
        return list(dict.fromkeys(notices))


class ClipImageEncoder(nn.Module):
    """CLIP's image encoder, differentiable: [B, 3, H, W] in 0..1 → embeddings [B, D], not normalised.

    The image is resized to a short side of 224 pixels (bicubic, antialiased) and its centre is cropped, like
    CLIP's own preprocessing, but without rounding to 8 bits. `ClipTextEncoder(name)(texts).pooled` are
    embeddings in the same space.

    Args:
        name: of a model on the Hugging Face Hub, or a folder.
        trained: False makes a ViT-B/32 with random weights, to count operations without a download.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str = CLIP, trained: bool = True) -> None:
        super().__init__()
        model = load_clip(name, tokenizer=False)[0] if trained else untrained_clip()
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        self.title = Path(name).name if Path(name).is_dir() else name
        self.side: int = model.config.vision_config.image_size
        self.network = model.vision_model
        self.projection = model.visual_projection
        self.register_buffer("mean", torch.tensor(OPENAI_CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(OPENAI_CLIP_STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.network(pixel_values=self.preprocess(x)).pooler_output
        vectors: Tensor = self.projection(pooled)
        return vectors

    def preprocess(self, x: Tensor) -> Tensor:
        """Resize, crop and normalise: [B, 3, H, W] in 0..1 → [B, 3, side, side]."""
        height, width = x.shape[-2:]
        short = min(height, width)
        size = [self.side * height // short, self.side * width // short]
        if size != [height, width]:
            x = F.interpolate(x, size, mode="bicubic", antialias=True)
        top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        return (x[..., top : top + self.side, left : left + self.side] - self.mean) / self.deviation


def untrained_clip() -> Any:
    """A frozen CLIPModel of the size of ViT-B/32 with random weights. Raises MissingExtra."""
    try:
        from transformers import CLIPConfig, CLIPModel
    except ImportError:
        raise MissingExtra("text", "CLIP") from None
    return CLIPModel(CLIPConfig()).eval().requires_grad_(False)


@torch.no_grad()
def untrained_embedding(count: int, tokens: int) -> TextEmbedding:
    """Embeddings of texts of random tokens from a CLIP with random weights. Raises MissingExtra."""
    model = untrained_clip()
    hidden = model.text_model(input_ids=torch.randint(1000, (count, tokens)))
    mask = torch.ones(count, tokens, dtype=torch.bool)
    return TextEmbedding(hidden.last_hidden_state, mask, model.text_projection(hidden.pooler_output))


def load_clip(name: str, tokenizer: bool) -> tuple[Any, Any]:
    """The frozen CLIPModel of transformers, and its tokenizer if requested, else None.

    Raises:
        MissingExtra: if transformers is not installed.
        WeightsError: if the model cannot be loaded, or is incomplete.
    """
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ImportError:
        raise MissingExtra("text", "CLIP") from None
    name = local_model(name)
    try:
        with silence_transformers():
            model, found = load_pretrained(CLIPModel, name, output_loading_info=True)
            texts = load_pretrained(AutoTokenizer, name) if tokenizer else None
    except Exception as error:  # OSError, or almost any exception for files of another kind
        raise WeightsError(
            f"The CLIP model {name!r} cannot be loaded; download it to FOLDER/{Path(name).name} on a machine "
            f"with network access, and {HOW_TO_NAME}."
        ) from error
    if found["missing_keys"]:
        raise WeightsError(
            f"{name!r} is not a CLIP model, or is incomplete: it lacks {min(found['missing_keys'])}."
        )
    return model.eval().requires_grad_(False), texts


def load_pretrained(kind: Any, name: str, **options: bool) -> Any:
    """Load from the cache, or else from the Hugging Face Hub, which may take a while to fail."""
    try:
        return kind.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        return kind.from_pretrained(name, **options)


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Suppress the progress bars and messages of transformers; errors are reported by Trifocal."""
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    before = hub.level, transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(before[0])
        transformers_logging.set_verbosity(before[1])
        if before[2]:
            transformers_logging.enable_progress_bar()


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, as from a terminal with another encoding, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
