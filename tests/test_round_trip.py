"""Encoding and decoding of images of any size: tiles, regions, damage and rates."""

import dataclasses
from zlib import crc32

import numpy as np
import pytest

from helpers.codec_checks import (
    check_best_effort_fills_damaged_tile,
    check_forged_payloads,
    check_forward_matches_decode,
    check_tiled_analysis,
    check_tiles_leave_no_seams,
)
from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal.codecs.rate_control import search
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.errors import Damaged, FormatError, OptionError, RateError, Unsupported
from trifocal.pictures import Picture, canvas


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 128 pixels, so that a small image has several."""
    monkeypatch.setattr(canvas, "TILE", 128)


@pytest.fixture
def tiled(small_tiles, codec):
    picture = Picture(random_rgb(300, 270, seed=5))
    return picture, codec.encode(picture, quality=60)


def test_forward_equals_decode(codec):
    check_forward_matches_decode(codec)


@pytest.mark.parametrize("size", [(1, 1), (1, 77), (77, 1), (63, 65), (64, 64), (200, 130)])
def test_images_of_any_size_round_trip(codec, size):
    picture = Picture(random_rgb(*size))
    stream = Bitstream.from_bytes(codec.encode(picture).to_bytes())
    assert codec.decode(stream).picture.rgb.shape == picture.rgb.shape


def test_file_overhead_is_eighteen_bytes(codec):
    stream = codec.encode(Picture(random_rgb(768, 512)), quality=20)
    assert stream.size - len(stream.layers[0].chunks[0]) <= 18


def test_alpha_and_metadata_round_trip(codec):
    rgb = np.repeat(random_rgb(70, 50)[..., :1], 3, axis=2)
    alpha = random_rgb(70, 50, seed=1)[..., 0]
    picture = Picture(rgb, alpha=alpha, grey=True, icc=b"profile", exif=b"Exif\0\0data")
    back = codec.decode(codec.encode(picture), region=(10, 5, 30, 20)).picture
    assert back.grey and back.icc == b"profile" and back.exif == b"Exif\0\0data"
    assert np.array_equal(back.alpha, alpha[5:25, 10:40])
    assert (back.rgb == back.rgb[..., :1]).all()


def test_tiles_equal_the_whole_image(tiled, codec):
    check_tiles_leave_no_seams(tiled[1], codec)


def test_analysis_of_a_tile_equals_that_of_the_whole_image(small_tiles, codec):
    check_tiled_analysis(codec)


@pytest.mark.parametrize("region", [(0, 0, 300, 270), (5, 7, 1, 1), (120, 120, 20, 20), (200, 0, 100, 270)])
def test_decoded_region_equals_the_part_of_the_whole_image(tiled, codec, region):
    _, stream = tiled
    x, y, width, height = region
    whole = codec.decode(stream).picture.rgb[y : y + height, x : x + width].astype(int)
    assert np.abs(codec.decode(stream, region=region).picture.rgb - whole).max() <= 1


@pytest.mark.parametrize(
    ("region", "tiles"),
    [((10, 10, 20, 20), 1), ((100, 10, 20, 20), 2), ((100, 100, 20, 20), 4), ((0, 0, 300, 270), 9)],
)
def test_region_decodes_only_the_tiles_it_needs(tiled, codec, monkeypatch, region, tiles):
    _, stream = tiled
    read = []

    def nothing(tiles, data, size, *rest):
        read.append(data)
        return np.zeros((1, *size, codec.runtime.latent_channels), np.float32)

    monkeypatch.setattr(type(codec.tiles), "read", nothing)
    codec.decode(stream, region=region)
    assert len(read) == tiles  # its own, and those that its halo touches


@pytest.mark.parametrize("region", [(0, 0, 0, 5), (-1, 0, 5, 5), (290, 0, 20, 5)])
def test_region_outside_the_image_is_refused(tiled, codec, region):
    with pytest.raises(OptionError, match="region"):
        codec.decode(tiled[1], region=region)


def test_best_effort_greys_out_a_damaged_tile(tiled, codec):
    check_best_effort_fills_damaged_tile(tiled[1], codec)


@pytest.mark.parametrize("seed", range(40))
def test_forged_payload_raises_only_trifocal_errors(codec, picture, seed):
    check_forged_payloads(codec, picture, seed)


def test_random_damage_raises_only_trifocal_errors(codec, picture):
    """One byte changed, removed or added, anywhere."""
    data = codec.encode(picture, quality=10).to_bytes()
    random = np.random.default_rng(0)
    for number in range(3000):
        at = number % len(data)
        changed = bytearray(data)
        if number % 3 == 0:
            changed = changed[:at]
        elif number % 3 == 1:
            changed[at] ^= 1 << random.integers(8)
        else:
            changed[at:at] = random.bytes(1 + number % 4)
        with pytest.raises(FormatError):
            Bitstream.from_bytes(bytes(changed))


def test_oversized_header_is_refused_before_decoding(codec, picture):
    stream = codec.encode(picture)
    huge = dataclasses.replace(stream.header, width=65536, height=65536)
    with pytest.raises(Unsupported, match="megapixels"):
        codec.decode(dataclasses.replace(stream, header=huge))
    wide = dataclasses.replace(stream.header, width=60000, height=2000)
    with pytest.raises(Damaged, match="number of its tiles"):
        codec.decode(dataclasses.replace(stream, header=wide))


def test_quality_is_stored_and_file_size_increases_with_it(codec, picture):
    sizes = []
    for quality in range(0, 101, 10):
        stream = codec.encode(picture, quality=quality)
        assert stream.header.quality == quality
        sizes.append(stream.size)
    assert sizes == sorted(sizes)
    assert codec.encode(picture, quality=33.3).header.quality == 33.25


@pytest.mark.parametrize("part", [0.15, 0.5, 0.9])
def test_requested_size_is_met(codec, picture, part):
    low, high = (codec.encode(picture, quality=q).size for q in (0, 100))
    target = round(low + part * (high - low))
    stream = codec.encode(picture, max_bytes=target)
    assert 0.97 * target <= stream.size <= target
    bpp = 8 * target / (picture.width * picture.height)
    assert 0.97 * target <= codec.encode(picture, bpp=bpp).size <= target


def test_unreachable_sizes_are_refused(codec, picture):
    with pytest.raises(RateError, match="needs at least"):
        codec.encode(picture, max_bytes=30)
    assert codec.encode(picture, max_bytes=10**7).header.quality == 100


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 101},
        {"quality": -1},
        {"bpp": 0},
        {"max_bytes": 0},
        {"quality": 5, "bpp": 1},
        {"bpp": float("nan")},
    ],
)
def test_rates_out_of_range_are_refused(codec, picture, options):
    with pytest.raises(OptionError):
        codec.encode(picture, **options)


def test_rate_search_corrects_a_low_estimate():
    header = Header(8, 8, 1, 0, 0)

    def write(level: int) -> Bitstream:
        return Bitstream(header, (Layer(Tag.LATENT, (bytes(10 * level),)),))

    stream = search(4000, lambda level: 9.9 * level + 1, write)
    assert 3800 <= stream.size <= 4000


def test_progress_and_timings_are_reported(codec, picture):
    seen: list[float] = []
    timings: dict[str, float] = {}
    stream = codec.encode(picture, max_bytes=4000, progress=seen.append, timings=timings)
    codec.decode(stream, progress=seen.append, timings=timings)
    assert seen and all(0 <= fraction <= 1 for fraction in seen) and seen[-1] == 1
    assert set(timings) == {"analysis", "entropy", "coding", "synthesis"} and min(timings.values()) >= 0


def test_encoding_is_deterministic():
    picture = Picture(random_rgb(90, 90))
    first, second = (small_codec(seed=3).encode(picture).to_bytes() for _ in range(2))
    assert first == second and crc32(first) == crc32(second)


def test_canvas_repeats_the_edge():
    rgb = random_rgb(7, 11)
    padded = canvas.Canvas(7, 11, receptive_field=16).crop(rgb, (0, 0, 64, 64))
    assert np.array_equal(padded[:11, :7], rgb)
    assert (padded[11:] == padded[10]).all() and (padded[:, 7:] == padded[:, 6:7]).all()
