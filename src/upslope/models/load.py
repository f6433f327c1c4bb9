"""A model name to a ``Policy`` ready for training and sampling, and a ``Policy`` to a folder.

Where the weights come from is in ``hub.py`` and ``ladder.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from upslope.files import explained, replace_folder
from upslope.models import ladder, lora
from upslope.models.flops import cost_of
from upslope.models.folder import check_free, quiet
from upslope.models.hub import Say, folder_of, to_stderr
from upslope.models.policy import Policy
from upslope.seeds import seed_of
from upslope.types import UserError

ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError)  # what transformers raises


def load(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    say: Say = to_stderr,
) -> Policy:
    """The policy called ``name``: ``ladder:<size>``, a folder, a known name or a hub id.

    ``seed`` draws the weights of a ladder model and changes nothing else. Dropout is off for good,
    because the learner must score what the engine sampled. Raises UserError.
    """
    _check_device(device)
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    if name.startswith(ladder.PREFIX):
        model, tokenizer = ladder.build(name.removeprefix(ladder.PREFIX), seed)
    else:
        model, tokenizer = _read(folder_of(name, say), dtype)
    _cast(model, dtype)
    _without_dropout(model)
    _check_vocabulary(name, model, tokenizer)
    return Policy(
        name=name,
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        eos=_eos(model, tokenizer),
        context=_context(name, model.config),
        cost=cost_of(model),
    )


def adapted(policy: Policy, rank: int, alpha: float, targets: Sequence[str], seed: int) -> Policy:
    """The policy with an adapter that is trained in place of its weights (see ``lora.inject``).

    It has the same model, changed in place: build the engine before, on the model as it was.
    """
    lora.inject(policy.model, policy.name, rank, alpha, targets, seed_of("lora", seed))
    return replace(policy, rank=rank, cost=cost_of(policy.model))


def save(policy: Policy, folder: Path) -> None:
    """Write the policy as an ordinary Hugging Face folder, whole or not at all.

    An adapter is merged into the weights. An older model in ``folder`` is replaced; UserError
    where something else is there.
    """

    def write(fresh: Path) -> None:
        model = lora.plain(policy.model) if policy.rank else policy.model
        model.save_pretrained(fresh)
        policy.tokenizer.save_pretrained(fresh)

    check_free(folder)
    with explained(folder), quiet():
        replace_folder(folder, write)


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapter alone, in the form of peft, into a folder of its own."""
    with explained(folder), quiet():
        lora.write(policy.model, folder)


def count(policy: Policy) -> int:
    """Parameters of the model, a tied head counted once, and without an adapter's."""
    own = sum(tensor.numel() for tensor in policy.adapter().values())
    every: int = sum(parameter.numel() for parameter in policy.model.parameters())
    return every - own


def _read(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            for part in (config, config.get_text_config()):
                _zero_rates(part)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
            )
    except (*UNREADABLE, StrictDataclassError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UserError(
            f"{folder} cannot be loaded ({cause}): give a model that AutoModelForCausalLM can load"
        ) from error
    if info["missing_keys"]:  # transformers would train random numbers in their place
        first = sorted(info["missing_keys"])[0]
        raise UserError(
            f"{folder} lacks weights that its config asks for, {first} first: save the model again"
        )
    return model, tokenizer


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UserError(f"{device!r} is no device: use cpu, cuda, cuda:<number> or mps") from None
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise UserError(f"this machine has no usable {kind.upper()} device: set the device to cpu")


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Parameters only: rotary frequencies lose their meaning in 16 bits."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _zero_rates(config: PretrainedConfig) -> None:
    for key, value in config.to_dict().items():
        if key.endswith(("dropout", "pdrop", "layerdrop")) and isinstance(value, float):
            setattr(config, key, 0.0)


def _without_dropout(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _check_vocabulary(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UserError(
            f"the tokenizer of {name} has ids up to {largest} but its model embeds only {rows}: "
            "use the tokenizer the model was trained with, or resize its embeddings"
        )


def _eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends a reply, by any of the three places that name one; sorted."""

    def named() -> Iterator[int | list[int] | None]:
        yield tokenizer.eos_token_id
        if model.generation_config is not None:
            yield model.generation_config.eos_token_id
        for id_, token in tokenizer.added_tokens_decoder.items():
            if token.special and token.content in ENDS_OF_TURN:
                yield id_

    found: set[int] = set()
    for ids in named():
        if ids is not None:
            found.update(ids if isinstance(ids, list) else [ids])
    return tuple(sorted(found))


def _context(name: str, config: PretrainedConfig) -> int:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        raise UserError(
            f"the config of {name} names no max_position_embeddings: add it to its config.json"
        )
    return int(longest)
