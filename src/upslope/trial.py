"""Commands on a model that was trained or is only named: open it, talk to it, check parts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from upslope.algorithms import ALGORITHMS
from upslope.batteries import check_algorithm, check_engine, check_env
from upslope.batteries.settings import prove_settings
from upslope.chat import Chat
from upslope.components import build, find
from upslope.engines import ENGINES, Opens
from upslope.engines.local import LocalEngine
from upslope.envs import ENVS
from upslope.launch import prove
from upslope.models.hub import to_stderr
from upslope.models.load import count, load
from upslope.models.policy import Policy
from upslope.names import env_of
from upslope.overrides import merge, tree_of
from upslope.recipe import Recipe, read
from upslope.scorers import model_in
from upslope.selfcheck import Proof
from upslope.session import Session
from upslope.settings import Component
from upslope.threads import resolved
from upslope.types import Env, Message, Sampling, UserError


def recipe_of(name: str) -> Recipe | None:
    """The recipe of a run's folder, a finished run's; None where the name is a model's."""
    folder = Path(name).expanduser()
    if model_in(name) == name:
        return None
    return read(folder / "recipe.toml")


def opened(name: str) -> tuple[Policy, Recipe | None]:
    """A model by name, or a run's final model with its recipe."""
    recipe = recipe_of(name)
    policy = load(model_in(name), say=to_stderr)
    torch.set_num_threads(resolved(0, count(policy), to_stderr))
    return policy, recipe


def env_for(name: str | None, settings: Sequence[str], recipe: Recipe | None) -> Env:
    """The env named, with the run's settings of it under ``settings``; the run's own by default."""
    own = recipe.stages()[-1].env if recipe else None
    if own is None and name is None:
        raise UserError("name an env to evaluate a model on: see `upslope envs`")
    kind = name or (own.type if own else "")
    base = dict(own.settings) if own and kind == own.type else {}
    return env_of(Component(**merge({"type": kind, **base}, tree_of(settings))))


def check_recipe(path: str, overrides: Sequence[str]) -> list[Proof]:
    """The self-check of a recipe, without training it."""
    return asyncio.run(prove(Session(read(path, overrides), to_stderr)))


def check_component(name: str, settings: Sequence[str]) -> list[Proof]:
    """The battery of an env, algorithm or engine, by name or from a file."""
    torch.set_num_threads(1)
    kinds = {**ENVS, **ALGORITHMS, **ENGINES}
    given = Component(type=name, **tree_of(settings))
    made = build(find(kinds, given.type, "env, algorithm or engine"), given.settings, name)
    if isinstance(made, Env):
        return check_env(made)
    if isinstance(made, Opens):
        policy = load("ladder:0.1m")
        proofs = asyncio.run(check_engine(made.open(policy, rows=4), policy))
        return [prove_settings(made, "engine"), *proofs]
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
        sampling = Sampling(max_tokens, temperature, stop, turn, continues=not raw)
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
