"""A critic's weights: heads on hidden states, on the policy's own trunk or on a copy's.

What its numbers mean is in ``critic``. Heads start at 0. Q is linear in the state that the policy's
own head reads, so that log policy + decode (Q - V) is a policy with another head: a softmax forgets
V, which is the same for all tokens. Whoever takes the policy's weights then takes that head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from upslope.batch import Algorithm, Batch, Outputs
from upslope.critic import Critic
from upslope.models.fused import fill
from upslope.models.logprobs import HeadLogprobs
from upslope.models.lora import shared_copy
from upslope.models.policy import Policy
from upslope.models.trunk import Predicting, Work, predicting
from upslope.optional import critic_of
from upslope.types import UserError

SETTLED = "settled"


class Heads(nn.Module):
    """``value`` [hidden] to the numbers of all heads; ``q`` a weight [vocabulary hidden] each."""

    def __init__(self, policy: Policy, critic: Critic, q: bool) -> None:
        super().__init__()
        vocabulary, hidden = policy.head()[0].shape
        self.value = nn.Linear(hidden, critic.heads * critic.width)
        self.q = nn.ParameterList(
            nn.Parameter(torch.zeros(vocabulary, hidden)) for _ in range(critic.heads * q)
        )
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.to(policy.model.device)


@dataclass(eq=False)
class Judge:
    """Heads, and the policy whose trunk they read."""

    policy: Policy
    heads: Heads

    def copied(self, own: bool) -> Judge:
        """Another judge of the same weights; with a trunk of its ``own``, or this one's."""
        model = shared_copy(self.policy.model) if own else self.policy.model
        return Judge(replace(self.policy, model=model), copy.deepcopy(self.heads))

    def weights(self, own: bool) -> dict[str, nn.Parameter]:
        """What is trained of it, by name; the trunk's too where that is its ``own``."""
        named = {f"heads.{name}": p for name, p in self.heads.named_parameters()}
        if own:
            within = {id(p) for p in self.policy.trunk.parameters()}
            named |= {name: p for name, p in self.policy.trained() if id(p) in within}
        return named


