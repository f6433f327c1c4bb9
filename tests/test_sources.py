"""Sources: every problem once an epoch, exact staleness, nothing used twice, clear refusals."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from plays import Dialogue, Echo, asked, chatml
from upslope.curriculum import Curriculum, Heat
from upslope.demonstrations import Demonstration, read_demonstrations
from upslope.rollout import Player
from upslope.sources import Recorded, Rollouts
from upslope.types import Completion, Group, Problem, Sampling, UserError

PROBLEMS = [asked(name) for name in "abcdefg"]


def everything(group: Group) -> bool:
    return True


def rollouts(
    max_staleness: int = 0, seed: int = 0, tries: int = 4, env: Dialogue | None = None
) -> tuple[Rollouts, Echo]:
    chat = chatml()
    engine = Echo(chat)
    who = Player(engine, env or Dialogue(), chat, 8, 1.0)
    picks = Curriculum(PROBLEMS, seed)
    source = Rollouts(who, picks, size=2, seed=seed, max_staleness=max_staleness, tries=tries)
    return source, engine


async def update() -> None:
    """What a step does after its rollouts: others get their turn."""
    for _ in range(20):
        await asyncio.sleep(0)


def visited(groups: Sequence[Group]) -> list[tuple[str, int]]:
    return [(g.problem.id, g.trajectories[0].visit) for g in groups]


def test_the_temperature_goes_its_way_over_steps_and_on_from_there() -> None:
    async def temperatures(source: Rollouts, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            (one,) = await source.groups(1, 0, everything)
            found.append(one.trajectories[0].turns[0].temperature)
        return found

    def fresh() -> Rollouts:
        source, _ = rollouts()
        source.heat = Heat(0.5, 4)
        return source

    source, later = fresh(), fresh()
    assert asyncio.run(temperatures(source, 3)) == [1.0, 0.875, 0.75]
    later.load_state(json.loads(json.dumps(source.state())))
    assert asyncio.run(temperatures(later, 3)) == [0.625, 0.5, 0.5]


def played(steps: int, n: int = 7, seed: int = 0) -> list[tuple[str, int]]:
    """What a synchronous run plays."""
    source, engine = rollouts(seed=seed)

    async def play() -> list[tuple[str, int]]:
        found = []
        for engine.version in range(steps):
            found += visited(await source.groups(n, engine.version, everything))
        return found

    return asyncio.run(play())


def test_an_epoch_has_every_problem_once_in_an_order_of_its_own() -> None:
    found = played(3)
    epochs = [[name for name, visit in found if visit == epoch] for epoch in range(3)]
    assert [sorted(names) for names in epochs] == [list("abcdefg")] * 3
    assert len({tuple(names) for names in epochs}) == 3
    assert found == played(7, n=3)  # steps of another size
    assert found != played(3, seed=1)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_groups_are_exactly_as_stale_as_allowed(k: int) -> None:
    source, engine = rollouts(max_staleness=k)

    async def run() -> list[tuple[int, ...]]:
        seen = []
        for step in range(7):
            engine.version = step
            groups = await source.groups(2, step, everything)
            seen.append(tuple(step - group.version for group in groups))
            assert len(source.underway) == 2 * k
            await update()
        await source.close()
        return seen

    assert asyncio.run(run()) == [(min(step, k),) * 2 for step in range(7)]
    assert (source.dropped, source.refused) == (0, 0)


def test_a_group_beyond_the_bound_is_dropped_and_counted() -> None:
    source, engine = rollouts(max_staleness=1)

    async def run() -> list[int]:
        await source.groups(2, 0, everything)
        engine.version = 2  # what is underway was sampled two versions ago
        groups = await source.groups(2, 2, everything)
        await source.close()
        return [group.version for group in groups]

    assert asyncio.run(run()) == [2, 2]
    assert source.dropped == 2


def test_a_refused_group_is_counted_and_replaced() -> None:
    source, _ = rollouts()

    def vowels(group: Group) -> bool:
        return group.problem.id in "ae"

    found = visited(asyncio.run(source.groups(2, 0, vowels)))
    assert sorted(name for name, _ in found) == ["a", "e"]
    assert source.refused == source.curriculum.places[""] - 2 > 0


def test_every_finished_group_is_charged_also_a_refused_one() -> None:
    charged: list[Group] = []
    chat = chatml()
    who = Player(Echo(chat), Dialogue(), chat, 8, 1.0)
    source = Rollouts(who, Curriculum(PROBLEMS, 0), size=2, seed=0, finished=charged.append)
    asyncio.run(source.groups(2, 0, lambda group: group.problem.id in "ae"))
    assert len(charged) == source.refused + 2


def test_tries_are_bounded() -> None:
    source, _ = rollouts(tries=3)

    async def run() -> list[list[str]]:
        found = []
        for wanted in ("none", "a"):
            groups = await source.groups(2, 0, lambda group: group.problem.id == wanted)  # noqa: B023
            found.append([group.problem.id for group in groups])
        await source.close()
        return found

    assert asyncio.run(run()) == [[], ["a"]]  # a smaller batch, rather than none
    assert source.refused == 6 + 5


def test_what_was_underway_is_played_again_with_the_same_seeds() -> None:
    source, engine = rollouts(max_staleness=1)

    async def begin() -> tuple[str, list[tuple[str, int]]]:
        first = []
        for engine.version in range(2):
            first += visited(await source.groups(3, engine.version, everything))
            await update()
        state = json.dumps(dict(source.state()))
        await source.close()
        return state, first

    async def go_on(state: str) -> list[tuple[str, int]]:
        resumed.version = 2
        other.load_state(json.loads(state))
        groups = await other.groups(3, 2, everything)
        await other.close()
        return visited(groups)

    state, first = asyncio.run(begin())
    other, resumed = rollouts(max_staleness=1)
    again = asyncio.run(go_on(state))
    assert len(json.loads(state)["again"]) == 3
    assert first + again == played(3, n=3)
    # the last three groups of two plays that the first engine saw are the first the second sees
    assert resumed.seen[:6] == engine.seen[12:18]
    assert Counter(first + again).most_common(1)[0][1] == 1


def test_close_ends_what_is_underway_and_closes_its_episodes() -> None:
    class Silent(Echo):
        async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
            if len(self.seen) >= 4:
                await asyncio.Event().wait()
            return await super().sample(tokens, sampling)

    env, chat = Dialogue(), chatml()
    source = Rollouts(
        Player(Silent(chat), env, chat, 8, 1.0),
        Curriculum(PROBLEMS, 0),
        size=2,
        seed=0,
        max_staleness=1,
    )

    async def run() -> None:
        await source.groups(2, 0, everything)
        await update()
        assert env.open == 4
        await source.close()
        assert env.open == 0

    asyncio.run(run())
    assert env.opened == 8


SHOWN = [Demonstration(Problem(n, prompt=f"{n}+{n}="), f"2{n}", i) for i, n in enumerate("abc")]


def test_recorded_replies_are_trained_and_their_prompts_are_not() -> None:
    chat = chatml()
    groups = asyncio.run(Recorded(SHOWN, chat, 0).groups(3, 5, everything))
    for group in groups:
        (trajectory,) = group.trajectories
        (segment,) = trajectory.segments
        prompt = chat.encode(chat.messages(group.problem))
        reply = chat.reply(f"2{group.problem.id}", ())
        assert segment.tokens.tolist() == prompt + reply
        assert segment.trained.tolist() == [False] * len(prompt) + [True] * len(reply)
        assert np.isnan(segment.engine_logprobs).tolist() == segment.trained.tolist()
        assert set(segment.versions[segment.trained]) == {5}
        assert trajectory.text == f"2{group.problem.id}"
    assert sorted((g.problem.id, g.rewards[0].total) for g in groups) == [
        ("a", 0.0),
        ("b", 1.0),
        ("c", 2.0),
    ]


def test_recorded_epochs_and_state() -> None:
    source = Recorded(SHOWN, chatml(), 0)
    found = [visited(asyncio.run(source.groups(2, 0, everything))) for _ in range(3)]
    flat = [pair for pairs in found for pair in pairs]
    assert sorted(flat) == [(name, visit) for name in "abc" for visit in (0, 1)]
    later = Recorded(SHOWN, chatml(), 0)
    later.load_state({**source.state(), "taken": 4})
    assert visited(asyncio.run(later.groups(2, 0, everything))) == found[2]
    assert later.state() == source.state()
    assert later.state()["taken"] == 6
    with pytest.raises(UserError, match="replies are not those that the run was begun with"):
        Recorded(SHOWN[1:], chatml(), 0).load_state(source.state())


def test_recorded_refusals() -> None:
    with pytest.raises(UserError, match="the recorded source is empty"):
        Recorded([], chatml(), 0)
    with pytest.raises(UserError, match="only 0 of 2 recorded groups were accepted"):
        asyncio.run(Recorded(SHOWN, chatml(), 0).groups(2, 0, lambda group: False))


def test_demonstrations_are_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "shown.jsonl"
    rows = [
        '{"prompt": "1+1=", "reply": "2\u2028", "reward": 0.5, "stop": ["\\n"], "id": "one"}',
        "",
        '{"messages": [{"role": "user", "content": "hi"}], "reply": "yes"}',
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    first, second = read_demonstrations(path)
    assert (first.problem.id, first.reply, first.reward) == ("one", "2\u2028", 0.5)
    assert first.problem.stop == ("\n",)
    assert (second.problem.id, second.reward) == ("2", 1.0)
    assert second.problem.messages == ({"role": "user", "content": "hi"},)


GOOD = '{"prompt": "1+1=", "reply": "2"}'


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json}", "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"prompt": "p"}', '"reply" must be a non-empty string'),
        ('{"prompt": "p", "reply": ""}', '"reply" must be a non-empty string'),
        ('{"prompt": "p", "reply": 4}', '"reply" must be a non-empty string'),
        ('{"prompt": "p", "reply": "r", "reward": "1"}', '"reward" must be a number'),
        ('{"prompt": "p", "reply": "r", "reward": true}', '"reward" must be a number'),
        ('{"prompt": "p", "reply": "r", "reward": NaN}', '"reward" must be a number'),
        ('{"reply": "r"}', 'give either "prompt" or "messages"'),
        ('{"prompt": "p", "messages": [{}], "reply": "r"}', 'give either "prompt" or "messages"'),
        ('{"prompt": 3, "reply": "r"}', '"prompt" must be a string'),
        ('{"messages": [7], "reply": "r"}', "an object with a role and content"),
        ('{"messages": [{"role": "user"}], "reply": "r"}', "an object with a role and content"),
        ('{"prompt": "p", "reply": "r", "stop": "###"}', '"stop" must be a list of strings'),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, row: str, says: str) -> None:
    path = tmp_path / "shown.jsonl"
    path.write_text(f"{GOOD}\n\n{row}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_demonstrations(path)
    assert str(caught.value).startswith(f"source.path: {path}, line 3: ")
    assert says in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source\.path: cannot read .*none\.jsonl"):
        read_demonstrations(tmp_path / "none.jsonl")
    (tmp_path / "odd.jsonl").write_bytes(f"{GOOD}\n".encode() + b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"odd\.jsonl, line 2: byte 0xff is not UTF-8"):
        read_demonstrations(tmp_path / "odd.jsonl")
