"""Colours of fully transparent pixels are not stored and do not affect detectors, unless requested."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import trifocal
import trifocal.pillow
from trifocal.cli import app
from trifocal.codecs import scalable
from trifocal.container import Bitstream
from trifocal.detection.detections import Detections
from trifocal.pictures import Picture
from trifocal.pictures.invisible import fill_invisible

HIDDEN = "The colours of fully transparent pixels were dropped."


def image_with_hidden_noise(noise: int = 1) -> NDArray[np.uint8]:
    """[64, 96, 4]: a ramp, whose right half is transparent and contains noise."""
    random = np.random.default_rng(noise)
    rgba = np.zeros((64, 96, 4), np.uint8)
    rgba[..., :3] = np.linspace(40, 200, 96).astype(np.uint8)[None, :, None]
    rgba[:, :48, 3] = 255
    rgba[:, 48:, :3] = random.integers(0, 256, (64, 48, 3))
    return rgba


def png(rgba: NDArray[np.uint8]) -> io.BytesIO:
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "PNG")
    out.seek(0)
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (64, 33)])
def test_visible_pixels_are_kept_and_determine_the_rest(size: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    rgb, other = random.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    alpha = random.choice(np.array([0, 0, 1, 255], np.uint8), size)
    other[alpha > 0] = rgb[alpha > 0]
    flat = fill_invisible(rgb, alpha)
    assert flat.shape == rgb.shape and np.array_equal(flat[alpha > 0], rgb[alpha > 0])
    assert np.array_equal(flat, fill_invisible(other, alpha)) and np.array_equal(
        flat, fill_invisible(flat, alpha)
    )
    assert fill_invisible(rgb, np.full(size, 255, np.uint8)) is rgb
    assert (fill_invisible(rgb, np.zeros(size, np.uint8)) == 128).all()


def test_filled_pixels_are_smooth() -> None:
    rgba = image_with_hidden_noise()
    flat = fill_invisible(rgba[..., :3], rgba[..., 3]).astype(int)
    assert np.abs(np.diff(flat, axis=1)).max() <= 8 and np.abs(np.diff(flat, axis=0)).max() <= 8
    one_colour = fill_invisible(np.where(rgba[..., 3:] > 0, 77, rgba[..., :3]).astype(np.uint8), rgba[..., 3])
    assert (one_colour == 77).all()


def test_invisible_colours_are_replaced_on_reading() -> None:
    rgba = image_with_hidden_noise()
    picture = Picture.open(png(rgba))
    assert picture.notices == (HIDDEN,)
    assert np.array_equal(picture.rgb, Picture.from_pil(Image.fromarray(rgba)).rgb)
    assert np.array_equal(picture.rgb, Picture(rgba[..., :3], rgba[..., 3]).fill_invisible().rgb)
    kept = Picture.open(png(rgba), keep_invisible=True)
    assert kept.notices == () and np.array_equal(kept.rgb, rgba[..., :3])
    rgba[:, 48:, :3] = 0
    assert Picture.open(png(rgba)).notices == ()  # one colour hides nothing


def test_invisible_colours_are_not_stored() -> None:
    clean, noisy = image_with_hidden_noise(1), image_with_hidden_noise(2)
    clean[:, 48:, :3] = 0
    files = [
        trifocal.encode(source, "compact").to_bytes()
        for rgba in (clean, noisy)
        for source in (rgba, Image.fromarray(rgba), Picture(rgba[..., :3], rgba[..., 3]))
    ]
    assert len({*files}) == 1
    kept = trifocal.encode(noisy, "compact", keep_invisible=True)
    assert kept.size > 3 * len(files[0])
    assert (
        trifocal.decode(kept).picture.rgb[:, 60:].std()
        > 3 * trifocal.decode(files[0]).picture.rgb[:, 60:].std()
    )
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "TRI", preset="compact")
    assert out.getvalue() == files[0]
    Image.fromarray(noisy).save(out := io.BytesIO(), "TRI", preset="compact", keep_invisible=True)
    assert out.getvalue() == kept.to_bytes()


def test_command_replaces_invisible_colours_by_default(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png(image_with_hidden_noise()).getvalue())
    words = ["encode", str(tmp_path / "photo.png"), "--preset", "compact", "-o"]
    plain = CliRunner().invoke(app, [*words, str(tmp_path / "plain.tri")])
    assert plain.exit_code == 0 and HIDDEN in plain.stderr
    kept = CliRunner().invoke(app, [*words, str(tmp_path / "kept.tri"), "--keep-invisible"])
    assert kept.exit_code == 0 and HIDDEN not in kept.stderr
    sizes = [Bitstream.open(tmp_path / name).size for name in ("plain.tri", "kept.tri")]
    assert 3 * sizes[0] < sizes[1]


def test_detector_does_not_use_invisible_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Picture] = []

    def look(picture: Picture, **engine: object) -> Detections:
        looked.append(picture)
        raise KeyboardInterrupt

    monkeypatch.setattr(scalable, "detect_objects", look)
    (tmp_path / "photo.png").write_bytes(png(image_with_hidden_noise()).getvalue())
    trifocal.encode(image_with_hidden_noise(), "compact", keep_invisible=True).save(tmp_path / "kept.tri")
    for name in ("photo.png", "kept.tri"):
        with pytest.raises(KeyboardInterrupt):
            trifocal.detect(tmp_path / name, notify=lambda notice: None)
        picture = looked.pop()
        assert picture.alpha is not None and np.array_equal(picture.rgb, picture.fill_invisible().rgb), name


def test_file_larger_than_its_source_gives_a_notice(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "small.webp", quality=1)
    Image.fromarray(random).save(tmp_path / "large.png")
    said = "larger than its source"
    for name, expected in (("small.webp", True), ("large.png", False)):
        result = CliRunner().invoke(app, ["encode", str(tmp_path / name), "--preset", "compact", "-q", "80"])
        assert result.exit_code == 0 and (said in result.stderr) == expected