class Estimator:
    """A critic of ``policy`` with the settings ``critic``; ``q``: whether it judges tokens, too."""

    def __init__(self, policy: Policy, critic: Critic, q: bool) -> None:
        if critic.decode and (policy.rank or policy.tied or not q):
            why = "lora.rank adapts none" if policy.rank else "its head is its embedding"
            raise UserError(
                f"critic.decode={critic.decode:g} samples from a head with Q in it, and "
                f"{why if q else 'this algorithm learns no Q'}: leave it out"
            )
        self.critic, self.separate = critic, critic.place == "separate"
        self.online = Judge(policy, Heads(policy, critic, q)).copied(self.separate)
        begun = policy.judged if critic.begins == "stage" else {}
        for name, parameter in self.weights().items():
            if name in begun:
                parameter.data.copy_(begun[name])
        self.settled = begun.get(SETTLED) if q else None  # of Q, what the policy's head has already
        self.target = self.online.copied(self.separate) if critic.polyak else None
        if self.target is not None:
            for parameter in self.target.weights(self.separate).values():
                parameter.requires_grad_(False)
        kept = self.weights().items() if critic.l2 else ()
        self.start = {name: p.detach().clone() for name, p in kept}
        if critic.decode and q:
            policy.tilt = self._tilt

    def weights(self) -> dict[str, nn.Parameter]:
        """What updates change, by name."""
        return self.online.weights(self.separate)

    def outputs(self, out: Outputs, part: Batch, seen: Predicting) -> tuple[Outputs, Work]:
        """``out`` with values, and with Q where there is one; ``seen`` is of the policy's trunk.

        Both by the weights that are trained, with their gradients.
        """
        read, work = self._seen(self.online, part, seen)
        raw, own = self._values(self.online, read)
        out, work = replace(out, values=_placed(raw, part, read)), work + own
        q, surely = [], []
        for weight in self.online.heads.q:
            chosen = part.tokens[read.where[0], read.where[1]].to(weight.device)
            q.append((read.states.float() * F.embedding(chosen, weight)).sum(-1))
            if self.critic.conservative:
                one = torch.ones(len(chosen), device=weight.device)
                surely.append(
                    HeadLogprobs.apply(  # type: ignore[no-untyped-call]
                        read.states, weight, None, chosen, one, False, torch.float32
                    )[0]
                )
                flops = 2.0 * len(chosen) * weight.numel()
                work += Work(flops, 3 * flops)
        if q:
            out = replace(out, q=_placed(torch.stack(q, -1), part, read))
        if surely:
            out = replace(out, q_logprobs=_placed(torch.stack(surely, -1), part, read))
        return out, work

    @torch.no_grad()
    def stored(
        self, part: Batch, seen: Predicting | None, columns: Iterable[str]
    ) -> tuple[Mapping[str, Tensor], Work]:
        """Columns "values" and "q" [row token], the lowest of the heads', by the copy that follows
        where there is one. ``seen`` is of the policy's trunk, where these heads read it."""
        judge = self.target or self.online
        read, work = self._seen(judge, part, seen)
        found: dict[str, Tensor] = {}
        if "values" in columns:
            raw, own = self._values(judge, read)
            said = self.critic.value(_placed(raw, part, read))
            found["values"], work = said * part.trained.to(said.device), work + own
        if "q" in columns:
            chosen = part.tokens[read.where[0], read.where[1]].to(read.states.device)
            states = read.states.float()
            q = [(states * F.embedding(chosen, weight)).sum(-1) for weight in judge.heads.q]
            found["q"] = _placed(torch.stack(q, -1).amin(-1), part, read)
        return found, work

    def pull(self) -> None:
        """Add the gradient of half ``l2`` times the squared distance to where weights started."""
        for name, parameter in self.weights().items() if self.critic.l2 else ():
            if parameter.grad is not None:
                parameter.grad += self.critic.l2 * (parameter.detach() - self.start[name])

    @torch.no_grad()
    def follow(self) -> None:
        """Move the copy a part of the way to the weights, after an update."""
        if self.target is not None:
            for name, parameter in self.target.weights(self.separate).items():
                parameter.lerp_(self.weights()[name].to(parameter.dtype), self.critic.polyak)

    def state(self) -> Mapping[str, Mapping[str, Tensor]]:
        """All weights that are its own, for a checkpoint."""
        copied = self.target.weights(self.separate) if self.target else {}
        trained = {name: p.detach() for name, p in self.weights().items()}
        copies = {name: p.detach() for name, p in copied.items()}
        settled = {} if self.settled is None else {SETTLED: self.settled}
        return {"online": trained, "target": copies, "start": self.start, SETTLED: settled}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from a state."""
        for kind, slots in self.state().items():
            if kind != SETTLED:
                fill(slots, state[kind].items())
        settled = state[SETTLED].get(SETTLED)
        self.settled = (
            None if settled is None else settled.to(self.online.heads.value.weight.device)
        )

    def handed(self) -> dict[str, Tensor]:
        """What the next stage's critic may begin with, when the policy's head has taken Q in: the
        weights, and how much that was, which is not to be added a second time."""
        taken = self._added() if self.critic.decode else self.settled
        weights = {name: p.detach() for name, p in self.weights().items()}
        return weights if taken is None else {**weights, SETTLED: taken}

    def _seen(self, judge: Judge, part: Batch, seen: Predicting | None) -> tuple[Predicting, Work]:
        """The states that a judge's heads read, and the work of finding them beyond ``seen``."""
        if self.separate or seen is None:
            read = predicting(judge.policy, part.tokens, part.length, part.trained)
            return read, read.work
        stopped = self.critic.trunk == "stopped"
        states = seen.states.detach() if stopped else seen.states
        return replace(seen, states=states), Work(0.0, 0.0)

    def _values(self, judge: Judge, read: Predicting) -> tuple[Float[Tensor, "n head bin"], Work]:
        flops = 2.0 * len(read.states) * judge.heads.value.weight.numel()
        raw: Tensor = judge.heads.value(read.states.float())
        work = Work(flops, (1 + read.states.requires_grad) * flops)
        return raw.unflatten(1, (self.critic.heads, self.critic.width)), work

    def _tilt(self) -> Float[Tensor, "vocabulary hidden"]:
        """What the policy's head lacks where it is sampled from."""
        return self._added() if self.settled is None else self._added() - self.settled

    def _added(self) -> Float[Tensor, "vocabulary hidden"]:
        """Q in the head that is sampled from: the mean of twins."""
        return self.critic.decode * torch.stack([w.detach() for w in self.online.heads.q]).mean(0)


def estimator_of(policy: Policy, algorithm: Algorithm) -> Estimator | None:
    """The critic that an algorithm asks for; UserError where it asks and does not say which."""
    critic, wanted = critic_of(algorithm), {"values", "q"} & (algorithm.needs | algorithm.reads)
    if critic is not None:
        return Estimator(policy, critic, "q" in wanted)
    if wanted:
        raise UserError(
            f"{type(algorithm).__name__} wants {min(wanted)} and has no critic and learns: "
            "see Critical in upslope.optional"
        )
    return None


def _placed(values: Tensor, part: Batch, read: Predicting) -> Tensor:
    """[n ...] at the tokens that were read, 0 elsewhere: [row token ...]."""
    zeros = values.new_zeros(*part.tokens.shape, *values.shape[1:])
    return zeros.index_put(read.where, values)
