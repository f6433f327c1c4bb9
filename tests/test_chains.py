"""What tokens earn over the rows of a trajectory, and what comes after them: by hand."""

from __future__ import annotations

import numpy as np
import torch

from upslope.chains import Chains, to_go, whitened

# Trajectory 7 has two rows, given in the wrong order; trajectory 2 has one; 9 trains nothing.
TRAINED = torch.tensor(
    [[False, True, False, True], [True, True, False, False], [True, True, True, False], [False] * 4]
)
TRAJECTORY = torch.tensor([7, 7, 2, 9])
SEGMENT = torch.tensor([1, 0, 0, 0])
CHAINS = Chains.of(TRAINED, TRAJECTORY, SEGMENT)


def test_a_value_lands_on_the_last_trained_token():
    got = CHAINS.at_end(torch.tensor([7.0, 7.0, 2.0, 9.0]))
    want = torch.zeros(4, 4)
    want[0, 3], want[2, 2] = 7.0, 2.0
    assert torch.equal(got, want)


def test_what_comes_after_crosses_rows_and_untrained_tokens():
    earned = torch.tensor([[0.0, 1, 50, 4], [8, 16, 50, 50], [1, 2, 4, 50], [50] * 4])
    plain = to_go(earned, CHAINS, 1.0)
    assert plain.tolist() == [[0, 5, 0, 4], [29, 21, 0, 0], [7, 6, 4, 0], [0, 0, 0, 0]]
    half = to_go(earned, CHAINS, 0.5)
    assert half.tolist() == [[0, 3, 0, 4], [16.75, 17.5, 0, 0], [3, 4, 4, 0], [0, 0, 0, 0]]


def test_whitening_is_over_trained_tokens_and_silent_where_all_are_equal():
    values = torch.tensor([[1.0, 2.0, 99.0], [4.0, 99.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    chosen = np.array([1.0, 2.0, 4.0, 9.0])
    want = (chosen - chosen.mean()) / chosen.std(ddof=1)
    got = whitened(values, mask)
    np.testing.assert_allclose(got[mask], want, rtol=1e-6)
    assert (got[~mask] == 0).all()
    assert (whitened(torch.full((2, 3), 1 / 3), mask) == 0).all()
    assert (whitened(values, mask & False) == 0).all()
