"""The command line's part that asks whether rewards can be trusted."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Whether rewards can be trusted.")


@app.callback()
def options() -> None:
    """Whether rewards can be trusted."""


@app.command()
def reward(
    what: Annotated[
        str, typer.Argument(help="An env, a grader or a reward: name or file.py:Name.")
    ],
    settings: Annotated[list[str] | None, typer.Argument(help="Its settings: digits=3")] = None,
    env: Annotated[
        str, typer.Option(help="The env that lends a reward its problems.")
    ] = "arithmetic",
    problems: Annotated[int, typer.Option(min=2, help="Problems to attack it on.")] = 5,
    against: Annotated[
        str, typer.Option(help="Another grader of the same problems, to compare with.")
    ] = "",
    out: Annotated[str, typer.Option(help="A JSON file for all that was found.")] = "",
) -> None:
    """Attack a grader with adversarial replies; exit status 1 where it can be exploited."""
    from upslope.audit.target import audit_reward

    report = audit_reward(what, settings or [], env, problems, against, out)
    print("\n".join(report.lines()))
    if report.failed:
        raise typer.Exit(1)


@app.command()
def lab(
    recipe: Annotated[str, typer.Argument(help="A lab's recipe: a TOML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: pool.replies=256 seed=1")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Pieces made at once; 0 is one a core.")] = 0,
    results: Annotated[
        str, typer.Option(help="A folder for tables and report; by default the lab's own.")
    ] = "",
    only_report: Annotated[
        bool, typer.Option("--report", help="Write the report again from the tables there.")
    ] = False,
) -> None:
    """Follow proxies of a gold reward until gold falls, and compare ways to resist."""
    from pathlib import Path

    from upslope.audit.lab_recipe import read_lab

    given = read_lab(recipe, changes or [])
    folder = Path(results or given.out)
    if not only_report:
        from upslope.audit.lab import make
        from upslope.audit.lab_results import write_results

        write_results(make(given, jobs, print), folder)
    from upslope.audit.lab_report import report

    print("\n".join(report(folder)))
    print(f"{folder} has report.md")
