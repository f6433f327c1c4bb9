"""A GGUF file made here from a random model must give that model back."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from upslope.models.gguf import INSIDE, OUTSIDE, unpack
from upslope.models.load import load
from upslope.types import UserError

LETTERS = [*"abdeh", "Ġ", *"0123456789", "ab", "ĠĠ", "Ġa"]
MERGES = ["a b", "Ġ Ġ", "Ġ a"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
HEADS = {"attn_q": 4, "attn_k": 2}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 3 + len(LETTERS)}


def random_llama(tied: bool = True) -> LlamaForCausalLM:
    """A model whose feed-forward numbers are such as four bits can hold."""
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(
        **SIZES, **ends, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=tied
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": 5000.0}
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "mlp" in name:
            four_bits = quantize(parameter.detach().numpy(), gguf.GGMLQuantizationType.Q4_1)
            parameter.data = torch.tensor(
                gguf.dequantize(four_bits, gguf.GGMLQuantizationType.Q4_1), dtype=torch.float32
            )
    return model


def write_gguf(model: LlamaForCausalLM, file: Path, splitter: str = "smollm") -> None:
    writer = gguf.GGUFWriter(file, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(SPECIALS + LETTERS)
    writer.add_token_types([3] * len(SPECIALS) + [1] * len(LETTERS))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            _add(writer, name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, weight: NDArray[np.float32]) -> None:
    stem = name.removesuffix(".weight")
    if stem in OUTSIDE.values():
        part = next(g for g, h in OUTSIDE.items() if h == stem)
        writer.add_tensor(f"{part}.weight", weight)
        return
    _, _, layer, inner = stem.split(".", 3)
    part = next(g for g, h in INSIDE.items() if h == inner)
    if part in HEADS:  # as llama.cpp stores them: the two rotary halves interleaved
        halves = weight.reshape(HEADS[part], 2, -1, weight.shape[-1])
        weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
    four_bits = gguf.GGMLQuantizationType.Q4_1 if part in ("ffn_gate", "ffn_up") else None
    stored = quantize(weight, four_bits) if four_bits else weight
    writer.add_tensor(f"blk.{layer}.{part}.weight", stored, raw_dtype=four_bits)


@pytest.mark.parametrize("tied", [True, False])
def test_the_numbers_are_those_of_the_model_it_was_made_from(tied: bool, tmp_path: Path) -> None:
    model = random_llama(tied)
    write_gguf(model, tmp_path / "m.gguf")
    unpack(tmp_path / "m.gguf", tmp_path / "model")
    policy = load(str(tmp_path / "model"))
    row = torch.arange(3, 20)[None]
    assert torch.allclose(policy.model(row).logits, model(row).logits, atol=1e-5)
    assert (policy.eos, policy.context) == ((2,), 128)
    assert policy.model.config.rms_norm_eps == 1e-5


def test_text_is_split_as_smollm_splits_it(tmp_path: Path) -> None:
    write_gguf(random_llama(), tmp_path / "m.gguf")
    unpack(tmp_path / "m.gguf", tmp_path / "model")
    tokenizer = load(str(tmp_path / "model")).tokenizer
    assert tokenizer.tokenize("ab a  12") == ["ab", "Ġa", "ĠĠ", "1", "2"]
    assert tokenizer.decode(tokenizer("ab a  12").input_ids) == "ab a  12"
    said = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], return_dict=False)
    assert said == [1, 3 + LETTERS.index("ab"), 2]


def test_what_it_cannot_read_it_refuses(tmp_path: Path) -> None:
    write_gguf(random_llama(), tmp_path / "m.gguf", splitter="llama-bpe")
    with pytest.raises(UserError, match="splitter 'llama-bpe' of this GGUF file is not known"):
        unpack(tmp_path / "m.gguf", tmp_path / "model")
    writer = gguf.GGUFWriter(tmp_path / "g.gguf", "gpt2")
    writer.add_tokenizer_model("gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"g\.gguf holds a gpt2/gpt2 model: only llama/gpt2"):
        unpack(tmp_path / "g.gguf", tmp_path / "model")
