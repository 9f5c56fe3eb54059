"""The Python API: what it accepts, what it checks once, its notices, and presets of other packages."""

import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import trifocal
from helpers.cli import run
from helpers.codecs import small_codec
from helpers.detection import record_detections
from helpers.images import random_rgb
from trifocal import presets
from trifocal.api import Decoder, Encoder
from trifocal.codecs import rate_control
from trifocal.codecs.codec import Codec
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.container.text import embedded_text
from trifocal.detection.detections import Detections
from trifocal.errors import (
    OptionError,
    PictureError,
    PresetError,
    TrifocalError,
    TrifocalWarning,
    WeightsError,
)
from trifocal.options import DecodeOptions, EncodeOptions
from trifocal.pictures import Picture
from trifocal.pictures.conversion import as_picture
from trifocal.preset_table import Preset
from trifocal.weights import write_weights

RGB = random_rgb(48, 40)
FOUND = Detections(
    np.array([[1.0, 2.0, 30.0, 20.0], [4.0, 5.0, 40.0, 29.0], [0.0, 0.0, 9.0, 9.0]]),
    np.array([18, 1, 12]),
    np.array([0.5, 0.875, 0.125]),
)


def build() -> Codec:
    return small_codec()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Preset]]:
    """An empty registry, and no installed packages with presets."""
    registered: dict[str, Preset] = {}
    monkeypatch.setattr(presets, "_registered", registered)
    with_entry_points(monkeypatch)
    yield registered
    presets._installed.cache_clear()


def with_entry_points(monkeypatch: pytest.MonkeyPatch, **loaded: Any) -> None:
    """Pretend that installed packages have these entry points: names and the objects that they load."""
    entries = []
    for name, value in loaded.items():
        monkeypatch.setattr(sys.modules[__name__], name, value, raising=False)
        entries.append(EntryPoint(name, f"{__name__}:{name}", presets.ENTRY_POINTS))
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda group: [entry for entry in entries if entry.group == group],
    )
    presets._installed.cache_clear()


@pytest.fixture
def small(registry: dict[str, Preset], tmp_path: Path) -> Preset:
    """A preset of another package, with weights outside Trifocal; not registered."""
    write_weights(build().network, tmp_path / "small.safetensors")
    weights = str(tmp_path / "small.safetensors")
    return replace(
        presets.find("compact"), name="small", id=48, build=build, weights=weights, earlier_weights=()
    )


@pytest.fixture
def codec(small: Preset) -> Codec:
    return trifocal.load(trifocal.register(small))


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return text.endswith(".") and "\n" not in text


# ── images ──


def png(rgb: NDArray[np.uint8] = RGB) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="PNG")
    return stream.getvalue()


