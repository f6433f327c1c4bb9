"""Commands on a model that was trained or is only named: evaluate it, talk to it, check parts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from upslope import machine
from upslope.algorithms import ALGORITHMS
from upslope.batteries import check_algorithm, check_env
from upslope.chat import Chat
from upslope.components import build, find
from upslope.engines.local import LocalEngine
from upslope.envs import ENVS
from upslope.evaluate import Evaluation, evaluate
from upslope.launch import prove
from upslope.models.hub import to_stderr
from upslope.models.load import load
from upslope.models.policy import Policy
from upslope.overrides import tree_of
from upslope.recipe import Recipe, read
from upslope.rollout import Player
from upslope.selfcheck import Proof
from upslope.session import Session
from upslope.settings import Component
from upslope.stages import env_of
from upslope.types import Env, Message, Sampling, Split, UserError

Choices = tuple[int, int, str, int | None, int]


def opened(name: str) -> tuple[Policy, Recipe | None]:
    """A model by name, or a run's final model with its recipe."""
    torch.set_num_threads(machine.cores())
    folder = Path(name).expanduser()
    if not (folder / "recipe.toml").is_file():
        return load(name, say=to_stderr), None
    if not (folder / "model").is_dir():
        raise UserError(f"run {folder} has no final model yet: let it end, or give a checkpoint")
    return load(str(folder / "model"), say=to_stderr), read(folder / "recipe.toml")


def env_for(name: str | None, settings: Sequence[str], recipe: Recipe | None) -> Env:
    """The env named, with the run's settings of it under ``settings``; the run's own by default."""
    own = recipe.stages()[-1].env if recipe else None
    if own is None and name is None:
        raise UserError("name an env to evaluate a model on: see `upslope envs`")
    kind = name or (own.type if own else "")
    base = dict(own.settings) if own and kind == own.type else {}
    return env_of(Component(type=kind, **{**base, **tree_of(settings)}))


def evaluate_folder(
    model: str, env_name: str | None, settings: Sequence[str], choices: Choices
) -> list[str]:
    """``upslope eval``: accuracy in words. ``choices``: problems, samples, split, length, seed."""
    problems, samples, split, max_tokens, seed = choices
    if split not in ("validation", "test"):
        raise UserError(f"--split is validation or test, not {split}")
    # KEY=VALUE where the env's name was expected: the run's own env is meant.
    if env_name and "=" in env_name:
        settings, env_name = [env_name, *settings], None
    if not env_name and not (Path(model).expanduser() / "recipe.toml").is_file():
        raise UserError("name an env to evaluate a model on: see `upslope envs`")
    if env_name:
        find(ENVS, env_name, "env")  # before a model is loaded
    policy, recipe = opened(model)
    env = env_for(env_name, settings, recipe)
    chosen: Split = "validation" if split == "validation" else "test"
    held_out = env.problems(chosen)[:problems]
    length = max_tokens or (recipe.stages()[-1].rollout.max_tokens if recipe else 256)
    player = Player(LocalEngine(policy), env, Chat(policy.tokenizer, policy.eos), length, 1.0)
    both = asyncio.run(evaluate(player, held_out, samples, seed))
    name = f"{model} on {len(held_out)} {split} problems of {type(env).__name__}"
    return [name, *(line_of(seen) for seen in (both.sampled, both.greedy))]


def line_of(seen: Evaluation) -> str:
    """One temperature's figures in words."""
    kind = "greedy" if seen.temperature == 0 else f"sampled ({seen.samples} each)"
    invalid = f", {seen.invalid} could not be graded" if seen.invalid else ""
    return (
        f"  {kind:20} accuracy {100 * seen.mean:.1f}% (95% interval {100 * seen.low:.1f} to "
        f"{100 * seen.high:.1f}), reward {seen.reward:.3f}, length {seen.length:.1f}, cut "
        f"{100 * seen.truncated:.1f}%{invalid}"
    )


def check_recipe(path: str, overrides: Sequence[str]) -> list[Proof]:
    """The self-check of a recipe, without training it."""
    return asyncio.run(prove(Session(read(path, overrides), to_stderr)))


def check_component(name: str, settings: Sequence[str]) -> list[Proof]:
    """The battery of an env or algorithm, by name or from a file."""
    torch.set_num_threads(1)
    kinds = {**ENVS, **ALGORITHMS}
    made = build(find(kinds, name, "env or algorithm"), tree_of(settings), name)
    if isinstance(made, Env):
        return check_env(made)
    return check_algorithm(made)


def talk(model: str, raw: bool, max_tokens: int, temperature: float) -> None:
    """``upslope chat``: lines in, replies out.

    A run whose env has raw prompts is asked as it was trained: after the env's own examples.
    """
    policy, recipe = opened(model)
    chat, engine = Chat(policy.tokenizer, policy.eos), LocalEngine(policy)
    examples, stop = "", tuple[str, ...]()
    if recipe is not None:
        problems = env_for(None, [], recipe).problems("test")
        raw, stop = raw or bool(problems[0].prompt), problems[0].stop
        shared = os.path.commonprefix([p.prompt for p in problems])  # noqa: RUF071
        examples = shared[: shared.rfind("\n") + 1]
    past: list[Message] = []
    for turn, line in enumerate(asked()):
        if raw:
            past = [{"role": "raw", "content": examples + line}]
        else:
            past.append({"role": "user", "content": line})
        sampling = Sampling(max_tokens, temperature, stop, turn)
        completion = asyncio.run(engine.sample(chat.encode(past), sampling))
        past.append(chat.parse(completion.tokens.tolist(), stop))
        print(past[-1]["content"], flush=True)


def asked() -> Iterator[str]:
    """Lines from a person or a pipe, until an empty one or the end."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().rstrip("\n")
        if not line:
            return
        yield line
