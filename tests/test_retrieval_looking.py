"""The tools that look into a corpus: what they show, what they refuse, and their trail."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from upslope.retrieval.index import in_memory
from upslope.retrieval.looking import PAGE, Looking, Open, Search, Trail, excerpt, tools
from upslope.retrieval.passages import Passage
from upslope.tools import ToolError

HELD = in_memory(
    [
        Passage("a", "Fox", "The fox is red and lives in a den."),
        Passage("b", "", "A dog. " * 300),
        Passage("c", "Den", "Where a fox\nlives."),
        Passage("d", "", "other"),
        Passage("e", "", "more"),
        Passage("5", "", "seen as a number"),
    ]
)


def looked(trail: Trail, name: str, **arguments: object) -> str:
    search, reader = tools(HELD, trail, results=2, excerpt=12)
    tool = {"search": search, "open": reader}[name]
    return asyncio.run(tool.call(arguments))


def test_search_lists_and_open_reads() -> None:
    trail = Trail()
    assert (
        looked(trail, "search", query="fox") == "a Fox: ...fox is red a...\nc Den: ...a fox lives."
    )
    assert looked(trail, "search", query="where?") == "c Den: Where a fox..."
    assert looked(trail, "open", id=" c ") == "Den: Where a fox\nlives."
    assert looked(trail, "search", query="zebra") == "nothing found"
    assert looked(trail, "open", id=5) == "seen as a number"
    assert [*trail.listed] == ["a", "c"]
    assert [*trail.opened] == ["c", "5"]


def test_long_passages_have_pages() -> None:
    text, trail = "A dog. " * 300, Trail()
    assert looked(trail, "open", id="b") == f"{text[:PAGE]}\n(page 1 of 2)"
    assert looked(trail, "open", id="b", page=2) == f"{text[PAGE:]}\n(page 2 of 2)"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("search", {"query": "?!"}, "the query has no word to look for"),
        ("open", {"id": "gone"}, "there is no passage 'gone'"),
        ("open", {"id": "\ud800"}, "there is no passage"),
        ("open", {"id": "a", "page": 2}, "the passage has 1 page"),
        ("open", {"id": "b", "page": 0}, "the passage has 2 pages"),
    ],
)
def test_what_cannot_be_done_is_told(name: str, arguments: Mapping[str, Any], said: str) -> None:
    trail = Trail()
    with pytest.raises(ToolError, match=said):
        looked(trail, name, **arguments)
    assert (trail.listed, trail.opened) == ({}, {})


@pytest.mark.parametrize(
    ("text", "query", "cut"),
    [
        ("one two three four five six", "five", "...four five six"),
        ("one two three four five six", "none", "one two three fo..."),
        ("one two", "two", "one two"),
        ("one two three four five six", "THREE", "...three four five..."),
        ("x" * 40, "y", "x" * 16 + "..."),
        ("", "y", ""),
    ],
)
def test_an_excerpt_shows_where_the_query_is(text: str, query: str, cut: str) -> None:
    assert excerpt(text, query, 16) == cut


def test_the_facts_of_a_play_have_the_trail() -> None:
    class Talk:
        async def reply(self, messages: object) -> None:
            return None

        async def facts(self) -> Mapping[str, Any]:
            return {"final": "x", "turns": 2}

    play = Looking(Talk(), Trail({"a": None, "b": None}, {"b": None}))
    wanted = {"final": "x", "turns": 2, "listed": ["a", "b"], "opened": ["b"]}
    assert asyncio.run(play.facts()) == wanted
    assert asyncio.run(play.reply(())) is None


def test_tools_say_what_they_take() -> None:
    for tool in (Search(HELD, Trail(), 2, 0), Open(HELD, Trail())):
        schema = tool.parameters
        assert schema["type"] == "object"
        assert {*schema["required"]} <= {*schema["properties"]}
        assert tool.description.endswith(".")
