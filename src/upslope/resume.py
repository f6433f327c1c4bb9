"""Going on with a run that ended early, from its newest checkpoint, as if it never had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upslope.alarms import checked
from upslope.batch import Algorithm
from upslope.checkpoints import Checkpoint, read_checkpoint
from upslope.environment import environment
from upslope.launch import Resumed, check, finish
from upslope.names import algorithm_of
from upslope.optional import critic_of
from upslope.recipe import Recipe, differences, dump, read
from upslope.runs import Run
from upslope.session import Say, Session
from upslope.types import UserError, Watch


def resume_recipe(
    recipe: Recipe,
    say: Say,
    *,
    argv: Sequence[str] = (),
    watches: Sequence[Watch] = (),
    allow: Sequence[str] = (),
    on_collapse: str = "say",
) -> Run:
    """Go on with the newest run of a recipe from its newest checkpoint; the finished run.

    In synchronous single-turn runs on a CPU every number from there on is bitwise what it would
    have been uninterrupted; stale runs play the same problems with the same seeds. ``allow``:
    settings, or tables of them, that may differ from the run's own. Raises UserError.
    """
    path = Run.newest(recipe.runs, recipe.name).path
    with Run.resume(path) as run:
        own = read(path / "recipe.toml")
        recipe, changed = agreed(own, recipe, allow)
        if run.result() is not None and not changed:
            raise UserError(
                f"{path} came to its end: train without --resume for another run, or raise a "
                "bound of stop and name it with --allow"
            )
        folder = run.latest()
        kept = Resumed(*read_checkpoint(folder)) if folder else None
        if kept:
            kept = Resumed(opened(kept.checkpoint, changed), kept.learner)
            refuse_other_weights(own, recipe, kept.checkpoint.stage)
        act = checked(on_collapse, recipe.stages())
        session = Session(recipe, say, watches, folder / "model" if folder else None)
        if not kept:
            check(session)
        step = kept.checkpoint.place.step if kept else 0
        told: Mapping[str, Any] = environment(recipe.seed, argv) | {"step": step}
        rows = kept.checkpoint.rows if kept else {}
        run.rewind(rows, dump(session.recipe), {**told, "changed": changed})
        say(f"  resumed: {path} from step {step}")
        finish(session, run, act, kept)
    return run


def agreed(own: Recipe, given: Recipe, allow: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe to go on with, and the settings that differ from the run's own.

    What the run resolved from its machine holds where the given recipe leaves it open.
    """
    if not given.machine.threads:
        machine = given.machine.model_copy(update={"threads": own.machine.threads})
        given = given.model_copy(update={"machine": machine})
    if not given.learner.micro_tokens:
        learner = given.learner.model_copy(update={"micro_tokens": own.learner.micro_tokens})
        given = given.model_copy(update={"learner": learner})
    changed = differences(own, given)
    for key in changed:
        if key == "model" or [s.name for s in own.stages()] != [s.name for s in given.stages()]:
            raise UserError(
                f"{key} differs from the run's and cannot change in it: train without --resume"
            )
        if not any(f"{key}.".startswith(f"{name}.") for name in allow):
            raise UserError(
                f"{key} differs from the run's: set it back, or go on with another one by "
                f"--allow {key}"
            )
    return given, changed


def opened(checkpoint: Checkpoint, changed: Sequence[str]) -> Checkpoint:
    """The checkpoint, no longer stopped where the bounds that stopped it have changed."""
    own = f"stage.{checkpoint.stage}."
    for done in checkpoint.done:
        for key in changed:
            if key.startswith(f"stage.{done.name}."):
                raise UserError(f"{key} cannot change any more: stage {done.name} is done")
    if any(key.removeprefix(own).startswith("stop.") for key in changed):
        place = checkpoint.place.model_copy(update={"stopped": ""})
        return checkpoint.model_copy(update={"place": place})
    return checkpoint


def refuse_other_weights(own: Recipe, given: Recipe, stage: str) -> None:
    """Another algorithm for the stage that goes on, with weights that no checkpoint of it has."""
    before, now = (
        algorithm_of(one.algorithm, "algorithm")
        for recipe in (own, given)
        for one in recipe.stages()
        if one.name == stage
    )
    if "ref_logprobs" in now.needs - before.needs:
        raise UserError(
            f"algorithm needs the policy that stage {stage} began with, which the run did not keep:"
            " set algorithm back, or train without --resume"
        )
    if _weights(now) != _weights(before):
        raise UserError(
            f"algorithm has another critic than stage {stage} has trained: set algorithm back, or "
            "train without --resume"
        )


def _weights(algorithm: Algorithm) -> tuple[object, ...]:
    """What names and shapes a critic's weights, and those kept beside them."""
    critic = critic_of(algorithm)
    if critic is None:
        return ()
    kept = (critic.polyak > 0, critic.l2 > 0, "q" in {*algorithm.needs, *algorithm.reads})
    return (critic.place, critic.heads, critic.width, *kept)
