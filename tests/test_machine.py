"""What this machine is made to do for a run."""

from __future__ import annotations

import gc

import pytest

from upslope import machine


def test_the_collector_leaves_alone_what_was_there_until_the_end() -> None:
    held = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    with pytest.raises(KeyError), machine.settled():
        assert gc.get_freeze_count() >= before + len(held)
        assert not any(one is held for one in gc.get_objects())
        later: list[object] = []
        later.append(later)
        assert any(one is later for one in gc.get_objects())
        raise KeyError
    assert gc.get_freeze_count() == 0
    assert any(one is held for one in gc.get_objects())
