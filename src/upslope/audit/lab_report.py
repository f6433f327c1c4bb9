"""A lab's ``report.md`` and figures, made from its tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from upslope.audit import lab_picture as picture
from upslope.audit.lab_results import read_results
from upslope.files import replace_file

ALONE = "single"
Row = Mapping[str, Any]


def report(folder: Path) -> list[str]:
    """Write the report and its figures; its verdicts, as lines."""
    curves, steps, about = read_results(folder)
    smallest = worst_of(about)
    drawn = {
        "best_of_n.svg": picture.best_of_n(curves, about["proxies"]),
        "proxy.svg": picture.proxy(curves, smallest["name"]),
        "ways.svg": picture.ways(curves, [f"{one['name']}, noisy" for one in about["ways"]]),
    }
    if steps:
        drawn["climb.svg"] = picture.climbs(steps, ALONE)
    verdicts = [*concluded(about)]
    parts = [opening(about), verdicts, grid(about), forms(about), resisting(about)]
    parts += [climbing(about)] if steps else []
    text = "\n\n".join("\n".join(part) for part in parts)
    replace_file(folder / "report.md", (text + "\n").encode())
    for name, svg in drawn.items():
        replace_file(folder / name, svg.encode())
    return verdicts


def worst_of(about: Row) -> Row:
    """Of the smallest proxies those that lose most by the error over problems, noisy or not."""
    first = about["proxies"][0]["model"]
    own = [one for one in about["proxies"] if one["model"] == first]
    alone = about["ways"][0]
    own.append({**alone, "name": f"{alone['name']}, noisy"})
    return max(own, key=lambda one: ratio(one["lost_over_problems"]))


def opening(about: Row) -> Iterator[str]:
    """What was done."""
    recipe = about["recipe"]
    own, climb = recipe["proxies"], recipe["climb"]
    yield "# Gold against proxies"
    yield ""
    yield (
        f"Made from `best_of_n.csv`, `climb.csv` and `lab.json` by `upslope audit lab`. Env "
        f"`{recipe['env']['type']}`, policy {recipe['model']} after {recipe['imitation']['steps']} "
        f"steps of imitation; {recipe['pool']['problems']} held-out problems with "
        f"{recipe['pool']['replies']:,} replies each; proxies {', '.join(own['models'])} from "
        f"{' and '.join(map(str, own['pairs']))} pairs, {recipe['seeds']} seeds; noisy ones from "
        f"{own['noisy']} pairs with {100 * own['noise']:.0f}% of the labels turned around, "
        f"{own['members']} members; RL over {climb['steps']} steps of {climb['problems']} x "
        f"{climb['group']} replies."
    )
    yield ""
    spent = about["cpu_seconds"]
    each = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in spent.items())
    yield f"{sum(spent.values()) / 60:.1f} CPU-minutes: {each}."


def concluded(about: Row) -> Iterator[str]:
    """The questions that a lab is for, each with its figures."""
    small = worst_of(about)
    lost, rise = small["lost_over_problems"], small["proxy_rise"]
    yield (
        f"- The smallest proxy ({small['name']}): gold is highest at n = {small['at']} "
        f"({small['peak']:.3f}) and falls to {small['end']:.3f}, by {with_error(lost)}, "
        f"{ratio(lost):.1f} standard errors over problems, while the proxy rises by "
        f"{with_error(rise)}. With proxies drawn, too, the fall is {with_error(small['lost'])}."
    )
    single, share = about["ways"][0], about["recipe"]["climb"]["share"]
    others = [f"{percent(one['cut'])} by {one['name']}" for one in about["ways"][1:] if one["cut"]]
    yield (
        f"- Of what a single proxy of noisy labels loses, {with_error(single['lost'])}, are cut: "
        f"{'; '.join(others)}."
    )
    alone = [one for one in about["climbs"] if one["name"] == ALONE]
    if alone:
        falls = [
            f"{one['peak']:.3f} to {one['end']:.3f} ({ratio(one['lost']):.1f} standard errors)"
            for one in alone
        ]
        yield f"- RL on a proxy takes gold from its peak of {'; '.join(falls)}."
        shares = [f"{100 * one['kept']:.0f}%" for one in alone if one["kept"] is not None]
        yield (
            f"- Stopped by an audit of {100 * share:g}% of the replies, the {len(shares)} of these "
            f"{len(alone)} runs that gained anything keep {', '.join(shares) or 'nothing'} of "
            "their gain up to the peak."
        )


def grid(about: Row) -> Iterator[str]:
    """Every kind of proxy."""
    yield "## The best of n"
    yield ""
    yield "![gold of the best of n](best_of_n.svg)"
    yield ""
    yield "![a proxy and gold](proxy.svg)"
    yield ""
    yield "| proxy | orders replies as gold | peak | at n | gold at the end | lost | proxy rises |"
    yield "|---" * 7 + "|"
    for one in about["proxies"]:
        yield (
            f"| {one['name']} | {100 * one['accuracy']:.1f}% | {one['peak']:.3f} | {one['at']} | "
            f"{one['end']:.3f} | {with_error(one['lost'])} | {with_error(one['proxy_rise'])} |"
        )
    yield ""
    yield (
        "Lost: gold at the peak less gold at the end, with its standard error over seeds and "
        "problems; the peak of each half of the problems is looked for in the other half."
    )


def forms(about: Row) -> Iterator[str]:
    """What was fitted."""
    yield "## Forms"
    yield ""
    yield (
        "Gold over the first policy's, d the root of the KL: d (a - b d) for the best of n, "
        "d (a - b log d) for RL (arXiv:2210.10760). Intervals of 90%. Foretold: gold at the "
        "farthest, from a fit to what is at most 1/1.5 as far."
    )
    yield ""
    yield "| followed | a | b | R^2 | peak at d | gold there | foretold | came |"
    yield "|---" * 8 + "|"
    rows = [(one["name"], one["form"]) for one in about["proxies"]]
    rows += [(f"{one['name']}, noisy", one["form"]) for one in about["ways"] if one.get("form")]
    rows += [(f"RL, {one['name']} {one['seed']}", one["form"]) for one in about["climbs"]]
    for name, form in rows:
        if form is None:
            yield f"| {name} | too few points | | | | | | |"
            continue
        cells = [between(form[key]) for key in ("a", "b", "r2", "peak", "gold", "told")]
        yield f"| {name} | {' | '.join(cells)} | {with_error(form['came'])} |"


def resisting(about: Row) -> Iterator[str]:
    """Ways to resist, in one table."""
    yield "## Ways to resist"
    yield ""
    yield "![gold of the best of n by each way](ways.svg)"
    yield ""
    yield (
        "| way | peak | gold at the end | more than by a single proxy | lost | "
        "of a single proxy's loss, cut |"
    )
    yield "|---" * 6 + "|"
    for one in about["ways"]:
        lost = with_error(one["lost"]) if one["lost"][1] else f"{one['lost'][0]:.3f}"
        cut = percent(one["cut"]) if one["cut"] else ""
        more = with_error(one["gained"]) if one.get("gained") else ""
        cells = [one["name"], f"{one['peak']:.3f}", f"{one['end']:.3f}", more, lost, cut]
        yield f"| {' | '.join(cells)} |"
    stop = next((one for one in about["ways"] if "kept" in one), None)
    if stop:
        yield ""
        yield f"The {stop['name']} keeps {percent(stop['kept'])} of the gain up to its peak."


def climbing(about: Row) -> Iterator[str]:
    """Arms of RL."""
    yield "## RL"
    yield ""
    yield "![gold along RL](climb.svg)"
    yield ""
    yield (
        "| arm | reward | KL at the end | peak | gold at the end | lost | the audit stops at | "
        "gold there | of the gain, kept | alarm at step, kept there |"
    )
    yield "|---" * 10 + "|"
    for one in about["climbs"]:
        at, when = one["stop"]
        stop = f"{at:.0f}, in step {when}" if when else "the end"
        rang = f"{one['alarm']}: {kept(one['kept_by_alarm'])}" if one["alarm"] else "none"
        yield (
            f"| {one['name']} {one['seed']} | {one['reward'][0]:.2f} to {one['reward'][1]:.2f} | "
            f"{with_error(one['kl'], 1)} | {one['peak']:.3f} | {one['end']:.3f} | "
            f"{with_error(one['lost'])} | {stop} | {one['stopped']:.3f} | "
            f"{kept(one['kept'])} | {rang} |"
        )


def with_error(pair: Sequence[float], digits: int = 3) -> str:
    """A mean and its standard error."""
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def ratio(pair: Sequence[float]) -> float:
    """In standard errors."""
    return pair[0] / pair[1] if pair[1] else 0.0


def kept(share: float | None) -> str:
    """Of a gain."""
    return "no gain" if share is None else f"{100 * share:.0f}%"


def between(values: Sequence[float | None]) -> str:
    """A value and its interval."""
    value, low, high = ("none" if v is None else f"{v:.3f}" for v in values)
    return f"{value} ({low} to {high})"


def percent(values: Sequence[float | None]) -> str:
    """A share and its interval, where there is one."""
    value, low, high = (v if v is None else f"{100 * v:.0f}" for v in values)
    return f"{value}%" if low is None else f"{value}% ({low} to {high})"
