"""PicoDet as an ONNX file: preprocessing, and decoding of its outputs.

PP-PicoDet (Yu et al. 2021, arXiv 2111.00902) predicts, at each cell of four strides, class scores and the
distances from the centre of the cell to the four sides of a box. A distance is the expectation over 8 bins
(Li et al. 2020, "Generalized Focal Loss", section 3.2), in units of the stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.detection.detections import Detections, Floats, Pixels, resize, to_chw
from trifocal.detection.input_size import COCO_IDS
from trifocal.errors import OptionError

__all__ = ["OVERLAP", "PICODET_SIDE", "STRIDES", "decode_picodet", "nms", "picodet_cells", "preprocess"]

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet, R G B, 0..255
STRIDES = (8, 16, 32, 64)
PICODET_SIDE = 416  # pixels, where the file does not fix the input size
MIN_SCORE = 0.025
OVERLAP = 0.6  # the IoU above which non-maximum suppression removes a box
MAX_BOXES = 100  # per image, as in COCO's protocol


def preprocess(pixels: Pixels, width: int, height: int) -> NDArray[np.float32]:
    """uint8 [H, W, 3] → PicoDet's input [1, 3, height, width]: resized (bicubic) and normalised."""
    resized = to_chw(resize(pixels, (width, height), Image.Resampling.BICUBIC))
    mean, deviation = (np.array(values, np.float32)[:, None, None] for values in (MEAN, DEVIATION))
    return ((resized - mean) / deviation)[None]


def decode_picodet(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> Detections:
    """PicoDet's eight outputs → at most 100 objects in an image of that size, best score first.

    Raises:
        OptionError: if the shapes of the outputs do not fit together.
    """
    boxes, scores = picodet_cells(outputs, width, height)
    cell, number = np.nonzero(scores > MIN_SCORE)
    boxes = np.clip(boxes, 0, [width, height, width, height])[cell]
    labels: NDArray[np.int64] = np.array(COCO_IDS)[number]
    chosen: Floats = scores[cell, number]
    kept = nms(boxes, labels, chosen)[:MAX_BOXES]
    return Detections(boxes[kept], labels[kept], chosen[kept])


def nms(boxes: Floats, labels: NDArray[np.int64], scores: Floats) -> NDArray[np.int64]:
    """Non-maximum suppression within each class at OVERLAP: the indices of the boxes that stay, best score
    first.
    """
    import torch
    from torchvision.ops import batched_nms

    return batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), OVERLAP).numpy()


def picodet_cells(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> tuple[Floats, Floats]:
    """The box of each cell, [N, 4] in the pixels of an image of that size, and its scores, [N, 80].

    Args:
        outputs: class scores [1, n², 80] for each of STRIDES, then distances [1, n², 4·bins] for each, as
            logits.

    Raises:
        OptionError: if the shapes of the outputs do not fit together.
    """
    if len(outputs) != 8 or any(output.ndim != 3 or len(output) != 1 for output in outputs):
        raise OptionError(
            f"PicoDet has eight outputs for one image, not {[output.shape for output in outputs]}."
        )
    boxes, scores = [], []
    for stride, score, distance in zip(STRIDES, outputs[:4], outputs[4:], strict=True):
        side = math.isqrt(score.shape[1])
        if side**2 != score.shape[1] or distance.shape[1] != score.shape[1] or distance.shape[2] % 4:
            raise OptionError(f"PicoDet's scores {score.shape} and distances {distance.shape} do not fit.")
        boxes.append(_boxes_at(stride, side, distance[0].astype(np.float64)))
        scores.append(score[0].astype(np.float64))
    input_side = STRIDES[0] * math.isqrt(outputs[0].shape[1])
    scale = np.array([width, height, width, height]) / input_side
    return np.concatenate(boxes) * scale, np.concatenate(scores)


def _boxes_at(stride: int, side: int, distances: Floats) -> Floats:
    """Logits [side², 4·bins] of one stride → boxes [side², 4] in pixels of the network's input."""
    logits = distances.reshape(side**2, 4, -1)
    bins = np.exp(logits - logits.max(axis=2, keepdims=True))
    left, top, right, bottom = (stride * (bins @ np.arange(bins.shape[2])) / bins.sum(axis=2)).T
    row, column = np.divmod(np.arange(side**2), side)
    x, y = (cell * stride + (stride - 1) / 2 for cell in (column, row))
    return np.stack([x - left, y - top, x + right, y + bottom], axis=1)
