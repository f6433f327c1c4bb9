"""What ``upslope algorithms`` says: each with its paper, its needs and its presets."""

from __future__ import annotations

import re

from upslope import presets
from upslope.algorithms import ALGORITHMS
from upslope.listing import algorithms


def test_each_algorithm_is_listed_with_paper_needs_and_presets() -> None:
    said = "\n" + "\n".join(algorithms())
    parts = dict(re.findall(r"^(\w+) +(\S.*(?:\n .*)*)", said, re.M))
    assert [*parts] == [*ALGORITHMS]
    users: list[str] = []
    for name, text in parts.items():
        assert re.search(r"arXiv:\d{4}\.\d{5}|\d{4}\)?\.", text) or name == "sft", name
        assert len(re.findall(r"^ +needs: \S", text, re.M)) == 1
        (found,) = re.findall(r"^ +presets: (.*)", text, re.M)
        users += [] if found == "none" else found.split(", ")
    assert sorted(users) == presets.names()
    assert "needs: groups of 2 or more\n" in parts["grpo"]
    assert "presets: dapo, grpo, magistral\n" in parts["grpo"]
    assert "needs: a greedy reply to each problem\n" in parts["remax"]
    assert "needs: nothing more\n" in parts["reinforce_pp"]
    assert "needs: a critic's values\n" in parts["ppo"]
    inside = "whatever the algorithm inside needs\n"
    assert f"needs: its setting costs, {inside}" in parts["constrained"]
    assert f"needs: its setting teacher, {inside}" in parts["distill"]
    assert f"needs: {inside}" in parts["turns"]
