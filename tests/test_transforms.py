"""The untrained transforms: lapping, and the DCT initialisation."""

import torch

from trifocal.transforms.dct import BLOCK, dct_matrix
from trifocal.transforms.lapped import Lapping, prefilter


def test_lapping_and_its_inverse_cancel():
    x = torch.rand(2, 48, 80, 3)
    lapped = Lapping()(x)
    assert not torch.allclose(lapped, x, atol=0.01)
    assert torch.allclose(Lapping(inverse=True)(lapped), x, atol=1e-5)


def test_lapping_keeps_constants_and_acts_near_block_edges():
    flat = torch.full((1, 32, 32, 3), 0.7)
    assert torch.allclose(Lapping()(flat), flat, atol=1e-6)
    point = torch.zeros(1, 64, 64, 1)
    point[0, 20, 30] = 1  # between the block edges at 16 and 32, in the lower half of its window
    touched = Lapping()(point)[0, :, :, 0].abs() > 1e-6
    assert touched[8:24, 24:40].any() and not touched[24:].any() and not touched[:8].any()
    assert not touched[:, :24].any() and not touched[:, 40:].any()


def test_initial_transform_has_the_stated_coding_gain():
    """Of an AR(1) signal: synthesis norms times coefficient variances, geometric mean, in dB."""
    dct, gain = dct_matrix(BLOCK).double(), {}
    for name, filtered in (("dct", torch.eye(BLOCK)), ("lapped", prefilter())):
        pair = torch.block_diag(filtered, filtered).double()
        block = slice(BLOCK // 2, BLOCK + BLOCK // 2)
        analysis = dct @ pair[block]
        synthesis = torch.linalg.inv(pair)[:, block] @ dct.T
        place = torch.arange(2 * BLOCK).double()
        covariance = 0.95 ** (place[:, None] - place[None, :]).abs()
        variances = ((analysis @ covariance) * analysis).sum(1)
        gain[name] = float(-10 * torch.log10(variances * synthesis.square().sum(0)).mean())
    assert abs(gain["dct"] - 9.46) < 0.01 and abs(gain["lapped"] - 9.93) < 0.01
