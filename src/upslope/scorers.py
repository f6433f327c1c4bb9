"""Policies that only score what another one said: a stage's reference, and its teacher.

Neither is trained. A reference is the policy as the stage found it; a teacher is another model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from upslope.batch import Algorithm
from upslope.learner import frozen_copy
from upslope.models.ladder import PREFIX
from upslope.models.load import load, save
from upslope.models.logprobs import prepare
from upslope.models.policy import Policy
from upslope.optional import teachers
from upslope.runs import Run
from upslope.types import UserError

Say = Callable[[str], None]


def reference_of(
    policy: Policy, algorithm: Algorithm, run: Run, stage: str, say: Say, *, resumed: bool
) -> Policy | None:
    """The policy of the stage's start, where the algorithm needs it; kept in the run for resume."""
    if "ref_logprobs" not in algorithm.needs:
        return None
    if policy.rank:
        return frozen_copy(policy)  # small; a resumed learner's state has its own
    if not resumed:
        run.save_reference(stage, lambda folder: save(policy, folder))
        return frozen_copy(policy)
    kept = load(str(run.reference(stage)), 0, policy.model.dtype, str(policy.model.device), say)
    kept.model.requires_grad_(False)
    return kept


def teacher_of(policy: Policy, algorithm: Algorithm, say: Say) -> Policy | None:
    """The model that the algorithm learns from; UserError for one that cannot score its tokens."""
    if not (named := teachers(algorithm)):
        return None
    name = named[0]
    if name.startswith(PREFIX):
        raise UserError(
            f"algorithm.teacher {name} was never trained and has nothing to teach: give a run's "
            "folder, or a model that was"
        )
    found = load(model_in(name), 0, policy.model.dtype, str(policy.model.device), say)
    if found.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UserError(
            f"algorithm.teacher {name} has another tokenizer than {policy.name} and cannot score "
            "its tokens: choose a teacher of the same family"
        )
    if found.context < policy.context:
        raise UserError(
            f"algorithm.teacher {name} reads {found.context} tokens and {policy.name} writes up to "
            f"{policy.context}: choose one that reads as many"
        )
    found.head_dtype = policy.head_dtype
    found.model.requires_grad_(False)
    prepare(found)
    return found


def model_in(name: str) -> str:
    """A run's final model, where the name is a run's folder; else the name."""
    folder = Path(name).expanduser()
    if not (folder / "recipe.toml").is_file():
        return name
    if not (folder / "model").is_dir():
        raise UserError(f"run {folder} has no final model yet: let it end, or give a checkpoint")
    return str(folder / "model")
