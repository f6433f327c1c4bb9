"""Questions over workbooks of one's own, WikiTableQuestions and TabFact, in miniature."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from upslope.batteries import check_env
from upslope.batteries.env import played
from upslope.envs.workbooks import Workbooks
from upslope.types import Problem, Reward, UserError

TABLE = '"Year","City","Games"\n"1990","Ro\\"me","7,169"\n"1994","Oslo (N)","12"\n'
EXAMPLE = (
    '(example (id nt-{n}) (utterance "which {n} \\"city\\"?") (context (graph '
    "tables.TableKnowledgeGraph csv/{t}.csv)) (targetValue (list {values})))\n"
)


def wiki(folder: Path, tables: int = 40) -> Path:
    """A data set in WikiTableQuestions' form: a question for each of several tables."""
    lines = []
    for n in range(tables):
        values = ['(description "Oslo")', '(description "7,169")'][: 1 + n % 2]
        lines.append(EXAMPLE.format(n=n, t=f"2-csv/{n}", values=" ".join(values)))
    (folder / "training.examples").write_text("".join(lines))
    (folder / "csv" / "2-csv").mkdir(parents=True)
    for n in range(tables):
        (folder / "csv" / "2-csv" / f"{n}.csv").write_text(TABLE)
    return folder


def every(env: Workbooks) -> list[Problem]:
    return [p for split in ("train", "validation", "test") for p in env.problems(split)]


def graded(env: Workbooks, problem: Problem, *answers: str) -> list[Reward]:
    async def all_of() -> list[Reward]:
        plays = [await played(env, problem, [f"Final: {a}"], n) for n, a in enumerate(answers)]
        return list(await env.rewards(problem, plays))

    return asyncio.run(all_of())


def test_wikitablequestions(tmp_path: Path) -> None:
    env = Workbooks(str(wiki(tmp_path)), "wikitables")
    problems = every(env)
    assert len(problems) == 40
    first = next(p for p in problems if p.id == "nt-1")
    assert first.info["gold"] == ("Oslo", "7,169")
    assert first.messages[0]["content"].startswith('which 1 "city"?\n\nThe workbook:\n1: 3 rows')
    right, swapped, less, other = graded(
        env, first, "oslo | 7169", "7,169 | Oslo (N)", "Oslo", "Oslo | 7170"
    )
    assert [r.correct for r in (right, swapped, less, other)] == [1, 1, 0, 0]


def test_tables_may_lie_in_their_archive(tmp_path: Path) -> None:
    folder = wiki(tmp_path)
    before = every(Workbooks(str(folder), "wikitables"))
    with tarfile.open(tmp_path / "csv.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "csv", "csv")
    (tmp_path / "csv").rename(tmp_path / "elsewhere")
    (tmp_path / "again").symlink_to(tmp_path)
    assert every(Workbooks(str(tmp_path / "again"), "wikitables")) == before


def test_tabfact(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    held = {}
    for n in range(60):
        (tmp_path / "csv" / f"{n}.html.csv").write_text('team#won\na "b#3\n')
        held[f"{n}.html.csv"] = [["a win 3", "a win 4"], [1, 0], "title"]
    (tmp_path / "test_examples.json").write_text(json.dumps(held))
    env = Workbooks(str(tmp_path), "tabfact")
    problems = {p.id: p for p in every(env)}
    assert len(problems) == 120
    yes, no = problems["7.html.csv-0"], problems["7.html.csv-1"]
    assert [r.correct for r in graded(env, yes, "true", "TRUE", "false", "yes")] == [1, 1, 0, 0]
    assert [r.correct for r in graded(env, no, "true", "false")] == [0, 1]
    assert check_env(env, problems=1)


def own(folder: Path, *changes: Mapping[str, Any]) -> Path:
    """A file of questions over a CSV file, the first of them changed."""
    (folder / "stock.csv").write_text("item,qty\nnut,3\nbolt,4\n")
    rows = [
        {"id": f"q{n}", "question": f"How many of item {n}?", "answer": n, "workbook": "stock.csv",
         "cells": "stock!B2"}
        for n in range(40)
    ]  # fmt: skip
    for row, change in zip(rows, changes, strict=False):
        row |= change
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_your_own(tmp_path: Path) -> None:
    path = own(tmp_path, {"answer": None, "cells": ""}, {"answer": ["nut", 4.5]})
    env = Workbooks(str(path), region=0.2)
    problems = {p.id: p for p in every(env)}
    assert [r.correct for r in graded(env, problems["q0"], "unknown", "3")] == [1, 0]
    assert [r.correct for r in graded(env, problems["q1"], "4.5 | nut", "nut")] == [1, 0]
    named, unnamed = graded(env, problems["q3"], "3 @ stock!B2", "3.001")
    assert (named.total, unnamed.total) == (pytest.approx(1.19), pytest.approx(0.99))
    assert graded(env, problems["q3"], "3.01")[0].correct == 0
    assert check_env(env, problems=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workbook": "gone.xlsx"}, "gone.xlsx cannot be read"),
        ({"workbook": "bad.csv"}, "bad.csv, line 1: .*quotation marks"),
        ({"workbook": "locked.xlsx"}, "locked.xlsx is encrypted"),
        ({"workbook": "macro.xlsm"}, "macro.xlsm may hold macros"),
        ({"answer": {"a": 1}}, '"answer" must be'),
        ({"answer": ""}, "says nothing"),
        ({"question": ""}, '"question"'),
        ({"cells": "B2:"}, "cells: .* is no range"),
        ({"cells": "Other!B2"}, "are on no sheet"),
        ({"id": "q1"}, "the id 'q1' twice"),
    ],
)
def test_what_a_recipe_names_is_read_before_the_run(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text('"a,b\n')
    (tmp_path / "locked.xlsx").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + b"x" * 100)
    (tmp_path / "macro.xlsm").write_bytes(b"")
    with pytest.raises(UserError, match=said):
        Workbooks(str(own(tmp_path, change))).problems("train")


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Workbooks(str(tmp_path / "nowhere"))
    folder = wiki(tmp_path)
    (folder / "csv" / "2-csv" / "3.csv").unlink()
    with pytest.raises(UserError, match=r"no table '2-csv/3\.csv'"):
        Workbooks(str(folder), "wikitables").problems("train")
    (folder / "training.examples").write_text("(example nothing)\n")
    with pytest.raises(UserError, match="line 1 is no example"):
        Workbooks(f"{folder}/", "wikitables").problems("train")
    with pytest.raises(UserError, match=r"_examples\.json"):
        Workbooks(str(folder), "tabfact").problems("train")
    (folder / "test_examples.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="has not the form"):
        Workbooks(f"{folder}//", "tabfact").problems("train")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    folder = wiki(tmp_path)
    (folder / "csv").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="neither a folder csv nor an archive"):
        Workbooks(str(folder), "wikitables").problems("train")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:xz") as archive:
        archive.add(folder / "elsewhere", "csv")
    (folder / "csv.tar.xz").write_bytes(raw.getvalue()[:400])
    with pytest.raises(UserError, match="is damaged"):
        Workbooks(f"{folder}/", "wikitables").problems("train")


@pytest.mark.parametrize("settings", [{"turn": 0.5}, {"region": -1.0}, {"passing": 0.5}])
def test_settings_that_cannot_be_meant_are_refused(
    settings: dict[str, float], tmp_path: Path
) -> None:
    with pytest.raises(UserError):
        Workbooks(str(own(tmp_path)), **settings)  # type: ignore[arg-type]