class Pipe(io.RawIOBase):
    """A stream that cannot seek."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.data.readinto(buffer)


INPUTS: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder / "a.png",
    "string": lambda folder: str(folder / "a.png"),
    "file": lambda folder: (folder / "a.png").open("rb"),
    "bytes": lambda folder: png(),
    "bytearray": lambda folder: bytearray(png()),
    "memoryview": lambda folder: memoryview(png()),
    "BytesIO": lambda folder: io.BytesIO(png()),
    "pipe": lambda folder: Pipe(png()),
    "Picture": lambda folder: Picture(RGB),
    "Pillow": lambda folder: Image.fromarray(RGB),
    "uint8": lambda folder: RGB,
    "float32": lambda folder: RGB.astype(np.float32) / 255,
    "float64": lambda folder: RGB / 255,
    "not contiguous": lambda folder: np.asfortranarray(RGB),
    "tensor": lambda folder: torch.from_numpy(RGB).permute(2, 0, 1),
    "float tensor": lambda folder: torch.from_numpy(RGB / 255).permute(2, 0, 1),
    "tensor with gradient": lambda folder: (torch.from_numpy(RGB).permute(2, 0, 1) / 255).requires_grad_(),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_all_input_types_give_the_same_file(codec: Codec, tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    expected = codec.encode(Picture(RGB))
    for encode in codec.encode, lambda image: trifocal.encode(image, "small"):
        image = INPUTS[kind](tmp_path)
        assert encode(image) == expected
        if kind == "file":
            image.close()


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_arrays_with_one_to_four_channels_are_encoded(channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (7, 5, channels or 1)).astype(np.uint8)
    array = array if channels else array[..., 0]
    picture = as_picture(array, keep_invisible=True)
    assert picture.grey is (channels < 3) and (picture.alpha is not None) is (channels in (2, 4))
    assert np.array_equal(np.asarray(picture), array.squeeze())
    if channels:
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        assert np.array_equal(np.asarray(as_picture(tensor, keep_invisible=True)), array.squeeze())


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "cannot be None; give a path"),
        (5, "type int; give a path"),
        ([[1, 2]], "type list; give a path"),
        (np.zeros((3, 8, 9), np.uint8), "transpose"),
        (np.zeros((8, 9, 5), np.uint8), r"not \[8, 9, 5\]"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"not \[2, 8, 9, 3\]"),
        (np.zeros((0, 9, 3), np.uint8), r"not \[0, 9, 3\]"),
        (np.zeros((8, 9, 3), np.uint16), "not uint16"),
        (np.zeros((8, 9), bool), "not bool"),
        (np.full((8, 9, 3), 255.0), "0..1, and this one has 255"),
        (np.full((8, 9, 3), -0.5), "0..1"),
        (np.full((8, 9, 3), np.nan), "0..1"),
        (torch.zeros(1, 3, 8, 9), "one image of a batch"),
        (torch.zeros(8, 9, 3), r"\[C, H, W\]"),
        (torch.zeros(3, 8, 9, dtype=torch.int64), "not int64"),
        (b"", "empty"),
        (b"hello", "text"),
        (io.StringIO("hello"), "binary"),
    ],
)
def test_unsupported_images_raise_picture_error(image: Any, said: str) -> None:
    with pytest.raises(PictureError, match=said) as caught:
        as_picture(image)
    assert one_sentence(caught.value)


# ── files ──


def test_files_are_decoded_from_paths_bytes_and_streams(codec: Codec, tmp_path: Path) -> None:
    stream = codec.encode(RGB, quality=30)
    stream.save(tmp_path / "a.tri")
    buffer = io.BytesIO()
    stream.save(buffer)
    data = buffer.getvalue()
    assert data == (tmp_path / "a.tri").read_bytes()
    expected = codec.decode(stream).picture.rgb
    with open(tmp_path / "a.tri", "rb") as file:
        sources: list[Any] = [tmp_path / "a.tri", str(tmp_path / "a.tri"), stream, data, bytearray(data)]
        for source in [*sources, memoryview(data), io.BytesIO(data), Pipe(data), file]:
            assert np.array_equal(trifocal.decode(source).picture.rgb, expected)
        assert np.array_equal(codec.decode(tmp_path / "a.tri").picture.rgb, expected)
        assert np.array_equal(codec.decode(data).picture.rgb, expected)
    assert Bitstream.open(io.BytesIO(data)) == stream


@pytest.mark.parametrize("source", [None, 5, RGB, io.StringIO("hello"), b"hello", b""])
def test_unsupported_files_raise_an_error(source: Any) -> None:
    with pytest.raises(TrifocalError) as caught:
        trifocal.decode(source)
    assert one_sentence(caught.value)


def test_pictures_are_saved_to_streams(tmp_path: Path) -> None:
    picture, stream = Picture(RGB), io.BytesIO()
    assert picture.save(stream, format="png") == ()
    assert np.array_equal(np.asarray(as_picture(stream)), RGB)
    picture.save(tmp_path / "plain", format=".PNG")
    assert (tmp_path / "plain").read_bytes() == stream.getvalue()
    with pytest.raises(OptionError, match='format="png"'):
        picture.save(stream)
    with pytest.raises(PictureError, match="xyz"):
        picture.save(stream, format="xyz")


def test_reprs_are_short(codec: Codec) -> None:
    stream = codec.encode(RGB)
    picture = replace(Picture(RGB), alpha=RGB[..., 0], icc=b"profile")
    shown = [picture, stream, codec.decode(stream), FOUND, presets.find("compact")]
    assert all(len(repr(one)) < 120 and "\n" not in repr(one) for one in shown)
    assert repr(picture) == "<Picture 48x40 RGBA, ICC>"
    assert repr(stream) == f"<Bitstream 48x40, {stream.size} bytes, preset 48, quality 50, LATENT>"
    assert repr(FOUND).startswith("<Detections 3: category 18 0.50, category 1 0.88")


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert trifocal.__version__ == version("trifocal")


# ── detection ──


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The images that the detector gets; it finds FOUND in each."""
    return record_detections(monkeypatch, FOUND)


