"""Reading and writing image files: conversions, notices, refusals, tiles and attachments."""

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import EpsImagePlugin, GifImagePlugin, Image, ImageCms, TiffImagePlugin, features

from helpers.images import (
    bmp_with_profile,
    cmyk_profile,
    grey_profile,
    planar_tiff,
    png,
    png_from_chunks,
    rgb_profile,
    tiff,
    tiff_pages,
)
from trifocal.errors import Damaged, OptionError, PictureError
from trifocal.pictures import (
    MAX_METADATA,
    Picture,
    alpha_from_bytes,
    alpha_to_bytes,
    check_region,
    is_picture,
    list_pictures,
    metadata_from_bytes,
    metadata_to_bytes,
    tiles,
    tiles_in_region,
)
from trifocal.pictures.reading import READ_FORMATS, header_bit_depth

Array = NDArray[np.uint8]
RNG = np.random.default_rng(0)
RGB: Array = RNG.integers(0, 256, (11, 7, 3), dtype=np.uint8)
GREY: Array = RGB[..., 0]
ALPHA: Array = RNG.integers(0, 256, (11, 7), dtype=np.uint8)
RGBA: Array = np.dstack([RGB, ALPHA])


def file(tmp_path: Path, data: bytes, name: str = "photo.png") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def error_message(path: Path) -> str:
    """The error message, which must be one sentence that names the file."""
    with pytest.raises(PictureError) as caught:
        Picture.open(path)
    said = str(caught.value)
    assert said.startswith(path.name) and said.endswith(".") and "\n" not in said and len(said) < 300, said
    return said


def is_grey_of(picture: Picture, grey: Array) -> bool:
    return picture.grey and all(np.array_equal(picture.rgb[..., i], grey) for i in range(3))


# ── kept ──


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (255, 3), (16, 16), (641, 427)])
def test_rgb_round_trips_in_all_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    rgb = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Picture.open(file(tmp_path, png(rgb)))
    assert np.array_equal(picture.rgb, rgb) and (picture.height, picture.width) == size
    assert picture.notices == () and picture.alpha is None and not picture.grey
    picture.save(tmp_path / "again.png")
    assert np.array_equal(Picture.open(tmp_path / "again.png").rgb, rgb)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "bmp", "jp2"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_saved_image_is_opened_again(tmp_path: Path, mode: str, suffix: str) -> None:
    picture = Picture.from_pil(Image.fromarray(RGBA).convert(mode))
    assert picture.to_pil().mode == mode and picture.notices == ()
    path = tmp_path / f"photo.{suffix}"
    notes = picture.save(path)
    again = Picture.open(path)
    assert again.grey == picture.grey == (mode in ("L", "LA"))
    if mode.endswith("A") and suffix in ("ppm", "bmp"):
        assert notes == (f"The image was composited on white, because {suffix.upper()} has no transparency.",)
        return
    assert notes == () and np.array_equal(again.rgb, picture.rgb)
    assert np.array_equal(again.alpha, picture.alpha) if mode.endswith("A") else again.alpha is None  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif", "heic"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_lossy_formats_are_written_in_high_quality(tmp_path: Path, mode: str, suffix: str) -> None:
    need(suffix)
    smooth = np.linspace(20, 230, 64).astype(np.uint8)
    image = Image.merge(
        "RGBA", [Image.fromarray(np.tile(smooth, (64, 1)))] * 3 + [Image.new("L", (64, 64), 99)]
    )
    picture = Picture.from_pil(image.convert(mode), "all")
    path = tmp_path / f"photo.{suffix}"
    notes = picture.save(path)
    again = Picture.open(path)
    assert again.notices == ()
    if suffix == "jpg" and mode.endswith("A"):
        assert (
            notes == ("The image was composited on white, because JPEG has no transparency.",)
            and again.alpha is None
        )
        over_white = 255 + (picture.rgb.astype(int) - 255) * 99 // 255
        assert np.abs(again.rgb.astype(int) - over_white).max() < 6
    else:
        assert notes == () and np.abs(again.rgb.astype(int) - picture.rgb).max() < 12
        assert (again.alpha is not None) == mode.endswith("A")


