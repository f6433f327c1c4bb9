"""A whole GRPO step against TRL's trainer: sampling, grading, update, weights to sample from.

    .venv-parity/bin/python benchmarks/step.py --shape live

The same model, prompts, lengths, rewards and FP32 on both sides, every reply at its full length.
Each side runs in processes of its own, in turns, on one thread: CPU-seconds of its steps after the
first, cold one, and its peak memory. A third process takes what TRL sampled in its first step and
compares Upslope's gradient with the one that TRL's optimiser got.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from shaped import LR, Shape, prompts

from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch
from upslope.launch import train_recipe
from upslope.learner import Learner
from upslope.machine import peak_memory, prepare_memory
from upslope.models.hub import folder_of
from upslope.models.load import load
from upslope.recipe import read
from upslope.settings import Learner as Settings
from upslope.types import Action, Group, Metrics, Problem, Reward, Segment, Trajectory, Turn

CLOSE = 1e-4


@dataclass(frozen=True)
class Bound:
    """A shape, TRL's rows in a pass, and the ratio and the share of TRL's memory to reach."""

    shape: Shape
    rows: int
    ratio: float
    memory: float = 1.0


BOUNDS = {
    "live": Bound(Shape(16, 4, 92, 64), rows=32, ratio=2.8, memory=0.4),
    "half": Bound(Shape(16, 4, 92, 64, dead=1), rows=32, ratio=4.2),
    "quickstart": Bound(Shape(8, 16, 0, 8), rows=32, ratio=10.0),
    "long": Bound(Shape(4, 16, 512, 32), rows=8, ratio=8.0),
}


class Clock:
    """A watch, and a callback of TRL's: CPU-seconds at the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After a step, or an evaluation, which has no groups."""
        if groups:
            self.ends.append(time.process_time())
        return ()

    def figures(self) -> dict[str, float]:
        """The median of the warm steps, and the most memory held, in GiB."""
        spent = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return {"seconds": statistics.median(spent), "memory": peak_memory() / 2**30}


