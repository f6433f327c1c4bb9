"""``upslope reward-model``: a recipe made into a reward model, and judged on held-out pairs.

What is learned, and the figures, are of ``training`` and ``calibration``; the folder is laid out
here: ``model``, ``metrics.jsonl``, ``report.json``, ``report.md`` and ``reliability.svg``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from upslope.devices import device_of
from upslope.estimates import Interval, interval
from upslope.files import append_rows, explained, replace_file
from upslope.ledger import Ledger
from upslope.models.folder import quiet
from upslope.models.load import adapted, count, load
from upslope.models.reward_folder import ABOUT, load_reward_model, save_reward_model
from upslope.models.reward_model import RewardModel, averaged, reward_model_of
from upslope.names import env_of
from upslope.preferences.calibration import Numbers, Report, report, right_of
from upslope.preferences.gathered import Gathered, columns_of, from_env, from_file, part_of
from upslope.preferences.learned import Compared, Lesson, PairLoss, Rated
from upslope.preferences.pair import Pair, dialogue
from upslope.preferences.picture import lines_of, markdown, picture
from upslope.preferences.process import Solution, row_of, solutions_of, stepped
from upslope.preferences.recipe import RewardRecipe, dump
from upslope.preferences.training import Trained, scaled, scores_of, tempered, train
from upslope.scorers import model_in
from upslope.seeds import seed_of
from upslope.threads import resolved
from upslope.types import Metrics, Split, UserError

Say = Callable[[str], None]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Material:
    """What a recipe names: pairs, or solutions in steps; one of them is empty."""

    pairs: Gathered
    steps: Sequence[Sequence[Solution]] = ()


def train_recipe(recipe: RewardRecipe, say: Say) -> tuple[RewardModel, Report]:
    """Train, save and judge; UserError before anything is spent on what cannot be."""
    out = Path(recipe.out)
    _refuse_other_folder(out)
    torch.set_num_threads(recipe.machine.threads or 1)
    model = _begun(recipe, say)
    found = fitting(model, material(recipe), say)
    ledger, began = Ledger(recipe.machine.price_per_hour), time.perf_counter()
    members, rows = list[RewardModel](), list[Metrics]()
    for member in range(recipe.average):
        model = model if not member else _begun(recipe, say)
        trained = _trained(recipe, model, found, member, ledger, say)
        members.append(trained.model)
        rows += [{**row, "reward_model/member": float(member)} for row in trained.rows]
    model = averaged(members) if len(members) > 1 else members[0]
    model = _settled(recipe, model, found)
    seconds, spent = time.perf_counter() - began, ledger.totals()
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        save_reward_model(model, out / "model")
        replace_file(out / "reward_model.toml", dump(recipe).encode())
        (out / "metrics.jsonl").unlink(missing_ok=True)
        append_rows(out / "metrics.jsonl", rows)
    say(f"trained in {seconds:.1f} s, {spent.cpu_seconds:.1f} CPU-seconds, {spent.flops:.3g} FLOPs")
    seen = judged(recipe, model, found)
    write_report(out, seen, say)
    return model, seen


def evaluate_recipe(recipe: RewardRecipe, folder: str, say: Say) -> Report:
    """Judge the recipe's trained model, and write its report again, or say that of another one."""
    torch.set_num_threads(recipe.machine.threads or 1)
    device, own = device_of(recipe.machine.device), Path(recipe.out) / "model"
    model = load_reward_model(folder or own, DTYPES[recipe.dtype], device, say)
    for name in recipe.heads:
        model.place(name)
    seen = judged(recipe, model, fitting(model, material(recipe), say))
    if folder:
        for line in lines_of(seen):
            say(line)
    else:
        write_report(Path(recipe.out), seen, say)
    return seen


def material(recipe: RewardRecipe) -> Material:
    """Everything to learn from and to be judged by."""
    if recipe.loss.type == "process":
        return Material(Gathered((), (), ()), _solutions(recipe))
    if recipe.env is None:
        return Material(from_file(recipe.pairs, recipe.seed))
    return Material(from_env(env_of(recipe.env), recipe.env.type, recipe.pairs, recipe.seed))


def judged(recipe: RewardRecipe, model: RewardModel, found: Material) -> Report:
    """The report of the first head; how right the others are is among its slices."""
    if recipe.loss.type == "process":
        return _of_steps(recipe, model, found.steps[2])
    slices, tokens = recipe.pairs.slices, recipe.training.micro_tokens
    seen = of_pairs(model, found.pairs.test, slices, tokens, recipe.scaling, recipe.heads[0])
    if len(recipe.heads) == 1:
        return seen
    others, raw = (
        Compared.of(model, found.pairs.test, PairLoss()),
        raw_of(model, found.pairs.test, tokens),
    )
    right = dict[str, tuple[int, Interval]]()
    for name in recipe.heads[1:]:
        at = model.place(name)
        sign = others.sign[:, at].astype(float)
        agrees = right_of(sign * (raw[:, 0, at] - raw[:, 1, at]))[sign != 0]
        right |= {name: (len(agrees), interval(agrees))} if len(agrees) else {}
    return replace(seen, slices={**seen.slices, "head": right})


def write_report(out: Path, seen: Report, say: Say) -> None:
    """A calibration report into a reward model's folder; said, too."""
    name = f"Reward model {out.name}"
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / "report.json", json.dumps(seen.row(), indent=1).encode() + b"\n")
        replace_file(out / "report.md", markdown(name, seen).encode())
        replace_file(out / "reliability.svg", picture(name, seen).encode())
    for line in lines_of(seen):
        say(line)
    say(f"{out} has the model, its metrics and report.md")


