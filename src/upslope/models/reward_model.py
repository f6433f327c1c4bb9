"""A reward model: linear heads on the state in which a reply has ended, on any policy's trunk.

Prompts that replies share are computed once. How it is trained is in ``preferences.training``, how
it is saved in ``reward_folder``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from upslope.chat import Chat
from upslope.models.logprobs import prepare
from upslope.models.policy import Policy, checksum
from upslope.models.trunk import Work, predicting
from upslope.types import Message, UserError


@dataclass(frozen=True, eq=False)
class Normal:
    """Mean and standard deviation of each head's scores on some replies; 0 and 1 before that."""

    mean: Float[Tensor, " head"]
    std: Float[Tensor, " head"]


@dataclass(eq=False)
class RewardModel:
    """``head`` gives a score for each of ``names``; ``start``: a checksum of the trunk's weights
    before it was trained, which models that are averaged must have alike."""

    policy: Policy
    head: nn.Linear
    names: tuple[str, ...]
    normal: Normal
    start: str = ""
    chat: Chat = field(init=False)

    def __post_init__(self) -> None:
        prepare(self.policy)
        self.chat = Chat(self.policy.tokenizer, self.policy.eos)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its own: a policy's tokens mean nothing to a model of another one."""
        return self.policy.tokenizer

    def encode(self, dialogue: Sequence[Message]) -> list[int]:
        """Tokens of a dialogue up to the end of the last thing that the assistant said in it."""
        tokens = self.tokens_of(dialogue)
        if len(tokens) >= self.policy.context:
            raise UserError(
                f"a dialogue of {len(tokens)} tokens does not fit into the {self.policy.context} "
                f"that the reward model {self.policy.name} reads: shorten it, or choose another"
            )
        return tokens

    def fits(self, dialogue: Sequence[Message]) -> bool:
        """Whether it can read so much."""
        return len(self.tokens_of(dialogue)) < self.policy.context

    def tokens_of(self, dialogue: Sequence[Message]) -> list[int]:
        """As ``encode`` has them, however many they are."""
        said = [i for i, message in enumerate(dialogue) if message["role"] == "assistant"]
        if not said or not said[-1]:
            raise UserError("a reward model scores replies, and this dialogue has none")
        asked, reply = dialogue[: said[-1]], str(dialogue[said[-1]]["content"])
        return [*self.chat.encode(asked), *self.chat.reply(reply, ())]

    def read(
        self,
        tokens: Int[Tensor, "row token"],
        length: Int[Tensor, " row"],
        at: Bool[Tensor, "row token"],
    ) -> tuple[Float[Tensor, "n head"], tuple[Tensor, ...], Work]:
        """Raw scores in the states after the tokens ``at``, in FP32; their rows and places."""
        # A state is found by the token that it predicts, and the last one predicts none.
        longer, needed = (torch.nn.functional.pad(x, (0, 1)) for x in (tokens, at))
        seen = predicting(self.policy, longer, length + 1, needed.roll(1, 1))
        flops = 2.0 * len(seen.states) * self.head.weight.numel()
        raw: Tensor = self.head(seen.states.float())
        work = seen.work + Work(flops, 2 * flops)
        return raw, (seen.where[0], seen.where[1] - 1), work

    @torch.no_grad()
    def scores(
        self, tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row head"], Work]:
        """Raw scores of whole replies; UserError where one is not finite."""
        raw, _, work = self.read(tokens, length, last(tokens, length))
        if not bool(raw.isfinite().all()):
            raise UserError(
                f"the reward model {self.policy.name} gives a score that is not finite: its "
                "weights are damaged, or too large for their type, so train it again"
            )
        return raw.cpu(), replace(work, backward=0.0)

    @torch.no_grad()
    def ends(
        self, tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]
    ) -> Float[Tensor, "row hidden"]:
        """The states that whole replies' scores are read in, in FP32."""
        at = last(tokens, length)
        longer, needed = (torch.nn.functional.pad(x, (0, 1)) for x in (tokens, at))
        seen = predicting(self.policy, longer, length + 1, needed.roll(1, 1))
        return seen.states.float().cpu()

    def normalised(self, raw: Float[Tensor, "row head"]) -> Float[Tensor, "row head"]:
        """Scores less their mean, over their standard deviation, on what it was whitened on."""
        return (raw - self.normal.mean.to(raw.device)) / self.normal.std.to(raw.device)

    def place(self, name: str) -> int:
        """Of the head of that name; UserError where there is none."""
        if name not in self.names:
            raise UserError(
                f"the reward model {self.policy.name} has no head {name!r}: choose from "
                f"{', '.join(self.names)}"
            )
        return self.names.index(name)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: the trunk or its adapter, and the heads."""
        within = {id(p) for p in self.policy.trunk.parameters()}
        named = {name: p for name, p in self.policy.trained() if id(p) in within}
        return named | {f"head.{name}": p for name, p in self.head.named_parameters()}

    def refuse_other(self, tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
        """UserError unless that tokenizer has the same vocabulary as its own."""
        if tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise UserError(
                f"the reward model {self.policy.name} has another tokenizer than {whose}: give it "
                "text, which it encodes itself, or one that was trained on that model"
            )


def reward_model_of(policy: Policy, names: Sequence[str]) -> RewardModel:
    """A new one on a policy's trunk, whose heads say 0 to everything."""
    if not names or len(set(names)) < len(names) or not all(names):
        raise UserError(f"the heads of a reward model need names of their own, got {[*names]}")
    hidden = policy.head()[0].shape[1]
    head = nn.Linear(hidden, len(names)).to(policy.model.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    normal = Normal(torch.zeros(len(names)), torch.ones(len(names)))
    return RewardModel(policy, head, tuple(names), normal, checksum(policy.tensors()))


def last(tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]) -> Tensor:
    """[row token], True at each row's last token."""
    return torch.arange(tokens.shape[1])[None] == length[:, None] - 1


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token rows as [row token], filled up with 0, and their lengths."""
    length = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(length.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens, length


def whitened(model: RewardModel, raw: Float[Tensor, "row head"]) -> RewardModel:
    """The model with the mean and standard deviation of these scores of its own."""
    if len(raw) < 2 or not bool((raw.std(0) > 0).all()):
        raise UserError(
            f"{len(raw)} replies that the reward model {model.policy.name} scores alike say nothing"
            " of its scale: give more of them, or train it longer"
        )
    return replace(model, normal=Normal(raw.mean(0), raw.std(0)))


@torch.no_grad()
def averaged(models: Sequence[RewardModel]) -> RewardModel:
    """The mean of the weights of models that began alike (WARM, arXiv:2401.12187).

    Its scores have a scale of their own: whiten it again. UserError where they began apart.
    """
    first = models[0]
    whole = [{**dict(m.policy.tensors()), **dict(m.head.named_parameters())} for m in models]
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in whole]
    for model, shape in zip(models, shapes, strict=True):
        model.refuse_other(first.tokenizer, first.policy.name)
        if shape != shapes[0] or model.names != first.names:
            raise UserError("reward models of other shapes or heads cannot be averaged")
        if not model.start or model.start != first.start:
            raise UserError(
                "these reward models did not begin with the same weights, so that the mean of "
                "their weights is no model: train them from one model and seed"
            )
    made = replace(
        first,
        policy=replace(first.policy, model=copy.deepcopy(first.policy.model)),
        head=copy.deepcopy(first.head),
        normal=Normal(torch.zeros(len(first.names)), torch.ones(len(first.names))),
    )
    own = dict(made.policy.model.named_parameters()) | dict(made.head.named_parameters())
    for name, parameter in own.items():
        mean = torch.stack([one[name].float() for one in whole]).mean(0)
        parameter.copy_(mean.to(parameter.dtype))
    return made
