"""What this machine is made to do for a run."""

from __future__ import annotations

import gc

import pytest

from upslope import machine


def test_the_collector_leaves_alone_what_was_there_until_the_end() -> None:
    held: list[list[int]] = [[] for _ in range(1000)]
    with machine.settled():
        assert gc.get_freeze_count() >= len(held)
        assert not any(one is held for one in gc.get_objects())
        later: list[list[int]] = [[] for _ in range(10)]
        assert any(one is later for one in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(one is held for one in gc.get_objects())


def test_it_looks_at_all_again_also_after_an_error() -> None:
    with pytest.raises(KeyError), machine.settled():
        raise KeyError
    assert gc.get_freeze_count() == 0
