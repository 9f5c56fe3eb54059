"""The bundled weights, on the bundled photograph."""

import csv
import gc
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import trifocal
from trifocal.codecs.codec import Codec
from trifocal.demo import PHOTOGRAPH
from trifocal.detection.detector import load_detector
from trifocal.entropy import RateEstimator
from trifocal.errors import PresetError
from trifocal.evaluation import psnr, ssimulacra2
from trifocal.pictures import Picture
from trifocal.presets import PRESETS, Preset
from trifocal.weights import WEIGHTS_FOLDER, read_weights


@pytest.fixture(scope="module")
def compact() -> Codec:
    return trifocal.load("compact")


@pytest.fixture(scope="module")
def photograph() -> Picture:
    return Picture.open(PHOTOGRAPH)


TRAINED = [
    p for p in PRESETS if p.has_weights and p.name != "taco-compact"
]  # which has the weights of compact
NAMED_THEN = {
    "compact-0.1.safetensors": "compact"
}  # presets in the records of weights that serve another now
STOPPED = {"ug-icm-compact.safetensors"}  # exported from a checkpoint after the last validation
WITHOUT_LOG = {"compact.safetensors"}  # of its runs only what its record says was kept


@pytest.mark.parametrize("preset", TRAINED, ids=lambda preset: preset.name)
def test_bundled_compact_weights_are_complete(preset: Preset) -> None:
    """float16 weights, a record of the training, and a log whose last value equals the record's."""
    path = WEIGHTS_FOLDER / preset.weights
    weights = load_file(path)
    floats = [w for w in weights.values() if w.is_floating_point()]
    assert all(w.dtype == torch.float16 for w in floats)
    record = json.loads(path.with_suffix(".json").read_text())
    assert (
        record["preset"] == NAMED_THEN.get(preset.weights, preset.name)
        and record["steps"] > 0
        and record["data"]
    )
    all_weights = (
        load_file(WEIGHTS_FOLDER / preset.shared_weights) if preset.shared_weights else {}
    ) | weights
    parameters = sum(w.numel() for w in all_weights.values() if w.is_floating_point())
    assert record["parameters"] == parameters <= 7_000_000
    assert path.with_suffix(".csv").exists() == (preset.weights not in WITHOUT_LOG)
    if preset.weights in WITHOUT_LOG:
        return
    assert set(record["recipe"]) >= {"learning_rate", "batch", "crop", "seed"}
    with path.with_suffix(".csv").open(newline="") as log:
        *_, last = csv.DictReader(log)
    if preset.weights not in STOPPED:
        assert float(last["held_out"]) == record["held_out_before_calibration"]


def test_every_compact_preset_has_bundled_weights() -> None:
    compact = {preset.name for preset in PRESETS if "compact" in preset.name}
    assert {preset.name for preset in PRESETS if preset.has_weights} == compact


