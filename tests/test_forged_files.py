"""Forged files with valid checksums; `fuzzing.py` makes such files at random."""

import random
import struct
import zlib

import pytest
from PIL import Image

from helpers.images import png_from_chunks, random_rgb
from trifocal.codecs.codec import Codec
from trifocal.container import Bitstream, Layer, Tag
from trifocal.entropy import coder
from trifocal.errors import Damaged
from trifocal.pictures import Picture

PIXELS = random_rgb(96, 64)
END = (b"IEND", b"")


@pytest.fixture(scope="module")
def stream(codec: Codec) -> Bitstream:
    return codec.encode(Picture(PIXELS), quality=60)


def decode_bytes(codec: Codec, stream: Bitstream) -> None:
    """Decode the stream's bytes, as from a file."""
    codec.decode(Bitstream.from_bytes(stream.to_bytes()))


def latent_of(stream: Bitstream) -> bytes:
    (latent,) = stream.layers[0].chunks
    assert latent is not None
    return latent


def with_latent(stream: Bitstream, latent: bytes) -> Bitstream:
    return stream.with_layer(Layer(Tag.LATENT, (latent,)))


def grey_head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


@pytest.mark.parametrize("heads", [[(2_000, 2_000)], [(96, 64), (2_000, 2_000)]], ids=["one", "two"])
def test_alpha_of_another_size_is_refused_before_decompression(
    codec: Codec, stream: Bitstream, heads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (b"IDAT", zlib.compress(bytes(2_001 * 2_000)))
    bomb = png_from_chunks([*(grey_head(*size) for size in heads), rows, END])
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail())
    with pytest.raises(Damaged, match="96 x 64"):
        decode_bytes(codec, stream.with_layer(Layer(Tag.ALPHA, (bomb,))))


def test_alpha_of_the_right_size_is_decoded(codec: Codec, stream: Bitstream) -> None:
    alpha = png_from_chunks([grey_head(96, 64), (b"IDAT", zlib.compress((b"\0" + b"\7" * 96) * 64)), END])
    picture = codec.decode(stream.with_layer(Layer(Tag.ALPHA, (alpha,)))).picture
    assert picture.alpha is not None and (picture.alpha == 7).all()


@pytest.mark.parametrize("more", [b"x" * 8, random.Random(1).randbytes(100_000) + b"x"], ids=["few", "many"])
def test_bytes_after_a_latent_are_refused(codec: Codec, stream: Bitstream, more: bytes) -> None:
    with pytest.raises(Damaged, match="tile 0"):
        decode_bytes(codec, with_latent(stream, latent_of(stream) + more))
    partly = codec.decode(with_latent(stream, latent_of(stream) + more), best_effort=True)
    assert partly.damaged == (0,)


def test_truncated_latents_and_flipped_bits_are_detected(codec: Codec, stream: Bitstream) -> None:
    """Bits of the last two words are left out, since many of them have no effect."""
    latent = latent_of(stream)
    rng = random.Random(2)
    bad = [latent[: rng.randrange(len(latent) - 8)].rstrip(b"\0") for _ in range(15)]
    for _ in range(25):
        flipped = bytearray(latent)
        flipped[rng.randrange(len(latent) - 8)] ^= 1 << rng.randrange(8)
        bad.append(bytes(flipped))
    assert sum(is_refused(codec, with_latent(stream, data)) for data in bad) >= 34


def is_refused(codec: Codec, stream: Bitstream) -> bool:
    try:
        decode_bytes(codec, stream)
    except Damaged:
        return True
    return False


@pytest.mark.parametrize(("excess", "sign"), [(0, 1), (0, -1), (1, 1), (1, -1)])
def test_symbols_beyond_the_bound_are_refused(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, excess: int, sign: int
) -> None:
    """An encoder without the bound writes them; one with it writes the largest allowed symbols."""
    hostile = all_symbols_are(sign * (coder.LARGEST_SYMBOL + excess), codec, monkeypatch)
    assert is_refused(codec, hostile) == (excess > 0)


def all_symbols_are(symbol: int, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> Bitstream:
    with monkeypatch.context() as patch:
        patch.setattr(coder, "symbols_at", lambda y, mean, rows, dead_zone: 0 * mean + symbol * (rows > 0))
        return codec.encode(Picture(PIXELS))


def test_latent_of_escape_codes_is_decoded_quickly(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bits are read in batches, not each by a call of the range coder."""
    hostile = all_symbols_are(coder.LARGEST_SYMBOL, codec, monkeypatch)
    calls: list[int] = []
    bits = coder.Reader._bits

    def counted(reader: coder.Reader, count: int) -> str:
        calls.append(count)
        return bits(reader, count)

    monkeypatch.setattr(coder.Reader, "_bits", counted)
    decode_bytes(codec, hostile)
    assert sum(calls) > 10_000 and len(calls) < sum(calls) / 10
