"""Questions over made workbooks: golds from the records, and SQL that asks the sheets anew."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta

from upslope.seeds import seed_of
from upslope.tables.asked import Question
from upslope.tables.book import Value, told
from upslope.tables.scene import Scene, scene
from upslope.tools import Call

KINDS: tuple[str, ...] = (
    "lookup",
    "count",
    "argmax",
    "sum",
    "average",
    "median",
    "join",
    "dates",
    "period",
)
KINDS += ("growth", "unanswerable")


def asked(seed: int, kinds: Sequence[str], number: int) -> Question:
    """The question of that number: always the same one."""
    draw = random.Random(seed_of("workbook", seed, number))
    kind = draw.choice(list(kinds))
    return QUESTIONS[kind](draw, scene(draw))


def _made(
    kind: str,
    text: str,
    shown: Scene,
    gold: Sequence[Value],
    cells: frozenset[str],
    sql: str,
    guess: Value,
) -> Question:
    """A hurried reader looks at the first rows and says what stands there."""
    values = tuple(told(value) for value in gold)
    calls = (Call("list_sheets"), Call("sql", {"query": sql})) if sql else (Call("list_sheets"),)
    hurried = (Call("head", {"sheet": shown.theme.sheet}),)
    return Question(kind, text, shown.book, values, cells, sql, calls, hurried, told(guess))


def _quoted(name: str) -> str:
    return '"' + name + '"'


def _where(shown: Scene, role: str, value: str) -> str:
    """Records alone, without the row of totals, that have a value."""
    own = f"{_column(shown, 'key')} like '{shown.theme.prefix}-%'"
    return f"{own} and {_column(shown, role)} = '{value}'"


def _column(shown: Scene, role: str) -> str:
    return _quoted(shown.titles[role])


def _title(shown: Scene, role: str) -> str:
    """As a question calls a column."""
    return shown.theme.titles[role].lower()


def _numbers(shown: Scene, role: str, rows: Sequence[int]) -> tuple[list[float], list[int]]:
    """The values that are not blank, and the numbers of their records."""
    kept = [row for row in rows if shown.records[row][role] is not None]
    values = [shown.records[row][role] for row in kept]
    return [value for value in values if isinstance(value, int | float)], kept


def _filled(draw: random.Random, shown: Scene, role: str) -> tuple[str, list[int]]:
    """A category with two numbers or more in a column, and its records' numbers."""
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(shown.records):
        rows.setdefault(str(record["category"]), []).append(row)
    fit = [name for name, held in rows.items() if len(_numbers(shown, role, held)[0]) > 1]
    name = draw.choice(sorted(fit))
    return name, rows[name]


def _lookup(draw: random.Random, shown: Scene) -> Question:
    role = draw.choice(("category", "partner", "day", "quantity", "price"))
    rows = [row for row, record in enumerate(shown.records) if record[role] is not None]
    row = draw.choice(rows)
    record = shown.records[row]
    sql = f"select {_column(shown, role)} from {shown.theme.sheet} where " + _where(
        shown, "key", str(record["key"])
    )
    text = f"What is the {_title(shown, role)} of {record['key']} in {shown.theme.sheet}?"
    guess = shown.records[0][role]
    cells = shown.cells(role, [row])
    return _made("lookup", text, shown, [record[role]], cells, sql, guess)


def _count(draw: random.Random, shown: Scene) -> Question:
    name, rows = _filled(draw, shown, "quantity")
    bound = draw.randint(20, 300)
    hit = [row for row in rows if (_numbers(shown, "quantity", [row])[0] or [0])[0] > bound]
    sql = (
        f"select count(*) from {shown.theme.sheet} where {_where(shown, 'category', name)} "
        f"and {_column(shown, 'quantity')} > {bound}"
    )
    what = _title(shown, "quantity")
    text = f"How many {name} in {shown.theme.sheet} have a {what} above {bound}?"
    cells = shown.cells("quantity", hit)
    return _made("count", text, shown, [len(hit)], cells, sql, len(rows) + 1)


def _argmax(draw: random.Random, shown: Scene) -> Question:
    role = draw.choice(("quantity", "price"))
    name, rows = _filled(draw, shown, role)
    values, kept = _numbers(shown, role, rows)
    best = kept[values.index(max(values))]
    sql = (
        f"select {_column(shown, 'key')} from {shown.theme.sheet} "
        f"where {_where(shown, 'category', name)} order by {_column(shown, role)} desc limit 1"
    )
    what = f"{_title(shown, role)} among {name} in {shown.theme.sheet}"
    text = f"Which {_title(shown, 'key')} has the highest {what}?"
    gold = shown.records[best]["key"]
    cells = shown.cells(role, [best]) | shown.cells("key", [best])
    return _made("argmax", text, shown, [gold], cells, sql, shown.records[rows[0]]["key"])


def _total(draw: random.Random, shown: Scene) -> Question:
    return _aggregate(draw, shown, "sum", math.fsum, "sum({0})")


def _average(draw: random.Random, shown: Scene) -> Question:
    return _aggregate(draw, shown, "average", statistics.fmean, "avg({0})")


def _median(draw: random.Random, shown: Scene) -> Question:
    return _aggregate(draw, shown, "median", statistics.median, "")


def _aggregate(
    draw: random.Random,
    shown: Scene,
    kind: str,
    function: Callable[[Sequence[float]], float],
    said: str,
) -> Question:
    role = draw.choice(("quantity", "price"))
    name, rows = _filled(draw, shown, role)
    values, kept = _numbers(shown, role, rows)
    column, table = _column(shown, role), shown.theme.sheet
    tests = _where(shown, "category", name)
    if said:
        sql = f"select {said.format(column)} from {table} where {tests}"
    else:
        sql = (
            "select avg(v) from (select v, row_number() over (order by v) as r, count(*) over () "
            f"as n from (select {column} as v from {table} where {tests} "
            f"and {column} is not null)) where r in ((n + 1) / 2, (n + 2) / 2)"
        )
    text = f"What is the {kind} of {_title(shown, role)} over {name} in {table}?"
    cells = shown.cells(role, kept)
    return _made(kind, text, shown, [function(values)], cells, sql, values[0])


