"""Drawing from given logits: frequencies, edges, temperatures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from upslope.engines import sampler
from upslope.models.panels import WIDEST, blocks


def draw(
    logits: torch.Tensor, temperature: torch.Tensor, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """From logits [row, vocabulary]."""
    return sampler.draw(blocks(logits[None]), temperature, uniform)


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


@pytest.mark.parametrize("vocabulary", [2, 7, WIDEST, WIDEST + 1, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(vocabulary: int, temperature: float) -> None:
    torch.manual_seed(vocabulary)
    logits, count = torch.randn(vocabulary), 20_000
    probability = (logits.double() / temperature).softmax(-1)
    tokens, logprobs = draw(
        logits.repeat(count, 1), torch.full((count,), temperature), uniforms(count)
    )
    torch.testing.assert_close(logprobs.double(), probability[tokens].log(), atol=1e-6, rtol=0)
    expected = probability * count
    common = expected >= 5
    seen = torch.bincount(tokens, minlength=vocabulary)[common]
    statistic = ((seen - expected[common]) ** 2 / expected[common]).sum()
    freedom = int(common.sum())
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 6


def test_a_uniform_number_picks_the_token_whose_interval_holds_it() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    uniform = torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.999999], dtype=torch.double)
    tokens, _ = draw(logits.repeat(8, 1), torch.ones(8), uniform)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("vocabulary", [5, 3 * WIDEST + 5])
def test_tokens_of_probability_zero_are_never_drawn(vocabulary: int) -> None:
    logits = torch.full((vocabulary,), float("-inf"))
    possible = [1, vocabulary - 3]
    logits[possible] = torch.tensor([0.3, 0.1])
    ends = torch.tensor([0.0, 2.0**-1074, 0.5, 1 - 2.0**-53], dtype=torch.double)
    tokens, logprobs = draw(logits.repeat(4, 1), torch.ones(4), ends)
    assert set(tokens.tolist()) == set(possible)
    assert bool(logprobs.isfinite().all())


def test_rows_have_their_own_temperature_and_zero_is_greedy() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]]).repeat(3, 1)
    temperature = torch.tensor([0.0, 1.0, 0.5])
    uniform = torch.full((3,), 0.999, dtype=torch.double)
    tokens, logprobs = draw(logits.clone(), temperature, uniform)
    assert tokens.tolist() == [1, 2, 2]
    for row, divisor in enumerate((1.0, 1.0, 0.5)):
        true = (logits[row] / divisor).log_softmax(-1)[tokens[row]]
        assert logprobs[row] == pytest.approx(float(true), abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.zeros(2, 3)
    logits[1, 1] = bad
    with pytest.raises(ArithmeticError, match="not finite"):
        draw(logits, torch.ones(2), uniforms(2))