@pytest.mark.parametrize("kind", INPUTS)
def test_detect_accepts_all_input_types(detector: list[Picture], tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    image = INPUTS[kind](tmp_path)
    found = trifocal.detect(image)
    assert found.names == ("person", "dog") and len(found) == 2
    assert np.array_equal(detector[0].rgb, RGB)
    if kind == "file":
        image.close()


def test_objects_are_detected_in_files(codec: Codec, detector: list[Picture], tmp_path: Path) -> None:
    stream = codec.encode(RGB)
    stream.save(tmp_path / "a.tri")
    notices: list[str] = []
    for source in stream, stream.to_bytes(), io.BytesIO(stream.to_bytes()), tmp_path / "a.tri":
        found = trifocal.detect(source, threshold=0.1, notify=notices.append)
        assert found.names == ("person", "dog", "category 12")
        assert found.scores.tolist() == [0.875, 0.5, 0.125] and found.labels.tolist() == [1, 18, 12]
    assert len(notices) == len(detector) == 4 and "no base layer" in notices[0]
    assert len(trifocal.detect(RGB, threshold=0.9)) == 0
    with pytest.raises(OptionError, match="0 to 1"):
        trifocal.detect(RGB, threshold=35)
    with pytest.raises(PictureError, match="binary"):
        trifocal.detect(io.StringIO("hello"))


# ── options ──


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"quality": 101}, OptionError),
        ({"quality": "60"}, OptionError),
        ({"quality": True}, OptionError),
        ({"quality": float("nan")}, OptionError),
        ({"bpp": 0}, OptionError),
        ({"max_bytes": 0}, OptionError),
        ({"quality": 50, "bpp": 1.0}, OptionError),
        ({"text": "a dog"}, PresetError),
        ({"send_text": True}, PresetError),
        ({"base_quality": 10}, PresetError),
        ({"refinement": 0}, PresetError),
        ({"base_quality": 101}, OptionError),
        ({"refinement": -1}, OptionError),
        ({"refinement": 0.5}, OptionError),
        ({"max_bytes": 30}, trifocal.errors.RateError),
    ],
)
def test_encode_and_encoder_raise_for_invalid_options(
    codec: Codec, options: dict[str, Any], kind: type[Exception]
) -> None:
    for encode in codec.encode, lambda image, **more: trifocal.encode(image, "small", **more):
        with pytest.raises(kind) as caught:
            encode(RGB, **options)
        assert one_sentence(caught.value)


def test_a_codec_takes_text_and_base_options() -> None:
    stream = trifocal.load().encode(RGB, text="a brown dog", base_quality=3, refinement=0)
    assert stream == trifocal.encode(RGB, text="a brown dog", base_quality=3, refinement=0)
    assert (stream.layers[0].chunks[0] or b"")[:1] == bytes([3])
    sent = trifocal.load("cross-modal-compact").encode(RGB, text="a brown dog", send_text=True)
    assert embedded_text(sent) == "a brown dog"
    with pytest.raises(PresetError, match="trifocal.load"):
        small_codec().encode(RGB, text="a dog")


