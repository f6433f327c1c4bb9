"""Read-only SQL: what is answered, and that nothing else is, in bounded time."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import pytest

from upslope.tables.book import Book, Sheet
from upslope.tables.columns import table_of
from upslope.tables.references import Area
from upslope.tables.sql import Database, QueryError

SALES = Sheet(
    "Sales 24",
    {
        (1, 1): "Sales of the year",
        (3, 1): "What",
        (3, 3): "How much",
        (4, 1): "item",
        (4, 2): "when",
        (4, 3): "qty",
        (4, 4): "qty",
        (5, 1): "nut",
        (5, 2): date(2024, 3, 1),
        (5, 3): 3,
        (5, 4): 1.5,
        (7, 1): "cap",
        (7, 3): True,
    },
    merged=(Area("", 1, 1, 1, 4), Area("", 3, 1, 3, 2), Area("", 3, 3, 3, 4)),
)
HIDDEN = Sheet("Draft", {(1, 1): "x", (2, 1): 1}, hidden=True)
BOOK = Book({"Sales 24": SALES, "Draft": HIDDEN, "Blank": Sheet("Blank", {})})


def asked(query: str, seconds: float = 5.0) -> list[tuple[object, ...]]:
    return list(Database(BOOK, seconds).query(query)[1])


def test_a_header_of_two_rows_under_a_heading_names_the_columns() -> None:
    table = table_of(SALES)
    assert table.titles == ("What item", "What when", "How much qty", "How much qty_2")
    assert (table.header, table.first, table.last) == (3, 5, 7)
    assert [number for number, _ in table.rows()] == [5, 7]
    assert [table.column(n) for n in ("what ITEM", "c", "How much qty_2", "z")] == [1, 3, 4, 0]


def test_rows_have_their_numbers_and_dates_are_texts() -> None:
    assert asked('select * from "sales 24"') == [
        (5, "nut", "2024-03-01", 3, 1.5),
        (7, "cap", None, 1, None),
    ]
    assert asked('select sum("How much qty") from "Sales 24" where row > 5') == [(1,)]


@pytest.mark.parametrize(
    "query",
    [
        "select * from Draft",
        "select * from Blank",
        "select * from sqlite_master",
        "select sql from sqlite_schema",
        "select * from pragma_table_info('Sales 24')",
        "pragma database_list",
        "attach '/tmp/x.db' as y",
        "vacuum into '/tmp/x.db'",
        "create table t(a)",
        "create temp table t(a)",
        'delete from "Sales 24"',
        'update "Sales 24" set row = 1',
        'insert into "Sales 24" values (1)',
        'drop table "Sales 24"',
        "select load_extension('x')",
        "select writefile('/tmp/x', 'y')",
        "select readfile('/etc/passwd')",
        "select zeroblob(1000000000)",
        "select random()",
        "select 1; select 2",
        "begin",
        "",
        "   -- nothing",
        "select",
        "select '" + "x" * 5000 + "'",
        "select \0 1",
    ],
)
def test_nothing_but_reading_the_sheets_is_answered(query: str) -> None:
    with pytest.raises(QueryError):
        asked(query)
    assert not Path("/tmp/x.db").exists()


@pytest.mark.parametrize(
    "query",
    [
        "with recursive t(a) as (select 1 union all select a + 1 from t) select count(*) from t",
        "with recursive t(a) as (select 1 union all select a from t) select a from t order by a",
        "select hex(replace(printf('%.90000c', 'a'), 'a', 'bb'))",
    ],
)
def test_a_query_ends_in_time_or_memory(query: str) -> None:
    started = time.process_time()
    with pytest.raises(QueryError):
        asked(query, seconds=0.05)
    assert time.process_time() - started < 1


def test_a_hundred_rows_at_most() -> None:
    query = "with recursive t(a) as (select 1 union all select a + 1 from t limit 150) "
    _, rows, more = Database(BOOK, 5.0).query(query + "select a from t")
    assert (len(rows), rows[-1], more) == (100, (100,), True)
    _, rows, more = Database(BOOK, 5.0).query(query + "select a from t limit 100")
    assert (len(rows), more) == (100, False)


def test_a_refused_query_leaves_the_next_one_answered() -> None:
    database = Database(BOOK, 5.0)
    with pytest.raises(QueryError):
        database.query("drop table x")
    assert database.query("select 1 + 1")[1] == [(2,)]
    database.close()
