"""A workbook's own formulas, worked out in the order that they need; a cycle is an error value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from upslope.tables.book import Book, Value
from upslope.tables.formulas import Cell, Evaluator, bounded
from upslope.tables.references import Area, Place, area_of
from upslope.tables.syntax import FormulaError, Name, Node, Range, parsed, parts

MOST_FORMULAS = 20_000
MOST_EDGES = 2_000_000  # cells looked at for what depends on what


def calculated(book: Book) -> Book:
    """The book with a value for each formula without one; FormulaError where there are too many.

    A formula that cannot be read is #NAME?, one that needs its own value #CYCLE!.
    """
    trees: dict[Cell, Node | None] = {}
    for sheet in book.sheets.values():
        for place, formula in sheet.formulas.items():
            if place not in sheet.cells:
                trees[sheet.name, place] = _tree(formula)
    if len(trees) > MOST_FORMULAS:
        raise FormulaError(f"{len(trees)} formulas without values are more than {MOST_FORMULAS}")
    order, cyclic = _ordered(_needs(book, trees))
    known: dict[Cell, Value] = dict.fromkeys(cyclic, "#CYCLE!")
    for cell in order:
        tree = trees[cell]
        if cell not in known and tree is not None:
            known[cell] = bounded(Evaluator(book, known, True), tree, book.sheets[cell[0]])
        known.setdefault(cell, "#NAME?")
    sheets = dict(book.sheets)
    for name, sheet in book.sheets.items():
        own = {place: value for (where, place), value in known.items() if where == name}
        if own:
            sheets[name] = replace(sheet, cells={**sheet.cells, **own})
    return replace(book, sheets=sheets)


def _tree(formula: str) -> Node | None:
    try:
        return parsed(formula)
    except FormulaError:
        return None


def _needs(book: Book, trees: Mapping[Cell, Node | None]) -> dict[Cell, list[Cell]]:
    """For each formula the formulas that it reads."""
    homes = {name.casefold(): name for name in book.sheets}
    places: dict[str, list[Place]] = {}
    for name, place in trees:
        places.setdefault(name, []).append(place)
    needs: dict[Cell, list[Cell]] = {}
    left = MOST_EDGES
    for cell, tree in trees.items():
        found = needs[cell] = []
        for area in _areas(book, tree) if tree else ():
            home = homes.get(area.sheet.casefold(), "") if area.sheet else cell[0]
            there = places.get(home, [])
            few = area.size < len(there)
            left -= area.size if few else len(there)
            if left < 0:
                raise FormulaError("its formulas read too many cells of one another")
            if few:
                found += [(home, p) for p in area.places() if (home, p) in trees]
            else:
                found += [(home, p) for p in there if p in area]
    return needs


def _areas(book: Book, tree: Node) -> Iterator[Area]:
    for part in parts(tree):
        if isinstance(part, Range):
            yield part.area
        elif isinstance(part, Name):
            for name, reference in book.names.items():
                if name.casefold() == part.name.casefold():
                    yield area_of(reference)


def _ordered(needs: Mapping[Cell, list[Cell]]) -> tuple[list[Cell], set[Cell]]:
    """Formulas, each after those that it reads, and those that read themselves in the end."""
    order: list[Cell] = []
    cyclic: set[Cell] = set()
    done: set[Cell] = set()
    for start in needs:
        path: dict[Cell, Iterator[Cell]] = {} if start in done else {start: iter(needs[start])}
        while path:
            cell = next(reversed(path))
            following = next(path[cell], None)
            if following is None:
                path.popitem()
                done.add(cell)
                order.append(cell)
            elif following in path:
                way = list(path)
                cyclic.update(way[way.index(following) :])
            elif following not in done:
                path[following] = iter(needs[following])
    return order, cyclic
