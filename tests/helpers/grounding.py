"""Objects as a detector gives them, and a small random Grounding DINO in a folder, like a published one."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from trifocal.detection.detections import Detections
from trifocal.detection.labels import CATEGORY_BY_NAME

WORDS = ("cat", "dog", "red", "car", "the", "a", "traffic", "light", "sign", "gira", "##ffe")


def detections(*objects: tuple[str, float, tuple[float, float, float, float]]) -> Detections:
    """Objects of a label of COCO, a score, and a box in pixels."""
    names, scores, boxes = zip(*objects, strict=True) if objects else ((), (), ())
    labels = np.array([CATEGORY_BY_NAME[name] for name in names], np.int64)
    return Detections(np.array(boxes, float).reshape(-1, 4), labels, np.array(scores))


def make_grounding_dino(folder: Path) -> Path:
    """A Grounding DINO with Swin and BERT of two layers, which reads 24 tokens in a pass."""
    import torch

    transformers: Any = importlib.import_module("transformers")
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192})
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=2,
            out_indices=[2, 3, 4],
        ),
        text_config=transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        d_model=32,
        num_queries=12,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_text_len=24,
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    return folder
