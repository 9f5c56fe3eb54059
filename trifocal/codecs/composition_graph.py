"""The graph of the network that composes missing components."""

import torch
from torch.export import Dim

from trifocal.codecs.composition import WEIGHTS
from trifocal.codecs.graph_sources import Source
from trifocal.transforms.composition import Composition, composition
from trifocal.weights import load_weights

__all__ = ["composition_sources"]


def load_network() -> Composition:
    """The network with the bundled weights. Raises WeightsError."""
    network = composition()
    load_weights(network, WEIGHTS.name)
    return network.eval().requires_grad_(False)


def composition_sources() -> dict[str, Source]:
    """The graph "composition". Raises WeightsError."""
    h, w = Dim("h", max=4096), Dim("w", max=4096)
    network = load_network()
    m = network.head.out_channels
    channels = {"known": m, "preview": m, "features": network.stem.in_channels - 2 * m - 2, "kept": 1}
    inputs = {name: torch.ones(1, 12, 8, count) for name, count in channels.items()}
    inputs["level"] = torch.tensor([400])
    dynamic = {name: {1: h, 2: w} for name in channels} | {"level": {}}
    return {"composition": Source(network, inputs, dynamic, ("addition",))}
