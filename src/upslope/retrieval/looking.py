"""The tools that look into a corpus, and a play that remembers what they showed.

``search`` lists the best passages for a query, each with an excerpt; ``open`` reads one. What is
graded later is the trail: which ids were listed and which were opened, in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upslope.retrieval.index import Searches, words_of
from upslope.retrieval.passages import Passage
from upslope.tools import ToolError
from upslope.types import Episode, Message, Reply

PAGE = 1500  # characters of a passage that are read at once
QUERY: Mapping[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "words to look for"}},
    "required": ["query"],
    "additionalProperties": False,
}
NAMED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": ["string", "integer"], "description": "as search lists it"},
        "page": {"type": "integer", "minimum": 1, "description": "from 1, which is usual"},
    },
    "required": ["id"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Trail:
    """Ids in the order in which a play first saw them."""

    listed: dict[str, None] = field(default_factory=dict)
    opened: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """The best ``results`` passages, a line each; ``excerpt``: its characters, 0 for none."""

    index: Searches
    trail: Trail
    results: int
    excerpt: int

    name = "search"
    description = "Lists the passages that have the most of the query's words: id, title, excerpt."
    parameters = QUERY

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """A line for each passage found, best first."""
        query = str(arguments["query"])
        if not words_of(query):
            raise ToolError("the query has no word to look for")
        found = self.index.search(query, self.results)
        self.trail.listed.update(dict.fromkeys(passage.id for passage in found))
        lines = [_line(passage, query, self.excerpt) for passage in found]
        return "\n".join(lines) or "nothing found"


@dataclass(frozen=True)
class Open:
    """A passage by its id, ``PAGE`` characters at a time."""

    index: Searches
    trail: Trail

    name = "open"
    description = "Reads the passage of an id; long ones have several pages."
    parameters = NAMED

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """The title and a page of the text; ToolError where there is no such passage or page."""
        name, page = str(arguments["id"]).strip(), int(arguments.get("page", 1))
        passage = self.index.read(name)
        if passage is None:
            raise ToolError(f"there is no passage {name[:40]!r}")
        pages = max(1, -(-len(passage.text) // PAGE))
        if not 1 <= page <= pages:
            raise ToolError(f"the passage has {pages} page{'s' if pages > 1 else ''}")
        self.trail.opened[passage.id] = None
        text = passage.text[PAGE * (page - 1) : PAGE * page]
        head = f"{passage.title}: " if passage.title else ""
        tail = f"\n(page {page} of {pages})" if pages > 1 else ""
        return f"{head}{text}{tail}"


@dataclass(frozen=True)
class Looking:
    """A play whose facts have the trail, too: ``listed`` and ``opened``."""

    play: Episode
    trail: Trail

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        """As the play replies."""
        return await self.play.reply(messages)

    async def facts(self) -> Mapping[str, Any]:
        """The play's, and which ids it saw."""
        own = await self.play.facts()
        return {**own, "listed": [*self.trail.listed], "opened": [*self.trail.opened]}


class Nowhere:
    """An index of nothing: for prompts, which name the tools and make no call."""

    def search(self, query: str, k: int) -> Sequence[Passage]:
        """Nothing."""
        return []

    def read(self, name: str) -> Passage | None:
        """Nothing."""
        return None


def tools(index: Searches, trail: Trail, results: int, excerpt: int) -> list[Search | Open]:
    """Both tools over one index, leaving one trail."""
    return [Search(index, trail, results, excerpt), Open(index, trail)]


OFFERED = tools(Nowhere(), Trail(), 0, 0)


def _line(passage: Passage, query: str, characters: int) -> str:
    head = f"{passage.id} {passage.title}".strip()
    return f"{head}: {excerpt(passage.text, query, characters)}" if characters else head


def excerpt(text: str, query: str, characters: int) -> str:
    """So many characters of one line, from a little before the query's first word in the text."""
    line = " ".join(text.split())
    pattern = "|".join(rf"\b{re.escape(word)}" for word in words_of(query))
    match = re.search(pattern, line, re.IGNORECASE) if pattern else None
    first = max(0, match.start() - characters // 4) if match else 0
    first = max(0, min(first, len(line) - characters))
    if first:
        first = line.find(" ", first) + 1
    cut = line[first : first + characters].rstrip()
    return f"{'...' if first else ''}{cut}{'...' if first + characters < len(line) else ''}"
