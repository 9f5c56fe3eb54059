"""Video frames in NV12 and I420, the base layer alone and first, and the example that encodes a video."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import trifocal
from helpers.cli import run
from helpers.images import random_rgb
from trifocal.container import Tag, parts
from trifocal.demo import PHOTOGRAPH
from trifocal.errors import OptionError, PictureError, PresetError

ROOT = Path(__file__).resolve().parent.parent
BT709 = np.array([[1, 0, 1.5748], [1, -0.1873, -0.4681], [1, 1.8556, 0]])  # Y, Cb, Cr → R, G, B
BT601 = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    with Image.open(PHOTOGRAPH) as image:
        image.convert("RGB").crop((200, 100, 360, 220)).save(path, icc_profile=None)
    return path


def planes(width: int, height: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Y [H, W], Cb and Cr [H/2, W/2] with values of the whole range."""
    values = np.random.default_rng(0).integers(0, 256, width * height * 3 // 2, dtype=np.uint8)
    luma, blue, red = np.split(values, [width * height, width * height * 5 // 4])
    half = height // 2, width // 2
    return luma.reshape(height, width), blue.reshape(half), red.reshape(half)


@pytest.mark.parametrize(("matrix", "factors"), [("bt709", BT709), ("bt601", BT601)])
@pytest.mark.parametrize("full_range", [False, True])
def test_frames_are_converted_within_one_grey_level(
    matrix: Any, factors: NDArray[Any], full_range: bool
) -> None:
    width, height = 66, 38
    luma, blue, red = planes(width, height)
    low, luma_gain, chroma_gain = (0, 1, 1) if full_range else (16, 255 / 219, 255 / 224)
    chroma = [(plane.repeat(2, 0).repeat(2, 1) - 128.0) * chroma_gain for plane in (blue, red)]
    exact = (np.stack([(luma - float(low)) * luma_gain, *chroma], -1) @ factors.T).clip(0, 255)
    nv12 = np.concatenate([luma.ravel(), np.stack([blue, red], -1).ravel()])
    i420 = np.concatenate([plane.ravel() for plane in (luma, blue, red)])
    for layout, frame in (("nv12", nv12.tobytes()), ("i420", i420.reshape(-1, width))):
        layout_: Any = layout
        convert = trifocal.FrameConverter(width, height, layout_, matrix, full_range)
        picture = convert(frame)
        assert abs(picture.rgb - exact).max() <= 0.6 and abs(picture.rgb - exact).mean() < 0.3
        assert (convert(bytes(convert.size)).rgb != picture.rgb).any()  # a later frame leaves it unchanged
        assert abs(picture.rgb - exact).max() <= 0.6


def test_black_and_white_are_exact() -> None:
    convert = trifocal.FrameConverter(4, 2)
    for value, grey in ((16, 0), (235, 255), (0, 0), (255, 255)):
        assert (convert(bytes([value] * 8 + [128] * 4)).rgb == grey).all()


def test_frames_of_other_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match="even sides"):
        trifocal.FrameConverter(5, 4)
    with pytest.raises(OptionError, match="nv12 or i420"):
        trifocal.FrameConverter(4, 4, "yuy2")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="bt709 or bt601"):
        trifocal.FrameConverter(4, 4, matrix="bt2020")  # type: ignore[arg-type]
    convert = trifocal.FrameConverter(4, 4)
    for frame in (bytes(23), np.zeros(24, np.uint16)):
        with pytest.raises(PictureError, match="24 bytes"):
            convert(frame)  # type: ignore[arg-type]


def test_base_layer_alone_is_that_of_the_whole_file(photo: Path) -> None:
    encoder = trifocal.Encoder(options=trifocal.EncodeOptions(quality=30, refinement=1))
    base, enhancement = encoder.in_parts(photo)
    whole = encoder(photo)
    alone = trifocal.encode(photo, quality=30, refinement=1, base_only=True)
    assert alone.to_bytes() == base.to_bytes()
    assert [layer.tag for layer in alone.layers] == [Tag.BASE]
    assert parts.merge(base, enhancement).to_bytes() == whole.to_bytes()
    assert parts.merge(enhancement, base).to_bytes() == whole.to_bytes()
    found, expected = (trifocal.detect(one, threshold=0.05) for one in (alone, whole))
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    other = trifocal.encode(photo, quality=31, refinement=1, base_only=True)
    with pytest.raises(OptionError, match="same options"):
        parts.merge(other, enhancement)


def test_base_layer_alone_computes_no_enhancement(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = trifocal.Encoder(options=trifocal.EncodeOptions(refinement=0, base_only=True))
    ran: list[str] = []
    graphs: Any = encoder.codec.runtime
    original = graphs.graphs.run

    def recorded(name: str, **given: Any) -> Any:
        ran.append(name)
        return original(name, **given)

    monkeypatch.setattr(graphs.graphs, "run", recorded)
    encoder(photo)
    assert ran and all(name.startswith("base.") for name in ran) and "base.extractor" not in ran


@pytest.mark.parametrize(
    "options", [{"bpp": 1.0}, {"max_bytes": 9000}, {"components": "person"}, {"mask": np.ones((4, 4))}]
)
def test_base_layer_alone_excludes_options_of_the_enhancement(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="base_only"):
        trifocal.EncodeOptions(base_only=True, **options)
    encoder = trifocal.Encoder(options=trifocal.EncodeOptions(**options))
    with pytest.raises(OptionError, match="in_parts takes quality"):
        next(encoder.in_parts(random_rgb(64, 64)))


def test_base_layer_alone_needs_a_layered_preset() -> None:
    with pytest.raises(PresetError, match="base layer"):
        trifocal.Encoder("compact", trifocal.EncodeOptions(base_only=True))
    with pytest.raises(PresetError, match="base layer"):
        next(trifocal.Encoder("compact").in_parts(random_rgb(64, 64)))


def test_encode_command_writes_the_base_layer_alone(photo: Path, tmp_path: Path) -> None:
    done = run("encode", photo, "--layers", "base", "--refinement", "0", "-o", tmp_path / "b.tri", "--json")
    assert done.exit_code == 0, done.stderr
    assert [*json.loads(done.stdout)["layers"]] == ["BASE"]
    whole = run("encode", photo, "--refinement", "0", "-o", tmp_path / "w.tri")
    stripped = run("strip", tmp_path / "w.tri", "--layers", "enhancement", "-o", tmp_path / "e.tri")
    merged = run("merge", tmp_path / "b.tri", tmp_path / "e.tri", "-o", tmp_path / "m.tri")
    assert whole.exit_code == stripped.exit_code == merged.exit_code == 0, merged.stderr
    assert (tmp_path / "m.tri").read_bytes() == (tmp_path / "w.tri").read_bytes()
    refused = run("encode", photo, "--layers", "base", "--bpp", "1", "-o", tmp_path / "x.tri")
    assert refused.exit_code == 1 and "--layers base" in refused.stderr and "--bpp" in refused.stderr


def test_example_sends_the_base_layer_of_each_frame_first(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        ramp = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
        for number in range(4):
            rgb = np.stack([ramp + 20 * number, ramp, 255 - ramp], -1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    line = [sys.executable, "examples/camera.py", str(clip), "-o", str(tmp_path / "out"), "--every", "3"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{number:06}-{part}.tri" for number in (0, 3) for part in ("base", "enh")]
    base, enhancement = (trifocal.Bitstream.open(tmp_path / "out" / name) for name in names[2:])
    rgb = trifocal.decode(parts.merge(base, enhancement)).picture.rgb.astype(int)
    expected = np.stack([ramp + 60, ramp, 255 - ramp], -1).astype(np.uint8).astype(int)
    assert abs(rgb - expected)[16:48, 16:80].mean() < 12
