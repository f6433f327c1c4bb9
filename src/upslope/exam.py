"""``upslope eval`` and ``upslope compare``: models sit an env's held-out problems.

The figures and the plays are ``evaluate.py``'s; which problems, and how they are told, is here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from upslope.audit.gold import gold_of
from upslope.chat import Chat
from upslope.components import find
from upslope.demonstrations import write_demonstrations
from upslope.engines.local import LocalEngine
from upslope.envs import ENVS
from upslope.estimates import Difference, Interval
from upslope.evaluate import (
    Evaluation,
    at,
    by_env,
    difference,
    play,
    summary,
    usage,
    valid_rewards,
)
from upslope.files import explained, replace_file
from upslope.recipe import Recipe
from upslope.rollout import Player, Thinking
from upslope.settings import Component, Rollout
from upslope.trial import env_for, opened, recipe_of
from upslope.types import Env, Group, Split, UserError

MAX_TOKENS = 256


@dataclass(frozen=True)
class Choices:
    """What a model is asked: the first ``problems`` of a split, ``samples`` times and greedily.

    ``max_tokens`` None is what the run was trained with, or 256. ``out``: a file of JSON lines, one
    a problem and temperature; ``record``: one of the samples with their tokens, as recorded data.
    """

    problems: int = 500
    samples: int = 1
    split: str = "test"
    max_tokens: int | None = None
    seed: int = 0
    out: str | None = None
    record: str | None = None


@dataclass(frozen=True)
class Sitting:
    """What a model did: groups at temperature 1, greedy groups, and seconds, of them the engine's.

    ``about`` says which model, problems and env.
    """

    about: str
    sampled: Sequence[Group]
    greedy: Sequence[Group]
    engine: float
    seconds: float

    def lines(self) -> list[str]:
        """All figures in words."""
        said = [self.about]
        if self.sampled:
            said.append(line_of(summary(self.sampled, 1.0)))
            said += [f"    {line}" for line in repeated(self.sampled)]
            said += each_env(self.sampled, 1.0)
        cost = usage([*self.sampled, *self.greedy])
        return [
            *said,
            line_of(summary(self.greedy, 0.0)),
            *each_env(self.greedy, 0.0),
            f"  {self.seconds:.1f} s, {self.seconds / max(self.engine, 1e-9):.2f} times the "
            f"engine's {self.engine:.1f} s for {cost.computed} tokens of prompts and "
            f"{cost.decoded} sampled ({cost.decoded / max(self.engine, 1e-9):.0f} a second)",
        ]


def evaluate_model(
    model: str, env_name: str | None, settings: Sequence[str], choices: Choices
) -> list[str]:
    """``upslope eval``: accuracy in words; a row a problem in ``choices.out``."""
    began = time.perf_counter()
    out, record = _file("out", choices), _file("record", choices)
    if record and not choices.samples:
        raise UserError("--record keeps samples, and --samples 0 takes none: leave it out")
    sitting = sit(model, shared_env([model], env_name, settings), choices, began)
    if out:
        rows = [row_of(group, choices.split) for group in (*sitting.sampled, *sitting.greedy)]
        with explained(out):
            replace_file(out, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    if record:
        write_demonstrations(record, sitting.sampled)
    return sitting.lines()


def _file(option: Literal["out", "record"], choices: Choices) -> Path | None:
    """A file to be written, whose folder must be there."""
    named = {"out": choices.out, "record": choices.record}[option]
    path = Path(named).expanduser() if named else None
    if path and not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for --{option}: make it first")
    return path


def compare_models(
    models: Sequence[str], env_name: str | None, settings: Sequence[str], choices: Choices
) -> list[str]:
    """``upslope compare``: both models' figures, and the paired test of the second less the first.

    Both are asked the same problems with the same seeds, prompts and lengths.
    """
    env = shared_env(models, env_name, settings)
    trained = [rollout_of(recipe).max_tokens for recipe in map(recipe_of, models) if recipe]
    length = choices.max_tokens or max(trained, default=MAX_TOKENS)
    choices, lines, sittings = replace(choices, max_tokens=length), list[str](), list[Sitting]()
    for letter, model in zip("AB", models, strict=True):
        sittings.append(sit(model, env, choices, time.perf_counter()))
        first, *others = sittings[-1].lines()
        lines += [f"{letter}: {first}", *others]
    a, b = sittings
    found = {"greedy": difference(a.greedy, b.greedy)}
    if choices.samples:
        found = {"sampled": difference(a.sampled, b.sampled), **found}
    lines.append(f"B less A, paired over {choices.split} problems, in points of accuracy:")
    lines += [difference_line(kind, seen) for kind, seen in found.items()]
    return [*lines, verdict(*next(iter(found.items())))]


def shared_env(models: Sequence[str], env_name: str | None, settings: Sequence[str]) -> Env:
    """The env that all models are asked; of the runs' own settings only those that agree."""
    # KEY=VALUE where the env's name was expected: the run's own env is meant.
    if env_name and "=" in env_name:
        settings, env_name = [env_name, *settings], None
    if env_name:
        find(ENVS, Component(type=env_name).type, "env")  # before a model is loaded
    recipes: list[Recipe | None] = [recipe for recipe in map(recipe_of, models) if recipe]
    first, *others = [env_for(env_name, settings, recipe) for recipe in recipes or [None]]
    if any(other != first for other in others):
        raise UserError(
            f"{' and '.join(models)} were trained on different envs or settings: name the env to "
            "compare them on, and the settings in which theirs differ"
        )
    return first


