"""Dr. GRPO: GRPO without the std and without length normalisation. arXiv:2503.20783."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from upslope import advantages, losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.losses import KL


@final
@dataclass(frozen=True)
class DrGRPO:
    """``length``: the constant that divides token sums, best the rollout's ``max_tokens``."""

    length: int = 64
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: KL = KL()

    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    keep, start, advance = parts.keep_all, parts.no_state, parts.same_state

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    @property
    def needs(self) -> frozenset[Column]:
        return parts.columns_for(self.kl)

    @property
    def claims(self) -> frozenset[Claim]:
        return parts.claims_for(self.kl, grouped=True)

    def advantages(self, batch: Batch) -> Tensor:
        return batch.spread(advantages.centred(*parts.outcomes(batch, self.kl)))

    def weights(self, batch: Batch) -> Tensor:
        return losses.constant_length(batch.trained, batch.trajectory, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        clip = (self.clip_low, self.clip_high)
        loss = losses.clipped_surrogate(out.logprobs, old, advantage, *clip)
        share = losses.clipped_share(out.logprobs.detach(), old, advantage, *clip)
        return parts.with_kl(loss, {"clip/share": share}, out, batch, self.kl)
