"""Placement: on a device that refuses CPU tensors, engine and learner compute the same numbers.

``double=False`` is a device without float64, as MPS is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

import learners
import small_policies
from elsewhere import AWAY, Elsewhere
from upslope.algorithms.awr import AWR
from upslope.algorithms.cispo import CISPO
from upslope.algorithms.constrained import Constrained
from upslope.algorithms.dpo import DPO
from upslope.algorithms.gigpo import GiGPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.ilql import ILQL
from upslope.algorithms.iql import IQL
from upslope.algorithms.kto import KTO
from upslope.algorithms.orpo import ORPO
from upslope.algorithms.pass_at_k import PassAtK
from upslope.algorithms.ppo import PPO
from upslope.algorithms.quality import TWINS
from upslope.algorithms.raft import RAFT
from upslope.algorithms.reinforce_pp import ReinforcePP
from upslope.algorithms.turns import Turns
from upslope.algorithms.vapo import VAPO
from upslope.batch import Algorithm, Batch
from upslope.constraints import Constraint
from upslope.critic import Critic
from upslope.engines import running
from upslope.engines.local import LocalEngine
from upslope.exploration import Explore
from upslope.learner import frozen_copy
from upslope.losses import KL, Entropy
from upslope.models.load import adapted, load
from upslope.models.policy import Policy, checksum
from upslope.types import (
    Group,
    Problem,
    Reward,
    Sampling,
    Segment,
    Trajectory,
    Turn,
    UserError,
)

CPU = torch.device("cpu")
DOUBLE = pytest.mark.parametrize("double", [True, False], ids=["float64", "no float64"])


def test_the_device_of_these_tests_refuses_what_a_gpu_would() -> None:
    with Elsewhere(double=False) as device:
        away = torch.arange(3.0).to(AWAY)
        assert (away + 1).sum().item() == 6
        assert device.seen > 0
        with pytest.raises(RuntimeError, match="on the CPU, the others on the device"):
            away + torch.ones(3)
        with pytest.raises(TypeError, match="float64"):
            away.double()


@DOUBLE
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_the_same_tokens_are_sampled(
    monkeypatch: pytest.MonkeyPatch, name: str, double: bool
) -> None:
    monkeypatch.setattr(running, "SINGLE", set() if double else {AWAY.type})

    def sampled(where: torch.device) -> list[list[int]]:
        policy = small_policies.policy(name)
        policy.model.to(where)
        engine = LocalEngine(replace(policy, eos=()), rows=4)

        async def all_of_them() -> list[list[int]]:
            prompts = ([3, 4, 5, 6], [3, 4, 5, 6], [3, 4, 5], [7, 8], [3, 4, 5, 6], [9, 4, 3])
            asked = [
                engine.sample(prompt, Sampling(6, temperature=0.0 if i == 3 else 0.9, seed=i))
                for i, prompt in enumerate(prompts)
            ]
            done = await asyncio.gather(*asked)
            await engine.load_weights(policy_source(policy), 1)
            assert await engine.checksum() == checksum(policy.tensors())
            return [completion.tokens.tolist() for completion in done]

        return asyncio.run(all_of_them())

    here = sampled(CPU)
    with Elsewhere(double) as device:
        assert sampled(AWAY) == here
        assert device.seen > 1000


SEPARATE = Critic(place="separate", form="hl_gauss", twin=True, polyak=0.1, l2=0.1)
EVERY: Mapping[str, Algorithm] = {
    "grpo": GRPO(kl=KL(0.1, "k3", "loss"), entropy=Entropy(0.1)),
    "gspo": GSPO(),
    "cispo": CISPO(),
    "clip-cov": GRPO(explore=Explore("clip_cov", share=0.3)),
    "kl-cov": GRPO(explore=Explore("kl_cov", share=0.3)),
    "low entropy": GRPO(explore=Explore("low_entropy", share=0.3)),
    "reinforce++": ReinforcePP(kl=KL(0.1, "k1", "reward")),
    "pass@k": PassAtK(k=2),
    "turns": Turns(GRPO(scale="batch")),
    "gigpo": GiGPO(),
    "constrained": Constrained({"length": Constraint(2.0, start=0.5)}),
    "ppo": PPO(),
    "ppo by turns": PPO(actions="turn"),
    "ppo apart": PPO(critic=SEPARATE, truncated="bootstrap"),
    "vapo": VAPO(critic=replace(SEPARATE, form="two_hot")),
    "iql": IQL(critic=replace(TWINS, l2=0.1)),
    "ilql": ILQL(),
    "awr": AWR(),
    "raft": RAFT(),
    "dpo": DPO(),
    "orpo": ORPO(),
    "kto": KTO(),
}


@DOUBLE
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rank", [0, 2])
def test_the_same_gradient_is_computed(name: str, rank: int, double: bool) -> None:
    algorithm = EVERY[name]
    if rank and name == "ilql":
        pytest.skip("Q is added to a head that an adapter has not")

    def computed(where: torch.device) -> tuple[torch.Tensor, dict[str, float]]:
        policy = learners.policy()
        reference = learners.shifted(policy)
        policy.model.to(where)
        reference.model.to(where)
        if rank:
            policy = adapted(policy, rank, 8.0, (), seed=0)
            reference = frozen_copy(policy)
        learner = learners.a_learner(policy, reference=reference, algorithm=algorithm)
        assert policy.packs
        batch = learners.prepared(learner, algorithm, Batch.of(groups()))
        gradient, tally = learners.gradient(learner, batch, algorithm, budget=40)
        if learner.critic:
            learner.accumulate(batch, algorithm, 40)
            own = [
                p.grad.flatten() for p in learner.critic.weights().values() if p.grad is not None
            ]
            gradient = torch.cat([gradient, *own])
        return gradient.cpu(), tally.metrics()

    here = computed(CPU)
    with Elsewhere(double):
        there = computed(AWAY)
    assert here[0].norm() > 1e-2
    torch.testing.assert_close(there[0], here[0], rtol=1e-5, atol=1e-6 * (1 + here[0].norm()))
    assert there[1] == pytest.approx(here[1], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checksum_does_not_depend_on_the_device(dtype: torch.dtype) -> None:
    tensors = [("a", torch.randn(3, 5).to(dtype)), ("b", -torch.rand(7).to(dtype))]
    with Elsewhere():
        assert checksum((n, t.to(AWAY)) for n, t in tensors) == checksum(tensors)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UserError, match=f"no usable {device[:4].upper().rstrip(':')} device"):
        load("ladder:0.1m", device=device)


def policy_source(policy: Policy) -> learners.Learner:
    """Whose weights an engine loads."""
    return learners.a_learner(policy)


def groups() -> Sequence[Group]:
    """Three groups of four, with prompts and replies of several lengths."""
    draw = np.random.default_rng(0)

    def played(problem: Problem, prompt: list[int], member: int) -> Trajectory:
        tokens = np.array([*prompt, *draw.integers(1, 13, 2 + member)])
        trained = np.arange(len(tokens)) >= len(prompt)
        said = np.where(trained, -2.5, 0.0).astype(np.float32)
        segment = Segment(tokens, trained, said, np.where(trained, 0, -1))
        turn = Turn(0, len(prompt), len(tokens), "stop", 0.8)
        reward = Reward(float(member % 2))
        return Trajectory(problem, 0, member, (segment,), (turn,), (), reward)

    out = []
    for g in range(3):
        problem, prompt = Problem(str(g), prompt="x"), draw.integers(1, 13, 4 + g).tolist()
        out.append(Group(problem, tuple(played(problem, prompt, m) for m in range(4))))
    return out
