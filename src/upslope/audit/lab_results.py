"""What a lab's pieces come to: tables of curves, forms fitted, ways compared; all that a report is
made from.

``best_of_n.csv``, ``climb.csv`` and ``lab.json``; nothing here reads a model.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upslope.audit import ways
from upslope.audit.climb import Climbed
from upslope.audit.followed import Formed, formed, kept, lost, seen, standard
from upslope.audit.lab import MEAN, SECONDS, Lab, read_seconds
from upslope.audit.proxies import Kind, council, grid
from upslope.audit.stopping import Stop, dropped, formed_rl, keeps, smoothed, stopped
from upslope.files import finite, replace_file
from upslope.scaling.forms import Array
from upslope.scaling.overoptimised import best_of_n, kl_best_of_n
from upslope.types import UserError

TABLES = ("best_of_n.csv", "climb.csv", "lab.json")
AUDITS = 200  # draws of which replies are audited
Row = dict[str, Any]


def write_results(lab: Lab, folder: Path) -> None:
    """The three files."""
    folder.mkdir(parents=True, exist_ok=True)
    curves, found = best_of(lab)
    resisted, compared = resisting(lab)
    climbs = [lab.climb(arm) for arm in lab.arms()]
    about = {
        "recipe": lab.recipe.model_dump(mode="json"),
        "replies": int(lab.pool.gold.size),
        "cpu_seconds": spent(lab, climbs),
        "proxies": found,
        "ways": compared,
        **climbing(climbs),
    }
    replace_file(folder / TABLES[0], table([*curves, *resisted]))
    replace_file(folder / TABLES[1], table(steps_of(climbs)))
    replace_file(folder / TABLES[2], json.dumps(finite(about)[0], indent=1).encode() + b"\n")


def spent(lab: Lab, climbs: Sequence[Climbed]) -> dict[str, float]:
    """CPU-seconds of each part, whenever and by however many processes its pieces were made."""
    told = [lab.proxy(kind.name) / "about.json" for kind in lab.kinds()]
    proxies = [json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in told]
    parts = {name: cpu for name, (_, cpu) in read_seconds(lab.folder / SECONDS).items()}
    return {**parts, "proxies": sum(proxies), "RL": sum(one.seconds for one in climbs)}


def read_results(folder: Path) -> tuple[list[Row], list[Row], Row]:
    """Rows of both tables and the rest; UserError where they are missing."""
    try:
        texts = [(folder / name).read_text(encoding="utf-8") for name in TABLES]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no results of a lab: run `upslope audit lab` first"
        ) from error
    rows = [[_numbers(row) for row in csv.DictReader(io.StringIO(text))] for text in texts[:2]]
    return rows[0], rows[1], json.loads(texts[2])


def best_of(lab: Lab) -> tuple[list[Row], list[Row]]:
    """Curves of every kind of proxy over its seeds, and what each comes to."""
    rows, found = list[Row](), list[Row]()
    groups: dict[tuple[str, int], list[Kind]] = {}
    for kind in grid(lab.recipe):
        groups.setdefault((kind.model, kind.pairs), []).append(kind)
    for (model, pairs), kinds in groups.items():
        scores = np.stack([scores_of(lab, kind.name) for kind in kinds])
        gold, proxy = values(lab, scores)
        name = f"{model}, {pairs} pairs"
        rows += lines(lab, name, gold, proxy)
        found.append(
            {"name": name, "model": model, "pairs": pairs, "accuracy": agreement(lab, scores)}
            | fallen(lab, gold, proxy)
        )
    return rows, found


def resisting(lab: Lab) -> tuple[list[Row], list[Row]]:
    """Curves of each way to resist noisy labels, and the share of a single proxy's loss that it
    cuts."""
    own = lab.recipe.proxies
    scores = np.stack([scores_of(lab, kind.name) for kind in council(lab.recipe)])
    lengths = lab.pool.lengths
    tried: dict[str, Array] = {"single": scores}
    tried["single without length"] = np.stack([ways.without_length(s, lengths) for s in scores])
    for name, one in ways.several(scores, own.k).items():
        tried[name] = one[None]
    tried["mean of weights"] = scores_of(lab, MEAN)[None]
    rows, found, alone = list[Row](), list[Row](), None
    for name, each in tried.items():
        gold, proxy = values(lab, each)
        alone = gold if alone is None else alone
        rows += lines(lab, f"{name}, noisy", gold, proxy)
        against = {"cut": None} if gold is alone else cut(alone, gold)
        found.append({"name": name} | fallen(lab, gold, proxy) | against)
    found.append(audits(lab, scores, alone if alone is not None else gold))
    return rows, found


def audits(lab: Lab, scores: Array, alone: Array) -> Row:
    """A single proxy that an audit of a share of replies stops: gold where it does, and what that
    keeps of the gain up to the peak, over draws of the audit."""
    ns, share, gold = lab.recipe.ns, lab.recipe.climb.share, lab.pool.gold
    keeps, ends = list[float](), list[float]()
    for draw in range(AUDITS):
        member = draw % len(scores)
        place = ways.audited(scores[member], gold, ns, share, draw)
        keeps.append(float(kept(alone[[member]], [place])[0]))
        ends.append(float(alone[member, :, place].mean()))
    single, end = alone.mean((0, 1)), float(np.mean(ends))
    loss = float(alone.mean(1).max(1).mean()) - end
    whole = float((alone.mean(1).max(1) - alone.mean(1)[:, -1]).mean())
    return {
        "name": f"single, stopped by a {100 * share:g}% audit",
        "peak": float(single.max()),
        "end": end,
        "lost": [loss, 0.0],
        "cut": [1 - loss / whole, np.nan, np.nan] if whole > 0 else None,
        "kept": [float(np.mean(keeps)), *np.quantile(keeps, [0.05, 0.95]).tolist()],
    }


def values(lab: Lab, scores: Array) -> tuple[Array, Array]:
    """Gold and the proxy's own score of the best of each n, [seed, problem, n]."""
    ns = lab.recipe.ns
    own = np.stack([best_of_n(one, one, ns) for one in scores])
    return ways.curves(scores, lab.pool.gold, ns), own


