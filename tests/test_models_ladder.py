"""Ladder models: sizes, vocabulary, determinism, and that what is saved is an ordinary model."""

import math
import string
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from upslope.models import ladder
from upslope.models.folder import quiet
from upslope.models.load import count, load, save
from upslope.types import UserError

QUESTION = ({"role": "user", "content": "1+1"},)


def test_sizes_are_exact_and_near_their_names() -> None:
    assert set(ladder.sizes()) >= {"0.1m", "0.3m", "0.6m", "1m", "2m", "5m", "10m", "30m"}
    for size, parameters in ladder.sizes().items():
        assert parameters == pytest.approx(float(size[:-1]) * 1e6, rel=0.15)
        with torch.device("meta"):
            model, _ = ladder.build(size, seed=0)
        assert model.num_parameters() == parameters
    assert list(ladder.sizes().values()) == sorted(ladder.sizes().values())


def test_an_unknown_size_names_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"'7m': choose 0\.1m, .*30m"):
        load("ladder:7m")


def test_a_seed_fixes_the_weights_and_leaves_the_callers_draws_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, _ = ladder.build("0.1m", seed=1)
    assert torch.equal(torch.rand(2), expected)
    same, other = (ladder.build("0.1m", seed=s)[0].get_input_embeddings().weight for s in (1, 2))
    assert torch.equal(one.get_input_embeddings().weight, same)
    assert not torch.equal(same, other)


def test_every_character_is_one_token_and_comes_back() -> None:
    tokenizer = ladder.tokenizer()
    text = "\n" + string.printable[:95] + "  a , b ' s\n\n 12+3"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert sorted(tokenizer.get_vocab().values()) == list(range(ladder.VOCABULARY))
    assert tokenizer("é\t").input_ids == [tokenizer.unk_token_id] * 2


def test_a_later_turn_continues_the_tokens_of_an_earlier_one() -> None:
    tokenizer = ladder.tokenizer()
    told = [*QUESTION, {"role": "assistant", "content": "2"}, {"role": "user", "content": "why?"}]
    asked = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(told, return_dict=False)
    reply = [*tokenizer("2").input_ids, tokenizer.eos_token_id]
    assert whole[: len(asked) + len(reply)] == asked + reply
    assert tokenizer.decode(asked) == "<|user|>1+1<|assistant|>"


def test_a_saved_model_is_an_ordinary_one_and_stops_at_its_end_token(tmp_path: Path) -> None:
    policy = load("ladder:0.1m", seed=5)
    prompt = torch.tensor([policy.tokenizer("1+1=").input_ids])
    reply = torch.tensor([[*policy.tokenizer("2").input_ids, policy.tokenizer.eos_token_id]])
    row = torch.cat([prompt, reply], dim=1)
    optimiser = torch.optim.Adam(policy.model.parameters(), lr=3e-3)
    for _ in range(25):
        optimiser.zero_grad()
        policy.model(row, labels=row).loss.backward()
        optimiser.step()
    save(policy, tmp_path / "model")
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert torch.equal(model(row).logits, policy.model(row).logits)
    said = model.generate(prompt, max_new_tokens=30, do_sample=False)
    assert torch.equal(said, row)
    assert tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    assert tokenizer.decode(said[0], skip_special_tokens=True) == "1+1=2"
    assert count(load(str(tmp_path / "model"))) == ladder.sizes()["0.1m"]


def test_an_untrained_model_is_near_uniform() -> None:
    policy = load("ladder:0.6m", seed=0)
    row = torch.tensor([policy.tokenizer("12+34=46").input_ids])
    with torch.no_grad():
        logprobs = policy.model(row).logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    assert float(entropy) > 0.9 * math.log(ladder.VOCABULARY)