def need(suffix: str) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    elif suffix in ("avif", "webp") and not features.check(suffix):
        pytest.skip(f"this Pillow has no {suffix}")


def test_options_are_passed_to_pillow(tmp_path: Path) -> None:
    picture = Picture(np.repeat(np.repeat(RGB, 9, 0), 9, 1))
    sizes = []
    for quality in (10, 90):
        picture.save(tmp_path / "photo.jpg", quality=quality)
        sizes.append((tmp_path / "photo.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_array_views_are_accepted(tmp_path: Path) -> None:
    picture = Picture(RGB[::-1, ::2], ALPHA[::-1, ::2])
    picture.save(tmp_path / "view.png")
    again = Picture.open(tmp_path / "view.png")
    assert np.array_equal(again.rgb, picture.rgb) and np.array_equal(again.alpha, ALPHA[::-1, ::2])  # type: ignore[arg-type]


# ── converted, and said ──


def test_sixteen_bits_are_reduced_with_a_notice(tmp_path: Path) -> None:
    note = ("16 bits per channel were reduced to 8.",)
    deep = RNG.integers(0, 65536, (11, 7, 4), dtype=np.uint16)
    rounded = np.rint(deep / 257).astype(np.uint8)
    for channels in (1, 3, 2, 4):
        layers = deep[..., [0, 3]] if channels == 2 else deep[..., :channels]
        picture = Picture.open(file(tmp_path, png(layers)))
        assert picture.notices == note and picture.grey == (channels == 1)  # Pillow makes RGBA of 16-bit LA
        assert np.abs(picture.rgb.astype(int) - rounded[..., : 1 if channels < 3 else 3]).max() <= 1
        assert (picture.alpha is not None) == (channels in (2, 4))
        assert Picture.from_pil(Image.open(io.BytesIO(png(layers)))).notices == note
    grey = Picture.open(file(tmp_path, png(deep[..., :1])))
    assert is_grey_of(grey, rounded[..., 0])


def test_sixteen_bits_in_other_formats(tmp_path: Path) -> None:
    note = ("16 bits per channel were reduced to 8.",)
    deep = RNG.integers(0, 65536, (11, 7, 3), dtype=np.uint16)
    rounded = np.rint(deep / 257).astype(np.uint8)
    colour = Picture.open(file(tmp_path, tiff(deep, 2), "deep.tif"))
    assert colour.notices == note and np.abs(colour.rgb.astype(int) - rounded).max() <= 1
    grey = Picture.open(file(tmp_path, tiff(deep[..., :1], 1), "deep.tif"))
    assert grey.notices == note and is_grey_of(grey, rounded[..., 0])
    negative = Picture.open(file(tmp_path, tiff(deep[..., :1], 0), "deep.tif"))
    assert negative.notices == note and is_grey_of(negative, 255 - rounded[..., 0])
    array = Picture.from_pil(Image.fromarray(deep[..., 0]))
    assert array.notices == note and is_grey_of(array, rounded[..., 0])
    pgm = b"P5 7 11 65535\n" + deep[..., 0].astype(">u2").tobytes()
    assert is_grey_of(Picture.open(file(tmp_path, pgm, "deep.pgm")), rounded[..., 0])
    ppm = b"P6\n# a comment\n7 11\n65535\n" + deep.astype(">u2").tobytes()
    assert Picture.open(file(tmp_path, ppm, "deep.ppm")).notices == note
    assert Picture.open(file(tmp_path, b"P6 7 11 255\n" + RGB.tobytes(), "flat.ppm")).notices == ()
    jp2 = Picture.open(file(tmp_path, saved(Image.fromarray(deep[..., 0]), "JPEG2000"), "deep.jp2"))
    assert jp2.notices == note and is_grey_of(jp2, rounded[..., 0])


def test_ten_bits_of_heic_give_a_notice(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    deep = heif.from_bytes("RGB;16", (64, 64), RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16).tobytes())
    for suffix, options in (("heic", {}), ("avif", {"format": "AVIF"})):
        path = tmp_path / f"deep.{suffix}"
        try:
            deep.save(path, quality=50, **options)
        except (RuntimeError, ValueError, KeyError):
            continue
        assert "bits per channel were reduced to 8." in Picture.open(path).notices[0], suffix


def test_bit_depth_is_read_from_avif_and_jpeg_2000_headers() -> None:
    need("avif")
    avif = bytearray(saved(Image.fromarray(RGB), "AVIF"))
    jp2 = bytearray(saved(Image.fromarray(RGB), "JPEG2000"))
    assert header_bit_depth(bytes(avif)) == header_bit_depth(bytes(jp2)) == 8
    avif[avif.find(b"pixi") + 9] = 12
    jp2[jp2.find(b"\xff\x4f\xff\x51") + 42] = 12 - 1
    assert header_bit_depth(bytes(avif)) == header_bit_depth(bytes(jp2)) == 12


def test_one_bit_is_converted_to_eight(tmp_path: Path) -> None:
    image = Image.fromarray(GREY > 99)
    picture = Picture.open(file(tmp_path, saved(image)))
    assert is_grey_of(picture, np.where(GREY > 99, 255, 0).astype(np.uint8))
    assert picture.notices == ("Pixels of 1 bit were converted to 8 bits.",)


def test_palettes_are_converted_to_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    picture = Picture.open(file(tmp_path, saved(image)))
    assert np.array_equal(picture.rgb, np.asarray(image.convert("RGB"))) and picture.alpha is None
    assert picture.notices == ("Palette colours were converted to RGB.",)
    entries = bytes([0, 128] + [255] * 14)
    clear = Picture.open(file(tmp_path, saved(image, transparency=entries)), keep_invisible=True)
    assert np.array_equal(clear.rgb, picture.rgb)
    assert np.array_equal(clear.alpha, np.frombuffer(entries, np.uint8)[np.asarray(image)])  # type: ignore[arg-type]
    assert clear.notices == (*picture.notices, "Transparent colours were converted to an alpha channel.")
    one = Picture.open(file(tmp_path, saved(image, "GIF", transparency=3), "one.gif"))
    assert one.alpha is not None and set(np.unique(one.alpha)) == {0, 255}


def test_transparent_colours_become_alpha(tmp_path: Path) -> None:
    key = tuple(int(value) for value in RGB[4, 5])
    picture = Picture.open(file(tmp_path, png(RGB, key)))
    assert np.array_equal(picture.alpha, np.where((RGB == key).all(-1), 0, 255))  # type: ignore[arg-type]
    grey = Picture.open(file(tmp_path, png(GREY[..., None], (int(GREY[2, 2]),))))
    assert grey.grey and np.array_equal(grey.alpha, np.where(GREY == GREY[2, 2], 0, 255))  # type: ignore[arg-type]
    deep = RGB.astype(np.uint16) * 256 + 7
    deep_grey = Picture.open(file(tmp_path, png(deep[..., :1], (int(deep[2, 2, 0]),))))
    assert np.array_equal(deep_grey.alpha, grey.alpha)  # type: ignore[arg-type]
    deep_colour = Picture.open(file(tmp_path, png(deep, tuple(int(value) for value in deep[4, 5]))))
    assert deep_colour.alpha is None and "The transparent colour was dropped." in deep_colour.notices


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    picture = Picture.from_pil(Image.fromarray(RGB).convert("RGBA"))
    assert picture.alpha is None and picture.notices == ("The alpha channel is opaque and was dropped.",)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "CMYK", "RGBX", "RGBa", "La", "PA"])