def test_encoder_checks_options_once(small: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    """`presets.find`, the checks of rate and text, and the checksum of the weights run at most once per
    encoder.
    """
    trifocal.register(small)
    counts: Counter[str] = Counter()

    def count(place: str, name: str) -> None:
        original = getattr(sys.modules[place], name)

        def counted(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(f"{place}.{name}", counted)

    count("trifocal.presets", "check_text")
    count("trifocal.presets", "_first")
    count("trifocal.codecs.torch_runtime", "checksum")
    check_rate = rate_control.Rate.__post_init__
    monkeypatch.setattr(
        "trifocal.codecs.rate_control.Rate.__post_init__",
        lambda rate: counts.update(["rate"]) or check_rate(rate),
    )
    for encode in (
        lambda: trifocal.encode(RGB, "small", quality=40),
        lambda: trifocal.load("small").encode(RGB, 40),
    ):
        counts.clear()
        stream = encode()
        assert counts["_first"] == counts["rate"] == counts["checksum"] == 1 and counts["check_text"] <= 1
    encoder = Encoder("small", EncodeOptions(quality=40))
    counts.clear()
    assert [encoder(RGB), encoder(RGB)] == [stream, stream]
    assert counts == {"checksum": 2}
    decoder = Decoder(DecodeOptions(region=(0, 0, 8, 8)))
    decoder(stream)
    counts.clear()
    assert decoder(stream.to_bytes()).picture.rgb.shape == (8, 8, 3)
    assert counts["checksum"] == 1 and counts["check_text"] == 1


def test_changed_weights_are_detected_with_a_cached_checksum(codec: Codec, small: Preset) -> None:
    stream = codec.encode(RGB)
    shared = presets.load_for(stream.header)
    trifocal.decode(stream)
    with torch.no_grad():
        next(shared.network.parameters()).add_(1)
    with pytest.raises(WeightsError):
        trifocal.decode(stream)
    presets._load.cache_clear()


# ── notices ──


def test_notices_are_warnings_or_passed_to_the_callback(codec: Codec, detector: list[Picture]) -> None:
    stream = codec.encode(RGB)
    with pytest.warns(TrifocalWarning, match="has no base layer") as caught:
        trifocal.detect(stream)
    assert [warning.filename for warning in caught] == [__file__]
    notices: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trifocal.detect(stream, notify=notices.append)
        trifocal.encode(Image.new("CMYK", (8, 8)), "small", notify=notices.append)
    assert len(notices) == 2 and "CMYK" in notices[1]


# ── presets of other packages ──


def test_registered_preset_works_in_all_functions(small: Preset, tmp_path: Path) -> None:
    stream = trifocal.load(small).encode(RGB)
    with pytest.raises(PresetError, match="number 48.*trifocal.register"):
        trifocal.decode(stream)
    assert trifocal.register(small) is small
    assert trifocal.register(small) is small
    assert presets.find("small") is presets.preset_for(stream.header) is small
    assert small in presets.all_presets() and small.has_weights
    assert trifocal.encode(RGB, "small") == trifocal.encode(RGB, small) == stream
    assert trifocal.decode(stream).picture.rgb.shape == RGB.shape
    again = replace(small, summary="another object with the same name and id")
    assert trifocal.register(again) is presets.find("small") is again


def test_registered_preset_can_be_evaluated_and_trained(small: Preset, tmp_path: Path, folder: Path) -> None:
    from trifocal.evaluation import EvaluateOptions, evaluate
    from trifocal.losses import Objective
    from trifocal.training import train

    recipe = replace(small.recipe, batch=2, crop=64, warmup=1)
    small = replace(small, recipe=recipe, objective=Objective)
    for path in list(folder.iterdir())[2:]:
        path.unlink()
    results = evaluate([small], folder, tmp_path / "out.csv", EvaluateOptions([50]))
    assert [row.preset for row in results.rows] == ["small", "small"]
    assert train(small, [folder], tmp_path / "run", steps=1).name == "small.safetensors"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": 47}, "from 48 to 62"),
        ({"id": 63}, "from 48 to 62"),
        ({"name": "compact"}, "of compact"),
        ({"name": "a b"}, "letters"),
        ({"name": "a:b"}, "letters"),
        ({"name": "other"}, "has the name or id of small"),
        ({"id": 49}, "has the name or id of small"),
    ],
)
def test_registering_a_used_name_or_id_raises(small: Preset, changes: dict[str, Any], said: str) -> None:
    trifocal.register(small)
    with pytest.raises(PresetError, match=said) as caught:
        trifocal.register(replace(small, **changes))
    assert one_sentence(caught.value)


