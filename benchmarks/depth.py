"""How the compute of learning grows with the depth of a proof: T = a D^gamma (arXiv:2605.06638).

    python benchmarks/depth.py studies/depth --target 0.9

Of each run of a study whose axis is depth, the compute of its last stage at which the accuracy of
its evaluations first comes to the target, between two of them along a straight line. A line through
the logarithms of each seed's gives one exponent a seed; the interval is a 95% t interval over the
seeds. Runs that never came to the target, or began beyond it, are named and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

import numpy as np

from upslope.scaling.curves import over_seeds
from upslope.scaling.laws import depth
from upslope.scaling.results import Line, read_results
from upslope.scaling.study import Study

LEAST = 3  # depths of a seed that a line is put through
LEVEL = 0.95


def reached(line: Line, target: float) -> float:
    """FLOPs of the last stage at the target; NaN where it never came there or began beyond it."""
    x, y = line.columns["stage_flops"], line.columns["sampled_mean"]
    beyond = np.flatnonzero(y >= target)
    if not len(beyond) or beyond[0] == 0:
        return float("nan")
    b = beyond[0]
    return float(np.interp(target, y[b - 1 : b + 1], x[b - 1 : b + 1]))


def main() -> None:
    """Parse arguments, print the command, the table and the exponent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a finished study's folder, whose arms are depths")
    parser.add_argument("--axis", default="depth", help="of the study: arms such as d3")
    parser.add_argument("--target", type=float, default=0.9, help="sampled accuracy")
    args = parser.parse_args()
    print("python", *sys.argv)
    seeds: dict[int, dict[int, float]] = defaultdict(dict)
    for line in read_results(Study.read(args.study)):
        steps, compute = int(line.arms[args.axis].lstrip("d")), reached(line, args.target)
        start, end = (float(line.columns["sampled_mean"][i]) for i in (0, -1))
        came = f"{compute:.3g} FLOPs" if np.isfinite(compute) else "not between two evaluations"
        print(f"  depth {steps} seed {line.seed}  {start:.3f} -> {end:.3f}  {args.target}: {came}")
        if np.isfinite(compute):
            seeds[line.seed][steps] = compute
    exponents = []
    for seed, found in sorted(seeds.items()):
        if len(found) < LEAST:
            print(f"  seed {seed} came to {args.target} at {len(found)} depths, and a line needs 3")
            continue
        scale, exponent = depth(np.array([*found]), np.array([*found.values()]))
        residual = np.log([*found.values()]) - np.log(scale) - exponent * np.log([*found])
        spread = np.log([*found.values()])
        fit = 1 - float((residual**2).sum() / ((spread - spread.mean()) ** 2).sum())
        law = f"T = {scale:.3g} D^{exponent:.2f}"
        print(f"  seed {seed}: {law}, R^2 {fit:.3f}, {len(found)} depths")
        exponents.append(exponent)
    if len(exponents) < 2:
        sys.exit("fewer than two seeds have an exponent: no interval can be given")
    bounds = over_seeds(np.array(exponents), LEVEL)
    print(
        f"exponent  {bounds.value:.2f} ({bounds.low:.2f} to {bounds.high:.2f}), "
        f"{len(exponents)} seeds"
    )


if __name__ == "__main__":
    main()
