"""Detectors by name: the bundled detector, torchvision's, and ONNX files."""

from __future__ import annotations

from collections.abc import Sequence

from trifocal.detection.detections import Detections, ObjectDetector, Pixels
from trifocal.detection.input_size import COCO_IDS
from trifocal.detection.onnx_detector import OnnxDetector
from trifocal.evaluation.tasks.networks import TorchvisionNetwork, load_torchvision
from trifocal.pictures import Picture

__all__ = ["COMPACT", "CompactDetector", "TorchvisionDetector", "create_detector"]

COMPACT = "compact"


class CompactDetector:
    """The bundled detector on whole images; its tail also reads base layers.

    It resizes the image to `compact_size`, and the boxes back. Raises WeightsError.
    """

    categories: Sequence[int] | None = COCO_IDS
    masks = False

    def __init__(self) -> None:
        from trifocal.detection.detector import load_detector

        self.network = load_detector()

    def find(self, pixels: Pixels) -> Detections:
        """The objects in an image, uint8 [H, W, 3]."""
        from trifocal.codecs.scalable import detect_objects

        return detect_objects(Picture(pixels), self.network)

    def find_in_resized(self, pixels: Pixels) -> Detections:
        """The objects in an image that already has the size `compact_size`: it is not resized again."""
        import torch

        x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            found: Detections = self.network(x)[0]
        return found


class TorchvisionDetector(TorchvisionNetwork):
    """A torchvision detector. Its labels are COCO's category ids.

    It resizes the image itself, and the boxes back: R-CNN, FCOS and RetinaNet to a short side of 800 pixels
    (long side at most 1333; fasterrcnn_mobilenet_v3_large_320_fpn 320 and 640), SSD to 300 x 300, SSDlite to
    320 x 320.
    """

    categories: Sequence[int] | None = COCO_IDS

    @property
    def masks(self) -> bool:
        return getattr(getattr(self.model, "roi_heads", None), "mask_predictor", None) is not None

    def find(self, pixels: Pixels) -> Detections:
        """The objects in an image, uint8 [H, W, 3]."""
        import torch

        with torch.inference_mode():
            output = self.model([self.input_tensor(pixels)])[0]
        masks = output.get("masks")
        return Detections(
            boxes=output["boxes"].double().cpu().numpy(),
            labels=output["labels"].cpu().numpy(),
            scores=output["scores"].double().cpu().numpy(),
            masks=None if masks is None else (masks[:, 0] > 0.5).cpu().numpy(),
        )


def create_detector(model: str, device: str = "cpu") -> ObjectDetector:
    """A detector by name: "compact", a path that ends in .onnx, or a torchvision model.

    Raises:
        OptionError: for an unknown model, or a file of another form.
        NotMeasured, WeightsError: if its weights are not on this machine.
        MissingExtra: without the packages that it needs.
        OSError: if there is no such file.
    """
    if model.lower().endswith(".onnx"):
        return OnnxDetector(model)
    if model == COMPACT:
        return CompactDetector()
    return TorchvisionDetector(*load_torchvision("detection", model), device)
