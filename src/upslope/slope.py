"""The command line's part that measures the slope: forecasts, studies and budgets."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def forecast(
    runs: Annotated[list[str], typer.Argument(help="A run's folder; more are other seeds.")],
    at: Annotated[
        str, typer.Option(help="Compute to look ahead to: 10x what was spent, or FLOPs.")
    ] = "10x",
    target: Annotated[float | None, typer.Option(help="A reward to find the compute for.")] = None,
    metric: Annotated[str, typer.Option(help="sampled, greedy or reward.")] = "sampled",
    form: Annotated[
        str, typer.Option(help="sigmoid, exponential, power or log_linear.")
    ] = "sigmoid",
) -> None:
    """What more compute would buy: the curve of reward against compute, fitted and told apart."""
    from upslope.scaling.forecast import forecast as told

    for line in told(runs, metric, form, at, target):
        print(line)


study = typer.Typer(no_args_is_help=True, help="Compare arms of one recipe at equal compute.")
app.add_typer(study, name="study")
StudyPath = Annotated[str, typer.Argument(help="A study's folder, with study.toml.")]


@study.command("run")
def study_run(
    path: StudyPath,
    runs: Annotated[str | None, typer.Option(help="Where runs go; runs/<study>.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Runs at once; 0 is one a core.")] = 0,
) -> None:
    """Train every run of a study that is missing, then write its table and report."""
    from upslope.scaling.report import run_and_report

    print("\n".join(run_and_report(path, runs, jobs, to_stderr)))


@study.command("report")
def study_report(path: StudyPath) -> None:
    """Write a study's report and pictures from its table alone."""
    from upslope.scaling.report import report
    from upslope.scaling.study import Study

    print("\n".join(report(Study.read(path))))


@app.command()
def allocate(
    path: StudyPath,
    flops: Annotated[str, typer.Option(help="The budget: training, and --answers.")],
    answers: Annotated[float, typer.Option(help="Questions that the model will answer.")] = 0.0,
    reach: Annotated[
        float, typer.Option(help="How far to ask a curve of unknown ceiling: 1 is as measured.")
    ] = 1.0,
    vote: Annotated[bool, typer.Option(help="A majority chooses answers, no verifier.")] = False,
    out: Annotated[str | None, typer.Option(help="All splits, as .json or .csv.")] = None,
) -> None:
    """How to split a budget over what a finished study varied, and how sure that is."""
    from upslope.scaling.allocate import told

    print("\n".join(told(path, flops, answers, reach, vote, out)))


def to_stderr(line: str) -> None:
    """Say a line where it cannot mix with results."""
    print(line, file=sys.stderr)
