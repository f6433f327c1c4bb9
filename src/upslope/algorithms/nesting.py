"""What cannot be inside of an algorithm around another one, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from upslope.algorithms import parts
from upslope.batch import Algorithm
from upslope.optional import Taught, Wraps, layers


@runtime_checkable
class Shaped(parts.Shaped, Protocol):
    """Whatever has the settings of a policy gradient."""


def refuse(of: Algorithm, *, weights: bool = False) -> None:
    """Raise ValueError where nobody may go around ``of``.

    ``weights``: whether the one around it takes advantages that only weigh an imitation, as awr's.
    """
    if any(isinstance(one, Taught) for one in layers(of)):
        raise ValueError(
            "of learns from a teacher, who has a say in whatever it is asked: put distill outermost"
        )
    if {"values", "q"} & {str(column) for column in of.needs | of.reads}:
        raise ValueError(
            "of has a critic, which is trained where its algorithm stands alone: choose one without"
            " for of.type, such as grpo or rloo"
        )
    if "any_policy" in of.claims and not (weights and "policy_gradient" in of.claims):
        raise ValueError(
            "of takes answers of any policy, and what it makes of them is no advantage to go on "
            "with: choose a policy gradient for of.type, such as grpo or rloo"
        )


def refuse_unheard(of: Algorithm) -> None:
    """Raise ValueError for what acts through the advantages of ``of``, where nobody asks for them.

    It would be paid for, in passes or in settings that somebody believes in, and do nothing.
    """
    for key in _unheard(of):
        raise ValueError(
            f"{key} acts through the reward's advantages, which reward = 0 leaves out: set reward "
            "above 0, or leave it out"
        )


def _unheard(of: Algorithm) -> Iterator[str]:
    if isinstance(of, Wraps) or "greedy" in of.needs:
        yield f"of.type ({type(of).__name__})"
    if isinstance(of, Shaped):
        if of.kl.in_reward:
            yield 'of.kl.place="reward"'
        if of.overlong.limit:
            yield "of.overlong.limit"
        if of.explore.hold in ("clip_cov", "low_entropy"):
            yield f'of.explore.hold="{of.explore.hold}"'
