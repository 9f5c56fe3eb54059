"""`benchmarks/composition`: the generator of missing latents, its training, evaluation and packing."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import trifocal
from helpers.scripts import ROOT, load_script
from trifocal.codecs.composition import FEATURE_UNIT, WEIGHTS
from trifocal.transforms.composition import FEATURES, LATENT_CHANNELS, MIDDLE_LEVEL
from trifocal.weights import metadata_of, read_arrays

GENERATOR = ROOT / "benchmarks/composition/generator.safetensors"


@pytest.fixture(autouse=True)
def _folder_of_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/composition"))


def script(name: str) -> ModuleType:
    return load_script(f"benchmarks/composition/{name}.py")


# ── generator and training ──


def test_trained_generator_keeps_known_latents() -> None:
    model = script("model")
    network = SimpleNamespace(synthesis=SimpleNamespace(std=torch.ones(LATENT_CHANNELS)))
    generator = model.load_generator(GENERATOR, network)
    known, features, noise = (torch.zeros(1, 4, 6, n) for n in (LATENT_CHANNELS, FEATURES, model.NOISE))
    kept = torch.zeros(1, 4, 6, dtype=torch.bool)
    kept[:, :2] = True
    with torch.no_grad():
        latent = generator(known, kept, known, features, torch.tensor([MIDDLE_LEVEL]), noise)
    assert latent.shape == (1, 4, 6, LATENT_CHANNELS)
    assert not latent[kept].any() and latent[~kept].any()


def test_untrained_generator_adds_nothing() -> None:
    model = script("model")
    generator = model.Generator(torch.ones(LATENT_CHANNELS), width=16)
    known, preview, features, noise = (
        torch.randn(1, 4, 6, n) for n in (LATENT_CHANNELS, LATENT_CHANNELS, FEATURES, model.NOISE)
    )
    kept = torch.zeros(1, 4, 6, dtype=torch.bool)
    assert torch.equal(generator(known, kept, preview, features, torch.tensor([0]), noise), preview)
    x = torch.randn(1, 16, 4, 6)
    assert all(torch.equal(block(x), x) for block in generator.blocks)


def test_generator_reads_features_in_the_unit_of_the_codec() -> None:
    runtime: Any = trifocal.load("dual-layer-compact", engine="onnx").runtime
    assert script("model").FEATURE_SCALE == FEATURE_UNIT[runtime.arithmetics[-1]]


def cached_image(path: Path, width: int, height: int, boxes: list[list[float]]) -> None:
    """A file as cache.py writes it, with two channels; the latent is the number of the position."""
    pixels = torch.zeros(16 * height, 16 * width, 3, dtype=torch.uint8)
    latent = torch.arange(height * width).reshape(height, width, 1).repeat(1, 1, 2).half()
    given = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    item = {"x": pixels, "pv": pixels, "y": latent, "p": latent, "f": latent, "level": 400, "boxes": given}
    torch.save(item, path)


def test_crops_of_cached_images(tmp_path: Path) -> None:
    """Of images that are large enough, where enough is missing."""
    train = script("train")
    cached_image(tmp_path / "small.pt", 20, 8, [])
    cached_image(tmp_path / "wide.pt", 28, 16, [[0, 0, 448, 128]])
    crops = train.Crops(sorted(tmp_path.glob("*.pt")), np.random.default_rng(0))
    batch = crops.batch(8)
    assert batch.latent.shape == (8, 12, 12, 2) and batch.pixels.shape == (8, 3, 192, 192)
    for latent, kept in zip(batch.latent, batch.kept):
        first = int(latent[0, 0, 0])
        assert torch.equal(latent[..., 0] - first, 28.0 * torch.arange(12)[:, None] + torch.arange(12))
        rows = first // 28 + torch.arange(12)
        assert (~kept).float().mean() > 0.3 and not kept[rows >= 8].any()
    assert batch.kept.any()


@pytest.mark.parametrize("boxes", [[], [[0, 0, 448, 448]]])
def test_a_cache_without_any_crop_is_an_error(
    boxes: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are too small, and an object that fills its image and is never missing."""
    train = script("train")
    cached_image(tmp_path / "0.pt", 28, 28 if boxes else 8, boxes)
    if boxes:
        monkeypatch.setattr(train, "partial_crop", all_present(train.partial_crop))
    crops = train.Crops([tmp_path / "0.pt"], np.random.default_rng(0))
    with pytest.raises(SystemExit, match=r"^No cached image has a crop of 12 × 12 positions .*\.$"):
        crops.crop()


def all_present(partial_crop: Any) -> Any:
    """As `partial_crop`, without missing objects."""

    def crop(*given: Any) -> Any:
        tile = partial_crop(*given)
        return SimpleNamespace(numbers=tile.numbers, missing={0})

    return crop


