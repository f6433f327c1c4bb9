"""What a finished run changed, in words: figures, and replies to problems that it now solves."""

from __future__ import annotations

from upslope.result import Estimate
from upslope.runs import Run


def changed(run: Run) -> list[str]:
    """What a finished run changed, in figures and in replies to the same problems."""
    result = run.result()
    assert result is not None
    lines = ["", "accuracy on held-out problems, with 95% intervals:"]
    for name in ("sampled", "greedy"):
        before, after = (dict(a)[name] for a in (result.before, result.after))
        lines.append(f"  {name:8}{figure(before)}  ->  {figure(after)}")
    chosen = result.stages[-1].selected
    if chosen is not None:
        lines.append(f"  step {chosen} did best on validation; the test split was asked only here")
    last = result.stages[-1].name + ("/evaluation" if chosen is None else "/test")
    rows = [r for r in run.trajectories() if r["stage"] == last and r["id"].endswith("greedy")]
    steps = sorted({row["step"] for row in rows})
    first = {row["problem"]: row for row in rows if row["step"] == steps[0]}
    final = [row for row in rows if row["step"] == steps[-1]]
    mended = [r for r in final if r["reward"] > first[r["problem"]]["reward"]][:3]
    if mended:
        lines += ["", "problems it now solves (greedy):"]
    for row in mended:
        asked = " / ".join(str(row["messages"][0]["content"]).rsplit("\n\n", 1)[-1].split("\n"))
        lines.append(f"  {asked}  before: {first[row['problem']]['text']}  now: {row['text']}")
    lines += [
        "",
        f"{result.steps} steps, {result.flops:.2e} FLOPs, {result.seconds:.0f} s, "
        f"{result.cpu_seconds:.0f} CPU-seconds, peak memory "
        f"{result.peak_memory_bytes / 2**30:.2f} GiB; stopped by {result.stopped_by}",
        f"curve: {run.path / 'curve.svg'}   model: {run.path / 'model'}",
        f"try it: upslope chat {run.path}",
    ]
    return lines


def figure(estimate: Estimate) -> str:
    """A mean with its interval, in percent."""
    mean, low, high = (100 * x for x in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:5.1f}% ({low:.1f} to {high:.1f})"