def test_other_modes_are_converted(mode: str) -> None:
    image = Image.fromarray(RGBA)
    if mode == "LAB":
        image = lab_of(image.convert("RGB"))
    elif mode == "La":
        image = image.convert("LA").convert("La")
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    else:
        image = image.convert("RGB" if mode in ("YCbCr", "HSV", "CMYK", "RGBX") else "RGBA").convert(mode)
    picture = Picture.from_pil(image)
    assert len(picture.notices) >= 1 and picture.notices[0].endswith(".")
    if mode in ("YCbCr", "HSV", "LAB", "CMYK", "RGBX"):
        assert np.abs(picture.rgb.astype(int) - RGB).mean() < 6


def lab_of(image: Image.Image) -> Image.Image:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    out = ImageCms.applyTransform(image, to_lab)
    assert out is not None
    return out


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(tmp_path: Path, form: str) -> None:
    inks = Image.new("CMYK", (32, 16), (255, 0, 0, 0))
    plain = Picture.open(file(tmp_path, saved(inks, form)))
    assert plain.rgb[8, 8].tolist() == [0, 255, 255] and plain.icc is None
    assert plain.notices == (
        "CMYK colours were converted to RGB by a simple formula, because there is no ICC profile.",
    )
    profiled = Picture.open(file(tmp_path, saved(inks, form, icc_profile=cmyk_profile())))
    assert profiled.notices == ("CMYK colours were converted to sRGB by the ICC profile.",)
    assert (
        np.ptp(profiled.rgb[8, 8].astype(int)) < 8 and 150 < profiled.rgb[8, 8, 0] < 220
    )  # this profile's cyan is grey
    assert profiled.icc is None
    broken = Picture.open(file(tmp_path, saved(inks, form, icc_profile=b"broken" * 99)))
    assert "the ICC profile is invalid" in broken.notices[0] and broken.rgb[8, 8].tolist() == [0, 255, 255]


