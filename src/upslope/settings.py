"""The tables of a recipe: every setting with its type, bounds, default and meaning.

Declarations only: how tables are read, merged into stages and checked together is in ``recipe.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Text = Annotated[str, Field(min_length=1)]
Sink = Literal["tensorboard", "wandb", "trackio"]
INTERRUPT = (  # of ScaleRL (arXiv:2510.13786)
    "Okay, time is up. Let me stop thinking and formulate a final answer now. </think>"
)


class Settings(BaseModel):
    """A frozen table of settings that refuses unknown keys and converts only int to float."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Component(BaseModel):
    """A ``type`` (a short name, or ``file.py:Name``) and that class's own settings, still raw.

    ``type = "reasoning_gym:chain_sum"`` is short for that type with ``name = "chain_sum"``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    type: Annotated[Text, "a short name, or file.py:Name"]

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("type"), str):
            return given
        kind, _, name = given["type"].partition(":")
        short = name and not kind.endswith(".py") and "name" not in given
        return {**given, "type": kind, "name": name} if short else given

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but ``type``."""
        return dict(self.model_extra or {})


class Rollout(Settings):
    """How problems are played."""

    problems: Annotated[Count, "problems played in each step"] = 8
    group: Annotated[Count, "trajectories of each problem"] = 8
    max_tokens: Annotated[Count, "tokens sampled in a turn, at most"] = 64
    temperature: Annotated[Positive, "sampling temperature of training rollouts"] = 1.0
    max_turns: Annotated[Count, "turns of a play, at most"] = 8
    max_staleness: Annotated[Number, "steps a group may lag; 0 is strictly on-policy"] = 0
    correction: Annotated[
        Literal["decoupled", "bypass"], "stale groups: weigh by old/engine, or take old=engine"
    ] = "decoupled"
    importance: Annotated[
        Literal["truncate", "mask", "opsm"],
        "old/engine out of bounds: cut to the bound, taken as 0, or (opsm) 0 for sequences that are"
        " wrong and on average below the lower bound, else 1",
    ] = "truncate"
    importance_level: Annotated[
        Literal["token", "sequence", "geometric"],
        "whose old/engine: a token's, its sequence's, or the geometric mean over that",
    ] = "token"
    importance_cap: Annotated[Positive, "upper bound of the old/engine weight"] = 2.0
    importance_floor: Annotated[Amount, "lower bound of the old/engine weight"] = 0.0
    rows: Annotated[Count, "rows the engine decodes at once, at most"] = 256
    tries: Annotated[Count, "groups played for each one wanted, at most, when filtered"] = 4
    think_tokens: Annotated[Number, "tokens before a reply is interrupted; 0 never does"] = 0
    think_window: Annotated[Number, "how many tokens later that may be, at random"] = 0
    interrupt: Annotated[Text, "what a reply is interrupted with; not trained"] = INTERRUPT

    @property
    def corrects(self) -> bool:
        """Whether tokens of stale groups are weighed."""
        weighs = self.correction == "decoupled" or self.importance == "opsm"
        return bool(self.max_staleness) and weighs


class Learner(Settings):
    """How a rollout batch becomes updates."""

    lr: Annotated[Positive, "learning rate of AdamW"] = 1e-6
    warmup: Annotated[Number, "updates over which the learning rate rises to lr"] = 0
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], "how it falls after that, up to stop.steps"
    ] = "constant"
    floor: Annotated[
        float, Field(gt=0, le=1), "part of lr that a falling learning rate ends at"
    ] = 0.1
    beta1: Annotated[Decay, "AdamW's decay of the mean gradient"] = 0.9
    beta2: Annotated[Decay, "AdamW's decay of the mean squared gradient"] = 0.95
    eps: Annotated[Positive, "AdamW's floor under the root mean squared gradient"] = 1e-8
    weight_decay: Annotated[Amount, "AdamW's decoupled weight decay"] = 0.0
    clip: Annotated[Amount, "largest gradient norm; 0 leaves it as it is"] = 1.0
    spike: Annotated[Amount, "skip gradients this many times the usual norm; 0 skips none"] = 0.0
    updates: Annotated[Count, "updates that a rollout batch is split into"] = 1
    epochs: Annotated[Count, "passes over each rollout batch"] = 1
    micro_tokens: Annotated[Number, "tokens in a micro-batch; 0 fits them to the machine"] = 0
    checkpointing: Annotated[
        bool, "run layers again in the backward pass: slower, with less memory"
    ] = False
    dtype: Annotated[Literal["float32", "bfloat16"], "type of the weights"] = "float32"
    head: Annotated[
        Literal["float32", "weights"], "what logits are computed in, by engine and learner"
    ] = "float32"
    bad_steps: Annotated[Number, "non-finite updates skipped before the run stops"] = 3


class Evaluation(Settings):
    """How accuracy on held-out problems is measured."""

    every: Annotated[Number, "steps between evaluations; 0 is only first and last"] = 0
    problems: Annotated[Count, "held-out problems"] = 500
    samples: Annotated[Count, "samples of each problem at temperature 1"] = 1
    split: Annotated[Literal["validation", "test"], "split to take them from"] = "test"
    select: Annotated[bool, "keep the weights best on validation; test only them"] = False


class Stop(Settings):
    """When a stage ends: at the first bound reached; 0 is no bound."""

    steps: Annotated[Number, "steps"] = 100
    flops: Annotated[Amount, "training FLOPs by the ledger, evaluations left out"] = 0.0
    hours: Annotated[Amount, "hours elapsed"] = 0.0
    money: Annotated[Amount, "money spent, in the unit of machine.price_per_hour"] = 0.0
    accuracy: Annotated[Share, "sampled accuracy in an evaluation"] = 0.0
    gain: Annotated[Share, "accuracy that as much compute again is forecast to bring"] = 0.0


class Checkpoint(Settings):
    """What is kept to continue from."""

    every: Annotated[Number, "steps between checkpoints; 0 is only the last"] = 50
    keep: Annotated[Count, "newest checkpoints kept"] = 1


class Machine(Settings):
    """What the run may use, and what it costs."""

    threads: Annotated[Number, "threads; 0 is one a core, and 1 below 5M parameters"] = 0
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], "where tensors live"] = "cpu"
    price_per_hour: Annotated[Amount, "what an hour costs; 0 is unpriced"] = 0.0


class Lora(Settings):
    """A low-rank adapter, trained in place of the weights."""

    rank: Annotated[Number, "rank of the adapter; 0 trains all weights"] = 0
    alpha: Annotated[Positive, "the adapter's product is scaled by alpha / rank"] = 32.0
    targets: Annotated[
        tuple[Text, ...], "matrices it adapts, by the end of their names; none is all"
    ] = ()


class Check(Settings):
    """The self-check before the first step."""

    enabled: Annotated[bool, "whether the run proves its numbers before it starts"] = True
    problems: Annotated[Count, "problems to prove them on"] = 4


class Sections(Settings):
    """The tables that a stage may have of its own."""

    preset: Annotated[str | None, "a named part of a recipe, under this table's own keys"] = None
    source: Annotated[Component, "where groups come from"] = Component(type="rollouts")
    reward: Annotated[Component, "what grades training groups"] = Component(type="env")
    audit: Annotated[Component, "what watches that for hacking"] = Component(type="alarms")
    rollout: Rollout = Rollout()
    learner: Learner = Learner()
    evaluation: Evaluation = Evaluation()
    stop: Stop = Stop()
    checkpoint: Checkpoint = Checkpoint()
