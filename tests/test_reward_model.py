"""Reward models: scores, shared prompts, folders, averages, adapters, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import small_policies
from upslope.models import trunk
from upslope.models.folder import quiet
from upslope.models.load import adapted, load, save
from upslope.models.logprobs import unpacked
from upslope.models.reward_folder import ABOUT, WEIGHTS, load_reward_model, save_reward_model
from upslope.models.reward_model import (
    RewardModel,
    averaged,
    last,
    padded,
    reward_model_of,
    whitened,
)
from upslope.types import Message, UserError

NAMES = ("reward", "polite")
REPLIES = ("so the wave gull!", "we see.", "", "wave " * 4)


def mute(line: str) -> None:
    """Nobody listens."""


def model(seed: int = 0, name: str = "ladder:0.1m", heads: int = 1) -> RewardModel:
    """A random one; ``heads`` seeds its heads."""
    found = reward_model_of(load(name, seed), NAMES)
    torch.manual_seed(heads)
    with torch.no_grad():
        found.head.weight.normal_(std=0.2)
        found.head.bias.normal_()
    return found


def asked(reply: str, prompt: str = "Bek sea:") -> list[Message]:
    return [{"role": "raw", "content": prompt}, {"role": "assistant", "content": reply}]


def rows(of: RewardModel) -> tuple[Tensor, Tensor]:
    return padded([of.encode(asked(reply)) for reply in REPLIES])


def test_heads_begin_at_0_and_the_score_is_read_after_the_end_token() -> None:
    fresh = reward_model_of(load("ladder:0.1m"), NAMES)
    assert fresh.scores(*rows(fresh))[0].tolist() == [[0, 0]] * 4
    one = model()
    tokens, length = padded([one.encode(asked("we see."))])
    assert one.tokenizer.decode(tokens[0]) == "Bek sea:we see.<|eos|>"
    with torch.no_grad(), unpacked(one.policy):
        states = one.policy.model.base_model(input_ids=tokens).last_hidden_state
        expected = states[0, -1] @ one.head.weight.T + one.head.bias
    torch.testing.assert_close(one.scores(tokens, length)[0][0], expected)


def test_a_chat_is_read_up_to_the_end_of_its_last_reply() -> None:
    one = model()
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}]
    more = [*said, {"role": "user", "content": "Go"}, {"role": "assistant", "content": "No"}]
    ends = "<|user|>Hi<|assistant|>Oh<|eos|>"
    assert one.tokenizer.decode(one.encode(said)) == ends
    assert one.tokenizer.decode(one.encode(more)) == f"{ends}<|user|>Go<|assistant|>No<|eos|>"
    assert one.encode([*said, more[2]]) == one.encode(said)
    with pytest.raises(UserError, match="this dialogue has none"):
        one.encode(said[:1])
    with pytest.raises(UserError, match="a dialogue of 609 tokens does not fit into the 512"):
        one.encode(asked("a" * 600))


@pytest.mark.parametrize("name", [*small_policies.FAST, "gpt2", "mistral-windowed"])
def test_scores_are_those_of_each_row_alone(name: str) -> None:
    policy = small_policies.policy(name)
    one = reward_model_of(policy, NAMES)
    torch.manual_seed(0)
    torch.nn.init.normal_(one.head.weight)
    prompt = [5, 6, 7, 8]
    tokens, length = padded([[*prompt, 9, 3, 1], [*prompt, 9, 1], [*prompt, 4, 4, 4, 1], [7, 1]])
    together, _ = one.scores(tokens, length)
    for place, count in enumerate(length.tolist()):
        alone, _ = one.scores(tokens[place : place + 1, :count], length[place : place + 1])
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-5)


def test_shared_prompts_are_computed_once_and_scores_stay() -> None:
    one = model()
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(7, 100, (68,), generator=draw).tolist()
    group = [[*prompt, *torch.randint(7, 100, (3,), generator=draw).tolist(), 1] for _ in range(16)]
    tokens, length = padded(group)
    shared, work = one.scores(tokens, length)
    with unpacked(one.policy):
        apart, more = one.scores(tokens, length)
    torch.testing.assert_close(shared, apart, atol=1e-5, rtol=0)
    longer, needed = (torch.nn.functional.pad(x, (0, 1)) for x in (tokens, last(tokens, length)))
    packed = trunk.pack(longer, length + 1)
    assert len(packed.tokens) * 4 < int(length.sum())
    assert int(needed.sum()) == 16
    # Norms aside, each token costs the same: FLOPs fall as tokens do.
    assert work.forward * 4 < more.forward
    assert work.backward == 0
    cost = one.policy.cost
    pairs = sum(block.pairs() for block in packed.layout.blocks)
    head = 2 * 16 * one.head.weight.numel()
    assert work.forward == cost.forward(len(packed.tokens), pairs, 0) + head


def test_a_folder_gives_the_same_scores_and_transformers_reads_it(tmp_path: Path) -> None:
    one = model()
    raw, _ = one.scores(*rows(one))
    one = whitened(one, raw)
    save_reward_model(one, tmp_path / "kept")
    again = load_reward_model(tmp_path / "kept", torch.float32, "cpu", mute)
    found, _ = again.scores(*rows(again))
    assert torch.equal(found, raw)
    assert torch.equal(again.normalised(found), one.normalised(raw))
    assert (again.names, again.start) == (one.names, one.start)
    with quiet():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
    tokens, length = rows(one)
    mask = (torch.arange(tokens.shape[1])[None] < length[:, None]).long()
    with torch.no_grad():
        logits = theirs(input_ids=tokens, attention_mask=mask).logits
    torch.testing.assert_close(logits + one.head.bias.detach(), raw, atol=2e-5, rtol=1e-5)
    assert theirs.config.id2label == {0: "reward", 1: "polite"}
    save_reward_model(again, tmp_path / "kept")  # over an older one
    assert torch.equal(load_reward_model(tmp_path / "kept").scores(*rows(one))[0], raw)


def test_normalised_scores_have_mean_0_and_deviation_1() -> None:
    one = model()
    raw, _ = one.scores(*rows(one))
    seen = whitened(one, raw).normalised(raw)
    torch.testing.assert_close(seen.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(2))
    with pytest.raises(UserError, match="scores alike say nothing of its scale"):
        whitened(one, torch.ones(5, 2))


def test_an_average_is_of_weights_that_began_alike() -> None:
    base = model()
    others = []
    for seed in range(3):
        other = model()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in other.parameters().values():
                parameter += 0.01 * torch.randn_like(parameter)
        others.append(other)
    mean = averaged(others)
    for name, parameter in mean.parameters().items():
        parts = torch.stack([other.parameters()[name] for other in others])
        torch.testing.assert_close(parameter, parts.mean(0))
    assert torch.equal(averaged([base, base]).scores(*rows(base))[0], base.scores(*rows(base))[0])
    assert not torch.equal(others[0].head.weight, mean.head.weight)
    with pytest.raises(UserError, match="did not begin with the same weights"):
        averaged([base, model(seed=1)])
    with pytest.raises(UserError, match="other shapes or heads"):
        averaged([base, model(name="ladder:0.3m")])
    with pytest.raises(UserError, match="other shapes or heads"):
        averaged([base, replace(base, names=("a", "b"))])


def test_an_adapter_alone_is_trained_and_merged_when_saved(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    one = model()
    lean = reward_model_of(adapted(load("ladder:0.1m"), 2, 4.0, (), 0), NAMES)
    assert all("lora" in name or name.startswith("head.") for name in lean.parameters())
    assert lean.start == one.start
    lean.head.load_state_dict(one.head.state_dict())
    same, _ = lean.scores(*rows(lean))
    torch.testing.assert_close(same, one.scores(*rows(one))[0], atol=1e-5, rtol=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in lean.parameters().items():
            if "lora" in name:
                parameter.normal_(std=0.1)
    raw, _ = lean.scores(*rows(lean))
    save_reward_model(lean, tmp_path / "kept")
    found, _ = load_reward_model(tmp_path / "kept").scores(*rows(one))
    torch.testing.assert_close(found, raw, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, model().scores(*rows(one))[0], atol=1e-2)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no reward model: it has no"):
        load_reward_model(tmp_path / "nowhere")
    save(load("ladder:0.1m"), tmp_path / "policy")
    with pytest.raises(UserError, match="is no reward model"):
        load_reward_model(tmp_path / "policy")
    save_reward_model(model(), tmp_path / "kept")
    about = json.loads((tmp_path / "kept" / ABOUT).read_text())
    for wrong in ({**about, "std": [1.0, 0.0]}, {**about, "heads": ["one"]}, {"heads": 3}):
        (tmp_path / "kept" / ABOUT).write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="is damaged"):
            load_reward_model(tmp_path / "kept")
    (tmp_path / "kept" / ABOUT).write_text(json.dumps(about))
    heads = load_file(tmp_path / "kept" / WEIGHTS)
    save_file({**heads, "score.weight": torch.zeros(3, 64)}, tmp_path / "kept" / WEIGHTS)
    with pytest.raises(UserError, match="is not the heads of"):
        load_reward_model(tmp_path / "kept")


def test_other_mistakes() -> None:
    one = model()
    assert one.place("polite") == 1
    with pytest.raises(UserError, match="has no head 'kind': choose from reward, polite"):
        one.place("kind")
    one.refuse_other(model(seed=5).tokenizer, "the policy")
    with pytest.raises(UserError, match="has another tokenizer than the policy"):
        one.refuse_other(small_policies.tokenizer(), "the policy")
    with pytest.raises(UserError, match="need names of their own"):
        reward_model_of(one.policy, ("a", "a"))
    with torch.no_grad():
        one.head.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="gives a score that is not finite"):
        one.scores(*rows(one))
