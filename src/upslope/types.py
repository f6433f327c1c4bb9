"""The nouns of the data path and the protocols between its parts.

Records and protocols only: no behaviour beyond checking themselves, no torch, no input or output.
``Batch``, ``Outputs`` and ``Algorithm`` hold tensors and live in ``batch.py``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, Any]
Metrics = dict[str, float]
StopReason = Literal["stop", "length", "interrupted", "turns", "error"]
Split = Literal["train", "validation", "test"]
InFlight = Literal["finish", "keep", "recompute"]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class UserError(Exception):
    """A mistake its user can mend: shown as one sentence, with a non-zero exit."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt (``messages``, or raw ``prompt`` text for base models) and what grading needs.

    ``stop``: strings that end a reply to a raw prompt. ``solution``: a reply that earns the full
    reward, "" where nobody knows one; the self-check plays it against the env's grader. ``env``:
    which of a recipe's several envs it is of.
    """

    id: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    stop: tuple[str, ...] = ()
    answer: str = ""
    solution: str = ""
    info: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    env: str = ""

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.prompt):
            raise ValueError(f"problem {self.id!r} needs either messages or a raw prompt, not both")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one completion. Temperature 0 is greedy; nothing else reshapes the policy."""

    max_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    continues: bool = False  # whether a prompt that begins with prompt and completion may follow


@dataclass(frozen=True, slots=True)
class Usage:
    """What a completion cost: prompt tokens computed and cached, tokens decoded, and FLOPs.

    FLOPs are those of the passes actually run, padding included, shared out over the requests of
    a pass, so that the sum over requests is the engine's whole work.
    """

    computed: int = 0
    cached: int = 0
    decoded: int = 0
    prefill_flops: float = 0.0
    decode_flops: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(operator.add, _PARTS(self), _PARTS(other)))


_PARTS = operator.attrgetter(*Usage.__dataclass_fields__)


def freeze(record: object, name: str, values: Any, dtype: type[np.generic]) -> None:
    """Give a frozen record a read-only copy, so that it stays what it was when it was made."""
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    object.__setattr__(record, name, array)


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What an engine returns for one request; per-token arrays have the length of ``tokens``.

    ``logprobs`` are of the sampled tokens under the sampling temperature (1 when greedy).
    ``versions`` is the weight version that sampled each token. A sampled end-of-sequence token, and
    the token that completed a stop string, are part of ``tokens``.
    """

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    stop: StopReason
    usage: Usage = field(default_factory=Usage)
    routes: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        freeze(self, "tokens", self.tokens, np.int32)
        freeze(self, "logprobs", self.logprobs, np.float32)
        freeze(self, "versions", self.versions, np.int32)
        if not len(self.tokens) == len(self.logprobs) == len(self.versions):
            raise ValueError("a completion's tokens, logprobs and versions must have equal lengths")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One token row of a trajectory; ``trained`` is True exactly on sampled or recorded spans.

    ``engine_logprobs`` is 0 and ``versions`` -1 where ``trained`` is False; recorded spans, which
    no engine of this run sampled, have NaN.
    """

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    engine_logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    routes: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        freeze(self, "tokens", self.tokens, np.int32)
        freeze(self, "trained", self.trained, np.bool_)
        freeze(self, "engine_logprobs", self.engine_logprobs, np.float32)
        freeze(self, "versions", self.versions, np.int32)
        lengths = {len(c) for c in (self.tokens, self.trained, self.engine_logprobs, self.versions)}
        if len(lengths) != 1:
            raise ValueError(f"a segment's columns must have equal lengths, got {sorted(lengths)}")