def test_only_details_that_the_original_does_not_repeat_count_as_repeated() -> None:
    train = script("train")
    network = SimpleNamespace(entropy=SimpleNamespace(gain=lambda level: torch.ones(len(level), 384)))
    preview, kept = torch.zeros(1, 3, 4, 384), torch.zeros(1, 3, 4, dtype=torch.bool)
    kept[:, 0] = True
    noise = 9 * torch.randn(1, 3, 4, 384, generator=torch.Generator().manual_seed(1))
    pattern = noise[:, :1, :1].expand_as(noise)

    def repetition(composed: torch.Tensor, original: torch.Tensor) -> float:
        batch = train.Batch(original, preview, preview, kept, preview, preview, torch.tensor([400]))
        return float(train.repetition(network, composed, batch))

    assert repetition(pattern, noise) > 0.8
    assert repetition(pattern, pattern) < 1e-6 and repetition(noise, pattern) < 1e-6
    mixed = torch.where(kept[..., None], pattern, noise)
    assert repetition(mixed, noise) < 1e-6


# ── evaluation ──


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


class Features:
    """In place of EfficientNet-Lite: means of the pixels of blocks."""

    def __init__(self, number: int) -> None:
        pass

    def stages(self, x: torch.Tensor, stages: tuple[int, ...]) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(x, 32)]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Six images, of which evaluate.py takes three: two with an object, and one with an empty box."""
    random = np.random.default_rng(0)
    annotations = []
    (tmp_path / "coco" / "images").mkdir(parents=True)
    for number in range(1, 7):
        pixels = random.integers(0, 256, (192, 192, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "coco" / "images" / f"{number:012d}.jpg")
        box = [5, 5, 0, 0] if number == 4 else [0, 0, 60, 60]
        annotations.append({"image_id": number, "bbox": box})
    (tmp_path / "coco" / "instances.json").write_text(json.dumps({"annotations": annotations}))
    return tmp_path / "coco"


def test_evaluation_through_files(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """stdout has the JSON object only. Images without objects are left out. No torch network is loaded."""
    evaluate = script("evaluate")
    loaded: list[Any] = []
    monkeypatch.setattr(evaluate, "EfficientNetLite", Features)
    monkeypatch.setattr(evaluate, "load_network", lambda: loaded.append(None))
    run(evaluate, monkeypatch, tmp_path / "out", "--coco", coco)
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["images"] == 2 and result["patches"] >= 2 and "images" in printed.err
    assert result["whole"]["psnr"] > result["partial"]["psnr"] and not loaded


@pytest.mark.parametrize("option", [["--share", "1"], ["--share", "0"], ["--cache", "cache"]])
def test_options_of_a_generator_need_it(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = option if option[0] == "--cache" else [*option, "--coco", "coco"]
    with pytest.raises(SystemExit) as error:
        run(script("evaluate"), monkeypatch, tmp_path / "out", *source)
    assert error.value.code == 2 and f"{option[0]} needs --generator.\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluation_needs_images_with_missing_patches(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = script("evaluate")
    monkeypatch.setattr(evaluate, "EfficientNetLite", Features)
    monkeypatch.setattr(evaluate, "decode_files", lambda item: None)
    with pytest.raises(SystemExit, match="^Fewer than two images have a patch of which nine tenths"):
        run(evaluate, monkeypatch, tmp_path / "out", "--coco", coco)


# ── packing ──


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """pack.py, which writes another file than the bundled one."""
    module = script("pack")
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "packed.safetensors")
    return module


def test_packing_gives_the_bundled_weights(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pack, monkeypatch, GENERATOR)
    assert capsys.readouterr().out.startswith("packed.safetensors: ")
    found, bundled = read_arrays(tmp_path / "packed.safetensors"), read_arrays(WEIGHTS)
    assert found.keys() == bundled.keys()
    assert all(np.array_equal(found[name], bundled[name]) for name in found)
    assert metadata_of(tmp_path / "packed.safetensors") == metadata_of(WEIGHTS) != {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("precision", "The precision must be a finite number above 0, not 0."),
        ("missing", "The weights w.safetensors are not installed; "),
        ("damaged", "The weights w.safetensors are damaged, or no safetensors file; "),
        ("without stem", "The weights w.safetensors do not fit "),
        ("other width", "The weights w.safetensors do not fit "),
    ],
)
def test_packing_reports_errors_and_leaves_the_weights(
    kind: str, message: str, pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, weights = tmp_path / "w.safetensors", load_file(GENERATOR)
    match kind:
        case "precision":
            save_file(weights, path)
        case "damaged":
            path.write_bytes(b"no weights")
        case "without stem":
            del weights["stem.weight"]
            save_file(weights, path)
        case "other width":
            generator = script("model").Generator(torch.ones(LATENT_CHANNELS), width=96)
            save_file(generator.state_dict(), path)
    pack.WEIGHTS.write_bytes(b"as before")
    with pytest.raises(SystemExit) as error:
        run(pack, monkeypatch, path, *(["--precision", "0"] if kind == "precision" else []))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert pack.WEIGHTS.read_bytes() == b"as before"