def test_colour_profiles_are_kept(tmp_path: Path) -> None:
    for array, icc in ((RGB, rgb_profile()), (GREY, grey_profile(1.8))):
        picture = Picture.open(file(tmp_path, saved(Image.fromarray(array), icc_profile=icc)))
        assert picture.icc == icc and picture.notices == ()
        assert picture.to_pil().info["icc_profile"] == icc
        for suffix in ("png", "jpg", "tif"):
            assert picture.save(tmp_path / f"out.{suffix}") == ()
            assert Picture.open(tmp_path / f"out.{suffix}").icc == icc
        assert picture.save(tmp_path / "out.bmp") == (
            "The ICC profile was dropped, because BMP cannot store it.",
        )
    assert picture.save(tmp_path / "out.webp") == (
        "The grey ICC profile was dropped, because WEBP stores the image as RGB.",
    )


def test_profiles_embedded_in_bmp_files_are_read(tmp_path: Path) -> None:
    profile = rgb_profile()
    picture = Picture.open(file(tmp_path, bmp_with_profile(RGB, profile), "photo.bmp"))
    assert np.array_equal(picture.rgb, RGB) and picture.icc == profile and picture.notices == ()
    cut = Picture.open(file(tmp_path, bmp_with_profile(RGB, profile)[:-400], "photo.bmp"))
    assert cut.icc is None and "damaged" in cut.notices[0]
    linked = Picture.open(file(tmp_path, bmp_with_profile(RGB, b"p3.icc", b"LINK"), "photo.bmp"))
    assert linked.icc is None and linked.notices == ()


def test_srgb_and_invalid_profiles_are_dropped() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc, word in ((srgb, "sRGB"), (b"nonsense" * 50, "damaged"), (grey_profile(1.8), "does not apply")):
        image = Image.fromarray(RGB)
        image.info["icc_profile"] = icc
        picture = Picture.from_pil(image)
        assert picture.icc is None and len(picture.notices) == 1 and word in picture.notices[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(tmp_path: Path, form: str, orientation: int) -> None:
    image = Image.fromarray(
        np.kron(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3), np.ones((16, 16), np.uint8))
    )
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    path = file(tmp_path, saved(image, form, exif=exif, **options), "turned." + form.lower())
    picture = Picture.open(path, "all")
    turns: dict[int, Callable[[Array], Array]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }
    expected = turns[orientation](np.asarray(image))
    assert (
        picture.rgb.shape[:2] == expected.shape
        and np.abs(picture.rgb[..., 0].astype(int) - expected).max() < 4
    )
    assert picture.notices == (
        ("The image was rotated or mirrored by its orientation tag.",) if orientation > 1 else ()
    )
    assert picture.exif is None


