"""A small random CLIP model in a folder, like a published one."""

import json
from pathlib import Path

import torch


def make_clip(folder: Path, projection: int = 16, width: int = 16) -> Path:
    """A CLIP of that width, with a token for every byte and for the word "dog"."""
    import transformers
    from tokenizers import pre_tokenizers

    folder.mkdir()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *[a + "</w>" for a in letters], "do", "dog</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(words)}
    torch.manual_seed(0)
    transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**size, **tokens},
            vision_config={**size, "image_size": 32, "patch_size": 16},
            projection_dim=projection,
        )
    ).save_pretrained(folder)
    return folder