def test_entry_points_register_presets(small: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(small, name="other", id=50)
    with_entry_points(monkeypatch, one=small, more=lambda: [other])
    assert presets.find("other") is other and presets.all_presets()[-2:] == (small, other)
    assert trifocal.encode(RGB, "small").header.preset_id == 48

    assert "other" in run("presets").stdout


def test_bundled_presets_do_not_load_entry_points(monkeypatch: pytest.MonkeyPatch, registry: Any) -> None:
    def refuse(group: str) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("importlib.metadata.entry_points", refuse)
    assert presets.find("compact").id == 1
    assert presets.preset_for(Header(8, 8, 1, 400, 0)).name == "compact"


@pytest.mark.parametrize("broken", [5, lambda: 1 / 0, replace(presets.find("compact"), id=60)])
def test_broken_entry_point_is_a_warning(broken: Any, small: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_points(monkeypatch, broken=broken, sound=small)
    with pytest.warns(TrifocalWarning, match="entry point broken"):
        assert presets.find("small") is small


# ── imports ──


@pytest.mark.parametrize("words", [(), ("--help",), ("encode", "--help"), ("info", "a.tri"), ("presets",)])
def test_info_and_help_import_neither_torch_nor_numpy(words: tuple[str, ...], tmp_path: Path) -> None:
    layers = (Layer(Tag.BASE, (b"\x14base",)), Layer(Tag.ENHANCEMENT, (b"enhancement",)))
    Bitstream(Header(8, 8, 8, 400, 1), layers).save(tmp_path / "a.tri")
    code = (
        "import sys, trifocal; from trifocal.cli import app; sys.argv[0] = 'trifocal'\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & {*sys.modules}, 'loaded'"
    )
    line = [sys.executable, "-c", code, *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_strip_and_merge_do_not_import_torch(tmp_path: Path) -> None:
    layers = (Layer(Tag.BASE, (b"\x14base",)), Layer(Tag.ENHANCEMENT, (b"enhancement",)))
    Bitstream(Header(8, 8, 8, 400, 1), layers).save(tmp_path / "a.tri")
    code = (
        "import sys, contextlib; from trifocal.cli import app\n"
        "for words in ['strip a.tri --layers base', 'strip a.tri --layers enhancement', 'merge a-base.tri "
        "a-enh.tri -o b.tri']:\n"
        "    with contextlib.suppress(SystemExit):\n        app(words.split())\n"
        "assert 'torch' not in sys.modules, 'loaded'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.tri").read_bytes() == (tmp_path / "a.tri").read_bytes()


def test_format_reserves_preset_ids_for_private_use() -> None:
    law = (Path(trifocal.__file__).parent / "container" / "FORMAT.md").read_text("utf-8")
    first, last = presets.PRIVATE_IDS[0], presets.PRIVATE_IDS[-1]
    assert f"{first}..{last} are for private use" in law
    assert all(preset.id < first for preset in presets.PRESETS)
