"""Create a `Candidate` from a `Variant`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trifocal.data.coco import INSTANCES, find_annotations
from trifocal.errors import NotMeasured
from trifocal.evaluation.candidates.candidate import (
    Candidate,
    LoadedPreset,
    PerImageCandidate,
    PresetCandidate,
    TextCandidate,
)
from trifocal.evaluation.candidates.layer_ablations import (
    BaseLayerCandidate,
    DownscaledCandidate,
    UnconditionedCandidate,
)
from trifocal.evaluation.candidates.partial_files import AnnotatedObjectsCandidate, ObjectsCandidate
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS, PILLOW_CODECS, pillow_codecs
from trifocal.evaluation.candidates.variant import Variant, expand_variants, parse_variants
from trifocal.evaluation.options import EvaluateOptions
from trifocal.evaluation.tasks.detection import Annotations
from trifocal.evaluation.text_ablation import TextKinds
from trifocal.preset_table import Preset

__all__ = ["create_candidate", "distinct_candidates", "load_custom_weights", "only_quality"]

Other = TypeVar("Other")


def create_candidate(
    variant: Variant, texts: TextKinds | None = None, data: Path | None = None
) -> Candidate | PerImageCandidate:
    """The candidate of a variant.

    Args:
        texts: the texts of the images, for variants with a kind of text.
        data: the folder of the images, where their annotations are searched for.

    Raises:
        NotMeasured: for a format that nothing installed writes, and for annotated objects without
            annotations.
        PresetError, WeightsError, OptionError, MissingExtra: as the candidate's class.
    """
    if variant.text is not None:
        return TextCandidate(variant, texts or TextKinds({}, ()))
    if variant.downscaled:
        return DownscaledCandidate(_plain(replace(variant, downscaled=False)))
    if variant.layers == "apart":
        return UnconditionedCandidate(variant)
    if variant.layers is not None:
        return BaseLayerCandidate(variant)
    if variant.objects == "annotated":
        return AnnotatedObjectsCandidate(variant, _annotations(variant, data))
    if variant.objects is not None:
        return ObjectsCandidate(variant)
    return _plain(variant)


def _annotations(variant: Variant, data: Path | None) -> Annotations:
    path = None if data is None else find_annotations(data, INSTANCES)
    if path is None:
        place = "the images" if data is None else data
        remedy = f"put {INSTANCES} there, in COCO's layout, or measure {variant.model_name}:objects"
        raise NotMeasured(variant.title, f"there is no {INSTANCES} with {place}", remedy)
    return Annotations.read(path)


def distinct_candidates(
    candidates: Sequence[str | Preset | Candidate], options: EvaluateOptions
) -> list[Variant | Candidate]:
    """The candidates with all their settings, each name once; with a task also the originals. Raises as
    `load_custom_weights`.
    """
    variants = expand_variants(
        load_custom_weights(candidates, options.device), options.text, options.layers, options.preferences
    )
    if options.task is not None and candidates:
        variants.append(Variant(LOSSLESS))
    by_name: dict[str, Variant | Candidate] = {}
    for variant in variants:
        by_name.setdefault(variant.name, variant)
    return list(by_name.values())


def only_quality(candidate: Variant | Candidate) -> float | None:
    """The quality of a codec that has a single one; None for all others."""
    if candidate.name == LOSSLESS:
        return 100.0
    return candidate.only_quality if isinstance(candidate, Variant) else None


def load_custom_weights(
    candidates: Sequence[str | Preset | Other], device: str = "cpu"
) -> list[Variant | Other]:
    """Parse names (other objects are kept), and load the weights of those with a label once, to raise errors
    before the long work.

    Raises:
        OptionError, PresetError: as `parse_variants`.
        WeightsError: for weights that are missing, damaged or of another network.
    """
    return parse_variants(candidates, device, check=LoadedPreset)


def _plain(variant: Variant) -> Candidate:
    if not variant.is_pillow_codec or variant.preference is not None:
        return PresetCandidate(variant)
    codec = PILLOW_CODECS[variant.codec]
    if codec not in pillow_codecs():
        raise NotMeasured(codec.title, "no installed package writes it", f"pip install {codec.package}")
    return codec
