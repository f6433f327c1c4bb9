"""Back to weights of before, in a run that goes on: under a new version, on other problems."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from upslope.batch import State
from upslope.checkpoints import Place, read_checkpoint
from upslope.learner import Learner
from upslope.models.fused import fill
from upslope.models.load import load
from upslope.runs import Run


async def roll_back(
    run: Run,
    learner: Learner,
    synchronise: Callable[[int, bool], Awaitable[None]],
    at: Place,
    to: int,
    start: State,
) -> Place:
    """The place after the newest checkpoint of at most the step ``to`` was put back.

    Weights, optimiser and the algorithm's state are that checkpoint's; the source, the ledger and
    the count of steps go on, since versions never go down. ``start``: the state that the algorithm
    begins with. Stopped where there is none such.
    """
    folder = run.latest(to)
    if folder is None:
        return at.ended("watch")
    kept, state = read_checkpoint(folder)
    if kept.place.first != at.first:
        return at.ended("watch")  # it is an earlier stage's
    policy = learner.policy
    if not policy.rank:  # an adapter is in the learner's state
        name, dtype, device = str(folder / "model"), policy.model.dtype, policy.model.device
        # The parameters themselves: ``tensors`` may have a head with Q in it, which is a copy.
        own = dict(policy.model.named_parameters())
        fill(own, load(name, 0, dtype, str(device)).tensors())
    learner.load_state(state)
    at = at.moved(kept.place.fitting(start).state)
    await synchronise(at.step, True)
    return at
