"""What a recipe will take, in words, before anything is spent: memory, FLOPs, time and money."""

from __future__ import annotations

import time

import torch

from upslope.accelerators import ACCELERATORS, BANDWIDTH, COMPUTE, WIDTH, Load
from upslope.models.load import count
from upslope.models.products import product
from upslope.pace import Pace, paces
from upslope.session import Session
from upslope.sizes import Memory, Sizes, memory, sizes
from upslope.types import UserError

GIB = 2**30


def lines(session: Session, on: str = "", *, trying: bool = True) -> list[str]:
    """The plan; ``on`` names an accelerator to plan for as well.

    With ``trying`` each stage is tried for a few steps, which says how long they take here and
    changes the session's policy.
    """
    if on and on not in ACCELERATORS:
        raise UserError(f"no accelerator {on!r} is known: name one of {', '.join(ACCELERATORS)}")
    stages, held, peak = [sizes(session, one) for one in session.stages], memory(session), speed()
    price = session.recipe.machine.price_per_hour
    out = [*_model(session, held)]
    tried = paces(session, [s.step for s in stages], peak) if trying else []
    for i, s in enumerate(stages):
        out += _stage(s)
        out += _pace(s, tried[i], price) if trying else []
        out += _abroad(s, _load(session), on, price) if on else []
    flops = sum(s.total for s in stages)
    out.append(
        f"in all at most {flops:.2e} FLOPs, at least {_time(flops / peak)} at this machine's peak"
    )
    if trying:
        seconds = sum(s.all(p.step, p.evaluation) for s, p in zip(stages, tried, strict=True))
        out.append(f"in all about {_spent(seconds, price)} here, if steps stay as they begin")
    return out


def speed() -> float:
    """FLOP/s of this machine's matrix products now: the best of a few of a transformer's size."""
    x, w = torch.ones(512, 576), torch.ones(576, 1536)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        product(x, w)
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


def _model(session: Session, held: Memory) -> list[str]:
    return [
        f"model {session.recipe.model}: {count(session.policy) / 1e6:.2f}M parameters, "
        f"context {session.policy.context}{adapter(session)}",
        f"memory about {held.total / GIB:.2f} GiB: Python and its libraries "
        f"{held.process / GIB:.2f}, weights {held.weights / GIB:.2f}, gradients "
        f"{held.gradients / GIB:.2f}, optimiser {held.optimiser / GIB:.2f}, engine "
        f"{held.engine / GIB:.2f}, reference {held.reference / GIB:.2f}, activations "
        f"{held.activations / GIB:.2f} (micro-batches of {session.recipe.learner.micro_tokens} "
        "tokens)",
    ]


def _stage(s: Sizes) -> list[str]:
    """Its sizes and FLOPs."""
    return [
        f"stage {s.name}: {s.problems} problems x {s.trajectories // s.problems} trajectories, "
        f"prompts of {s.prompt:.0f} tokens, replies of at most {s.reply}: {s.tokens:.0f} "
        f"tokens an update",
        f"  FLOPs a step at most {s.step:.2e}: prefill {s.prefill:.1e}, decode {s.decode:.1e}, "
        f"update {s.update:.1e}, reference {s.reference:.1e}; an evaluation {s.evaluation:.1e}",
        f"  {s.steps or 'unbounded'} steps and {s.evaluations} evaluations: {s.total:.2e}",
    ]


def _pace(s: Sizes, pace: Pace, price: float) -> list[str]:
    """What trying it showed."""
    shares = ", ".join(f"{phase} {_time(of)}" for phase, of in pace.seconds.items() if of >= 5e-4)
    tried = f"tried with {pace.problems} problems, replies of {pace.reply:.1f} tokens"
    out = [
        f"  a step here takes about {_time(pace.step)}: {shares} ({tried}, {100 * pace.live:.0f}% "
        "of the tokens with something to teach)",
        f"  an evaluation about {_time(pace.evaluation)}; the stage "
        f"{_spent(s.all(pace.step, pace.evaluation), price)}",
    ]
    if s.decode:
        out.append(
            f"  a trajectory costs at most {s.step / s.imitated:.2f} times the FLOPs of an SFT "
            "example of its length"
        )
    return out


def _abroad(s: Sizes, load: Load, on: str, price: float) -> list[str]:
    """A stage on an accelerator, and whether that has the memory."""
    there = ACCELERATORS[on]
    phases, needed = load.seconds(s, there), load.memory(s)
    step, evaluation = sum(phases.values()), s.evaluation / (COMPUTE * there.flops)
    shares = ", ".join(f"{phase} {_time(of)}" for phase, of in phases.items())
    room = "" if needed < there.memory else f", more than the {there.memory / GIB:.0f} of one {on}"
    return [
        f"  on {on}, at {COMPUTE:.0%} of its FLOP/s and {BANDWIDTH:.0%} of its bandwidth (assumed, "
        f"not measured): a step at most {_time(step)}: {shares}; the stage "
        f"{_spent(s.all(step, evaluation), price)}; memory without activations "
        f"{needed / GIB:.1f} GiB{room}"
    ]


def _load(session: Session) -> Load:
    policy = session.policy
    return Load(
        parameters=count(policy),
        trained=sum(parameter.numel() for _, parameter in policy.trained()),
        stored=policy.token_bytes / policy.model.dtype.itemsize * WIDTH,
        rows=max(one.stage.rollout.rows for one in session.stages),
    )


def _time(seconds: float) -> str:
    """In the unit that suits it."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{1000 * seconds:.3g} ms"


def _spent(seconds: float, price: float) -> str:
    """Time, and money where an hour has a price."""
    money = f" and {seconds / 3600 * price:.2f} in money" if price else ""
    return f"{_time(seconds)}{money}"
