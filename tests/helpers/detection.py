"""Images with a bright rectangle, detectors, and a codec of two JPEG layers."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck, ResNet

from helpers.codecs import small_codec
from trifocal.codecs.codec import Decoded
from trifocal.codecs.rate_control import DEFAULT_BASE, BaseLayerOptions, Rate
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.detection.detections import Detections
from trifocal.detection.input_size import compact_size
from trifocal.evaluation.candidates.layer_ablations import BASE_LAYER_DETECTORS
from trifocal.evaluation.tasks.detection import Annotations, DetectionTask
from trifocal.pictures import Picture
from trifocal.presets import PRESETS

WIDTH, HEIGHT = 640, 480
BRIGHT_BOX = (120, 90, 360, 270)  # of the bright rectangle in each image: left, top, right, bottom


def as_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def decode_image(data: bytes | None) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data or b"")))


def find_bright_box(rgb: np.ndarray) -> np.ndarray:
    """The box around all bright pixels, [1, 4]; the whole image if none is bright."""
    rows, columns = np.nonzero(rgb.mean(axis=2) > 130)
    if not rows.size:
        return np.array([[0, 0, rgb.shape[1], rgb.shape[0]]], np.float64)
    return np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float64)


class TwoJpegCodec(ScalableCodec):
    """A small JPEG as base layer, a large one as enhancement; its detector finds bright pixels."""

    fingerprint = 0xBEEF

    def __init__(self) -> None:
        self.asked: list[tuple[Rate, BaseLayerOptions]] = []
        self.detected = 0

    def encode_picture(
        self, picture: Picture, rate: Rate, base: BaseLayerOptions = DEFAULT_BASE, *options: Any, **more: Any
    ) -> Bitstream:
        self.asked.append((rate, base))
        quality = rate.quality
        size = compact_size(picture.width, picture.height)
        small = np.asarray(Image.fromarray(picture.rgb).resize(size))
        base_quality = int((quality or 50) if base.quality is None else base.quality)
        level = int(8 * (50 if quality is None else quality))
        header = Header(picture.width, picture.height, 60, level, self.fingerprint)
        chunk = bytes([base_quality]) + as_jpeg(small, base_quality)
        return Bitstream(
            header,
            (Layer(Tag.BASE, (chunk,)), Layer(Tag.ENHANCEMENT, (as_jpeg(picture.rgb, level // 8),))),
        )

    def decode(self, source: Any, *args: Any, **more: Any) -> Decoded:
        layer = source.layer(Tag.ENHANCEMENT)
        assert layer is not None
        return Decoded(Picture(decode_image(layer.chunks[0])))

    def base_preview(self, bitstream: Bitstream) -> Picture:
        size = bitstream.header.width, bitstream.header.height
        return Picture(np.asarray(Image.fromarray(self.decode_base(bitstream)).resize(size)))

    def detect(self, bitstream: Bitstream) -> Detections:
        self.detected += 1
        small = self.decode_base(bitstream)
        scale = bitstream.header.width / small.shape[1], bitstream.header.height / small.shape[0]
        box = find_bright_box(small) * np.array(scale * 2)
        return Detections(box, np.array([1]), np.array([0.9]))

    def decode_base(self, bitstream: Bitstream) -> np.ndarray:
        layer = bitstream.layer(Tag.BASE)
        assert layer is not None
        return decode_image((layer.chunks[0] or b"")[1:])


class BrightDetector:
    """Finds the box around bright pixels, and keeps the sizes of its inputs."""

    masks = False
    categories = None

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def find(self, pixels: np.ndarray) -> Detections:
        self.seen.append(pixels.shape[:2])
        return Detections(find_bright_box(pixels), np.array([1]), np.array([0.9]))


def use_two_jpeg_preset(monkeypatch: pytest.MonkeyPatch) -> TwoJpegCodec:
    """Make the presets `two` (layered, with the detector `bright`) and an untrained `compact`."""
    codec, plain = TwoJpegCodec(), small_codec()
    presets = replace(PRESETS[0], name="two", id=60, has_base_layer=True), PRESETS[0]
    monkeypatch.setattr("trifocal.presets.PRESETS", presets)
    monkeypatch.setattr(
        "trifocal.presets.shared_codec", lambda name, *rest: codec if name == "two" else plain
    )
    monkeypatch.setitem(BASE_LAYER_DETECTORS, "two", "bright")
    return codec


def bright_image(seed: int) -> np.ndarray:
    """Dark noise with a bright rectangle, uint8 [480, 640, 3]."""
    rgb = np.random.default_rng(seed).normal(60, 8, (HEIGHT, WIDTH, 3))
    rgb[BRIGHT_BOX[1] : BRIGHT_BOX[3], BRIGHT_BOX[0] : BRIGHT_BOX[2]] += 120
    return rgb.clip(0, 255).astype(np.uint8)


def write_bright_images(tmp_path: Path) -> Path:
    """Write two images with a bright rectangle, and COCO annotations beside their folder."""
    place = tmp_path / "pictures"
    place.mkdir()
    images, items = [], []
    for number in range(2):
        Image.fromarray(bright_image(number)).save(place / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
        box = [BRIGHT_BOX[0], BRIGHT_BOX[1], BRIGHT_BOX[2] - BRIGHT_BOX[0], BRIGHT_BOX[3] - BRIGHT_BOX[1]]
        items.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    text = json.dumps({"images": images, "annotations": items, "categories": [{"id": 1, "name": "square"}]})
    (tmp_path / "instances.json").write_text(text)
    return place


def detection_task(folder: Path, detector: BrightDetector, name: str) -> DetectionTask:
    """The detection task on the annotations of `write_bright_images`."""
    pytest.importorskip("faster_coco_eval")
    return DetectionTask(detector, Annotations.read(folder.parent / "instances.json"), model=name)


MIN_SIDE, MAX_SIDE = 96, 160  # of the small network's input, in pixels


def small_faster_rcnn() -> FasterRCNN:
    """torchvision's Faster R-CNN on a thin ResNet with a pyramid, of five classes; random weights."""
    torch.manual_seed(0)
    body = ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8)
    stages = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(body, stages, [256, 512, 1024, 2048], 16)
    network = FasterRCNN(backbone, 6, min_size=MIN_SIDE, max_size=MAX_SIDE, rpn_post_nms_top_n_test=60)
    with torch.no_grad():
        network.rpn.head.bbox_pred.weight.mul_(20)  # so that no box equals its anchor
        network.roi_heads.box_predictor.bbox_pred.weight.mul_(20)
    return network.eval()


def record_detections(monkeypatch: pytest.MonkeyPatch, found: Detections) -> list[Picture]:
    """Replace the bundled detector by one that finds `found` in each image. Returns the images it gets."""
    images: list[Picture] = []

    def detect_objects(picture: Picture, **engine: object) -> Detections:
        images.append(picture)
        return found

    monkeypatch.setattr("trifocal.codecs.scalable.detect_objects", detect_objects)
    return images