@dataclass(frozen=True, slots=True)
class Turn:
    """A span of sampled tokens in a segment: ``tokens[start:stop]``."""

    segment: int
    start: int
    stop: int
    stop_reason: StopReason
    temperature: float = 1.0
    reward: float = 0.0
    state: str = ""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a trajectory earned. ``valid`` False: the grader failed, so nothing is known of it.

    An invalid reward leaves the loss and its group's statistics; a wrong answer is valid.
    ``at``: (segment, token, value) triples for process rewards. ``answer``: what the grader took
    for the reply's answer, "" where it found none; the majority vote counts these.
    """

    total: float
    parts: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    costs: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    valid: bool = True
    reason: str = ""
    at: tuple[tuple[int, int, float], ...] = ()
    usage: Usage = field(default_factory=Usage)
    answer: str = ""

    @property
    def correct(self) -> float:
        """What accuracy means: the part ``correct`` where the env names one, else the total."""
        return float(self.parts.get("correct", self.total))


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One played problem. ``messages`` is the whole dialogue, the prompt's messages included."""

    problem: Problem
    visit: int
    member: int
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]
    reward: Reward | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    usage: Usage = field(default_factory=Usage)

    @property
    def text(self) -> str:
        """The last thing the policy said, without stop strings and special tokens."""
        said = [m["content"] for m in self.messages if m["role"] == "assistant"]
        return str(said[-1]) if said else ""

    @property
    def length(self) -> int:
        """Trained tokens over all segments."""
        return sum(int(np.count_nonzero(s.trained)) for s in self.segments)

    @property
    def truncated(self) -> bool:
        """Whether the length limit cut its last turn."""
        return bool(self.turns) and self.turns[-1].stop_reason == "length"

    @property
    def version(self) -> int:
        """The oldest weight version among its trained tokens."""
        return min((v for s in self.segments for v in s.versions[s.trained].tolist()), default=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Trajectories of one problem: the unit of advantage, filtering and staleness."""

    problem: Problem
    trajectories: tuple[Trajectory, ...]
    greedy: tuple[Trajectory, ...] = ()  # one at temperature 0, never trained, where asked for

    @property
    def rewards(self) -> list[Reward]:
        """One graded reward for each trajectory; raises where a trajectory was not graded."""
        return [graded(t) for t in self.trajectories]

    @property
    def mixed(self) -> bool:
        """Whether its valid members earned different rewards, without which there is no signal."""
        return len({r.total for r in self.rewards if r.valid}) > 1

    @property
    def version(self) -> int:
        """The oldest weight version among its trained tokens."""
        return min((t.version for t in self.trajectories if t.turns), default=-1)


def graded(trajectory: Trajectory) -> Reward:
    """The reward of a trajectory that has been graded."""
    if trajectory.reward is None:
        raise ValueError(f"a trajectory of problem {trajectory.problem.id!r} was not graded")
    return trajectory.reward


@dataclass(frozen=True, slots=True)
class Reply:
    """An env's answer to a turn: messages to append, and how many past ones to keep."""

    messages: tuple[Message, ...]
    keep: int | None = None
    reward: float = 0.0
    state: str = ""


@runtime_checkable
class Episode(Protocol):
    """One play of one problem; owns the sandbox, workbook or browser it needs."""

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        """The env's answer to the policy's last message; None ends the play."""

    async def facts(self) -> Mapping[str, Any]:
        """The end state that grading needs, read before the episode closes."""


@runtime_checkable
class Env(Protocol):
    """Problems, replies and rewards. Implementations are frozen dataclasses of their settings."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's problems, in a fixed order, with unique and stable ids."""

    def play(self, problem: Problem) -> AbstractAsyncContextManager[Episode]:
        """Open one play of a problem; ``play = single_turn`` where one answer ends it."""

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Grade a whole group, one reward for each trajectory, in order."""


@runtime_checkable
class Demonstrates(Protocol):
    """An env that can also write answers, right or wrong, for supervised fine-tuning."""

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Pairs of a problem and a reply to learn from, in a fixed order."""


class WeightSource(Protocol):
    """Weights by Hugging Face name. Collective: all learner ranks enter ``tensors``."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors, one at a time; a consumer copies what it keeps."""


class Engine(Protocol):
    """Token ids in, token ids out; sampled text is never tokenised again."""

    async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        """Continue ``tokens``; concurrent calls share decode batches. UserError on misuse."""

    async def load_weights(
        self, source: WeightSource, version: int, in_flight: InFlight = "finish"
    ) -> None:
        """Take new weights. ``in_flight``: requests underway finish first, or keep their cache."""

    async def checksum(self) -> str:
        """Of the weights in use, equal to ``models.policy.checksum`` of the same weights."""


class Source(Protocol):
    """Where groups come from: rollouts, a file, or a mix."""

    @property
    def sync(self) -> int:
        """Steps between loads of new weights into the engine sampled from; 0: none is."""

    async def groups(self, n: int, version: int, keep: Callable[[Group], bool]) -> Sequence[Group]:
        """The next ``n`` groups that ``keep`` accepts, in bounded tries, none too stale."""

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn from what was played: pass rates, curriculum."""

    def metrics(self) -> Metrics:
        """What it says of itself in a step's row, such as groups dropped so far."""

    def state(self) -> Mapping[str, Any]:
        """What resume needs: position, visits, dispatched but unused pairs; JSON types only."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""

    async def close(self) -> None:
        """End what is under way."""


Action = Literal["stop"] | int  # a number: back to the weights of that step or before


class Watch(Protocol):
    """Something that looks at every step and every evaluation, and may act on the run."""

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After a stage's step (with its groups) or evaluation (with none, and no action)."""
