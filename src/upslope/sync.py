"""New weights into the engine, and the proof that they arrived: equal to the learner's, and new."""

from __future__ import annotations

from upslope.learner import Learner
from upslope.ledger import Ledger
from upslope.models.policy import checksum
from upslope.types import Engine, InFlight, UserError


class Synchroniser:
    """Loads the learner's weights into the engine as versions, each proven after it was loaded."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self.engine, self.ledger = engine, ledger
        self.version, self.last = 0, ""

    async def load(
        self, learner: Learner, version: int, moved: bool, in_flight: InFlight = "finish"
    ) -> None:
        """Load and prove; ``moved``: whether an update should have changed the weights.

        Raises UserError where the engine does not hold what the learner holds, or where weights
        that an update moved are the ones of before.
        """
        with self.ledger.time("sync"):
            await self.engine.load_weights(learner, version, in_flight)
            ours, theirs = checksum(learner.tensors()), await self.engine.checksum()
        if ours != theirs:
            raise UserError(
                f"the engine's weights are not the learner's after loading version {version} "
                f"(checksums {theirs} and {ours}): its rollouts would come from another policy"
            )
        if moved and ours == self.last:
            raise UserError(
                f"version {version} holds the same weights as the one before although an update "
                "was made: the optimiser does not reach the policy, or learner.lr is too small"
            )
        self.version, self.last = version, ours