def test_exif_is_kept_unless_colour_alone_is_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[274] = "Camera & Sons", 6
    exif.get_ifd(0x8825)[1] = "N"
    path = file(tmp_path, saved(Image.fromarray(RGB), "JPEG", exif=exif), "photo.jpg")
    colour = Picture.open(path, metadata="colour")
    assert colour.exif is None and "The EXIF data was dropped." in colour.notices
    picture = Picture.open(path)
    assert picture.exif is not None and picture.notices == (
        "The image was rotated or mirrored by its orientation tag.",
    )
    for suffix in ("jpg", "png", "tif"):
        assert picture.save(tmp_path / f"out.{suffix}") == ()
        with Image.open(tmp_path / f"out.{suffix}") as image:
            kept = image.getexif()
            assert kept[271] == "Camera & Sons" and kept.get(274, 1) == 1 and kept.get_ifd(0x8825)[1] == "N"
        again = Picture.open(tmp_path / f"out.{suffix}", metadata="all")
        assert again.rgb.shape == picture.rgb.shape and again.exif is not None
    assert picture.save(tmp_path / "out.bmp") == ("The EXIF data was dropped, because BMP cannot store it.",)
    with pytest.raises(OptionError, match="metadata"):
        Picture.open(path, metadata="some")  # type: ignore[arg-type]


def test_dropped_metadata_is_named_in_notices(tmp_path: Path) -> None:
    picture = Picture.open(file(tmp_path, png(RGB, text=b"taken at noon")))
    assert picture.notices == ("The PNG text was dropped.",)
    jpeg = saved(Image.fromarray(RGB), "JPEG", comment=b"at noon", xmp=b"<x:xmpmeta/>")
    assert Picture.open(file(tmp_path, jpeg, "photo.jpg"), "colour").notices == (
        "The XMP data was dropped.",
        "The comment was dropped.",
    )


def test_damaged_exif_gives_a_notice_and_a_valid_orientation(tmp_path: Path) -> None:
    """For any bytes: no warning of Pillow, an image, rotated or not, and a notice if bytes are missing."""
    exif = Image.Exif()
    exif[271], exif[274], exif[282] = "Camera", 6, 72.0
    exif.get_ifd(0x8769)[37500] = b"made by somebody" * 3
    sound = exif.tobytes()
    rng = random.Random(5)
    notes = set()
    for _ in range(200):
        data = bytearray(sound)
        data[rng.randrange(6, len(data))] = rng.choice((0, 9, 255, rng.randrange(256)))
        del data[rng.choice((len(data), rng.randrange(6, len(data)))) :]
        picture = Picture.open(file(tmp_path, saved(Image.fromarray(RGB), exif=bytes(data))), metadata="all")
        assert picture.rgb.shape in ((11, 7, 3), (7, 11, 3))
        notes |= {*picture.notices}
    assert "The EXIF data is partly damaged." in notes


def test_invalid_orientation_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the rest of the EXIF data is damaged."""
    exif = Image.Exif()
    exif[271], exif[274] = "Camera", 99
    path = file(tmp_path, saved(Image.fromarray(RGB), exif=exif))
    assert np.array_equal(Picture.open(path).rgb, RGB)
    monkeypatch.setattr(Image.Exif, "tobytes", lambda self: 1 // 0)
    picture = Picture.open(path)
    assert np.array_equal(picture.rgb, RGB) and "The EXIF data is damaged and was dropped." in picture.notices


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_first_frame_of_an_animation_is_read(tmp_path: Path, form: str) -> None:
    need(form.lower())
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:])
    picture = Picture.open(file(tmp_path, data, f"moving.{form.lower()}"))
    assert "Only the first frame or page was read." in picture.notices
    assert picture.rgb[8, 8, 0] > 240 and picture.rgb[8, 8, 1:].max() < 20


def test_later_frames_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither 60,000 pages nor a damaged second one take time."""
    page = tiff(RGB, 2)
    pages = tiff_pages(page, 60_000)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda image: pytest.fail()))
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "n_frames", property(lambda image: pytest.fail()))
    frames = [Image.fromarray(np.roll(RGB, turn, axis=0)) for turn in range(2)]
    alone, both = saved(frames[0], "GIF"), saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    broken = [both[:-20], both[: len(alone)] + b"\xff" * 20, both[: len(alone) + 9]]
    first = Picture.open(file(tmp_path, alone, "alone.gif")).rgb
    for data in (both, *broken):
        assert np.array_equal(Picture.open(file(tmp_path, data, "moving.gif")).rgb, first)
    for data in (pages, pages[:-20], pages[: len(page)] + b"\xff" * 60):
        picture = Picture.open(file(tmp_path, data, "pages.tif"))
        assert picture.notices == ("Only the first frame or page was read.",)
        assert np.array_equal(picture.rgb, RGB)


