"""EXIF, XMP, resolution, orientation, and colour descriptions without an ICC profile."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

import trifocal
import trifocal.pillow
from helpers.images import png_chunk, png_from_chunks, rgb_profile, tiff
from trifocal.codecs.metadata_layers import dpi_from_bytes, dpi_to_bytes
from trifocal.container import Bitstream, Layer, Tag
from trifocal.errors import Damaged, PictureError, TrifocalError
from trifocal.pictures import Picture
from trifocal.pictures.colour import srgb_converter
from trifocal.pictures.colour_metadata import iso_boxes, primary_item_nclx
from trifocal.pictures.profiles import ADOBE_RGB, CODED_PRIMARIES, SRGB, SRGB_CURVE, make_profile

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" dc:title="at noon"/></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')
HDR = "The image is HDR, but was read as sRGB, which changes its appearance; convert it to SDR first."
WIDE = Image.new("RGB", (32, 16), (200, 90, 30))


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> io.BytesIO:
    out = io.BytesIO()
    image.save(out, form, **options)
    out.seek(0)
    return out


def exif_of(**tags: Any) -> Image.Exif:
    exif = Image.Exif()
    exif[271] = "Camera"
    for name, value in tags.items():
        exif[int(name[1:])] = value
    return exif


def png_with(*chunks: bytes, image: Image.Image = WIDE) -> io.BytesIO:
    """A PNG with chunks inserted after IHDR."""
    data = saved(image).getvalue()
    return io.BytesIO(data[:33] + b"".join(chunks) + data[33:])


def first_pixel(picture: Picture) -> list[int]:
    """The top left pixel, in sRGB."""
    image = Image.fromarray(picture.rgb[:1, :1])
    convert = srgb_converter(picture.icc, "RGB") if picture.icc else None
    return [int(value) for value in np.asarray(convert(image) if convert else image)[0, 0]]


# ── orientation ──


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_only_to_images_opened_by_pillow(form: str) -> None:
    stream = saved(WIDE, form, exif=exif_of(_274=6))
    assert Picture.open(stream).rgb.shape[:2] == (32, 16)
    opened = Image.open(stream)
    assert [Picture.from_pil(opened).rgb.shape[:2] for _ in range(2)] == [(32, 16)] * 2
    upright = Image.open(stream).transpose(Image.Transpose.ROTATE_270) if form != "TIFF" else opened.copy()
    for image in (upright, upright.copy(), upright.resize((16, 32)), ImageOps.exif_transpose(opened)):
        picture = Picture.from_pil(image)
        assert picture.rgb.shape[:2] == (32, 16) and "turned" not in "".join(picture.notices)


def test_plug_in_applies_the_orientation_once() -> None:
    stream = saved(WIDE, "JPEG", exif=exif_of(_274=6), xmp=XMP)
    opened = Image.open(stream)
    upright = Image.open(stream).transpose(Image.Transpose.ROTATE_270)
    given: tuple[dict[str, Any], ...] = (
        {"exif": opened.getexif()},
        {"xmp": XMP},
        {"exif": opened.info["exif"], "xmp": XMP},
        {},
    )
    for options in given:
        tri = saved(opened, "TRI", preset="compact", quality=0, **options)
        assert ImageOps.exif_transpose(Image.open(tri)).size == (16, 32), options
    assert Image.open(saved(upright, "TRI", preset="compact")).size == (16, 32)
    sideways = saved(
        upright, "TRI", preset="compact", exif=opened.getexif()
    )  # as Pillow's own formats are shown
    assert Image.open(sideways).size == (32, 16)
    assert opened.getexif()[274] == 6 and opened.info["exif"]


def test_pillow_images_in_memory_are_not_rotated() -> None:
    upright = Image.open(saved(WIDE, "JPEG", exif=exif_of(_274=6))).transpose(Image.Transpose.ROTATE_270)
    stream = trifocal.encode(upright.resize((20, 30)), "compact", quality=0)
    assert (stream.header.width, stream.header.height) == (20, 30) and stream.layer(Tag.EXIF)


def test_exif_orientation_of_jpeg_xl_is_not_applied() -> None:
    """JPEG XL has its own, which its decoder applies."""
    pytest.importorskip("pillow_jxl")
    assert Picture.open(saved(WIDE, "JXL", exif=exif_of(_274=6).tobytes())).rgb.shape[:2] == (16, 32)


# ── kept ──


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif", "jxl"])
def test_exif_xmp_and_dpi_are_kept_in_a_tri_file(tmp_path: Path, suffix: str) -> None:
    if suffix == "jxl":
        pytest.importorskip("pillow_jxl")
    if suffix in ("avif", "webp") and not features.check(suffix):
        pytest.skip(f"this Pillow has no {suffix}")
    (tmp_path / "photo.jpg").write_bytes(
        saved(WIDE, "JPEG", exif=exif_of(_274=6), xmp=XMP, dpi=(300, 150)).getvalue()
    )
    stream = trifocal.encode(tmp_path / "photo.jpg", "compact", quality=0)
    picture = trifocal.decode(stream.to_bytes()).picture
    assert picture.xmp == UPRIGHT_XMP and picture.dpi == (150.0, 300.0) and picture.rgb.shape[:2] == (32, 16)
    notes = picture.save(tmp_path / f"out.{suffix}")
    again = Picture.open(tmp_path / f"out.{suffix}")
    assert again.rgb.shape == picture.rgb.shape and again.xmp == UPRIGHT_XMP
    assert b"Camera" in (again.exif or b"")
    if suffix in ("png", "jpg", "tif"):
        assert notes == () and again.dpi == pytest.approx((150, 300), rel=1e-4)
    else:
        assert notes == (f"The resolution was dropped, because {suffix.upper()} cannot store it.",)
    colour = trifocal.encode(tmp_path / "photo.jpg", "compact", quality=0, metadata="colour")
    assert [layer.tag for layer in colour.layers] == [Tag.LATENT]
    assert (
        colour.to_bytes()
        == trifocal.encode(picture_of(tmp_path), "compact", quality=0, metadata="colour").to_bytes()
    )


def picture_of(folder: Path) -> Picture:
    return Picture.open(folder / "photo.jpg")


def test_pillow_reads_metadata_of_a_tri_file() -> None:
    tri = saved(WIDE, "TRI", preset="compact", exif=exif_of(), xmp=XMP, dpi=(72, 72))
    with Image.open(tri) as image:
        assert image.info["dpi"] == (72, 72) and image.getexif()[271] == "Camera"
        assert image.size == (16, 32) and image.info["xmp"] == UPRIGHT_XMP  # XMP said 6
    assert not {"exif", "xmp", "dpi"} & {*Image.open(saved(Image.open(tri), "TRI", preset="compact")).info}


def test_notice_names_a_dropped_gps_position() -> None:
    exif = exif_of()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    photo = saved(WIDE, "JPEG", exif=exif)
    assert Picture.open(photo, "colour").notices == ("The EXIF data was dropped, including a GPS position.",)
    assert Picture.open(photo).notices == () and Picture.open(photo).exif
    photo = saved(WIDE, "JPEG", xmp=b'<x exif:GPSLatitude="48,8N"/>')
    assert Picture.open(photo, "colour").notices == ("The XMP data was dropped, including a GPS position.",)
    photo = saved(WIDE, "JPEG", exif=exif_of())
    assert Picture.open(photo, "colour").notices == ("The EXIF data was dropped.",)


def test_metadata_above_jpegs_limit_is_dropped_with_a_notice(tmp_path: Path) -> None:
    exif = exif_of()
    exif[37510] = bytes(70_000)
    picture = Picture(np.zeros((8, 8, 3), np.uint8), exif=exif.tobytes(), xmp=bytes(70_000))
    notes = picture.save(tmp_path / "out.jpg")
    assert [note.split(" was")[0] for note in notes] == ["The EXIF data", "The XMP data"]
    assert Picture.open(tmp_path / "out.jpg").rgb.shape == (8, 8, 3)
    assert picture.save(tmp_path / "out.png") == ()


def test_default_resolutions_of_pillow_are_ignored() -> None:
    assert Picture.open(saved(WIDE, "JPEG")).dpi is None
    assert Picture.open(saved(WIDE, "JPEG", exif=exif_of())).dpi is None  # Pillow says 72
    assert Picture.open(saved(WIDE, "TIFF")).dpi is None  # and 1
    for dpi in ((0, 0), (float("nan"), 72.0), (1e9, 1e9), "many"):
        image = WIDE.copy()
        image.info["dpi"] = dpi
        assert Picture.from_pil(image).dpi is None


def test_resolution_layer_has_one_encoding() -> None:
    for dpi, size in (((72.0, 72.0), 3), ((299.999, 150.0), 6), ((0.001, 0.001), 1), ((1e6, 1e6), 5)):
        assert dpi_from_bytes(dpi_to_bytes(dpi)) == dpi and len(dpi_to_bytes(dpi)) == size
    for bad in (b"", b"\0", b"\x80", b"\x05\x05", b"\x05\x06\x07", b"\xff\xff\xff\xff\x7f"):
        with pytest.raises(TrifocalError, match=r"\.$"):
            dpi_from_bytes(bad)


def test_damaged_resolution_raises_damaged() -> None:
    stream = trifocal.encode(WIDE, "compact", quality=0)
    broken = Bitstream(stream.header, (*stream.layers, Layer(Tag.DPI, (b"\0",))))
    with pytest.raises(Damaged, match="resolution"):
        trifocal.decode(broken)


# ── colours without a profile ──


def test_made_profiles_convert_colours_correctly() -> None:
    assert make_profile(False, SRGB, SRGB_CURVE) is None and make_profile(True, ADOBE_RGB, SRGB_CURVE) is None
    slightly = tuple((x + 1e-5, y) for x, y in SRGB)
    assert make_profile(False, slightly, SRGB_CURVE) is None
    p3 = make_profile(False, CODED_PRIMARIES[12], (2.2,))
    assert p3 is not None
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    ours, reference = (srgb_converter(profile, "RGB") for profile in (p3, rgb_profile(2.2)))
    assert ours and reference
    assert np.abs(np.asarray(ours(colours)).astype(int) - np.asarray(reference(colours))).max() <= 3
    for points in (((0.3, 0.3),) * 4, ((0.3, 0.0), *SRGB[1:])):
        with pytest.raises(ValueError):
            make_profile(False, points, SRGB_CURVE)


@pytest.mark.parametrize(
    ("codes", "pixel", "note"),
    [
        ((1, 13, 0, 1), [200, 90, 30], ""),
        ((12, 13, 0, 1), [216, 81, 0], "An ICC profile was made from the colour code points."),
        ((9, 16, 0, 1), [200, 90, 30], HDR),
        ((9, 18, 0, 1), [200, 90, 30], HDR),
        ((77, 13, 0, 1), [200, 90, 30], "code points 77 and 13"),
    ],
)
def test_cicp_of_png_is_read(codes: tuple[int, ...], pixel: list[int], note: str) -> None:
    picture = Picture.open(png_with(png_chunk(b"cICP", bytes(codes))))
    assert (
        first_pixel(picture) == pixel
        and note in "".join(picture.notices)
        and bool(picture.notices) == bool(note)
    )


def chromaticities(points: Any = ADOBE_RGB, gamma: float | None = 0.45455) -> list[bytes]:
    flat = [round(100_000 * value) for point in points for value in point]
    chunks = [png_chunk(b"cHRM", struct.pack(">8I", *flat))]
    return (
        chunks if gamma is None else [png_chunk(b"gAMA", struct.pack(">I", round(100_000 * gamma))), *chunks]
    )


def test_chromaticities_and_gamma_of_png_are_read() -> None:
    made = ("An ICC profile was made from the cHRM and gAMA values.",)
    adobe = Picture.open(png_with(*chromaticities()))
    assert adobe.notices == made and first_pixel(adobe)[0] > 225
    assert Picture.open(png_with(*chromaticities(SRGB))).notices == ()
    assert Picture.open(png_with(*chromaticities(SRGB, None))).notices == ()
    assert Picture.open(png_with(png_chunk(b"sRGB", b"\0"), *chromaticities())).notices == ()
    linear = Picture.open(png_with(*chromaticities(SRGB, 1.0)))
    assert linear.notices == made and first_pixel(linear)[1] in (160, 161)  # 90 of 255 is light already
    grey = Picture.open(png_with(*chromaticities(SRGB, 1.0), image=WIDE.convert("L")))
    assert grey.notices == made and grey.icc and grey.icc[16:20] == b"GRAY"
    for wrong in (
        chromaticities(((0.3, 0.0),) * 4),
        chromaticities(SRGB, 0.0),
        chromaticities(SRGB, 40000.0),
    ):
        assert "not supported" in Picture.open(png_with(*wrong)).notices[0]
    profiled = saved(WIDE, icc_profile=rgb_profile()).getvalue()
    picture = Picture.open(io.BytesIO(profiled[:33] + b"".join(chromaticities()) + profiled[33:]))
    assert picture.icc == rgb_profile() and picture.notices == ()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_code_points_of_avif_are_read() -> None:
    data = saved(WIDE, "AVIF", quality=100).getvalue()
    at = data.find(b"nclx") + 4
    for codes, note in (((1, 13), ""), ((9, 16), HDR), ((12, 13), "An ICC profile was made from")):
        changed = data[:at] + struct.pack(">HH", *codes) + data[at + 4 :]
        picture = Picture.open(io.BytesIO(changed))
        assert note in "".join(picture.notices) and bool(picture.notices) == bool(note)
        assert (picture.icc is not None) == (codes == (12, 13))


def test_code_points_of_the_primary_item_are_used() -> None:
    def box(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), name) + body

    colours = [box(b"colr", b"nclx" + struct.pack(">HHHB", *codes, 0, 128)) for codes in ((9, 16), (1, 13))]
    pairs = b"".join(struct.pack(">HBB", item, 1, place | 128) for item, place in ((7, 1), (3, 2)))
    about = box(
        b"iprp", box(b"ipco", b"".join(colours)) + box(b"ipma", bytes(4) + struct.pack(">I", 2) + pairs)
    )
    assert primary_item_nclx(box(b"pitm", bytes(4) + b"\0\3") + about) == (1, 13)
    assert primary_item_nclx(box(b"pitm", bytes(4) + b"\0\7") + about) == (9, 16)
    assert primary_item_nclx(box(b"pitm", bytes(4) + b"\0\1") + about) is None
    assert list(iso_boxes(struct.pack(">I4s", 3, b"evil") + bytes(40))) == []


def test_adobe_rgb_is_read_from_exif() -> None:
    exif = exif_of()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    picture = Picture.open(saved(WIDE, "JPEG", exif=exif, quality=100))
    assert picture.notices == ("An ICC profile was made from the EXIF colour space, Adobe RGB.",)
    assert first_pixel(picture)[0] > 225


def test_profile_of_jpeg_2000_is_read() -> None:
    data = saved(WIDE, "JPEG2000").getvalue()
    profile = rgb_profile()
    at, head = data.find(b"colr") - 4, data.find(b"jp2h") - 4
    size, jp2h = (int.from_bytes(data[place : place + 4], "big") for place in (at, head))
    colr = b"colr\2\0\0" + profile
    grown = struct.pack(">I", jp2h + 4 + len(colr) - size)
    data = (
        data[:head]
        + grown
        + data[head + 4 : at]
        + struct.pack(">I", 4 + len(colr))
        + colr
        + data[at + size :]
    )
    assert Picture.open(io.BytesIO(data)).icc == profile


@pytest.mark.parametrize(
    "segment",
    [
        b'\xff\xe1http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>',
        b"\xff\xe1http://ns.adobe.com/xap/1.0/\0<hdrgm:Version>1.0</hdrgm:Version>",
        b"\xff\xe2urn:iso:std:iso:ts:21496:-1\0" + bytes(4),
    ],
)
def test_dropped_gain_maps_are_noted(segment: bytes) -> None:
    data = saved(WIDE, "MPO", save_all=True, append_images=[WIDE.resize((8, 4))]).getvalue()
    segment = segment[:2] + struct.pack(">H", len(segment)) + segment[2:]
    picture = Picture.open(io.BytesIO(data[:2] + segment + data[2:]))
    assert "The HDR gain map was dropped." in picture.notices
    assert "The HDR gain map was dropped." not in Picture.open(io.BytesIO(data)).notices


# ── read wrongly by Pillow ──


@pytest.mark.parametrize(("bits", "key"), [(1, 1), (2, 1), (4, 5), (8, 3)])
def test_transparent_grey_of_few_bits_is_converted(bits: int, key: int) -> None:
    values = np.arange(8) % (1 << bits)
    row = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(bits, "big")
    head = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", struct.pack(">H", key)), (b"IDAT", zlib.compress(b"\0" + row))]
    picture = Picture.open(io.BytesIO(png_from_chunks([*chunks, (b"IEND", b"")])))
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [0 if value == key else 255 for value in values]


def tga(pixels: NDArray[np.uint8], alpha_bits: int) -> io.BytesIO:
    height, width, channels = pixels.shape
    head = struct.pack(
        "<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, width, height, 8 * channels, 0x20 | alpha_bits
    )
    return io.BytesIO(head + pixels.tobytes())


def test_a_tga_without_alpha_is_opaque() -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., :3] = 30, 90, 200
    picture = Picture.open(tga(pixels, 0))
    assert picture.alpha is None and picture.rgb[2, 2].tolist() == [200, 90, 30]
    assert picture.notices == ("An unused fourth channel was dropped.",)
    pixels[:2, :, 3] = 255
    for alpha_bits in (0, 8):
        kept = Picture.open(tga(pixels, alpha_bits))
        assert kept.alpha is not None and kept.alpha[0, 0] == 255 and kept.alpha[3, 0] == 0


def test_made_profile_is_valid() -> None:
    """Header and tag table are valid, and equal curves are stored once."""
    made = make_profile(False, ADOBE_RGB, (2.2,))
    assert made is not None and len(made) == int.from_bytes(made[:4], "big") and made[36:40] == b"acsp"
    count = int.from_bytes(made[128:132], "big")
    rows = [struct.unpack_from(">4sII", made, 132 + 12 * row) for row in range(count)]
    assert all(at + size <= len(made) for _, at, size in rows)
    assert len({at for name, at, _ in rows if name.endswith(b"TRC")}) == 1


def test_tiff_files_that_pillow_misreads_are_refused() -> None:
    signed = np.arange(-38, 39).astype(np.int8).reshape(11, 7, 1)
    with pytest.raises(PictureError, match="signed"):
        Picture.open(io.BytesIO(tiff(signed, 1, 2)))
    whole = tiff(np.full((12, 8, 3), 90, np.uint8), 6)
    assert Picture.open(io.BytesIO(whole)).rgb.shape == (12, 8, 3)
    lengths, subsampled = (struct.pack("<HHII", 279, 4, 1, size) for size in (12 * 8 * 3, 12 * 8 * 3 // 2))
    with pytest.raises(PictureError, match="subsampled"):
        Picture.open(io.BytesIO(whole.replace(lengths, subsampled)))
