"""LoRA (arXiv:2106.09685) by peft: small matrices trained beside the model's own, which are frozen.

peft puts its layers into the model in place, so that heads, packing and passes stay what they are.
Who takes weights (the engine, a saved folder) gets them merged, under the names they had before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from upslope.types import UserError

NAME = "default"  # peft's own for an adapter that is given none
BESIDE, WITHIN = ".lora_", ".base_layer."  # in the names of what is added, and of what was there


def inject(
    model: PreTrainedModel, base: str, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> None:
    """Put an adapter beside the matrices whose names end in ``targets``, by default all but the
    head, and freeze the rest; ``base`` is the model's name.

    The added product is 0 at first, so nothing changes yet. Raises UserError without peft, or for
    a target that is no matrix.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(
            f"lora.rank={rank} needs peft: pip install 'upslope[lora]', or set lora.rank=0"
        ) from None
    head = model.get_output_embeddings()
    kinds = {n: type(m) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    names = [name for name in kinds if model.get_submodule(name) is not head]
    for target in targets:
        if not any(_ends(name, target) for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(
                f"lora.targets names {target!r}, which is no matrix of {base} that can be adapted:"
                f" choose from {', '.join(known)}"
            )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=[n for n in names if not targets or any(_ends(n, t) for t in targets)],
        fan_in_fan_out=Conv1D in kinds.values(),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # small steps on small numbers: 16 bits would lose them
            parameter.data = parameter.data.float()


def merged(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All weights under the names they had without the adapter, its product added."""
    for name, parameter in model.named_parameters():
        place, inside, leaf = name.partition(WITHIN)
        if inside and leaf == "weight":
            yield f"{place}.weight", _sum(model.get_submodule(place))
        elif BESIDE not in name:
            yield (f"{place}.{leaf}" if inside else name), parameter.detach()


def added(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapter's own weights, by their names in the model."""
    return {name: p.detach() for name, p in model.named_parameters() if BESIDE in name}


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without the adapter, its product added; what it leaves alone is shared, not copied."""
    copied = shared_copy(model)
    for name, _ in model.named_parameters():
        place, inside, leaf = name.partition(WITHIN)
        if inside and leaf == "weight":
            layer: Any = copied.get_submodule(place)
            weight = nn.Parameter(_sum(layer), requires_grad=False)
            copied.set_submodule(place, layer.base_layer)
            copied.get_submodule(place).register_parameter("weight", weight)
    return copied


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares the parameters that are not trained."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def write(model: PreTrainedModel, folder: Path) -> None:
    """The adapter in peft's own form, for ``PeftModel.from_pretrained``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": tensor.contiguous()
        for name, tensor in added(model).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    configs: Any = model.peft_config
    configs[NAME].save_pretrained(folder)


@torch.no_grad()
def _sum(layer: Any) -> Tensor:
    """A matrix and its adapter's product, in the matrix's dtype."""
    weight: Tensor = layer.base_layer.weight
    product: Tensor = layer.get_delta_weight(NAME)
    return (weight.float() + product.float()).to(weight.dtype)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