# ── refused ──


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    values = RNG.normal(size=(11, 7, 1))
    assert "floating-point" in error_message(
        file(tmp_path, tiff(values.astype(np.float32), 1, 3), "float.tif")
    )
    assert "integers" in error_message(
        file(tmp_path, tiff((values * 1e6).astype(np.int32), 1, 2), "signed.tif")
    )
    assert "integers" in error_message(
        file(tmp_path, tiff((values * 999).astype(np.int16), 1, 2), "short.tif")
    )
    with pytest.raises(PictureError, match=r"^This image cannot be read: its pixels are floating-point"):
        Picture.from_pil(Image.new("F", (4, 4)))


@pytest.mark.parametrize("bits", [8, 16])
def test_planar_channels_are_read_or_refused(tmp_path: Path, bits: int) -> None:
    """Pillow silently reads each byte of 16-bit planes as a value."""
    wide = RGB.astype(np.uint16) * 257 if bits == 16 else RGB
    path = file(tmp_path, planar_tiff(wide), "planes.tif")
    if bits == 16:
        assert "interleaved" in error_message(path)
    else:
        assert np.array_equal(Picture.open(path).rgb, RGB)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\xf3TF\x12", "Trifocal"),
        (b"Dear reader", "text"),
        (b"%PDF-1.7 \x80", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(26), "PostScript"),
        (b"\xff\x0a\xff", "JPEG XL"),
        (bytes(99), "damaged"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
    ],
)
def test_other_file_types_are_named_in_the_error(tmp_path: Path, data: bytes, what: str) -> None:
    said = error_message(file(tmp_path, data, "strange.png"))
    assert what in said or what == "JPEG XL" and "libjxl" in said  # where a plug-in takes it for one


def test_only_listed_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow passes EPS to Ghostscript; an EPS file is not even opened."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail())
    drawing = saved(Image.fromarray(RGB), "EPS")
    assert Image.open(io.BytesIO(drawing)).format == "EPS"
    assert "PostScript" in error_message(file(tmp_path, drawing, "photo.jpg"))
    assert "EPS" not in READ_FORMATS and "WMF" not in READ_FORMATS


def test_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Picture.open(tmp_path / "nowhere.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_truncated_images_are_refused(tmp_path: Path, form: str) -> None:
    need(form.lower())
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    data = saved(Image.fromarray(noise), form, **options)
    for length in (len(data) // 2, 40, 9, 2):
        error_message(file(tmp_path, data[:length], f"cut.{form.lower()}"))


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_raise_picture_error(tmp_path: Path) -> None:
    rng = random.Random(3)
    exif = Image.Exif()
    exif[271] = "Camera"
    image = Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    sources = [saved(image, form, exif=exif) for form in ("PNG", "JPEG", "WEBP", "TIFF")] + [
        saved(image, "GIF")
    ]
    refused = 0
    for turn in range(600):
        data = bytearray(sources[turn % len(sources)])
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data) if turn % 2 else 60)] = rng.randrange(256)
        path = file(tmp_path, bytes(data), "photo.bin")
        try:
            Picture.open(path)
        except PictureError as error:
            refused += 1
            assert str(error).startswith("photo.bin") and str(error).endswith(".")
    assert refused > 100


def test_images_above_the_pixel_limit_are_refused_before_decompression(tmp_path: Path) -> None:
    for width, height in ((1 << 14, (1 << 13) + 1), (65537, 1), (60000, 60000)):
        start = bytearray(png(RGB))
        start[16:24] = struct.pack(">II", width, height)
        start[29:33] = struct.pack(">I", zlib.crc32(start[12:29]))
        assert f"{width} x {height}" in error_message(file(tmp_path, bytes(start), "huge.png"))
    assert Image.MAX_IMAGE_PIXELS is not None


