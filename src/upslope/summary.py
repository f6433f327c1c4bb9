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
    lines += widened(run, result.stages[-1].name)
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


def widened(run: Run, stage: str) -> list[str]:
    """What one of several samples solves at least, before and after; nothing of single samples."""
    name, mean = "evaluation/sampled/pass_at_k", "evaluation/sampled/mean"
    rows = [row for row in run.evaluations() if row["stage"] == stage and name in row]
    if len(rows) < 2:
        return []
    (old, new), (was, now) = ((rows[0][key], rows[-1][key]) for key in (name, mean))
    verdict = "it solves more problems" if new > old else "it solves no more problems"
    verdict += ", and each more often" if now > was else ""
    return [f"  {'pass@k':8}{100 * old:5.1f}%  ->  {100 * new:.1f}%: {verdict}"]


def figure(estimate: Estimate) -> str:
    """A mean with its interval, in percent."""
    mean, low, high = (100 * x for x in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:5.1f}% ({low:.1f} to {high:.1f})"