def upslope(shape: Shape, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Upslope's side: a run, with all that a step of a run does."""
    clock = Clock()
    recipe = shape.recipe(args.model, folder, 1 + args.steps)
    changes = ["machine.threads=1", f"learner.micro_tokens={args.micro_tokens}"]
    train_recipe(read(recipe, changes), lambda line: None, watches=[clock])
    return clock.figures()


def trl(shape: Shape, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """TRL's side; keeps what its first step sampled, and the gradient of it."""
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    clock = Clock()

    class Callback(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
            if not clock.ends:
                named = model.named_parameters()
                torch.save({n: p.grad for n, p in named}, folder / "gradient.pt")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(time.process_time())

    def reward(completions: Sequence[str], **_: Any) -> list[float]:
        return [reward_of(shape, place) for place in range(len(completions))]

    settings = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        gradient_checkpointing=False,
        per_device_train_batch_size=args.rows,
        gradient_accumulation_steps=shape.prompts * shape.group // args.rows,
        num_generations=shape.group,
        max_completion_length=shape.tokens,
        generation_kwargs={"min_new_tokens": shape.tokens},
        learning_rate=LR,
        max_steps=1 + args.steps,
        shuffle_dataset=False,
        model_init_kwargs={"dtype": "float32"},
    )
    rows = [{"prompt": text} for text in prompts(args.model, shape.length, shape.prompts)]
    trainer = GRPOTrainer(
        model=str(folder_of(args.model)),
        args=settings,
        reward_funcs=reward,
        train_dataset=datasets.Dataset.from_list(rows),
        callbacks=[Callback()],
    )
    keep_first(trainer, folder / "sampled.pt")
    trainer.train()
    return clock.figures()


def keep_first(trainer: Any, path: Path) -> None:
    """Have TRL's first rollout batch written down."""
    sample = trainer._generate_and_score_completions

    def kept(inputs: Any) -> Any:
        columns = sample(inputs)
        if not path.exists():
            torch.save({k: v for k, v in columns.items() if isinstance(v, torch.Tensor)}, path)
        return columns

    trainer._generate_and_score_completions = kept


def reward_of(shape: Shape, place: int) -> float:
    """As ``Shaped`` rewards the trajectory at a place of the rollout batch."""
    group, member = divmod(place, shape.group)
    return float(group % 2 >= shape.dead and member % 2)


def parity(shape: Shape, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """How far Upslope's gradient is from TRL's, on what TRL sampled; relative to its norm."""
    columns = torch.load(folder / "sampled.pt")
    theirs = torch.load(folder / "gradient.pt", mmap=True)
    policy = load(args.model)
    groups = [group_of(columns, shape, i) for i in range(shape.prompts)]
    batch = Batch.of(groups)
    batch = replace(batch, advantages=batch.spread(columns["advantages"]))
    learner = Learner(policy, Settings(), lambda phase, flops, tokens: None)
    learner.accumulate(batch, GRPO(aggregation="token"), args.micro_tokens or 4096)
    parameters = dict(policy.model.named_parameters())
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)  # TRL's default
    apart = size = 0.0
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        apart += float((parameter.grad - theirs[name]).double().square().sum())
        size += float(theirs[name].double().square().sum())
    return {"apart": (apart / size) ** 0.5, "norm": float(norm)}


def group_of(columns: dict[str, torch.Tensor], shape: Shape, index: int) -> Group:
    """One of TRL's groups, as Upslope's."""
    problem = Problem(str(index), prompt="as TRL tokenised it")
    members = []
    for member in range(shape.group):
        place = index * shape.group + member
        prompt = columns["prompt_ids"][place][columns["prompt_mask"][place].bool()]
        said = columns["completion_ids"][place][columns["completion_mask"][place].bool()]
        tokens = torch.cat([prompt, said]).numpy()
        trained, zeros = torch.arange(len(tokens)) >= len(prompt), torch.zeros(len(tokens))
        segment = Segment(tokens, trained.numpy(), zeros.numpy(), zeros.int().numpy())
        turn = Turn(0, len(prompt), len(tokens), "length")
        reward = Reward(reward_of(shape, place))
        members.append(Trajectory(problem, 0, member, (segment,), (turn,), (), reward))
    return Group(problem, tuple(members))


SIDES = {"upslope": upslope, "trl": trl, "parity": parity}


def main() -> None:
    """Print both sides' figures, their ratios with the bounds, and the gradients' distance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=BOUNDS, default="live")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, help="rows in each of TRL's passes")
    parser.add_argument("--micro-tokens", type=int, default=0, help="0 is what a run would choose")
    parser.add_argument("--steps", type=int, default=2, help="warm steps of each process")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    bound = BOUNDS[args.shape]
    args.rows = args.rows or bound.rows
    if args.side:
        prepare(args.side)
        print(json.dumps(SIDES[args.side](bound.shape, args, args.folder)))
        return
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for side in ("trl", "upslope"):
                seen[side].append(run(side, folder))
        seen["parity"].append(run("parity", folder))
    report(bound, seen)


def prepare(side: str) -> None:
    """One thread; Upslope's own process sets its memory up as every run does."""
    torch.set_num_threads(1)
    if side == "upslope":
        prepare_memory()


def run(side: str, folder: str) -> dict[str, float]:
    """A process of one side; its last line is its figures."""
    command = [sys.executable, *sys.argv, "--side", side, "--folder", folder]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    out = subprocess.check_output(command, env={**os.environ, **quiet}, text=True)
    figures: dict[str, float] = json.loads(out.splitlines()[-1])
    return figures


def report(bound: Bound, seen: dict[str, list[dict[str, float]]]) -> None:
    """Print what was seen."""
    print("python", *sys.argv)
    print(", ".join(f"{name} {value}" for name, value in asdict(bound.shape).items()))
    seconds, memory = {}, {}
    for side in ("trl", "upslope"):
        seconds[side] = statistics.median(f["seconds"] for f in seen[side])
        memory[side] = max(f["memory"] for f in seen[side])
        print(f"{side:8} {seconds[side]:7.2f} CPU-seconds a step, peak {memory[side]:.2f} GiB")
    apart = seen["parity"][0]["apart"]
    print(f"gradients differ by {apart:.1e} of their norm, bound {CLOSE:.0e}")
    share = memory["upslope"] / memory["trl"]
    print(f"memory   {share:7.0%} of TRL's, bound {bound.memory:.0%}")
    print(f"ratio    {seconds['trl'] / seconds['upslope']:7.2f}, bound {bound.ratio}")
    if apart > CLOSE:
        sys.exit("the two sides do not do the same work")


if __name__ == "__main__":
    main()