def test_detector_has_bundled_weights_and_a_record() -> None:
    """Training data and metrics; those of the packed weights are close to those before packing."""
    record = json.loads((WEIGHTS_FOLDER / "detector.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in load_detector().parameters()) <= 6_000_000
    assert all(
        p.any() for p in load_detector().network.roi_heads.parameters()
    )  # its second stage has learned
    assert record["data"] and record["teacher"]
    assert (record["stage"], record["start"]["stage"]) == (3, 3)
    assert 0 < record["coco-val"]["ap"] < record["coco-val"]["ap50"] < 1
    unpacked, packed = record["coco-val"], record["coco-val packed"]
    assert all(abs(packed[key] - unpacked[key]) < 0.009 for key in ("ap", "ap50", "ap75"))
    log = (WEIGHTS_FOLDER / "detector.csv").read_text().splitlines()
    assert log[-1].split(",")[0] == str(record["steps"])


def test_base_layer_and_detector_have_the_same_stem() -> None:
    """Equal to the last bit; the layers after it may be trained on, and files stay valid."""
    detector, dual = (
        read_weights(WEIGHTS_FOLDER / f"{name}.safetensors") for name in ("detector", "dual-layer-compact")
    )
    begin = "base.analysis.front."
    front = {name.removeprefix(begin): w for name, w in dual.items() if name.startswith(begin)}
    assert front and all(torch.equal(w, detector[f"network.backbone.front.{n}"]) for n, w in front.items())


def test_detector_finds_a_person() -> None:
    """In a portrait that comes with matplotlib, 512×600: the highest-scoring object is the person, who fills
    most of the image.
    """
    (portrait,) = (Path(matplotlib.get_data_path()) / "sample_data").glob("grace_hopper.jpg")
    found = trifocal.detect(portrait)
    assert found.names[0] == "person" and found.scores[0] > 0.4
    x0, y0, x1, y1 = found.boxes[0].tolist()
    assert (x1 - x0) * (y1 - y0) > 0.7 * 512 * 600
    assert {*found.names} <= {"person", "tie"}


@pytest.mark.parametrize("collecting", [True, False])
def test_loading_restores_the_garbage_collector(collecting: bool) -> None:
    """It is paused while torch is imported, and resumed also if loading fails."""
    (gc.enable if collecting else gc.disable)()
    try:
        trifocal.load("compact")
        assert gc.isenabled() == collecting
        with pytest.raises(PresetError):
            trifocal.load("none")
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


def test_fingerprints_of_presets_differ() -> None:
    assert len({p.id for p in PRESETS}) == len({p.name for p in PRESETS}) == len(PRESETS)
    assert all(1 <= p.id <= 62 and p.summary for p in PRESETS)


def test_photograph_is_decoded_with_the_expected_quality(photograph: Picture) -> None:
    """compact-psnr is far better than the DCT that training started from; compact has a higher SSIMULACRA2
    and fewer bytes than compact-psnr.
    """
    rows = {}
    for name in ("compact", "compact-psnr"):
        codec = trifocal.load(name)
        for quality in (10, 50, 90):
            stream = codec.encode(photograph, quality=quality)
            rgb = codec.decode(trifocal.Bitstream.from_bytes(stream.to_bytes())).picture.rgb
            score = ssimulacra2(rgb, photograph.rgb)
            assert score is not None
            bpp = 8 * stream.size / photograph.rgb[..., 0].size
            rows[name, quality] = bpp, psnr(rgb, photograph.rgb), score
    for quality, bpp, decibels, margin in ((10, 0.25, 27, 10), (50, 0.80, 33, 3), (90, 2.1, 38, 0)):
        visual, squared = rows["compact", quality], rows["compact-psnr", quality]
        assert squared[0] < bpp and squared[1] > decibels
        assert visual[0] < squared[0] and visual[2] > squared[2] + margin


@torch.inference_mode()
def test_forward_decode_and_file_size_agree(compact: Codec, photograph: Picture) -> None:
    rgb = photograph.rgb[:256, :320]
    x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
    output = compact.network(x, torch.tensor([480]))
    stream = compact.encode(Picture(rgb.copy()), quality=60)
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(compact.decode(stream).picture.rgb, pixels)
    payload, bits = len(stream.layers[0].chunks[0] or b""), float(output.bits)
    assert abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


@torch.inference_mode()
def test_file_size_increases_with_quality(compact: Codec, photograph: Picture) -> None:
    x = torch.from_numpy(photograph.rgb[:192, :192].copy()).permute(2, 0, 1)[None].float() / 255
    y = compact.network.analyse(x)
    bits = []
    for level in range(0, 801, 16):
        meter = RateEstimator(compact.network.entropy.cost())
        compact.network.code_latents(meter, y, torch.tensor([level]), (12, 12))
        bits.append(float(meter.bits.sum()))
    steps = np.diff(np.log(bits))
    assert steps.min() > -0.005 and steps.max() < 0.4, (
        "two steps of quality change the bytes by a few per cent"
    )
    assert np.diff(bits[::2]).min() > 0


@pytest.mark.parametrize("bpp", [0.2, 0.7])
def test_requested_rate_is_met(compact: Codec, photograph: Picture, bpp: float) -> None:
    size = 8 * compact.encode(photograph, bpp=bpp).size / photograph.rgb[..., 0].size
    assert 0.97 * bpp <= size <= bpp
