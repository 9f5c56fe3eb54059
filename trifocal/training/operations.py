"""Count the operations of a training step, and the GPU hours of a run.

The counts are those of `torch.utils.flop_counter.FlopCounterMode`: matrix products, convolutions and
attentions, forward and backward, an addition and a multiplication as two operations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trifocal.codecs.base_layer import ScalableNetwork
from trifocal.codecs.discover import Discover
from trifocal.detection.detector import SplitDetector
from trifocal.detection.faster_rcnn import load_faster_rcnn, untrained_faster_rcnn
from trifocal.detection.instances import MASK_RCNN, load_instance_segmenter
from trifocal.diffusion.stable_diffusion import untrained_stable_diffusion
from trifocal.losses import Lpips, Objective, spread_levels
from trifocal.losses.detection import Target
from trifocal.presets import Preset, find
from trifocal.recipes import BASE_LAYER, BaseLayerRecipe, Recipe, with_fields
from trifocal.text.clip import ClipImageEncoder, untrained_embedding
from trifocal.text.encoder import load_text_encoder
from trifocal.training.optimisers import parameter_groups, train_only
from trifocal.training.stages import make_objective, objective_arguments, stage_recipe
from trifocal.training.tasks.base_layer import BaseLayerLosses, codec_with_base, weights_by_term
from trifocal.types import Batch, Condition

__all__ = ["GPU", "TERAFLOPS", "UTILISATION", "StepOperations", "count_base_operations", "count_operations"]

GPU, TERAFLOPS = "NVIDIA A100", 156.0  # dense TF32 peak in its data sheet, 10¹² operations a second
UTILISATION = 0.3  # of that peak; assumed
CROPS = 2  # that are counted: a discriminator takes mismatched texts, and UG-ICM draws two preferences
TOKENS = 38  # of a text, to which TACO pads
OBJECTS = 4  # in a crop, for UG-ICM
COCO_SIZE = 640, 480  # pixels of most images of COCO


@dataclass(frozen=True)
class StepOperations:
    """Operations of a training step.

    Attributes:
        image: operations of one crop or image, forward and backward, with the frozen networks.
        batch: images in a step, in all processes together.
    """

    image: float
    batch: int

    @property
    def step(self) -> float:
        """Operations of a step."""
        return self.image * self.batch

    def hours(self, steps: int, teraflops: float = TERAFLOPS, utilisation: float = UTILISATION) -> float:
        """GPU hours of a run.

        Args:
            steps: of the run.
            teraflops: peak of the GPU, 10¹² operations a second.
            utilisation: the part of the peak that is reached, 0..1.
        """
        return self.step * steps / (teraflops * 1e12 * utilisation) / 3600


def count_operations(
    preset: str | Preset,
    stage: int = 1,
    fields: Mapping[str, object] | None = None,
    parts: Sequence[str] = (),
) -> StepOperations:
    """Count the operations of a training step of a preset. Its optimiser is not counted.

    A step is done on two random crops. Frozen networks whose weights are downloaded (CLIP, LPIPS, Mask
    R-CNN, Stable Diffusion) have random weights here, or none. A text has 38 tokens, and each crop four
    objects.

    Args:
        preset: or its name.
        stage: of its training, from 1.
        fields: values in place of the recipe's, as for `train`.
        parts: that are trained, as for `train`; empty for all.

    Raises:
        PresetError, OptionError: if there is no such preset, stage, field or part.
        MissingExtra: if a package of the extra `train` is not installed.
    """
    chosen = find(preset)
    recipe: Recipe = with_fields(stage_recipe(chosen, stage), fields or {})
    network = chosen.build().network.train()
    if isinstance(network, Discover):
        without_weights(network)
    if parts:
        train_only(network, parts)
    parameter_groups(network, recipe)  # freezes those with a factor of 0
    objective = objective_without_weights(chosen, stage, recipe)
    side, device = recipe.crop, network.device
    x, levels = torch.rand(CROPS, 3, side, side, device=device), spread_levels(CROPS, device)
    draw_both_preferences()
    with FlopCounterMode(display=False) as counter:
        batch = Batch(x, levels, condition(chosen, recipe))
        for _, loss in objective.losses(network, batch, step=0):
            loss.backward()
    return StepOperations(counter.get_total_flops() / CROPS, recipe.batch)


def count_base_operations(
    of: str | Preset = "dual-layer-compact", fields: Mapping[str, object] | None = None
) -> StepOperations:
    """Count the operations of a training step of a base layer, on an image of 640×480 pixels at the input
    size of the detector. torchvision's Faster R-CNN has random weights here.

    Args:
        of: a scalable preset, or its name.
        fields: values in place of the recipe's, as for `train_base_layer`.

    Raises:
        PresetError, OptionError: as for `train_base_layer`.
    """
    recipe: BaseLayerRecipe = with_fields(BASE_LAYER, fields or {})
    codec = codec_with_base(of, None).train()
    width, height = codec.input_size(*COCO_SIZE)
    losses = BaseLayerLosses(codec.base, base_detector(codec), weights_by_term(recipe)).train()
    box = torch.tensor([[0.1 * width, 0.1 * height, 0.6 * width, 0.6 * height]])
    targets = [Target(box, torch.ones(1, dtype=torch.long), True)]
    with FlopCounterMode(display=False) as counter:
        losses(torch.rand(1, 3, height, width), targets, None)["loss"].backward()
    return StepOperations(float(counter.get_total_flops()), recipe.batch)


def without_weights(network: Discover) -> None:
    """Move the network to torch's device "meta", which computes shapes only, with a Stable Diffusion there.
    On a processor a step would take minutes.
    """
    diffusion = untrained_stable_diffusion()
    network.to("meta")
    network.find_diffusion = lambda name, device: diffusion


def draw_both_preferences() -> None:
    """Seed torch so that the next two random numbers lie on both sides of a half: UG-ICM decodes one crop
    for people and one for machines."""
    for seed in count():
        torch.manual_seed(seed)
        if float(torch.rand(CROPS).round().sum()) == 1:
            torch.manual_seed(seed)
            return


def condition(preset: Preset, recipe: Recipe) -> Condition | None:
    """The text of each crop; CLIP's transformer is run on random tokens."""
    if not preset.text_used_by or recipe.text == "none":
        return None
    if preset.text_encoder == "compact":
        return Condition(load_text_encoder("compact")(["a text of some words"] * CROPS))
    return Condition(untrained_embedding(CROPS, TOKENS))