def scores_of(lab: Lab, name: str) -> Array:
    """A proxy's of the pool, in double precision."""
    return np.asarray(np.load(lab.proxy(name) / "scores.npy"), dtype=float)


def agreement(lab: Lab, scores: Array) -> float:
    """How often a proxy and gold order two replies of the pool to one problem alike."""
    gold, found = lab.pool.gold, list[float]()
    random = np.random.default_rng(0)
    order = random.permuted(np.tile(np.arange(gold.shape[1]), (len(gold), 1)), axis=1)
    other = np.take_along_axis(gold, order, 1)
    apart = np.sign(gold - other)
    for one in scores:
        said = np.sign(one - np.take_along_axis(one, order, 1))
        found.append(float((said == apart)[apart != 0].mean()))
    return float(np.mean(found))


def fallen(lab: Lab, gold: Array, proxy: Array) -> Row:
    """Peak, end and loss of gold, the proxy's rise meanwhile, and the form."""
    mean = gold.mean((0, 1))
    top = int(mean.argmax())
    rise = proxy[..., -1] - proxy[..., top]
    distance = np.sqrt(kl_best_of_n(np.array(lab.recipe.ns)))
    return {
        "peak": float(mean[top]),
        "at": lab.recipe.ns[top],
        "end": float(mean[-1]),
        "lost": [*seen(lost(gold))],
        "lost_over_problems": [*seen(lost(gold).mean(0, keepdims=True))],
        "proxy_rise": [*seen(rise.mean(0, keepdims=True))],
        "form": told(formed("best_of_n", distance, gold)),
    }


def cut(alone: Array, gold: Array) -> Row:
    """The share of a single proxy's loss that is not lost, with a 90% interval over problems."""
    random, problems = np.random.default_rng(0), gold.shape[1]
    losses = [lost(one).mean(0) for one in (alone, gold)]
    shares = list[float]()
    for draw in range(ways.DRAWS + 1):
        some = random.integers(problems, size=problems) if draw else np.arange(problems)
        single, own = (one[some].mean() for one in losses)
        shares.append(1 - own / single if single > 0 else np.nan)
    low, high = np.nanquantile(shares[1:], [0.05, 0.95])
    return {"cut": [shares[0], float(low), float(high)], "gained": [*seen(at_end(gold, alone))]}


def at_end(gold: Array, alone: Array) -> Array:
    """How much more gold the best of the whole pool is than by single proxies, [1, problem]."""
    return np.asarray(gold[..., -1].mean(0) - alone[..., -1].mean(0))[None]


def climbing(climbs: Sequence[Climbed]) -> Mapping[str, Any]:
    """What RL came to: each arm, the form, and where an audit would have stopped."""
    if not climbs:
        return {"climbs": []}
    rows = list[Row]()
    for one in climbs:
        stop, last = stopped(one), one.looks[-1]
        peak, there, share = keeps(one, stop)
        rows.append(
            {
                "name": one.name,
                "seed": one.seed,
                "seconds": one.seconds,
                "alarm": one.alarm,
                "kept_by_alarm": keeps(one, Stop(one.alarm, one.alarm))[2] if one.alarm else None,
                "peak": peak,
                "end": float(smoothed(one.looks)[-1]),
                "lost": [*dropped(one)],
                "reward": [one.looks[0].proxy.mean, last.proxy.mean],
                "kl": [*last.kl],
                "stop": [*stop],
                "stopped": there,
                "kept": share,
                "form": told(formed_rl(one)),
            }
        )
    return {"climbs": rows}


def lines(lab: Lab, name: str, gold: Array, proxy: Array) -> list[Row]:
    """Rows of ``best_of_n.csv``."""
    columns = zip(lab.recipe.ns, *standard(gold), *standard(proxy), strict=True)
    return [
        {
            "proxy": name,
            "n": n,
            "kl": float(kl_best_of_n(n)),
            "gold": gold_mean,
            "gold_error": gold_error,
            "score": score,
            "score_error": score_error,
        }
        for n, gold_mean, gold_error, score, score_error in columns
    ]


def steps_of(climbs: Sequence[Climbed]) -> list[Row]:
    """Rows of ``climb.csv``."""
    return [
        {
            "arm": one.name,
            "seed": one.seed,
            "step": look.step,
            "kl": look.kl.mean,
            "kl_error": look.kl.error,
            "gold": look.gold.mean,
            "gold_error": look.gold.error,
            "reward": look.proxy.mean,
            "reward_error": look.proxy.error,
        }
        for one in climbs
        for look in one.looks
    ]


def told(form: Formed | None) -> Row | None:
    """As JSON has it."""
    if form is None:
        return None
    return {
        name: [*value] if isinstance(value, tuple) else value for name, value in vars(form).items()
    }


def table(rows: Sequence[Row]) -> bytes:
    """CSV, numbers to six digits."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return out.getvalue().encode()


def _numbers(row: Mapping[str, str]) -> Row:
    """Text for names, numbers for the rest."""
    return {k: v if k in ("proxy", "arm") else float(v) for k, v in row.items()}
