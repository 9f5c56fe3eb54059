"""The latents of components: each in a chunk of its own, which needs no other but the side information."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import trifocal
from helpers.codecs import small_codec
from helpers.dual_layer import small_dual_layer
from trifocal.container.components import REST, SIDE
from trifocal.entropy.coder import RateEstimator
from trifocal.entropy.component_coding import TileParts, estimate_parts, read_parts, window, write_parts
from trifocal.entropy.latent_coding import code_latents, write_latents
from trifocal.errors import Damaged

LEVEL = np.array([400])


def tile_of(numbers: np.ndarray) -> TileParts:
    there = sorted(set(numbers.ravel().tolist()))
    return TileParts(numbers, [SIDE, *(n for n in there if n), *(n for n in there if not n)])


def three_objects(h: int = 12, w: int = 16) -> TileParts:
    """Two objects that touch, one of a single position, and the rest."""
    numbers = np.zeros((h, w), np.uint8)
    numbers[1:8, 2:9], numbers[4:11, 7:13], numbers[11, 15] = 1, 2, 3
    return tile_of(numbers)


def latent(channels: int, h: int = 12, w: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 30, (1, h, w, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def entropy() -> Any:
    return small_codec().runtime.entropy()


def test_windows_are_the_smallest_with_even_edges() -> None:
    numbers = three_objects().numbers
    assert window(numbers, 1) == (slice(0, 8), slice(2, 10))
    assert window(numbers, 2) == (slice(4, 12), slice(6, 14))
    assert window(numbers, 3) == (slice(10, 12), slice(14, 16))


@pytest.mark.parametrize("make", [small_codec, small_dual_layer])
def test_all_chunks_decode_to_what_the_encoder_has(make: Any) -> None:
    runtime = make().runtime
    networks, m = runtime.entropy(), runtime.latent_channels
    tile, y = three_objects(), latent(m)
    chunks, y_hat, _ = write_parts(networks, y, LEVEL, tile)
    assert list(chunks) == [SIDE, 1, 2, 3, REST]
    found, missing, _ = read_parts(networks, chunks, LEVEL, tile, m)
    assert np.array_equal(found, y_hat) and not missing


def test_every_subset_of_objects_decodes_alone(entropy: Any) -> None:
    tile, y = three_objects(), latent(48)
    chunks, y_hat, _ = write_parts(entropy, y, LEVEL, tile)
    for count in range(4):
        for there in combinations((1, 2, 3), count):
            kept = {part: data if part in (SIDE, REST, *there) else None for part, data in chunks.items()}
            found, missing, _ = read_parts(entropy, kept, LEVEL, tile, 48)
            here = np.isin(tile.numbers, there) if count < 3 else np.ones_like(tile.numbers, bool)
            assert np.array_equal(found[:, here], y_hat[:, here])
            assert not found[:, ~here].any() and y_hat[:, ~here].any() == (count < 3)
            assert missing == ({1, 2, 3} - {*there} | ({REST} if count < 3 else set()))


def test_objects_do_not_depend_on_others_or_on_the_rest(entropy: Any) -> None:
    """A chunk stays the same whatever is elsewhere, for the same side information."""
    tile, y = three_objects(), latent(48)

    class SameSide:
        """Networks whose hyper-latent is that of another latent."""

        def __getattr__(self, name: str) -> Any:
            return getattr(entropy, name)

        def hyper_analysis(self, scaled: Any, level: Any) -> Any:
            return entropy.hyper_analysis(entropy.scale(y, level), level)

    other = np.where((tile.numbers == 1)[None, :, :, None], y, latent(48, seed=5))
    networks: Any = SameSide()
    one, two = (write_parts(networks, values, LEVEL, tile)[0] for values in (y, other))
    assert one[SIDE] == two[SIDE] and one[1] == two[1]
    assert one[2] != two[2] and one[REST] != two[REST]


def test_missing_side_information_misses_all(entropy: Any) -> None:
    tile = three_objects()
    chunks, _, _ = write_parts(entropy, latent(48), LEVEL, tile)
    found, missing, _ = read_parts(entropy, {**chunks, SIDE: None}, LEVEL, tile, 48)
    assert not found.any() and found.shape == (1, 12, 16, 48) and missing == {*chunks}


@pytest.mark.parametrize("part", [SIDE, 2, REST])
def test_damaged_chunks_raise_or_count_as_missing(entropy: Any, part: int) -> None:
    tile = three_objects()
    chunks, y_hat, _ = write_parts(entropy, latent(48), LEVEL, tile)
    bad = {**chunks, part: chunks[part][:-1] + b"\0"}
    with pytest.raises(Damaged):
        read_parts(entropy, bad, LEVEL, tile, 48)
    found, missing, _ = read_parts(entropy, bad, LEVEL, tile, 48, best_effort=True)
    assert missing == {SIDE: {*chunks}, 2: {2, REST}, REST: {REST}}[part]
    intact = tile.numbers == 1
    assert np.array_equal(found[:, intact], y_hat[:, intact]) == (part != SIDE)


@pytest.mark.parametrize("value", [0, 1])
def test_one_part_that_covers_everything_costs_what_a_tile_costs(entropy: Any, value: int) -> None:
    tile, y = tile_of(np.full((12, 16), value, np.uint8)), latent(48)
    chunks, y_hat, _ = write_parts(entropy, y, LEVEL, tile)
    data, expected, _ = write_latents(entropy, y, LEVEL)
    assert len(chunks) == 2 and np.array_equal(y_hat, expected)
    assert abs(sum(map(len, chunks.values())) - len(data)) <= 8


def test_estimate_is_the_size_of_the_chunks(entropy: Any) -> None:
    tile, y = three_objects(), latent(48)
    chunks, _, _ = write_parts(entropy, y, LEVEL, tile)
    bits = estimate_parts(entropy, y, LEVEL, tile)
    assert 0 <= sum(map(len, chunks.values())) - bits / 8 <= 4 * len(chunks)
    plain = RateEstimator(entropy.cost())
    code_latents(entropy, plain, y, LEVEL, (12, 16))
    assert 0.8 * plain.bits[0] < bits < 1.2 * plain.bits[0]


@pytest.mark.parametrize("level", [80, 640])
def test_both_engines_write_the_same_chunks(level: int) -> None:
    ours, theirs = (
        trifocal.presets.shared_codec("dual-layer-compact", engine=name).runtime for name in ("torch", "onnx")
    )
    tile, at = three_objects(), np.array([level])
    y = np.concatenate([latent(384), np.zeros((1, 12, 16, 1), np.float32)], axis=-1)
    y[:, 2:6, 3:9, 384] = 1.5
    one, y_hat, _ = write_parts(ours.entropy(), y, at, tile, has_importance_map=True)
    other, same, _ = write_parts(theirs.entropy(), y, at, tile, has_importance_map=True)
    assert one == other and np.array_equal(y_hat, same)
    for kept in ({1, 2, 3, REST}, {2}):
        some = {part: data if part in kept | {SIDE} else None for part, data in one.items()}
        pair = [
            read_parts(runtime.entropy(), some, at, tile, 384, has_importance_map=True)[0]
            for runtime in (ours, theirs)
        ]
        assert np.array_equal(pair[0], pair[1])
    assert np.array_equal(read_parts(theirs.entropy(), one, at, tile, 384, has_importance_map=True)[0], y_hat)
