"""What a recipe's steps consist of: rows, tokens, FLOPs, and the memory that they need.

FLOPs are upper bounds: every reply as long as it may be, every row with signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from upslope.engines.apart import ApartEngine
from upslope.models.policy import Policy
from upslope.optional import critic_of
from upslope.session import Session
from upslope.stages import Built

PROCESS = 400 * 2**20  # bytes that a run holds with everything imported and nothing loaded


@dataclass(frozen=True)
class Sizes:
    """One stage. FLOPs of a step by phase and of an evaluation; tokens are of one step.

    ``imitated``: FLOPs of an SFT step on as many replies of this length, each after its prompt.
    """

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
    imitated: float

    @property
    def step(self) -> float:
        """FLOPs of a step."""
        return self.prefill + self.decode + self.update + self.reference

    @property
    def total(self) -> float:
        """FLOPs of the stage; one step's where time, money or accuracy alone bound it."""
        return self.all(self.step, self.evaluation)

    def all(self, step: float, evaluation: float) -> float:
        """Of the whole stage, from what a step and an evaluation take."""
        return step * max(self.steps, 1) + evaluation * self.evaluations


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
    alone, own = rows * (prompt + reply - 1), rows * (prompt + reply) ** 2
    imitated = cost.forward(alone, 3 * own, head) + cost.token_back * alone + cost.head_back * head
    teacher = session.teachers[stage.name]
    taught = teacher.cost.forward(packed, pairs, head) if teacher else 0.0
    filled = forward if learner.updates * learner.epochs > 1 else 0.0
    if (critic := critic_of(one.algorithm)) is not None:
        apart, trunk = critic.place == "separate", cost.forward(packed, pairs, 0)
        filled += trunk if apart or not filled else 0.0
        if apart:
            update += trunk + cost.token_back * packed + 2 * cost.pair * pairs
    played = members + ("greedy" in one.algorithm.needs)
    prefill, decode = sampled(session, groups, played, prompt, reply) if live else (0.0, 0.0)
    held = max(map(len, session.held_out(one).values()))
    found = Sizes(
        name=stage.name,
        problems=groups,
        trajectories=rows,
        prompt=prompt,
        reply=reply,
        tokens=packed,
        prefill=prefill,
        decode=decode,
        update=update * learner.epochs + filled,
        reference=(forward if "ref_logprobs" in one.algorithm.needs else 0.0) + taught,
        evaluation=sum(sampled(session, held, stage.evaluation.samples + 1, prompt, reply)),
        evaluations=2,
        steps=stage.stop.steps,
        imitated=imitated,
    )
    stop, every = stage.stop, stage.evaluation.every
    steps = min(filter(None, (stop.steps, math.ceil(stop.flops / found.step))), default=0)
    between = max(0, steps - 1) // every if every else 0
    return replace(found, steps=steps, evaluations=2 + between)


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


def weight(policy: Policy | None) -> float:
    """Bytes of a policy's weights; of none, 0."""
    if policy is None:
        return 0.0
    return float(sum(p.numel() * p.element_size() for p in policy.model.parameters()))


def memory(session: Session) -> Memory:
    """Of the whole run: the most any stage needs."""
    policy = session.policy
    weights = weight(policy)
    trained = float(sum(p.numel() * p.element_size() for _, p in policy.trained()))
    head, _ = policy.head()
    # The engine keeps a copy of a head that is computed in another dtype.
    cast = head.numel() * policy.head_dtype.itemsize if head.dtype != policy.head_dtype else 0
    reference = any("ref_logprobs" in one.algorithm.needs for one in session.stages)
    critics = [c for one in session.stages if (c := critic_of(one.algorithm)) is not None]
    apart_critics = [c for c in critics if c.place == "separate"]
    judge = trained if apart_critics else 0.0
    copies = max((bool(c.polyak) + bool(c.l2) for c in apart_critics), default=0)
    # In a process of its own the engine has Python and the libraries again, and weights come there
    # through memory that both share.
    apart = isinstance(session.engine, ApartEngine)
    largest = max(sizes(session, one).tokens for one in session.stages)
    tokens = min(session.recipe.learner.micro_tokens, largest)
    return Memory(
        process=PROCESS * (1 + apart),
        weights=weights + judge * (1 + copies),
        gradients=trained + judge,
        optimiser=2 * (trained + judge),
        engine=weights * (1 + apart) + cast,
        reference=(trained if reference else 0.0) + sum(map(weight, session.teachers.values())),
        activations=float(session.activations * tokens),
    )
