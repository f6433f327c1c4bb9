"""A quickstart run measured again with transformers alone: its models, its generate, this grader.

    python benchmarks/quickstart.py runs/quickstart

Takes the prompts from the run's recorded evaluations and nothing else: answers are sampled afresh
and graded from the prompt's own words. Upslope is asked only where a model's folder is.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils.logging import disable_progress_bar

GREEDY_POINTS = 0.01
NEWLINE = "\n"


class OneLine(StoppingCriteria):
    """A row is done when what it added to its prompt of ``width`` tokens holds a new line."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int) -> None:
        self.tokenizer, self.width = tokenizer, width

    def __call__(self, rows: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        said = self.tokenizer.batch_decode(rows[:, self.width :])
        return torch.tensor([NEWLINE in text for text in said], device=rows.device)


def prompts_of(run: Path) -> list[str]:
    """The raw prompts of the run's evaluations, each once, in order."""
    found: dict[str, None] = {}
    for row in trajectories(run):
        if row["stage"].endswith("/evaluation"):
            first = row["messages"][0]
            if first["role"] != "raw":
                sys.exit(f"{run} was not evaluated on raw prompts: this measures the quickstart")
            found.setdefault(first["content"])
    return list(found)


def trajectories(run: Path) -> Iterator[dict[str, Any]]:
    """Rows of the run's Parquet parts, and of the JSON-lines tail of a run that was cut short."""
    for part in sorted((run / "trajectories").glob("part-*.parquet")):
        for row in pq.read_table(part, columns=["stage", "messages"]).to_pylist():
            yield {**row, "messages": json.loads(row["messages"])}
    with (run / "trajectories" / "tail.jsonl").open() as tail:
        yield from map(json.loads, tail)


def right(prompt: str, reply: str) -> bool:
    """Whether the reply's first line is the highest price of the prompt's last list."""
    listed = prompt.rsplit("\n\n", 1)[-1].splitlines()[0]
    return reply.split(NEWLINE)[0].strip() == str(max(map(int, re.findall(r"\$(\d+)", listed))))


@torch.no_grad()
def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    args: argparse.Namespace,
    *,
    sample: bool,
) -> list[float]:
    """1 for each prompt answered rightly, 0 for the others."""
    grades = []
    for start in range(0, len(prompts), args.rows):
        chunk = list(prompts[start : start + args.rows])
        batch = tokenizer(chunk, return_tensors="pt", padding=True)
        width = batch["input_ids"].shape[1]
        out = model.generate(
            **batch,
            max_new_tokens=args.tokens,
            do_sample=sample,
            temperature=1.0 if sample else None,
            top_k=0 if sample else None,
            top_p=1.0 if sample else None,
            stopping_criteria=StoppingCriteriaList([OneLine(tokenizer, width)]),
        )
        said = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        grades += [float(right(p, text)) for p, text in zip(chunk, said, strict=True)]
    return grades


def wilson(grades: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Wilson's 95% interval of 0/1 grades."""
    n, mean, z = len(grades), sum(grades) / len(grades), 1.959964
    centre, shrink = mean + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return mean, (centre - half) / shrink, (centre + half) / shrink


def folder_of(model: str) -> Path:
    """Where the model's weights lie; Upslope knows where it put those it fetched by name."""
    from upslope.models.hub import folder_of as known

    return Path(model) if Path(model).is_dir() else known(model)


def measure(folder: Path, prompts: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Both accuracies of the model in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(args.seed)
    grades = {
        kind: accuracy(model, tokenizer, prompts, args, sample=kind == "sampled")
        for kind in ("sampled", "greedy")
    }
    return {kind: wilson(values) for kind, values in grades.items()}


def agrees(kind: str, ours: Sequence[float], theirs: dict[str, float]) -> bool:
    """Greedy within a point; samples, which are other draws, with intervals that overlap."""
    mean, low, high = ours
    if kind == "greedy":
        return abs(mean - theirs["mean"]) <= GREEDY_POINTS
    return low <= theirs["high"] and theirs["low"] <= high


def main() -> None:
    """Print both accuracies, before and after, beside the run's; exit 1 where they disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/quickstart"))
    parser.add_argument("--before", help="the model before; default: the recipe's")
    parser.add_argument("--problems", type=int, default=0, help="the first so many; 0 is all")
    parser.add_argument("--rows", type=int, default=32, help="prompts in a batch")
    parser.add_argument("--tokens", type=int, default=0, help="default: the recipe's max_tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.run / "result.json").is_file():
        sys.exit(f"{args.run} has no result.json: name a finished run")
    result = json.loads((args.run / "result.json").read_text())
    recipe = tomllib.loads((args.run / "recipe.toml").read_text())
    disable_progress_bar()
    args.tokens = args.tokens or recipe["rollout"]["max_tokens"]
    prompts = prompts_of(args.run)[: args.problems or None]
    folders = {"before": folder_of(args.before or recipe["model"]), "after": args.run / "model"}
    print(f"{len(prompts)} problems; accuracy with its 95% interval")
    print(f"{'':16} {'transformers':>24} {'result.json':>24}")
    wrong = 0
    for when, folder in folders.items():
        for kind, ours in measure(folder, prompts, args).items():
            theirs = result[when][kind]
            same = agrees(kind, ours, theirs)
            wrong += not same
            figures = [ours, (theirs["mean"], theirs["low"], theirs["high"])]
            shown = "".join(f"  {m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in figures)
            print(f"{when:6} {kind:8} {shown}  {'agrees' if same else 'DISAGREES'}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
