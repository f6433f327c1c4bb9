"""What must hold of every engine, against the policy whose weights it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import torch

from upslope.learner import frozen_copy
from upslope.models.logprobs import prepare, token_logprobs, unpacked
from upslope.models.policy import Policy, checksum
from upslope.rollout import SamplesGroups
from upslope.selfcheck import DRIFT, Proof
from upslope.types import Completion, Engine, Sampling, UserError

LENGTH = 12
Prompt = tuple[int, ...]


async def check_engine(engine: Engine, policy: Policy) -> list[Proof]:
    """Everything an engine owes; raises UserError, one sentence, at the first that fails.

    The engine must hold the policy's weights; it has them again at the end, under a later version.
    """
    prepare(policy)
    return [
        await _logprobs(engine, policy),
        await _greedy(engine, policy),
        await _bounds(engine, policy),
        await _together(engine, policy),
        await _weights(engine, policy),
    ]


def _prompts(policy: Policy) -> list[Prompt]:
    """Prompts of different lengths, one of them twice, without end tokens."""
    plain = [t for t in range(policy.model.config.vocab_size) if t not in policy.eos]
    draw = np.random.default_rng(0)
    prompts = [tuple(draw.choice(plain, n).tolist()) for n in (3, 7, 5, 2, 6)]
    return [*prompts, prompts[0]]


async def _all(engine: Engine, prompts: Sequence[Prompt], temperature: float) -> list[Completion]:
    """One completion of each prompt, all asked for at once; the seed is the place."""
    asked = [Sampling(LENGTH, temperature, seed=seed) for seed in range(len(prompts))]
    return list(
        await asyncio.gather(*(engine.sample(p, s) for p, s in zip(prompts, asked, strict=True)))
    )


def _apart(policy: Policy, prompt: Prompt, said: Completion, temperature: float) -> float:
    """How far the engine's log-probabilities are from the policy's, at most."""
    tokens = torch.tensor([[*prompt, *said.tokens.tolist()]])
    needed = torch.arange(tokens.shape[1])[None] >= len(prompt)
    with torch.no_grad():
        ours, _, _ = token_logprobs(
            policy,
            tokens,
            torch.tensor([tokens.shape[1]]),
            needed,
            torch.full(tokens.shape, temperature),
        )
    theirs = torch.from_numpy(np.array(said.logprobs))
    return float((ours[needed].cpu() - theirs).abs().max())


async def _logprobs(engine: Engine, policy: Policy) -> Proof:
    """Reported log-probabilities are the policy's, under the temperature that sampled."""
    prompts, furthest = _prompts(policy), 0.0
    for temperature in (1.0, 0.6):
        for prompt, said in zip(prompts, await _all(engine, prompts, temperature), strict=True):
            furthest = max(furthest, _apart(policy, prompt, said, temperature))
    if not furthest <= DRIFT[policy.model.dtype]:
        raise UserError(
            f"the engine's log-probabilities are up to {furthest:.2g} from the policy's: it has "
            "other weights, or leaves out the temperature"
        )
    return Proof("log-probabilities are the policy's", f"within {furthest:.1e}")


async def _greedy(engine: Engine, policy: Policy) -> Proof:
    """Temperature 0 always takes the policy's likeliest tokens and scores them at temperature 1."""
    prompts = _prompts(policy)
    first, again = [await _all(engine, prompts, 0.0) for _ in range(2)]
    for prompt, one, other in zip(prompts, first, again, strict=True):
        if not np.array_equal(one.tokens, other.tokens):
            raise UserError("the engine does not say the same twice at temperature 0")
        if not _apart(policy, prompt, one, 1.0) <= DRIFT[policy.model.dtype]:
            raise UserError("the engine does not score greedy tokens at temperature 1")
        row = torch.tensor([[*prompt, *one.tokens.tolist()]]).to(policy.model.device)
        with torch.no_grad(), unpacked(policy):
            logits = policy.model(row).logits[0, len(prompt) - 1 : -1].float()
        behind = logits.max(-1).values - logits.gather(-1, row[0, len(prompt) :, None])[:, 0]
        if float(behind.max()) > DRIFT[policy.model.dtype]:
            raise UserError("the engine does not take the likeliest token at temperature 0")
    return Proof("temperature 0 is deterministic and greedy", f"{len(prompts)} prompts")