def test_invalid_arrays_are_refused() -> None:
    for rgb in (RGB[..., 0], RGBA, RGB.astype(float), RGB[:0], np.zeros((65537, 1, 3), np.uint8)):
        with pytest.raises(PictureError, match=r"\.$"):
            Picture(rgb)
    with pytest.raises(PictureError, match="alpha"):
        Picture(RGB, ALPHA[1:])


# ── written ──


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    for name in ("photo", "photo.xyz", "photo.gif"):
        with pytest.raises(PictureError, match=rf"^{name} cannot be written.*\.png"):
            Picture(RGB).save(tmp_path / name)


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.webp"
    Picture(RGB).save(path)
    before = path.read_bytes()
    with pytest.raises(PictureError, match=r"^photo.webp cannot be written: "):
        Picture(np.zeros((1, 16384, 3), np.uint8)).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["photo.webp"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Picture(RGB).save(tmp_path / "nowhere" / "photo.png")


# ── beside the picture ──


def test_alpha_bytes_round_trip() -> None:
    data = alpha_to_bytes(ALPHA)
    assert np.array_equal(alpha_from_bytes(data, 7, 11), ALPHA)
    for bad in (b"", data[:40], data[:-40], saved(Image.fromarray(RGB)), alpha_to_bytes(ALPHA[1:])):
        with pytest.raises(Damaged):
            alpha_from_bytes(bad, 7, 11)


def grey_head(width: int, height: int, kind: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)


HEAD, DATA, END = grey_head(7, 11), zlib.compress(bytes(8 * 11)), (b"IEND", b"")


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"IHDR", grey_head(10_000, 10_000)), (b"IDAT", DATA), END],
        [(b"IHDR", HEAD), (b"IHDR", grey_head(500, 500)), (b"IDAT", DATA), END],
        [(b"IHDR", HEAD), (b"IDAT", DATA), (b"IHDR", grey_head(500, 500)), END],
        [(b"IHDR", HEAD), (b"IHDR", HEAD), (b"IDAT", DATA), END],
        [(b"IHDR", grey_head(7, 11, kind=3)), (b"IDAT", DATA), END],
        [(b"IHDR", HEAD), (b"tEXt", b"a\0b"), (b"IDAT", DATA), END],
        [(b"IHDR", HEAD), (b"acTL", bytes(8)), (b"IDAT", DATA), END],
        [(b"IHDR", HEAD), (b"IDAT", DATA), END, END],
        [(b"IHDR", HEAD), (b"IDAT", DATA)],
        [(b"IHDR", HEAD), END],
        [(b"IHDR", HEAD), (b"IDAT", DATA), (b"IEND", b"x")],
        [(b"IDAT", DATA), END],
    ],
)
def test_alpha_png_with_other_chunks_is_refused_before_decompression(
    chunks: list[tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alpha_from_bytes(png_from_chunks([(b"IHDR", HEAD), (b"IDAT", DATA), END]), 7, 11).shape == (11, 7)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail())
    with pytest.raises(Damaged, match="7 x 11"):
        alpha_from_bytes(png_from_chunks(chunks), 7, 11)


def test_alpha_has_the_size_of_its_image() -> None:
    """Chunks are changed, added and removed at random, with corrected CRCs."""
    rng = random.Random(7)
    start = [(b"IHDR", HEAD), (b"IDAT", DATA), END]
    names = [b"IHDR", b"IDAT", b"IEND", b"tEXt", b"acTL", b"PLTE", rng.randbytes(4)]
    for _ in range(1000):
        chunks = list(start)
        for _ in range(rng.randint(1, 3)):
            name, data = rng.choice(chunks)
            hurt = bytearray(data or b"x")
            hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
            chunks.insert(rng.randint(0, len(chunks)), (rng.choice([name, *names]), bytes(hurt)))
            if rng.random() < 0.5:
                del chunks[rng.randrange(len(chunks))]
        data = png_from_chunks(chunks)
        try:
            alpha = alpha_from_bytes(data[: rng.choice([len(data), rng.randrange(len(data) + 1)])], 7, 11)
        except Damaged:
            continue
        assert alpha.shape == (11, 7) and alpha.dtype == np.uint8


def test_metadata_bytes_round_trip() -> None:
    icc = rgb_profile()
    data = metadata_to_bytes(icc)
    assert metadata_from_bytes(data) == icc and metadata_from_bytes(metadata_to_bytes(b"")) == b""
    assert metadata_from_bytes(metadata_to_bytes(bytes(MAX_METADATA))) == bytes(MAX_METADATA)
    bomb = zlib.compress(bytes(MAX_METADATA + 1))
    for bad in (b"", data[:-1], data + b"x", b"nonsense", bomb):
        with pytest.raises(Damaged, match=r"\.$"):
            metadata_from_bytes(bad)
    with pytest.raises(PictureError):
        metadata_to_bytes(bytes(MAX_METADATA + 1))


# ── tiles ──


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1, 1, 512), (768, 512, 512), (1000, 513, 256), (7, 11, 3)]
)
def test_tiles_cover_each_pixel_once(width: int, height: int, size: int) -> None:
    count = np.zeros((height, width), int)
    cut = tiles(width, height, size)
    assert [tile.index for tile in cut] == list(range(len(cut)))
    for tile in cut:
        assert tile.x + tile.width <= width and tile.y + tile.height <= height
        count[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert (count == 1).all()


def test_region_needs_the_tiles_that_it_overlaps() -> None:
    every = tiles(100, 70, 16)
    rng = random.Random(4)
    for _ in range(200):
        x, y = rng.randrange(100), rng.randrange(70)
        region = x, y, rng.randint(1, 100 - x), rng.randint(1, 70 - y)
        touched = [
            t
            for t in every
            if t.x < x + region[2] and t.x + t.width > x and t.y < y + region[3] and t.y + t.height > y
        ]
        assert list(tiles_in_region(100, 70, 16, region)) == touched


@pytest.mark.parametrize(
    "region", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 101, 1), (99, 69, 1, 2), (100, 0, 1, 1)]
)
def test_regions_outside_the_image_are_refused(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(OptionError, match="100 x 70"):
        check_region(100, 70, region)


def test_exif_above_jpegs_limit_is_dropped_with_a_notice(tmp_path: Path) -> None:
    """JPEG has one segment of 64 KiB for EXIF."""
    for size, notices in (65_000, 0), (66_000, 1):
        exif = Image.Exif()
        exif[0x010E] = "x" * size
        picture = Picture(np.zeros((8, 8, 3), np.uint8), exif=exif.tobytes())
        notes = picture.save(tmp_path / "a.jpg")
        assert len(notes) == notices and all("EXIF" in note for note in notes)
        with Image.open(tmp_path / "a.jpg") as image:
            assert (0x010E in image.getexif()) == (not notices)
    assert not picture.save(tmp_path / "a.png")


# ── folders ──


def test_folders_are_replaced_by_their_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "sub/c.webp", "sub/d.tri"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    top = [tmp_path / "a.jpg", tmp_path / "b.PNG"]
    assert list_pictures([tmp_path]) == top
    assert list_pictures([tmp_path], recursive=True) == [*top, tmp_path / "sub/c.webp"]
    assert list_pictures([tmp_path], recursive=True, suffixes=[".tri"]) == [tmp_path / "sub/d.tri"]
    named = [tmp_path / "notes.txt", tmp_path / "gone.png", tmp_path / "a.jpg"]
    assert list_pictures([*named, tmp_path]) == [*named, tmp_path / "b.PNG"]
    assert is_picture("x.HEIC") and not is_picture("x.txt") and not is_picture("._x.jpg")


# ── large ──


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="getrusage gives a child the peak of its parent")
def test_hundred_megapixels_take_less_than_a_gibibyte(tmp_path: Path) -> None:
    code = (
        "import re, sys; from pathlib import Path; from trifocal.pictures import Picture\n"
        "picture = Picture.open(sys.argv[1]); assert picture.rgb.shape == (12000, 8334, 3), "
        "picture.rgb.shape\n"
        "picture.save(sys.argv[2])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    exif = Image.Exif()
    exif[274] = 6
    source = tmp_path / "large.jpg"
    Image.new("RGB", (12000, 8334), "teal").save(source, exif=exif)
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out.png")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 1 << 30
