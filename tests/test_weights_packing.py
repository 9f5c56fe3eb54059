"""Weights of 5 bits."""

import numpy as np

from trifocal.codecs.weights_packing import LARGEST, pack, unpack


def test_unpacked_weights_are_within_half_a_step() -> None:
    random = np.random.default_rng(0)
    weights = {"a.weight": random.normal(0, 1, (7, 3, 3, 3)), "a.bias": random.normal(0, 1, 7)}
    weights["a.weight"][2] *= 100
    packed = pack(weights)
    assert packed["a.weight.codes"].shape == (7, -(-27 * 5 // 8))
    found = unpack(packed)
    assert found.keys() == weights.keys() and found["a.weight"].dtype == np.float32
    step = np.abs(weights["a.weight"]).max((1, 2, 3), keepdims=True) / LARGEST
    assert (np.abs(found["a.weight"] - weights["a.weight"]) <= 0.51 * step).all()
    assert np.array_equal(found["a.bias"], weights["a.bias"].astype(np.float16))


def test_packing_what_was_unpacked_changes_nothing() -> None:
    packed = pack({"weight": np.random.default_rng(1).normal(0, 1, (5, 13))})
    again = pack(unpack(packed))
    assert np.array_equal(unpack(again)["weight"], unpack(packed)["weight"])
