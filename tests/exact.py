"""The exact policy gradient of a problem small enough to enumerate, and an algorithm's mean one.

A policy is a table: for each prompt the logits of a first token and, after each first token, of a
second. Token 0 ends a reply, which has at most two tokens: seven replies to a prompt, each with
its probability and its reward. An algorithm sees them as it sees everything, in a ``Batch``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from records import problem, segment, trajectory
from upslope import importance
from upslope.batch import Algorithm, Batch, Outputs
from upslope.settings import Rollout
from upslope.types import Group, Reward, Trajectory

TOKENS, FIRST = 3, 10
REPLIES: tuple[tuple[int, ...], ...] = (
    (0,),
    *((a, b) for a in range(1, TOKENS) for b in range(TOKENS)),
)


@dataclass(frozen=True, eq=False)
class World:
    """``logits`` [prompt, what was said, token], with gradient; ``rewards`` [prompt, reply].

    ``ref``: the logits of the reference. ``costs`` by name [prompt, reply], reported beside the
    reward.
    """

    logits: Tensor
    rewards: Tensor
    ref: Tensor
    costs: tuple[tuple[str, Tensor], ...] = ()

    @property
    def prompts(self) -> int:
        return len(self.logits)

    def replies(self, logits: Tensor | None = None) -> Tensor:
        """Log-probability of each reply [prompt, reply]."""
        table = (self.logits if logits is None else logits).log_softmax(-1)
        rows = []
        for reply in REPLIES:
            total = table[:, 0, reply[0]]
            rows.append(total if len(reply) == 1 else total + table[:, reply[0], reply[1]])
        return torch.stack(rows, 1)

    def said(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of a batch's trained tokens, [row token]."""
        table = logits.log_softmax(-1)
        spread = -(table.exp() * table).sum(-1)
        of, first = batch.tokens[:, 0] - FIRST, batch.tokens[:, 1]
        found, wide = [table[of, 0, first]], [spread[of, 0]]
        for t in range(2, batch.tokens.shape[1]):
            found.append(table[of, first, batch.tokens[:, t]])
            wide.append(spread[of, first])
        columns = []
        for column in (found, wide):
            tokens = torch.stack([torch.zeros_like(column[0]), *column], 1)
            columns.append(torch.where(batch.trained, tokens, 0.0))
        return columns[0], columns[1]


def world(seed: int = 0, prompts: int = 2, *, binary: bool = True, apart: float = 1.0) -> World:
    """A world of random logits and rewards, right or wrong where ``binary``."""
    draw = torch.Generator().manual_seed(seed)

    def table() -> Tensor:
        return apart * torch.randn(prompts, TOKENS, TOKENS, generator=draw, dtype=torch.float64)

    rewards = torch.rand(prompts, len(REPLIES), generator=draw, dtype=torch.float64)
    logits = table().requires_grad_()
    return World(logits, (rewards > 0.6).double() if binary else rewards, table())


def exact(of: World, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of a value of the replies' probabilities [prompt, reply], by the logits."""
    return torch.autograd.grad(value(of.replies().exp()), of.logits)[0]


def expected_reward(of: World) -> Tensor:
    """The exact policy gradient: of the mean over prompts of the expected reward."""
    return exact(of, lambda p: (p * of.rewards).sum(1).mean())


def pass_at(k: int, of: World) -> Tensor:
    """Of the chance that one of k replies is right at least; rewards are 0 or 1."""
    return exact(of, lambda p: (1 - (1 - (p * of.rewards).sum(1)) ** k).mean())


def less_kl(of: World, coefficient: float) -> Tensor:
    """Of the expected reward less a coefficient times KL(policy || reference) of whole replies."""
    ref = of.replies(of.ref)
    return exact(of, lambda p: (p * (of.rewards - coefficient * (p.log() - ref))).sum(1).mean())


def mean_gradient(
    algorithm: Algorithm,
    of: World,
    *,
    size: int = 2,
    together: int = 1,
    sampler: Tensor | None = None,
    correction: Rollout | None = None,
    fill: Callable[[Batch], Batch] = lambda batch: batch,
) -> Tensor:
    """What an algorithm descends, in the mean over every batch there can be, times -1.

    A batch is a group of ``size`` replies to each of ``together`` prompts. ``sampler``: logits
    that the replies are drawn from in place of the policy's own, weighed as ``correction`` says.
    ``fill``: columns that the algorithm needs and this does not know.
    """
    drawn = of.logits.detach() if sampler is None else sampler
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for prompts in itertools.combinations(range(of.prompts), together):
        count += 1
        for groups, chance in _batches(of, prompts, size, drawn):
            batch = Batch.of(groups, algorithm.start())
            total = total + chance * _loss(algorithm, of, batch, correction, fill)
    return -torch.autograd.grad(total / count, of.logits)[0]


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two gradients."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def _batches(
    of: World, prompts: tuple[int, ...], size: int, drawn: Tensor
) -> Iterator[tuple[list[Group], Tensor]]:
    """Every batch of groups of these prompts, and its chance."""
    logp, places = of.replies(drawn), [(p, m) for p in prompts for m in range(size)]
    plays = {(p, m, r): _play(of, p, m, r, drawn) for p, m in places for r in range(len(REPLIES))}
    best = of.replies().detach()
    for chosen in itertools.product(range(len(REPLIES)), repeat=len(places)):
        replies = list(zip(places, chosen, strict=True))
        groups = []
        for p in prompts:
            own = tuple(plays[q, m, r] for (q, m), r in replies if q == p)
            greedy = _play(of, p, size, int(best[p].argmax()), drawn)
            groups.append(Group(own[0].problem, own, (greedy,)))
        yield groups, sum((logp[p, r] for (p, _), r in replies), torch.zeros(())).exp()


def _play(of: World, prompt: int, member: int, reply: int, drawn: Tensor) -> Trajectory:
    said, table = REPLIES[reply], drawn.log_softmax(-1)[prompt]
    logprobs = [float(table[(0, said[0])[t], token]) for t, token in enumerate(said)]
    costs = {name: float(cost[prompt, reply]) for name, cost in of.costs}
    reward = Reward(float(of.rewards[prompt, reply]), costs=costs)
    row = segment(said, (FIRST + prompt,), logprobs)
    return trajectory(problem(f"p{prompt}"), [row], reward, member)


def _loss(
    algorithm: Algorithm,
    of: World,
    batch: Batch,
    correction: Rollout | None,
    fill: Callable[[Batch], Batch],
) -> Tensor:
    """An update's loss, as the learner sums it, over what the learner would have filled."""
    logprobs, entropy = of.said(of.logits, batch)
    batch = replace(batch, old_logprobs=logprobs.detach().float())
    if "ref_logprobs" in algorithm.needs:
        batch = replace(batch, ref_logprobs=of.said(of.ref, batch)[0].float())
    batch = fill(replace(batch, entropy=entropy.detach().float()))
    batch = replace(batch, advantages=algorithm.advantages(batch))
    weights = algorithm.weights(batch)
    if correction is not None:
        weights = weights * importance.weights(batch, logprobs.detach(), correction)[0]
    out = Outputs(logprobs, entropy if "entropy" in algorithm.reads else None)
    loss, _ = algorithm.loss(out, replace(batch, weights=weights))
    return torch.where(batch.trained, loss * weights, 0.0).sum()
