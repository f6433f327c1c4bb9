"""Whether half of a study's compute chooses what the whole of it shows to be nearly the best.

    python benchmarks/allocate.py studies/sizes

Curves are fitted to what was seen under half of the compute that all runs came to, and a split is
chosen for all of it. What the chosen arms were then measured at is set beside the best arms. With
``--reach 2`` curves whose ceiling cannot be told are asked for twice what was seen of them. Exit
status 1 where the chosen arms are more than ``--within`` behind.
"""

from __future__ import annotations

import argparse
import sys

from upslope.scaling.backtest import Trial, tried
from upslope.scaling.report import label
from upslope.scaling.study import Study
from upslope.types import UserError


def line_of(trial: Trial) -> str:
    """What was chosen, and how far behind the best it came."""
    behind = trial.best - trial.reached
    unseen = f"; too short to be chosen: {'; '.join(map(label, trial.unseen))}"
    return (
        f"at {trial.flops:.2e} FLOPs: chosen {label(trial.chosen)} {trial.reached:.3f}, "
        f"best {label(trial.winner)} {trial.best:.3f}, behind {behind:.3f}"
        f"{unseen if trial.unseen else ''}"
    )


def main() -> None:
    """Parse arguments, print the command and the trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a finished study's folder")
    parser.add_argument("--share", type=float, default=0.5, help="of compute that is fitted")
    parser.add_argument("--reach", type=float, default=1.0, help="as of upslope allocate")
    parser.add_argument("--within", type=float, default=0.03, help="accuracy it may be behind")
    args = parser.parse_args()
    print("python", *sys.argv)
    try:
        trial = tried(Study.read(args.study), args.share, args.reach)
    except UserError as error:
        sys.exit(str(error))
    print(line_of(trial))
    sys.exit(trial.best - trial.reached > args.within)


if __name__ == "__main__":
    main()
