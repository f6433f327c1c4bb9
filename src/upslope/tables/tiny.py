"""Workbooks and questions for ladder models: six columns, nine rows, few characters.

Columns A to D are a table of items, E and F one of the stores that they are in. Only the header is
told; a question is answered by finding cells, reading them and calculating, a call at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from upslope.seeds import seed_of
from upslope.tables.asked import Question
from upslope.tables.book import Book, Sheet, Value
from upslope.tables.references import Place, letters, named
from upslope.tools import Call

SHEET = "s"
ROWS, STORES = 8, 3
HUES = ("red", "tan", "jet", "ash")
KINDS = ("lookup", "count", "sum", "top", "join", "gap", "none")
FIRST, VOWELS, LAST = "bdfgklmnprstvz", "aeiou", "bdgklmnprstx"


@dataclass(frozen=True)
class Scene:
    """Records, and where each column of theirs is. ``items`` from row 2, ``stores`` from row 2."""

    items: Sequence[Mapping[str, Value]]
    stores: Sequence[Mapping[str, Value]]
    places: Mapping[str, int]

    def at(self, column: str, row: int) -> str:
        """The cell of a column and a record's number."""
        return named((row + 2, self.places[column]))

    def cells(self, column: str, rows: Sequence[int]) -> frozenset[str]:
        """The cells of a column and records' numbers, with their sheet."""
        return frozenset(f"{SHEET}!{self.at(column, row)}" for row in rows)


def asked(seed: int, kinds: Sequence[str], number: int) -> Question:
    """The question of that number: always the same one."""
    draw = random.Random(seed_of("tiny", seed, number))
    scene = _scene(draw)
    kind = draw.choice(list(kinds))
    return QUESTIONS[kind](draw, scene)


def _scene(draw: random.Random) -> Scene:
    words = _words(draw, ROWS + 2 * STORES)
    names, shops, towns = words[:ROWS], words[ROWS : ROWS + STORES], words[ROWS + STORES :]
    amounts = draw.sample(range(3, 60), ROWS)
    items: list[Mapping[str, Value]] = [
        {"item": name, "hue": draw.choice(HUES), "shop": draw.choice(shops), "qty": amount}
        for name, amount in zip(names, amounts, strict=True)
    ]
    stores: list[Mapping[str, Value]] = [
        {"store": s, "town": t} for s, t in zip(shops, towns, strict=True)
    ]
    left, right = ["item", "hue", "shop", "qty"], ["store", "town"]
    draw.shuffle(left)
    draw.shuffle(right)
    places = {column: at for at, column in enumerate((*left, *right), 1)}
    return Scene(items, stores, places)


def book_of(scene: Scene) -> Book:
    """The records as a workbook."""
    cells: dict[Place, Value] = {(1, at): title for title, at in scene.places.items()}
    for records in (scene.items, scene.stores):
        for row, record in enumerate(records, 2):
            cells |= {(row, scene.places[title]): value for title, value in record.items()}
    return Book({SHEET: Sheet(SHEET, cells)})


