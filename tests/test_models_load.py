"""`load` and `save`: what a policy knows of its model, and every way a folder can be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from upslope.models import ladder
from upslope.models.flops import cost_of
from upslope.models.folder import check, quiet
from upslope.models.load import count, load, save
from upslope.models.policy import checksum
from upslope.types import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(load("ladder:0.1m", seed=1), folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_gives_the_policy_that_was_saved(saved: Path) -> None:
    built, read = load("ladder:0.1m", seed=1), load(str(saved))
    assert checksum(read.tensors()) == checksum(built.tensors())
    assert (read.name, read.context, read.eos) == (str(saved), ladder.CONTEXT, (1,))
    assert read.cost == built.cost == cost_of(read.model)
    assert count(read) == ladder.sizes()["0.1m"]
    assert not read.model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in read.model.parameters())


def test_16_bits_round_the_parameters_and_not_the_positions(saved: Path) -> None:
    full = load(str(saved))
    for name in (str(saved), "ladder:0.1m"):
        half = load(name, seed=1, dtype=torch.bfloat16)
        for (_, a), (_, b) in zip(half.tensors(), full.tensors(), strict=True):
            assert torch.equal(a, b.to(torch.bfloat16))
        assert half.model.model.rotary_emb.inv_freq.dtype == torch.float32
        assert half.model.config.dtype == torch.bfloat16


def test_training_a_loaded_model_leaves_its_file_alone(copy: Path) -> None:
    before = (copy / "model.safetensors").read_bytes()
    policy = load(str(copy))
    with torch.no_grad():
        for _, tensor in policy.tensors():
            tensor.add_(1)
    assert (copy / "model.safetensors").read_bytes() == before
    save(policy, copy)
    assert checksum(load(str(copy)).tensors()) == checksum(policy.tensors())


def test_dropout_is_off_even_in_training_mode(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    rates = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    vocabulary = {"vocab_size": ladder.VOCABULARY, "bos_token_id": None, "eos_token_id": 1}
    with quiet():
        GPT2LMHeadModel(GPT2Config(**sizes, **rates, **vocabulary)).save_pretrained(tmp_path)
        ladder.tokenizer().save_pretrained(tmp_path)
    policy = load(str(tmp_path))
    policy.model.train()
    row = torch.tensor([policy.tokenizer("some words").input_ids])
    assert torch.equal(policy.model(row).logits, policy.model(row).logits)
    assert policy.context == 64


def test_end_tokens_are_the_union_of_all_three_places(copy: Path) -> None:
    tokenizer = ladder.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_end|>"]})
    tokenizer.add_tokens(["<|eot_id|>"])  # not special, so plain text
    policy = load(str(copy))
    policy.model.resize_token_embeddings(len(tokenizer))
    policy.model.generation_config.eos_token_id = [2, 3]
    policy.tokenizer = tokenizer
    save(policy, copy)
    assert load(str(copy)).eos == (1, 2, 3, ladder.VOCABULARY)


def test_more_token_ids_than_embeddings_is_refused(copy: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(copy)
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match="ids up to 103 but its model embeds only 103"):
        load(str(copy))


def test_a_config_without_a_context_is_refused(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=ladder.VOCABULARY, hidden_size=32, n_layer=1, n_head=2)
    with quiet():
        BloomForCausalLM(config).save_pretrained(tmp_path)
        ladder.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="names no max_position_embeddings: add it"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        ("config.json", lambda f: f.unlink(), "has no config.json"),
        ("config.json", lambda f: f.write_text("{"), "not valid JSON"),
        ("config.json", lambda f: f.write_text("{}"), "names no model_type"),
        (
            "config.json",
            lambda f: edit(f, model_type="odd"),
            "cannot be loaded .*: give a model that",
        ),
        ("config.json", lambda f: edit(f, num_hidden_layers=3), "lacks weights that its config"),
        (
            "config.json",
            lambda f: edit(f, hidden_size=96),
            "cannot be loaded .*: give a model that",
        ),
        (
            "config.json",
            lambda f: edit(f, hidden_size="wide"),
            "cannot be loaded .*: give a model that",
        ),
        ("tokenizer.json", lambda f: f.unlink(), "has no tokenizer"),
        ("tokenizer.json", lambda f: f.write_bytes(f.read_bytes()[:99]), "not valid JSON"),
        ("model.safetensors", lambda f: f.unlink(), "has no safetensors weights"),
        ("model.safetensors", lambda f: f.write_bytes(f.read_bytes()[:-4]), "is damaged"),
        ("model.safetensors", lambda f: f.write_bytes(b"<html>"), "is damaged"),
    ],
)
def test_a_broken_folder_is_refused_in_a_sentence(copy, name, spoil, sentence) -> None:  # type: ignore[no-untyped-def]
    spoil(copy / name)
    with pytest.raises(UserError, match=sentence) as caught:
        load(str(copy))
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    half = len(weights) // 2
    parts = {"a.safetensors": list(weights)[:half], "b.safetensors": list(weights)[half:]}
    for part, names in parts.items():
        save_file({n: weights[n] for n in names}, copy / part, metadata={"format": "pt"})
    (copy / "model.safetensors").unlink()
    where = {n: part for part, names in parts.items() for n in names}
    index = {"metadata": {}, "weight_map": where}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    check(copy)
    (copy / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks b\.safetensors"):
        check(copy)


@pytest.mark.parametrize(("device", "sentence"), [("gpu", "no device"), ("cuda", "no usable CUDA")])
def test_a_device_that_is_not_there_is_refused(
    device: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=sentence):
        load("ladder:0.1m", device=device)


def test_saving_replaces_a_model_and_nothing_else(copy: Path, tmp_path: Path) -> None:
    policy = load("ladder:0.1m", seed=9)
    save(policy, copy)
    assert checksum(load(str(copy)).tensors()) == checksum(policy.tensors())
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(UserError, match="is not a model folder: delete it or name another"):
        save(policy, tmp_path / "letters")
    (copy / "photos").mkdir()
    with pytest.raises(UserError, match="is not a model folder"):
        save(policy, copy)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


def test_a_failed_save_leaves_what_was_there(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, before = load("ladder:0.1m", seed=9), checksum(load(str(copy)).tensors())

    def fail(folder: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(policy.tokenizer, "save_pretrained", fail)
    with pytest.raises(ZeroDivisionError):
        save(policy, copy)
    assert checksum(load(str(copy)).tensors()) == before
    assert [f.name for f in copy.parent.iterdir()] == [copy.name]


def test_loading_says_nothing(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(load(str(saved)), saved)
    assert capfd.readouterr() == ("", "")