def _join(draw: random.Random, shown: Scene) -> Question:
    """The quantity that partners of a country had, which another sheet says."""
    homes = {str(p["partner"]): str(p["country"]) for p in shown.partners}
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(shown.records):
        if record["partner"] is not None and record["quantity"] is not None:
            rows.setdefault(homes[str(record["partner"])], []).append(row)
    country = draw.choice(sorted(rows))
    values, kept = _numbers(shown, "quantity", rows[country])
    sql = (
        f"select sum(a.{_column(shown, 'quantity')}) from {shown.theme.sheet} a "
        f"join {shown.theme.partners} b on a.{_column(shown, 'partner')} = "
        f"b.{_quoted(shown.theme.titles['partner'])} where b.Country = '{country}'"
    )
    who = f"{shown.theme.partners.lower()} from {country}"
    text = f"What is the total {_title(shown, 'quantity')} in {shown.theme.sheet} of {who}?"
    cells = shown.cells("quantity", kept)
    return _made("join", text, shown, [math.fsum(values)], cells, sql, values[0])


def _dates(draw: random.Random, shown: Scene) -> Question:
    """A sum between two days."""
    days = [day for record in shown.records if isinstance(day := record["day"], date)]
    rows: list[int] = []
    while not rows:
        first = min(days) + timedelta(days=draw.randrange(200))
        last = first + timedelta(days=draw.randint(60, 160))
        inside = [row for row, day in enumerate(days) if first <= day <= last]
        rows = _numbers(shown, "quantity", inside)[1]
    values, kept = _numbers(shown, "quantity", rows)
    sql = (
        f"select sum({_column(shown, 'quantity')}) from {shown.theme.sheet} "
        f"where {_column(shown, 'day')} between '{first}' and '{last}'"
    )
    what = f"{_title(shown, 'quantity')} in {shown.theme.sheet}"
    text = f"What is the total {what} from {first} to {last}?"
    cells = shown.cells("quantity", kept)
    return _made("dates", text, shown, [math.fsum(values)], cells, sql, values[0])


def _period(draw: random.Random, shown: Scene) -> Question:
    name, amounts, periods = _planned(draw, shown)
    first, last = sorted(draw.sample(range(len(periods)), 2))
    some = periods[first : last + 1]
    sql = f"select {' + '.join(map(_quoted, some))} from Plan where {_first(shown)} = '{name}'"
    text = f"What is the plan for {name} from {some[0]} to {some[-1]} in total?"
    cells = frozenset(shown.planned[name, period] for period in some)
    gold = sum(amounts[period] for period in some)
    return _made("period", text, shown, [gold], cells, sql, amounts[some[0]])


def _growth(draw: random.Random, shown: Scene) -> Question:
    name, amounts, periods = _planned(draw, shown)
    one, two = (periods[at] for at in sorted(draw.sample(range(len(periods)), 2)))
    sql = (
        f"select 100.0 * ({_quoted(two)} - {_quoted(one)}) / {_quoted(one)} from Plan "
        f"where {_first(shown)} = '{name}'"
    )
    text = f"By how many percent is the plan for {name} in {two} above that in {one}?"
    cells = frozenset((shown.planned[name, one], shown.planned[name, two]))
    gold = 100.0 * (amounts[two] - amounts[one]) / amounts[one]
    return _made("growth", text, shown, [gold], cells, sql, amounts[two] - amounts[one])


def _planned(draw: random.Random, shown: Scene) -> tuple[str, Mapping[str, int], list[str]]:
    name = draw.choice(sorted(shown.plan))
    return name, shown.plan[name], list(shown.plan[name])


def _first(shown: Scene) -> str:
    return _quoted(shown.theme.titles["category"])


def _unanswerable(draw: random.Random, shown: Scene) -> Question:
    """A record, a column or a period that there is not."""
    table = shown.theme.sheet
    which = draw.choice(("record", "column", "period"))
    if which == "record":
        known = {record["key"] for record in shown.records}
        keys = (f"{shown.theme.prefix}-{draw.randint(1000, 9999)}" for _ in range(1000))
        key = next(key for key in keys if key not in known)
        sql = f"select {_column(shown, 'price')} from {table} where {_where(shown, 'key', key)}"
        text = f"What is the {_title(shown, 'price')} of {key} in {table}?"
    elif which == "column":
        key = str(draw.choice(list(shown.records))["key"])
        what = draw.choice(("colour", "invoice number", "discount", "postcode"))
        sql, text = "", f"What is the {what} of {key} in {table}?"
    else:
        name, _, periods = _planned(draw, shown)
        year = draw.choice((2018, 2019, 2029, 2030))
        sql, text = "", f"What is the plan for {name} in {year} {periods[0].split()[1]}?"
    guess = next(p for r in shown.records if (p := r["price"]) is not None)
    return _made("unanswerable", text, shown, [], frozenset(), sql, guess)


QUESTIONS: Mapping[str, Callable[[random.Random, Scene], Question]] = {
    "lookup": _lookup,
    "count": _count,
    "argmax": _argmax,
    "sum": _total,
    "average": _average,
    "median": _median,
    "join": _join,
    "dates": _dates,
    "period": _period,
    "growth": _growth,
    "unanswerable": _unanswerable,
}