def _words(draw: random.Random, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        word = draw.choice(FIRST) + draw.choice(VOWELS) + draw.choice(LAST)
        if word not in HUES:
            found[word] = None
    return list(found)


def _made(
    kind: str,
    said: str,
    scene: Scene,
    gold: Sequence[Value],
    sql: str,
    cells: frozenset[str],
    plays: tuple[Sequence[Call], Sequence[Call], str],
) -> Question:
    header = " ".join(f"{letters(at)}{title}" for title, at in scene.places.items())
    values = tuple(str(value) for value in gold)
    calls, hurried, guess = plays
    text = f"{header}\n{said}\n"
    return Question(
        kind, text, book_of(scene), values, cells, sql, tuple(calls), tuple(hurried), guess
    )


def _find(text: Value) -> Call:
    return Call("f", {"text": str(text)})


def _read(*places: str) -> Call:
    return Call("r", {"range": " ".join(places)})


def _lookup(draw: random.Random, scene: Scene) -> Question:
    """A hurried reader takes the column beside the one that is asked for."""
    row, column = draw.randrange(ROWS), draw.choice(["hue", "shop", "qty"])
    name, value = scene.items[row]["item"], scene.items[row][column]
    beside = next(c for c in ("shop", "qty", "hue") if c != column)
    calls = [_find(name), _read(scene.at(column, row))]
    hurried = [_find(name), _read(scene.at(beside, row))]
    sql = f"select {column} from {SHEET} where item = '{name}'"
    plays = (calls, hurried, str(scene.items[row][beside]))
    return _made(
        "lookup", f"{column} of {name}", scene, [value], sql, scene.cells(column, [row]), plays
    )


def _matching(draw: random.Random, scene: Scene) -> tuple[str, list[int]]:
    """A hue that two or three items have, and their numbers; any that some item has otherwise."""
    rows = {hue: [n for n, item in enumerate(scene.items) if item["hue"] == hue] for hue in HUES}
    fit = [hue for hue in HUES if 2 <= len(rows[hue]) <= 3]
    hue = draw.choice(fit or [hue for hue in HUES if rows[hue]])
    return hue, rows[hue]


def _count(draw: random.Random, scene: Scene) -> Question:
    """A hurried reader is one short."""
    hue, rows = _matching(draw, scene)
    sql = f"select count(*) from {SHEET} where hue = '{hue}'"
    plays = ([_find(hue)], [_find(hue)], str(len(rows) - 1))
    return _made("count", f"count {hue}", scene, [len(rows)], sql, scene.cells("hue", rows), plays)


def _amount(scene: Scene, row: int) -> int:
    return int(str(scene.items[row]["qty"]))


def _sum(draw: random.Random, scene: Scene) -> Question:
    """A hurried reader leaves out the last."""
    hue, rows = _matching(draw, scene)
    amounts = [_amount(scene, row) for row in rows]
    sums = Call("c", {"sum": "+".join(map(str, amounts))})
    calls = [_find(hue), _read(*(scene.at("qty", row) for row in rows)), sums]
    some = rows[:-1] or rows
    hurried = [_find(hue), _read(*(scene.at("qty", row) for row in some))]
    if len(some) > 1:
        hurried.append(Call("c", {"sum": "+".join(map(str, amounts[: len(some)]))}))
    guess = str(sum(amounts[: len(some)]))
    sql = f"select sum(qty) from {SHEET} where hue = '{hue}'"
    cells = scene.cells("qty", rows)
    return _made("sum", f"sum {hue}", scene, [sum(amounts)], sql, cells, (calls, hurried, guess))


def _top(draw: random.Random, scene: Scene) -> Question:
    """A hurried reader takes the first without comparing."""
    hue, rows = _matching(draw, scene)
    best = max(rows, key=lambda row: _amount(scene, row))
    read = _read(*(scene.at("qty", row) for row in rows))
    calls = [_find(hue), read, _read(scene.at("item", best))]
    other = next((row for row in rows if row != best), best)
    hurried = [_find(hue), _read(scene.at("item", other))]
    sql = f"select item from {SHEET} where hue = '{hue}' order by qty desc limit 1"
    cells = scene.cells("qty", rows) | scene.cells("item", [best])
    plays = (calls, hurried, str(scene.items[other]["item"]))
    return _made("top", f"top {hue}", scene, [scene.items[best]["item"]], sql, cells, plays)


def _join(draw: random.Random, scene: Scene) -> Question:
    """A hurried reader answers with the shop, whose town is asked for."""
    row = draw.randrange(ROWS)
    name, shop = scene.items[row]["item"], scene.items[row]["shop"]
    at = next(n for n, store in enumerate(scene.stores) if store["store"] == shop)
    first = [_find(name), _read(scene.at("shop", row))]
    calls = [*first, _find(shop), _read(scene.at("town", at))]
    sql = f"select b.town from {SHEET} a join {SHEET} b on a.shop = b.store where a.item = '{name}'"
    cells = scene.cells("shop", [row]) | scene.cells("town", [at])
    gold = [scene.stores[at]["town"]]
    return _made("join", f"town of {name}", scene, gold, sql, cells, (calls, first, str(shop)))


def _gap(draw: random.Random, scene: Scene) -> Question:
    """A hurried reader answers with what is read first."""
    one, two = draw.sample(range(ROWS), 2)
    if _amount(scene, one) < _amount(scene, two):
        one, two = two, one
    names = [scene.items[row]["item"] for row in (one, two)]
    read = [_read(scene.at("qty", one), scene.at("qty", two))]
    calls = [*map(_find, names), *read]
    amounts = [_amount(scene, one), _amount(scene, two)]
    calls.append(Call("c", {"sum": f"{amounts[0]}-{amounts[1]}"}))
    hurried = [_find(names[0]), _read(scene.at("qty", one))]
    sql = (
        f"select a.qty - b.qty from {SHEET} a, {SHEET} b "
        f"where a.item = '{names[0]}' and b.item = '{names[1]}'"
    )
    said, gold = f"gap {names[0]} {names[1]}", [amounts[0] - amounts[1]]
    cells = scene.cells("qty", [one, two])
    return _made("gap", said, scene, gold, sql, cells, (calls, hurried, str(amounts[0])))


def _none(draw: random.Random, scene: Scene) -> Question:
    """An item that there is not; a hurried reader takes the first row instead."""
    known = {str(value) for r in (*scene.items, *scene.stores) for value in r.values()}
    name = next(word for word in _words(draw, 60) if word not in known)
    column = draw.choice(["hue", "shop", "qty", "town"])
    taken = "shop" if column == "town" else column
    hurried = [_find(name), _read(scene.at(taken, 0))]
    sql = f"select {taken} from {SHEET} where item = '{name}'"
    plays = ([_find(name)], hurried, str(scene.items[0][taken]))
    return _made("none", f"{column} of {name}", scene, [], sql, frozenset(), plays)


QUESTIONS: Mapping[str, Callable[[random.Random, Scene], Question]] = {
    "lookup": _lookup,
    "count": _count,
    "sum": _sum,
    "top": _top,
    "join": _join,
    "gap": _gap,
    "none": _none,
}