def sit(model: str, env: Env, choices: Choices, began: float) -> Sitting:
    """Have a model play an env's held-out problems; seconds count from ``began``, loading too."""
    # To learn from, plays of the train split may be recorded; nobody is examined on it.
    known: list[Split] = ["validation", "test"]
    if choices.record:
        known.append("train")
    split = next((one for one in known if one == choices.split), None)
    if split is None:
        raise UserError(f"--split is validation or test, not {choices.split}")
    held = env.problems(split)
    problems = held[: choices.problems]
    policy, recipe = opened(model)
    rollout = rollout_of(recipe)
    engine = LocalEngine(policy, rollout.rows)
    player = Player(
        engine,
        env,
        Chat(policy.tokenizer, policy.eos),
        choices.max_tokens or rollout.max_tokens,
        1.0,
        rollout.max_turns,
        thinking=Thinking.of(rollout),
        context=policy.context,
        reward=gold_of(env),
    )
    sampled, greedy = asyncio.run(play(player, problems, choices.samples, choices.seed))
    of = f"{len(problems)} of the {len(held)} {split} problems of {type(env).__name__}"
    return Sitting(
        f"{model} on {of}, with 95% intervals:",
        sampled,
        greedy,
        engine.seconds,
        time.perf_counter() - began,
    )


def rollout_of(recipe: Recipe | None) -> Rollout:
    """How a run played its problems; a plain model may say 256 tokens."""
    return recipe.stages()[-1].rollout if recipe else Rollout(max_tokens=MAX_TOKENS)


def row_of(group: Group, split: str) -> dict[str, Any]:
    """A problem at one temperature: of ``n`` answers that could be graded, ``correct`` were right.

    An answer that is partly right counts in part.
    """
    valid, plays = valid_rewards(group), group.trajectories
    return {
        "problem": group.problem.id,
        "split": split,
        "temperature": next((t.turns[-1].temperature for t in plays if t.turns), 0.0),
        "n": len(valid),
        "correct": sum(reward.correct for reward in valid),
        "invalid": len(plays) - len(valid),
        "rewards": [reward.total if reward.valid else None for reward in group.rewards],
        "answers": [reward.answer for reward in group.rewards],
        "texts": [trajectory.text for trajectory in plays],
    }


def line_of(seen: Evaluation) -> str:
    """One temperature's figures in words."""
    kind = "greedy" if seen.temperature == 0 else f"sampled ({seen.samples} each)"
    invalid = f", {seen.invalid} could not be graded" if seen.invalid else ""
    return (
        f"  {kind:20} accuracy {figure(Interval(seen.mean, seen.low, seen.high))}, reward "
        f"{seen.reward:.3f}, length {seen.length:.1f}, cut {100 * seen.truncated:.1f}%{invalid}"
    )


def each_env(groups: Sequence[Group], temperature: float) -> Iterator[str]:
    """A line for each of several envs; none where there is one."""
    for env, own in by_env(groups).items():
        seen = summary(own, temperature)
        found = figure(Interval(seen.mean, seen.low, seen.high))
        yield f"    in {env}: {found} of {seen.problems} problems"


def repeated(groups: Sequence[Group]) -> Iterator[str]:
    """A line for each k = 2, 4, 8 and so on: pass@k, worst@k and majority@k."""
    k, samples = 2, len(groups[0].trajectories)
    while k <= samples:
        found = at(k, groups)
        if found:
            yield ", ".join(f"{name}@{k} {figure(seen)}" for name, seen in found.items())
        k *= 2


def figure(seen: Interval) -> str:
    """A share with its 95% interval, in percent."""
    mean, low, high = (100 * value for value in seen)
    return f"{mean:.1f}% ({low:.1f} to {high:.1f})"


def difference_line(kind: str, seen: Difference) -> str:
    """A paired test in words."""
    p = f"p = {seen.p:.4f}" if seen.p >= 0.0001 else "p < 0.0001"
    return (
        f"  {kind:20} {100 * seen.mean:+.1f} (95% interval {100 * seen.low:+.1f} to "
        f"{100 * seen.high:+.1f}), {p}, on {seen.problems} problems; the smallest difference it "
        f"could have seen is {100 * seen.smallest:.1f}"
    )


def verdict(kind: str, seen: Difference) -> str:
    """What the test comes to, in a sentence."""
    if seen.p < 0.05:
        better = "B" if seen.mean > 0 else "A"
        ends = sorted(abs(100 * end) for end in (seen.low, seen.high))
        return (
            f"{better} is better by {abs(100 * seen.mean):.1f} points of {kind} accuracy "
            f"({ends[0]:.1f} to {ends[1]:.1f})."
        )
    return (
        f"No difference in {kind} accuracy was seen; one of at least {100 * seen.smallest:.1f} "
        "points would have been, in 4 of 5 such comparisons."
    )
