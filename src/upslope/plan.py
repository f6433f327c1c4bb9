"""What a recipe will take before anything is spent: parameters, memory, FLOPs and sizes.

FLOPs are upper bounds: every reply as long as it may be, every row with signal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from upslope.engines.apart import ApartEngine
from upslope.models.load import count
from upslope.session import Session
from upslope.stages import Built

PROCESS = 400 * 2**20  # bytes that a run holds with everything imported and nothing loaded


@dataclass(frozen=True)
class Sizes:
    """One stage. FLOPs of a step by phase and of an evaluation; tokens are of one step."""

    name: str
    problems: int
    trajectories: int
    prompt: float
    reply: int
    tokens: float
    prefill: float
    decode: float
    update: float
    reference: float
    evaluation: float
    evaluations: int
    steps: int

    @property
    def step(self) -> float:
        """FLOPs of a step."""
        return self.prefill + self.decode + self.update + self.reference

    @property
    def total(self) -> float:
        """FLOPs of the stage; one step's where ``stop.steps`` does not bound it."""
        return self.step * max(self.steps, 1) + self.evaluation * self.evaluations


def sizes(session: Session, one: Built) -> Sizes:
    """A stage's sizes, with prompts measured on 200 of its problems."""
    stage, chat, cost = one.stage, session.chat, session.policy.cost
    problems = one.problems("train")[:200]
    lengths = [len(chat.encode(chat.messages(p))) for p in problems]
    prompt, reply = sum(lengths) / len(lengths), session.player(one).longest
    live = stage.source.type == "rollouts"
    groups, members = stage.rollout.problems, stage.rollout.group if live else 1
    rows = groups * members
    packed = groups * prompt + rows * (reply - 1)
    pairs = groups * prompt**2 + rows * reply * (prompt + reply)
    head = rows * reply
    forward = cost.forward(packed, pairs, head)
    learner = stage.learner
    update = forward + cost.token_back * packed + 2 * cost.pair * pairs + cost.head_back * head
    filled = forward if learner.updates * learner.epochs > 1 else 0.0
    prefill, decode = sampled(session, groups, members, prompt, reply) if live else (0.0, 0.0)
    held = max(map(len, session.held_out(one).values()))
    every = stage.evaluation.every
    return Sizes(
        name=stage.name,
        problems=groups,
        trajectories=rows,
        prompt=prompt,
        reply=reply,
        tokens=packed,
        prefill=prefill,
        decode=decode,
        update=update * learner.epochs + filled,
        reference=forward if "ref_logprobs" in one.algorithm.needs else 0.0,
        evaluation=sum(sampled(session, held, stage.evaluation.samples + 1, prompt, reply)),
        evaluations=2 + ((stage.stop.steps - 1) // every if every else 0),
        steps=stage.stop.steps,
    )


def sampled(
    session: Session, prompts: int, members: int, prompt: float, reply: int
) -> tuple[float, float]:
    """FLOPs of prefilling each prompt once and of decoding ``members`` replies to each."""
    cost, rows = session.policy.cost, prompts * members
    prefill = cost.forward(prompts * prompt, prompts * prompt**2, prompts)
    tokens = rows * (reply - 1)
    return prefill, cost.forward(tokens, tokens * (prompt + reply / 2), tokens)


@dataclass(frozen=True)
class Memory:
    """Bytes held at once during an update; ``process`` is what Python and the libraries take."""

    process: float
    weights: float
    gradients: float
    optimiser: float
    engine: float
    reference: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        held = (self.weights, self.gradients, self.optimiser, self.engine, self.reference)
        return self.process + sum(held) + self.activations


def memory(session: Session) -> Memory:
    """Of the whole run: the most any stage needs."""
    policy = session.policy
    weights = float(sum(p.numel() * p.element_size() for p in policy.model.parameters()))
    trained = float(sum(p.numel() * p.element_size() for _, p in policy.trained()))
    head, _ = policy.head()
    # The engine keeps a copy of a head that is computed in another dtype.
    cast = head.numel() * policy.head_dtype.itemsize if head.dtype != policy.head_dtype else 0
    reference = any("ref_logprobs" in one.algorithm.needs for one in session.stages)
    # In a process of its own the engine has Python and the libraries again, and weights come there
    # through memory that both share.
    apart = isinstance(session.engine, ApartEngine)
    largest = max(sizes(session, one).tokens for one in session.stages)
    tokens = min(session.recipe.learner.micro_tokens, largest)
    return Memory(
        process=PROCESS * (1 + apart),
        weights=weights,
        gradients=trained,
        optimiser=2 * trained,
        engine=weights * (1 + apart) + cast,
        reference=trained if reference else 0.0,
        activations=float(session.activations * tokens),
    )


def speed() -> float:
    """FLOP/s of this machine's matrix products now: the best of a few of a transformer's size."""
    x, w = torch.ones(512, 576), torch.ones(576, 1536)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        x @ w
        best = max(best, 2 * x.shape[0] * w.numel() / (time.perf_counter() - start))
    return best


def adapter(session: Session) -> str:
    """What is trained in place of the weights, in words."""
    policy = session.policy
    if not policy.rank:
        return ""
    own = sum(parameter.numel() for _, parameter in policy.trained())
    return (
        f"; an adapter of rank {policy.rank} is trained, {own / 1e6:.3f}M parameters "
        f"({100 * own / count(policy):.1f}%)"
    )


def lines(session: Session) -> list[str]:
    """The plan in words."""
    held, out = memory(session), []
    gib = 2**30
    out.append(
        f"model {session.recipe.model}: {count(session.policy) / 1e6:.2f}M parameters, "
        f"context {session.policy.context}{adapter(session)}"
    )
    out.append(
        f"memory about {held.total / gib:.2f} GiB: Python and its libraries "
        f"{held.process / gib:.2f}, weights {held.weights / gib:.2f}, gradients "
        f"{held.gradients / gib:.2f}, optimiser {held.optimiser / gib:.2f}, engine "
        f"{held.engine / gib:.2f}, reference {held.reference / gib:.2f}, activations "
        f"{held.activations / gib:.2f} (micro-batches of {session.recipe.learner.micro_tokens} "
        "tokens)"
    )
    total = 0.0
    for one in session.stages:
        s = sizes(session, one)
        total += s.total
        out.append(
            f"stage {s.name}: {s.problems} problems x {s.trajectories // s.problems} trajectories, "
            f"prompts of {s.prompt:.0f} tokens, replies of at most {s.reply}: {s.tokens:.0f} "
            f"tokens an update"
        )
        out.append(
            f"  FLOPs a step at most {s.step:.2e}: prefill {s.prefill:.1e}, decode {s.decode:.1e}, "
            f"update {s.update:.1e}, reference {s.reference:.1e}; an evaluation {s.evaluation:.1e}"
        )
        out.append(
            f"  {s.steps or 'unbounded'} steps and {s.evaluations} evaluations: {s.total:.2e}"
        )
    out.append(
        f"in all at most {total:.2e} FLOPs, at least {total / speed() / 60:.1f} minutes at this "
        "machine's peak"
    )
    return out
