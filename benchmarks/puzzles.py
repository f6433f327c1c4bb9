"""Runs the env battery on every generator of reasoning-gym and writes docs/reasoning-gym.md.

    python benchmarks/puzzles.py docs/reasoning-gym.md

Each generator has a process and a time of its own; all take some twenty minutes of two cores.
``--only chain_sum,countdown`` prints the rows of a few and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upslope.envs.reasoning_gym import ReasoningGym

DRAWS = 500
ANSWERLESS = ("definitely wrong", "I do not know", "?", "the answer")
HEAD = """\
# Puzzles of reasoning-gym

Written by `python benchmarks/puzzles.py docs/reasoning-gym.md`; do not edit. Version {version} of
the package has {count} generators. With default settings {passed} of them keep an env's contract,
which is what `upslope check reasoning_gym:<name> train=20 test=10` proves, and say the answer to
their own questions. Install them with `pip install 'upslope[envs]'`.

*Different* is how many different questions there are among {draws} draws, or as many as 20 seconds
allowed: a generator with few has to be given a small `train` and `test`. *ms* is the mean time of
making one, on a slow core with other work."""


def one(name: str) -> dict[str, Any]:
    """A generator's row: what it is like, then the battery's verdict."""
    from upslope.batteries import check_env
    from upslope.envs.reasoning_gym import ReasoningGym, made
    from upslope.types import UserError

    row: dict[str, Any] = {"name": name}
    try:
        dataset, start, seen = made(name, "{}", DRAWS, 0), time.perf_counter(), list[str]()
        while len(seen) < DRAWS and time.perf_counter() - start < 20:
            seen.append(dataset[len(seen)]["question"])
        row["ms"] = 1000 * (time.perf_counter() - start) / len(seen)
        row["different"], row["draws"] = len(set(seen)), len(seen)
        env = ReasoningGym(name, train=20, test=10)
        proofs = {proof.claim: proof.seen for proof in check_env(env, problems=3)}
        known = proofs["solutions earn the most, empty replies do not"]
        row["why"] = "gives no answer to its own questions" if known.startswith("0 of") else ""
        row["why"] = row["why"] or fooled(env)
    except UserError as error:
        row["why"] = str(error)
    return row


def fooled(env: ReasoningGym) -> str:
    """The first of some texts that answer nothing and that the scorer takes for right, else ""."""
    from upslope.envs.reasoning_gym import score

    for problem in env.problems("test"):
        for text in ANSWERLESS:
            try:
                value = score(env.name, "{}", problem.info["entry"], text)
            except Exception:  # noqa: BLE001
                continue  # a run takes that for an invalid reward
            if value >= 1:
                return f"takes {text!r} for a right answer"
    return ""


def apart(name: str, seconds: float) -> dict[str, Any]:
    """The row, from a process that may take so long."""
    command = [sys.executable, __file__, "--row", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "why": f"the battery took more than {seconds:g} seconds"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        errors = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"name": name, "why": errors[-1]}
    row: dict[str, Any] = json.loads(last)
    return row


def table(rows: list[dict[str, Any]], *more: str) -> str:
    """Rows as Markdown; ``more``: the key of a column besides the usual ones."""
    head = ["generator", "different", "ms", *more]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        different = f"{row['different']} of {row['draws']}" if "draws" in row else ""
        ms = f"{row['ms']:.2g}" if "ms" in row else ""
        others = [" ".join(row[key].split()).replace("|", "/")[:200] for key in more]
        lines.append([f"`{row['name']}`", different, ms, *others])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(rows: list[dict[str, Any]]) -> str:
    """The whole page: those that pass, then the others with the reason."""
    good, bad = [r for r in rows if not r["why"]], [r for r in rows if r["why"]]
    head = HEAD.format(
        version=version("reasoning-gym"), count=len(rows), passed=len(good), draws=DRAWS
    )
    return f"{head}\n\n## Sound\n\n{table(good)}\n\n## Not sound\n\n{table(bad, 'why')}\n"


def main() -> None:
    """All generators, or a few."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", nargs="?", help="the page to write; without it rows are printed")
    parser.add_argument("--only", default="", help="generators to try, with commas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="for each generator")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row and sys.platform == "linux":
        os.sched_setaffinity(0, {random.choice([*os.sched_getaffinity(0)])})  # one worker is enough
    if options.row:
        print("\n" + json.dumps(one(options.row)))
        return
    from reasoning_gym.factory import DATASETS

    names = options.only.split(",") if options.only else sorted(DATASETS)
    rows = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda name: apart(name, options.seconds), names):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.page and not options.only:
        Path(options.page).write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
