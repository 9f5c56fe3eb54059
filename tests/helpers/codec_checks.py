"""Checks that every codec of latents passes: forward and decode agree, tiles, damage, threads."""

import numpy as np
import pytest
import torch

from helpers.images import random_rgb
from helpers.summation_order import decode_latents, encode_latents
from trifocal.codecs.codec import Codec
from trifocal.container import Bitstream, Layer, Tag
from trifocal.errors import Damaged, FormatError
from trifocal.pictures import Picture, canvas


def with_payload(stream: Bitstream, payload: bytes) -> Bitstream:
    return stream.with_layer(Layer(Tag.LATENT, (payload,)))


def check_forward_matches_decode(codec: Codec) -> None:
    """The network's output equals the decoded image, and its bits the payload's length."""
    rgb = random_rgb(192, 128, seed=2)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    for quality in (0, 37.5, 100):
        with torch.inference_mode():
            output = codec.network(x, torch.tensor([round(8 * quality)]))
        stream = codec.encode(Picture(rgb), quality=quality)
        pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
        assert np.array_equal(codec.decode(stream).picture.rgb, pixels)
        payload, bits = len(stream.layers[0].chunks[0] or b""), float(output.bits)
        assert abs(payload - bits / 8) <= 0.005 * bits / 8 + 16


def check_tiles_leave_no_seams(stream: Bitstream, codec: Codec) -> None:
    """Synthesis of all latents at once and of nine tiles differ by at most one level."""
    assert len(stream.layers[0].chunks) == 9
    by_tile = codec.decode(stream).picture.rgb
    y_hat = torch.from_numpy(codec.decode_latents(stream).y)
    at_once = codec.network.synthesise(y_hat, torch.tensor([480]))[0, :, :270, :300].permute(1, 2, 0)
    whole = at_once.detach().mul(255).round().clamp(0, 255).numpy()
    assert np.abs(by_tile - whole).max() <= 1


def check_tiled_analysis(codec: Codec) -> None:
    """Analysis of each tile with its halo equals analysis of the whole image; needs `canvas.TILE` of 128."""
    rgb = random_rgb(256, 320, seed=7)
    shape = canvas.Canvas(256, 320, codec.network.receptive_field)
    whole = codec.network.analyse(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255)
    for tile in shape.tiles():
        core = shape.core(tile)
        crop = torch.from_numpy(shape.crop(rgb, shape.halo(core))).permute(2, 0, 1)[None].float() / 255
        rows, columns = shape.within_halo(core, 16)
        there = canvas.region_slices(core)
        assert torch.allclose(
            codec.network.analyse(crop)[:, rows, columns], whole[:, there[0], there[1]], atol=1e-2
        )


def check_best_effort_fills_damaged_tile(stream: Bitstream, codec: Codec) -> None:
    """One of nine tiles is damaged: strict reading fails, best effort fills it with grey."""
    data = bytearray(stream.to_bytes())
    data[-2] ^= 0x55  # in the last tile
    with pytest.raises(Damaged) as refusal:
        Bitstream.from_bytes(bytes(data))
    assert refusal.value.tiles == (8,)
    damaged = codec.decode(Bitstream.from_bytes(bytes(data), best_effort=True), best_effort=True)
    assert damaged.damaged == (8,)
    whole = codec.decode(stream).picture.rgb
    assert (damaged.picture.rgb[256:, 256:] == 128).all()
    receptive_field = codec.network.receptive_field
    assert np.array_equal(damaged.picture.rgb[: 256 - receptive_field], whole[: 256 - receptive_field])
    assert np.array_equal(damaged.picture.rgb[:, : 256 - receptive_field], whole[:, : 256 - receptive_field])


def check_forged_payloads(codec: Codec, picture: Picture, seed: int) -> None:
    """Wrong content with a correct checksum gives an image or a FormatError."""
    random = np.random.default_rng(seed)
    stream = codec.encode(picture, quality=40)
    payload = bytearray(stream.layers[0].chunks[0] or b"")
    for place in random.integers(0, len(payload), 1 + seed % 5):
        payload[place] = random.integers(256)
    forged = [bytes(payload), bytes(payload[: random.integers(len(payload))]), random.bytes(seed * 30)]
    for content in forged:
        data = with_payload(stream, content).to_bytes()
        try:
            decoded = codec.decode(Bitstream.from_bytes(data))
            assert decoded.picture.rgb.shape == picture.rgb.shape
        except FormatError as error:
            assert str(error).endswith(".")


def check_thread_counts(codec: Codec, threads: int) -> None:
    """Latents written with the default number of threads are read with `threads`."""
    before = torch.get_num_threads()
    y_hat, data, _ = encode_latents(codec, random_rgb(256, 192, 3), 500)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(decode_latents(codec, data, y_hat, 500), y_hat)
    finally:
        torch.set_num_threads(before)