async def _bounds(engine: Engine, policy: Policy) -> Proof:
    """A reply ends at its length, or with the token that completes a stop string."""
    prompts = _prompts(policy)
    replies = await _all(engine, prompts, 0.0)
    whole, prompt = max(zip(replies, prompts, strict=True), key=lambda pair: len(pair[0].tokens))
    short = await engine.sample(prompt, Sampling(3, 0.0))
    if len(whole.tokens) < 4:
        raise UserError("the policy ends every reply within 4 tokens: check it with another one")
    if len(short.tokens) != 3 or short.stop != "length":
        raise UserError(f"asked for 3 tokens, the engine gave {len(short.tokens)}: {short.stop!r}")
    texts = [policy.tokenizer.decode(whole.tokens[:n]) for n in range(len(whole.tokens) + 1)]
    middle = len(texts) // 2
    stop = texts[middle + 1][len(texts[middle - 1]) :]
    ended = next(n for n, text in enumerate(texts) if stop in text)
    cut = await engine.sample(prompt, Sampling(LENGTH, 0.0, (stop,)))
    if cut.tokens.tolist() != whole.tokens[:ended].tolist() or cut.stop != "stop":
        raise UserError(
            f"with the stop string {stop!r} the engine gave {len(cut.tokens)} tokens ({cut.stop!r})"
            f" instead of the {ended} up to and with the one that completes it"
        )
    return Proof("length and stop strings are respected", f"3 tokens; {stop!r} after {ended}")


async def _together(engine: Engine, policy: Policy) -> Proof:
    """What is sampled does not depend on who else is being sampled."""
    prompts = _prompts(policy)
    together = await _all(engine, prompts, 1.0)
    for seed, (prompt, said) in enumerate(zip(prompts, together, strict=True)):
        alone = await engine.sample(prompt, Sampling(LENGTH, 1.0, seed=seed))
        if not np.array_equal(alone.tokens, said.tokens):
            raise UserError("the engine samples other tokens when requests share its batches")
    if isinstance(engine, SamplesGroups):
        asked = [Sampling(LENGTH, 1.0, seed=seed) for seed in (0, len(prompts) - 1, 0)]
        group = await engine.sample_group(prompts[0], asked)
        places = zip(group, (together[0], together[-1], together[0]), strict=True)
        if not all(np.array_equal(said.tokens, one.tokens) for said, one in places):
            raise UserError("the engine's sample_group gives other completions than its sample")
    return Proof("concurrent requests are sampled as single ones are", f"{len(prompts)} requests")


async def _weights(engine: Engine, policy: Policy) -> Proof:
    """Loaded weights are the ones in use, and every token says which version sampled it."""
    prompt = _prompts(policy)[0]
    version = int((await engine.sample(prompt, Sampling(2))).versions[0])
    moved, bound = frozen_copy(policy), DRIFT[policy.model.dtype]
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter.add_(0.05 * torch.ones_like(parameter).cumsum(-1).sin())
    for step, source in enumerate((moved, policy), 1):
        await engine.load_weights(source, version + step)
        if await engine.checksum() != checksum(source.tensors()):
            raise UserError("after a load, the engine's checksum is not that of the weights given")
        said = await engine.sample(prompt, Sampling(LENGTH))
        if set(said.versions.tolist()) != {version + step}:
            raise UserError(
                f"tokens sampled with version {version + step} say {set(said.versions.tolist())}"
            )
        if not _apart(source, prompt, said, 1.0) <= bound:
            raise UserError("after a load, the engine still samples with other weights")
    return Proof("weights in use are those last loaded", f"versions {version} to {version + 2}")
