"""What a person sees of a run: bars in a terminal, plain lines in a pipe. It only looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from upslope.recipe import Stage
from upslope.types import Action, Group, Metrics, Watch

LINES = 40  # of a stage, at most, where there is no terminal


class Show(Watch, Protocol):
    """A watch that is also opened and closed."""

    def __enter__(self) -> Show: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Pace:
    """Steps of the stage underway and the time they leave, evaluations aside."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.totals = {stage.name: stage.stop.steps for stage in stages}
        self.stage, self.total, self.done, self.here = "", 0, 0, 0
        self.seconds, self.last = 0.0, time.monotonic()

    def begins(self, stage: str, before: int) -> bool:
        """Call with the steps of the run before; whether this is the first seen of a stage."""
        begins = stage != self.stage
        if begins:
            names = list(self.totals)
            earlier = sum(self.totals[name] for name in names[: names.index(stage)])
            self.stage, self.total = stage, self.totals[stage]
            # Only a resumed stage is not seen from its beginning.
            self.done, self.here, self.seconds = max(0, before - earlier), 0, 0.0
        return begins

    def evaluated(self) -> None:
        """Time that an evaluation took is no step's."""
        self.last = time.monotonic()

    def step(self, metrics: Metrics) -> str:
        """A step in words."""
        now = time.monotonic()
        self.seconds, self.last = self.seconds + now - self.last, now
        self.done, self.here = self.done + 1, self.here + 1
        each = self.seconds / self.here
        left = left_text((self.total - self.done) * each) if self.total else ""
        of = f"/{self.total}" if self.total else ""
        return f"{self.done}{of}  {step_text(metrics)}  {each:.1f} s/step{left}"


class Lines:
    """Plain lines, for a pipe or a log."""

    def __init__(self, stages: Sequence[Stage], console: Console) -> None:
        self.pace, self.console = Pace(stages), console

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """A line for each evaluation and for at most ``LINES`` steps of a stage."""
        if self.pace.begins(stage, step - bool(groups)) and len(self.pace.totals) > 1:
            self.line(f"stage {stage}")
        if not groups:
            self.pace.evaluated()
            self.line(evaluation_line(step, metrics))
            return ()
        text = self.pace.step(metrics)
        if self.pace.done % max(1, -(-self.pace.total // LINES)) == 0 or self.pace.done == 1:
            self.line(f"step {text}")
        return ()

    def line(self, text: str) -> None:
        """One line, never wrapped or coloured."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A bar for the stage underway, evaluations above it."""

    def __init__(self, stages: Sequence[Stage], console: Console) -> None:
        self.pace, self.task = Pace(stages), TaskID(-1)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=console,
        )

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """Move the bar, or print an evaluation above it."""
        if self.pace.begins(stage, step - bool(groups)):
            self.task = self.progress.add_task(stage, total=self.pace.total or None, text="")
        if groups:
            text = self.pace.step(metrics)
            self.progress.update(self.task, completed=self.pace.done, text=text)
            return ()
        self.pace.evaluated()
        self.progress.console.print(evaluation_line(step, metrics), highlight=False)
        return ()


def show(stages: Sequence[Stage], console: Console) -> Show:
    """Bars where there is a terminal, lines where there is none."""
    return Bars(stages, console) if console.is_terminal else Lines(stages, console)


def evaluation_line(step: int, metrics: Metrics) -> str:
    """Accuracy with its 95% interval, sampled and greedy."""
    parts = []
    for name in ("sampled", "greedy"):
        mean, low, high = (metrics[f"evaluation/{name}/{k}"] for k in ("mean", "low", "high"))
        parts.append(f"{name} {100 * mean:.1f}% ({100 * low:.1f} to {100 * high:.1f})")
    problems = int(metrics["evaluation/sampled/problems"])
    return f"after step {step}: accuracy {', '.join(parts)} on {problems} held-out problems"


def step_text(metrics: Metrics) -> str:
    """Reward or loss, length and drift of a step."""
    length = f"length {metrics['length/mean']:.1f}"
    if "drift/max" not in metrics:  # recorded data: nothing was sampled
        return f"loss {metrics['update/loss']:.3f}  {length}"
    return f"reward {metrics['reward/mean']:.3f}  {length}  drift {metrics['drift/max']:.0e}"


def left_text(seconds: float) -> str:
    """Time left in words."""
    if seconds < 90:
        return f", {seconds:.0f} s left"
    return f", {seconds / 60:.0f} min left" if seconds < 5400 else f", {seconds / 3600:.1f} h left"