def objective_without_weights(preset: Preset, stage: int, recipe: Recipe) -> Objective:
    """The objective of a stage. Its frozen networks that are downloaded have random weights."""
    untrained: dict[str, Callable[[], nn.Module]] = {}
    if preset.text_encoder not in ("", "compact"):
        untrained["perceptual"] = partial(Lpips, trained=False)
    if untrained or preset.takes_preference:
        untrained["images"] = partial(ClipImageEncoder, trained=False)
    if preset.takes_preference and recipe.objective.get("objects", MASK_RCNN) == MASK_RCNN:
        untrained["segmenter"] = UntrainedSegmenter
    known = objective_arguments(preset, stage)
    networks = {name: build() for name, build in untrained.items() if name in known}
    return make_objective(preset, stage, recipe, networks)


class UntrainedSegmenter(nn.Module):
    """Mask R-CNN with random weights. It finds nothing, and each image gets `OBJECTS` masks."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_instance_segmenter(trained=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        self.network(x)
        return [torch.ones(OBJECTS, *x.shape[2:], dtype=torch.bool)] * len(x)


def base_detector(codec: ScalableNetwork) -> SplitDetector:
    """The detector of a base layer; torchvision's has random weights."""
    trained = codec.find_detector is not load_faster_rcnn
    return codec.find_detector("cpu") if trained else untrained_faster_rcnn()
