"""The Pillow plug-in: header first, pixels when needed, and Pillow's own errors."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

import trifocal
import trifocal.pillow
from trifocal.container import Bitstream
from trifocal.demo import PHOTOGRAPH
from trifocal.pictures import canvas


@pytest.fixture
def photo() -> Image.Image:
    with Image.open(PHOTOGRAPH) as image:
        return image.crop((200, 100, 360, 220))


def test_saved_file_equals_that_of_encode(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.tri", quality=60)
    assert (tmp_path / "photo.tri").read_bytes() == trifocal.encode(photo, quality=60).to_bytes()
    with Image.open(tmp_path / "photo.tri") as image:
        assert (image.format, image.size, image.mode) == ("TRI", (160, 120), "RGB")
        assert image.get_format_mimetype() == "image/x-trifocal"
        assert np.array_equal(np.asarray(image), trifocal.decode(tmp_path / "photo.tri").picture.rgb)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_round_trip(photo: Image.Image, mode: str) -> None:
    image = photo.convert(mode)
    if mode.endswith("A"):
        image.putpixel((3, 4), (90, 0) if mode == "LA" else (90, 80, 70, 0))
    stream = io.BytesIO()
    image.save(stream, format="TRI", bpp=1.0)
    with Image.open(stream) as again:
        assert again.mode == mode
        again.load()
        assert (again.mode, again.im.mode, again.size) == (mode, mode, photo.size)
        if mode.endswith("A"):
            assert again.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_profile_and_exif_are_kept_as_for_other_formats(photo: Image.Image) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red = profile.index(b"rXYZ", 128)
    where = int.from_bytes(profile[red + 4 : red + 8], "big")
    profile[where + 8 : where + 12] = (0x00009C12).to_bytes(4, "big")  # a wider red, so that it is not sRGB
    exif = Image.Exif()
    exif[0x010E] = "astronaut"
    stream = io.BytesIO()
    photo.save(stream, format="TRI", max_bytes=2000, icc_profile=bytes(profile), exif=exif)
    with Image.open(stream) as again:
        assert again.info["icc_profile"] == profile
        assert again.getexif()[0x010E] == "astronaut"


def test_pixels_are_decoded_only_when_needed(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.tri")
    code = (
        "import sys, trifocal.pillow; from PIL import Image; image = Image.open(sys.argv[1]);"
        "print(image.size, image.mode, image.info['quality'], 'onnxruntime' in sys.modules); image.load();"
        "print('onnxruntime' in sys.modules)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "photo.tri")]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(160, 120) RGB 50.0 False", "True"]


def test_opened_file_is_closed_after_loading(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.tri")
    image = Image.open(tmp_path / "photo.tri")
    assert image.load() is not None
    assert getattr(image, "fp", None) is None
    assert image.copy().resize((80, 60)).size == (80, 60)


def test_errors_are_pillows(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.tri")
    data = (tmp_path / "photo.tri").read_bytes()
    with pytest.raises(UnidentifiedImageError, match="damaged"):
        Image.open(io.BytesIO(data[:-1] + bytes([data[-1] ^ 1])))
    with pytest.raises(UnidentifiedImageError, match="cut short"):
        Image.open(io.BytesIO(data[:9]))
    with pytest.raises(OSError, match="bytes"):
        photo.save(tmp_path / "small.tri", max_bytes=10)
    with pytest.raises(OSError, match="Quality"):
        photo.save(tmp_path / "wrong.tri", quality=101)
    assert not (tmp_path / "small.tri").exists()


def test_file_of_other_weights_is_refused_on_load(photo: Image.Image, tmp_path: Path) -> None:
    from dataclasses import replace

    stream = trifocal.encode(photo)
    other = replace(stream, header=replace(stream.header, fingerprint=stream.header.fingerprint ^ 1))
    with Image.open(io.BytesIO(other.to_bytes())) as image, pytest.raises(OSError, match="weights"):
        image.load()


def test_load_truncated_images_means_best_effort(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "TILE", 128)
    large = photo.resize((300, 200))
    data = bytearray(trifocal.encode(large, quality=5).to_bytes())
    *_, layer = Bitstream.from_bytes(bytes(data)).layers
    if len(layer.chunks) == 1:
        pytest.fail("this size should take more than one tile")
    data[-1] ^= 1
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == large.size