def of_pairs(
    model: RewardModel,
    pairs: Sequence[Pair],
    slices: Sequence[str] = (),
    micro_tokens: int = 8192,
    scaling: bool = False,
    head: str = "",
) -> Report:
    """The report of one head, by default the first, on pairs."""
    at = model.place(head) if head else 0
    raw = raw_of(model, pairs, micro_tokens)[:, :, at]
    lengths = np.array([len(p.chosen) for p in pairs] + [len(p.rejected) for p in pairs], float)
    return report(raw, lengths.reshape(2, -1).T, columns_of(pairs, slices), scaling)


def raw_of(model: RewardModel, pairs: Sequence[Pair], micro_tokens: int) -> Numbers:
    """Raw scores [pair side head] of both sides of pairs, in double precision."""
    if not pairs:
        raise UserError("no pairs are held out to judge by: give more, or raise pairs.held_out")
    sides = [model.encode(dialogue(p.problem, t)) for p in pairs for t in (p.chosen, p.rejected)]
    found: Numbers = scores_of(model, sides, micro_tokens).double().unflatten(0, (-1, 2)).numpy()
    return found


def fitting(model: RewardModel, found: Material, say: Say) -> Material:
    """Without the pairs that are longer than the model can read; how many those are is said."""

    def kept(pairs: Sequence[Pair]) -> list[Pair]:
        sides = ((p, [dialogue(p.problem, t) for t in (p.chosen, p.rejected)]) for p in pairs)
        with quiet():  # the tokenizer's own warning of what is looked for here
            return [pair for pair, both in sides if all(map(model.fits, both))]

    pairs = found.pairs
    fit = Gathered(kept(pairs.train), kept(pairs.validation), kept(pairs.test))
    counts = [sum(map(len, (one.train, one.validation, one.test))) for one in (pairs, fit)]
    if counts[0] > counts[1]:
        say(
            f"{counts[0] - counts[1]} of {counts[0]} pairs are left out: they are longer than the "
            f"{model.policy.context} tokens that {model.policy.name} reads"
        )
    return replace(found, pairs=fit)


def _begun(recipe: RewardRecipe, say: Say) -> RewardModel:
    """An untrained one; the same each time."""
    device, lora = device_of(recipe.machine.device), recipe.lora
    policy = load(model_in(recipe.model), recipe.seed, DTYPES[recipe.dtype], device, say)
    torch.set_num_threads(resolved(recipe.machine.threads, count(policy), lambda line: None))
    if lora.rank:
        policy = adapted(policy, lora.rank, lora.alpha, lora.targets, recipe.seed)
    return reward_model_of(policy, recipe.heads)


def _trained(
    recipe: RewardRecipe,
    model: RewardModel,
    found: Material,
    member: int,
    ledger: Ledger,
    say: Say,
) -> Trained:
    """One model trained; members see the data in other orders."""
    lesson, held = (_lesson(recipe, model, found, part) for part in (0, 1))
    say(
        f"{recipe.model}: {count(model.policy):,} parameters, {len(lesson)} to learn from, "
        f"{len(held)} to stop by"
    )
    seed = seed_of("member", recipe.seed, member)
    return train(model, lesson, held, recipe.training, seed, ledger, say)


def _settled(recipe: RewardRecipe, model: RewardModel, found: Material) -> RewardModel:
    """A trained model with a temperature, where it compares pairs, and with a scale."""
    tokens, held = recipe.training.micro_tokens, _lesson(recipe, model, found, 1)
    if isinstance(held, Compared):
        tempered(model, held, tokens)
    return scaled(model, _lesson(recipe, model, found, 0), tokens)


def _lesson(recipe: RewardRecipe, model: RewardModel, found: Material, part: int) -> Lesson:
    """What there is to learn from (part 0) or to stop by (1)."""
    loss = recipe.loss
    if loss.type == "process":
        return stepped(model, found.steps[part])
    pairs = (found.pairs.train, found.pairs.validation)[part]
    if loss.type == "regression":
        return Rated.of(model, pairs)
    return Compared.of(model, pairs, PairLoss(loss.margins, loss.centring, loss.smoothing))


def _solutions(recipe: RewardRecipe) -> Sequence[Sequence[Solution]]:
    """Solutions to learn from, to stop by and to be judged by, split by their question."""
    parts: dict[Split, list[Solution]] = {"train": [], "validation": [], "test": []}
    for one in solutions_of(recipe.pairs.path):
        parts[part_of(one.problem, recipe.pairs.held_out, recipe.seed)].append(one)
    most, judged_by = recipe.pairs.train or None, recipe.pairs.test or None
    return parts["train"][:most], parts["validation"], parts["test"][:judged_by]


def _of_steps(recipe: RewardRecipe, model: RewardModel, solutions: Sequence[Solution]) -> Report:
    """Steps as pairs of a score and 0: a right step has the higher one."""
    scores, worth = list[float](), list[float]()
    for one in solutions:
        row = row_of(model, one.problem, one.steps)
        tokens = torch.tensor([row.tokens])
        at = torch.zeros(tokens.shape, dtype=torch.bool)
        at[0, list(row.at)] = True
        with torch.no_grad():
            raw, _, _ = model.read(tokens, torch.tensor([len(row.tokens)]), at)
        scores += raw[:, 0].tolist()
        worth += one.worth
    decided = [(s, w) for s, w in zip(scores, worth, strict=True) if w != 0.5]
    sides = np.array([(s, 0.0) if w > 0.5 else (0.0, s) for s, w in decided]).reshape(-1, 2)
    return report(sides, np.zeros_like(sides), {}, recipe.scaling)


def _refuse_other_folder(out: Path) -> None:
    """Refuse to write over anything but an older reward model."""
    ours = (out / "reward_model.toml").is_file() or (out / "model" / ABOUT).is_file()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not ours):
        raise UserError(f"{out} exists and is no reward model's folder: set out to another")
