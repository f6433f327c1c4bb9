"""The recipe of a gold-against-proxy lab: what is followed, by which proxies, how far.

Settings only; ``lab`` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from upslope.preferences.recipe import checked, table_of
from upslope.preferences.training import Training
from upslope.settings import Amount, Component, Count, Number, Positive, Settings, Share, Text
from upslope.types import UserError


class Imitation(Settings):
    """How the policy that all begin with is made, by supervised fine-tuning on demonstrations."""

    steps: Annotated[Count, "steps"] = 200
    problems: Annotated[Count, "demonstrations in each step"] = 128
    lr: Annotated[Positive, "learning rate"] = 1e-3


class Pool(Settings):
    """Replies of that policy which the best of n is chosen from."""

    problems: Annotated[Count, "held-out problems"] = 64
    replies: Annotated[Count, "replies to each"] = 1024


class Proxies(Settings):
    """Reward models that learn from pairs of the policy's replies, labelled by gold."""

    models: Annotated[
        tuple[Text, ...], Field(min_length=1), "what they begin as, smallest first"
    ] = ("ladder:0.1m", "ladder:0.6m")
    pairs: Annotated[
        tuple[Count, ...], Field(min_length=1), "how many they learn from, fewest first"
    ] = (250, 1000)
    temperature: Annotated[Positive, "at which the replies of pairs are sampled"] = 1.0
    held: Annotated[int, Field(ge=8), "pairs to stop by, beside these"] = 200
    noisy: Annotated[Count, "pairs, where ways to resist are compared"] = 1000
    noise: Annotated[Share, "of whose labels so many are turned around"] = 0.25
    members: Annotated[int, Field(ge=2), "of an ensemble"] = 5
    k: Annotated[Amount, "how much their deviation or variance counts, taken off"] = 1.0


class Climb(Settings):
    """RL on a proxy from the same policy. 0 steps leave it out."""

    steps: Annotated[Number, "steps"] = 80
    every: Annotated[Count, "steps between looks at gold and KL"] = 4
    problems: Annotated[Count, "problems in each step"] = 32
    group: Annotated[int, Field(ge=2), "replies to each"] = 8
    lr: Annotated[Positive, "learning rate"] = 3e-4
    seeds: Annotated[Count, "runs that follow one proxy, a proxy each, at most"] = 3
    kl: Annotated[Amount, "coefficient of the KL penalty, in the arm that has one"] = 0.1
    share: Annotated[Share, "of training replies whose gold the automatic stop may see"] = 0.05


class LabRecipe(Settings):
    """A lab: one policy, proxies of several sizes and amounts of data, and ways to follow them."""

    model: Annotated[Text, "what the policy begins as"] = "ladder:0.6m"
    out: Annotated[Text, "folder for everything that the lab makes"] = "runs/lab"
    seed: Annotated[int, "what all randomness derives from"] = 0
    seeds: Annotated[int, Field(ge=2), "proxies of each kind"] = 3
    max_tokens: Annotated[Count, "tokens of a reply, at most"] = 32
    env: Annotated[Component, "problems with a gold reward, and demonstrations"]
    imitation: Imitation = Imitation()
    pool: Pool = Pool()
    proxies: Proxies = Proxies()
    training: Training = Training()
    climb: Climb = Climb()

    @property
    def ns(self) -> list[int]:
        """The n of the best of n: powers of two up to the whole pool."""
        powers = [2**k for k in range(self.pool.replies.bit_length())]
        return [n for n in powers if n < self.pool.replies] + [self.pool.replies]


def read_lab(path: str | Path, overrides: Sequence[str] = ()) -> LabRecipe:
    """The recipe of a TOML file under ``key=value`` overrides; UserError for whatever is wrong."""
    recipe = checked(LabRecipe, table_of(path, overrides))
    if len(recipe.ns) < 6:
        raise UserError(
            f"pool.replies={recipe.pool.replies} leaves {len(recipe.ns)} points of the best of n, "
            "too few to fit how it rises and falls: use at least 32"
        )
    for name in ("models", "pairs"):
        given = dict(recipe.proxies)[name]
        if len(set(given)) < len(given):
            raise UserError(f"proxies.{name} names one twice: give each once")
    if tuple(sorted(recipe.proxies.pairs)) != recipe.proxies.pairs:
        raise UserError("proxies.pairs begins with the fewest: sort it")
    return recipe
