"""What reward models learn from: losses over raw scores. Pure functions, each number its own head.

Scores of a pair's sides, of rated replies, or at the ends of a solution's steps; no model here.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Scores = Float[Tensor, " n"]
Together = Literal["min", "product", "last"]


def bradley_terry(
    chosen: Scores,
    rejected: Scores,
    margin: Scores | float = 0.0,
    centring: float = 0.0,
    smoothing: float = 0.0,
) -> Scores:
    """-log sigmoid(chosen - rejected - margin), and ``centring`` times (chosen + rejected)^2.

    ``smoothing``: the share of labels taken to be wrong; the expected loss over them. Margins as in
    arXiv:2307.09288, centring as in arXiv:2312.09244, which keeps scores about 0.
    """
    ahead = chosen - rejected - margin
    right, wrong = -F.logsigmoid(ahead), -F.logsigmoid(-ahead)
    return (1 - smoothing) * right + smoothing * wrong + centring * (chosen + rejected) ** 2


def regression(scores: Scores, target: Scores) -> Scores:
    """(score - target)^2 / 2, for replies that were rated."""
    return 0.5 * (scores - target) ** 2


def step_cross_entropy(scores: Scores, target: Scores) -> Scores:
    """-target log p - (1 - target) log(1 - p) with p = sigmoid(score) at the end of a step.

    ``target``: 1 or 0 for a step that is right or wrong, or the share of completions from it that
    end right (Math-Shepherd's soft estimate, arXiv:2312.08935).
    """
    return -target * F.logsigmoid(scores) - (1 - target) * F.logsigmoid(-scores)


def together(
    scores: Float[Tensor, "row step"], real: Bool[Tensor, "row step"], how: Together = "min"
) -> Float[Tensor, " row"]:
    """Log-probability of a whole solution by those of its ``real`` steps: of the worst of them, of
    all of them (their product), or of the last. A row without steps has 0."""
    said = torch.where(real, F.logsigmoid(scores), 0.0)
    if how == "min":
        return said.amin(1)
    if how == "product":
        return said.sum(1)
    at = torch.where(real, torch.arange(real.shape[1], device=real.device), -1).amax(1)
    return said.gather(1, at.clamp(min=0)[:, None])[:, 0]
