"""Recorded data in all its forms: what is read, what is refused, and sources made of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plays import Dialogue, Echo, asked, chatml
from records import Interrupt, group, untimed
from upslope import train
from upslope.chat import Chat
from upslope.curriculum import Curriculum
from upslope.demonstrations import Demonstration, read_demonstrations, sets, write_demonstrations
from upslope.envs.arithmetic import Arithmetic
from upslope.launch import train_recipe
from upslope.mixed import Mixed
from upslope.origins import refuse_longer
from upslope.recipe import read
from upslope.recite import recited
from upslope.resume import resume_recipe
from upslope.rollout import Player
from upslope.runs import Run
from upslope.session import Session
from upslope.sources import Recorded, Rollouts
from upslope.stages import built
from upslope.trajectories import TrajectoryFiles, trajectory_row
from upslope.turns import replies
from upslope.types import Group, Problem, Reward, Trajectory, Turn, UserError

USER = {"role": "user", "content": "1+1=?"}
TWO, THREE = ({"role": "assistant", "content": c} for c in ("2", "3"))
MORE = {"role": "user", "content": "sure?"}


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def everything(group: Group) -> bool:
    return True


# Pairs: TRL's four forms, and Hugging Face's. All of them say the same.

SAME = [
    {"prompt": [USER], "chosen": [TWO], "rejected": [THREE]},
    {"chosen": [USER, TWO], "rejected": [USER, THREE]},
    {"prompt": "1+1=?", "chosen": [USER, TWO], "rejected": [USER, THREE]},
    {"prompt": "1+1=?", "chosen": [TWO], "rejected": [THREE]},
    {"messages": [USER], "prompt": None, "chosen": "2", "rejected": "3"},
]


@pytest.mark.parametrize("row", SAME, ids=["explicit", "implicit", "hub", "text", "replies"])
def test_pairs_as_messages(tmp_path: Path, row: dict[str, Any]) -> None:
    better, worse = read_demonstrations(written(tmp_path, row))
    assert better.problem == worse.problem
    assert better.problem.messages == (USER,)
    assert (better.reply, worse.reply) == ("2", "3")
    assert (better.reward, worse.reward) == (1.0, 0.0)
    (members,) = sets([better, worse])
    assert members == [better, worse]


@pytest.mark.parametrize(
    ("row", "prompt", "replies"),
    [
        ({"prompt": "1+1=", "chosen": "2", "rejected": "3"}, "1+1=", ("2", "3")),
        # Without a prompt the space before a reply belongs to the reply, as in TRL.
        ({"chosen": "sky is blue", "rejected": "sky is green"}, "sky is", (" blue", " green")),
        ({"chosen": "1+1=2", "rejected": "1+1=3"}, "1+1=", ("2", "3")),
    ],
)
def test_pairs_as_text(
    tmp_path: Path, row: dict[str, Any], prompt: str, replies: tuple[str, str]
) -> None:
    shown = read_demonstrations(written(tmp_path, row))
    assert {one.problem.prompt for one in shown} == {prompt}
    assert tuple(one.reply for one in shown) == replies


def test_a_pair_may_say_by_how_much_it_was_won(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    scored = {**pair, "score_chosen": 8.5, "score_rejected": 7}
    shown = read_demonstrations(written(tmp_path, scored, {**pair, "margin": 0.25}))
    assert [one.reward for one in shown] == [8.5, 7.0, 0.25, 0.0]
    assert [len(members) for members in sets(shown)] == [2, 2]


def test_labelled_replies(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1+1=", "completion": "2", "label": True},
        {"prompt": [USER], "completion": [THREE], "label": False},
    ]
    shown = read_demonstrations(written(tmp_path, *rows))
    assert [(one.reply, one.reward, one.group) for one in shown] == [("2", 1.0, ""), ("3", 0.0, "")]


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    rows = [
        {"chosen": [USER, TWO], "rejected": [USER, THREE], "score_chosen": 2.0, "margin": None},
        {"chosen": [MORE, TWO], "rejected": [MORE, THREE], "score_chosen": 3.0, "margin": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    shown = read_demonstrations(tmp_path / "data.parquet")
    assert [(one.reply, one.reward) for one in shown] == [("2", 1.0), ("3", 0.0)] * 2
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "data.parquet").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"cut\.parquet is not a whole Parquet file"):
        read_demonstrations(tmp_path / "cut.parquet")


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
TOKENS = {"prompt": "p", "reply": "r", "segments": [{"tokens": [1, 2, 3], "turns": [[1, 3]]}]}


def tokens(**changed: Any) -> dict[str, Any]:
    return {**TOKENS, "segments": [{**TOKENS["segments"][0], **changed}]}  # type: ignore[index]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"prompt": "p", "chosen": "a", "rej', "the file ends in the middle of a row"),
        ({"prompt": "p", "chosen": "a"}, 'a pair needs "rejected"'),
        ({"prompt": "p", "chosen": "", "rejected": "b"}, 'a pair needs "chosen"'),
        ({**GOOD, "rejected": "a"}, "chosen and rejected are the same"),
        ({**GOOD, "rejected": [THREE]}, "must both be text, or both be messages"),
        ({**GOOD, "margin": 0}, "a pair without a winner: 0 is not above 0"),
        ({**GOOD, "score_chosen": 1, "score_rejected": 2}, "without a winner: 1 is not above 2"),
        ({**GOOD, "margin": "wide"}, '"margin" must be a number'),
        ({"chosen": "yes", "rejected": "no"}, 'give "prompt", or let "chosen" and "rejected"'),
        ({"chosen": [USER, TWO], "rejected": [MORE, TWO]}, 'give "prompt", or let'),
        ({"chosen": [USER, MORE], "rejected": [USER, TWO]}, 'give "prompt", or let'),
        ({"prompt": "p", "completion": "c", "label": 1}, '"label" must be true or false'),
        ({"prompt": "p", "reply": "r", "label": True, "reward": 1}, '"label" must be true or fa'),
        ({"prompt": "p", "label": True}, '"reply" must be a non-empty string'),
        (tokens(turns=[[0, 2]]), "in order, after at least one token of a prompt"),
        (tokens(turns=[[1, 4]]), "within the 3 tokens, got [1, 4]"),
        (tokens(turns=[[2, 3], [1, 2]]), "in order"),
        (tokens(turns=[[1, 3, 0.5, "cut"]]), "of which reasons are stop, length, interrupted"),
        (tokens(turns=[[1, 3, "length"]]), '"turns" must be [start, stop], [start, stop, reward]'),
        (tokens(turns=[[1, 3, 0.5, "stop", 1]]), '"turns" must be [start, stop]'),
        (tokens(turns=[[1, 3, float("nan")]]), '"turns" must be [start, stop]'),
        (tokens(turns=[[1, 3, 0, "interrupted"]]), "nothing was said after it"),
        (tokens(turns=[]), "so that nothing was said"),
        (tokens(tokens=[1, -2, 3]), '"tokens" must be a list of token numbers'),
        (tokens(logprobs=[-0.5]), '1 "logprobs" for the 2 tokens of the turns'),
        (tokens(logprobs=[-0.5, 0.5]), '"logprobs" must be a list of numbers of at most 0'),
        ({**TOKENS, "segments": []}, '"segments" must be a list of objects'),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, row: Any, says: str) -> None:
    path = written(tmp_path, GOOD, row)
    with pytest.raises(UserError) as caught:
        read_demonstrations(path)
    assert str(caught.value).startswith(f"source.path: {path}, line 2: ")
    assert says in str(caught.value)


def test_a_group_answers_one_problem(tmp_path: Path) -> None:
    row = {"prompt": "p", "reply": "r", "group": "g"}
    path = written(tmp_path, row, {**row, "prompt": "q"})
    with pytest.raises(UserError, match="line 2: \"group\" is 'g' as in an earlier row"):
        read_demonstrations(path)


def test_who_asks_the_same_asks_one_problem(tmp_path: Path) -> None:
    said, ended = {"prompt": "p", "reply": "r"}, {"prompt": "p", "reply": "r", "stop": ["."]}
    rows = [
        said,
        {"messages": [USER], "reply": "2"},
        {**said, "reply": "s"},
        ended,
        {"messages": [dict(reversed(USER.items())), TWO]},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {**ended, "group": "g"},
        {"prompt": [USER], "completion": [THREE], "id": None},
    ]
    shown = read_demonstrations(written(tmp_path, *rows))
    assert [one.problem.id for one in shown] == ["1", "2", "1", "4", "2", "1", "1", "4", "2"]
    assert [len(members) for members in sets(shown)] == [1, 1, 1, 1, 1, 2, 1, 1]


def test_ids_that_rows_give_are_kept(tmp_path: Path) -> None:
    said, other = {"prompt": "p", "reply": "r"}, {"prompt": "q", "reply": "r"}
    rows = [other, {**said, "id": 1}, {**said, "id": "b"}, said, other, {**other, "id": "5"}]
    shown = read_demonstrations(written(tmp_path, *rows))
    # Those without one have an id of their question; a row's number is not taken for another's id.
    assert [one.problem.id for one in shown] == ["5", "1", "b", "1", "5", "5"]
    shown = read_demonstrations(written(tmp_path, other, {**said, "id": 1}, other))
    assert [one.problem.id for one in shown] == ["1*", "1", "1*"]


# Trajectories with their tokens, and what a run left.


def test_trajectories_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    first = group([1.0, 0.0], [[4, 5], [6]], temperature=0.7)
    path = tmp_path / "logs.jsonl"
    write_demonstrations(path, [first, group([0.5], id="q")])
    shown = read_demonstrations(path)
    assert [one.reward for one in shown] == [1.0, 0.0, 0.5]
    assert [len(members) for members in sets(shown)] == [2, 1]
    assert all(one.scored for one in shown)
    for one, want in zip(shown, first.trajectories, strict=False):
        got = recited(chatml(), one, visit=3, version=8)
        (segment,), (before,) = got.segments, want.segments
        assert segment.tokens.tolist() == before.tokens.tolist()
        assert segment.trained.tolist() == before.trained.tolist()
        assert segment.engine_logprobs.tolist() == before.engine_logprobs.tolist()
        assert segment.versions.tolist() == [-1, -1, -1, 8, 8][: len(segment.tokens)]
        assert got.turns == want.turns
        assert got.visit == 3


def test_why_a_turn_stopped_is_read_back(tmp_path: Path) -> None:
    (first,) = group([1.0], [[4, 5, 6, 7]]).trajectories
    turns = (
        Turn(0, 3, 4, "interrupted"),
        Turn(0, 5, 6, "stop", reward=0.25),
        Turn(0, 6, 7, "length"),
    )
    trained = np.array([False] * 3 + [True, False, True, True])
    row = replace(first.segments[0], trained=trained)
    path = tmp_path / "logs.jsonl"
    play = replace(first, segments=(row,), turns=turns)
    write_demonstrations(path, [Group(first.problem, (play,))])
    (one,) = read_demonstrations(path)
    got = recited(chatml(), one, 0, 0)
    assert got.turns == turns
    assert got.truncated
    assert [number for number, _ in replies(got)] == [0, 0, 1]


def test_a_turn_may_leave_out_what_it_earned_and_why_it_stopped(tmp_path: Path) -> None:
    spans = [[1, 2], [2, 3, 0.5], [3, 4, 0, "length"]]
    (one,) = read_demonstrations(written(tmp_path, tokens(tokens=[1, 2, 3, 4], turns=spans)))
    assert [(t.reward, t.stop_reason) for t in one.turns] == [
        (0.0, "stop"),
        (0.5, "stop"),
        (0.0, "length"),
    ]


def test_a_dialogue_trains_what_the_assistant_said(tmp_path: Path) -> None:
    chat = chatml()
    (one,) = read_demonstrations(written(tmp_path, {"messages": [USER, TWO, MORE, THREE]}))
    assert one.problem.messages == (USER,)
    play = recited(chat, one, 0, 0)
    said = [
        chat.tokenizer.decode(s.tokens[t.start : t.stop])
        for t in play.turns
        for s in [play.segments[t.segment]]
    ]
    assert len(said) == 2
    assert "2" in said[0]
    assert "3" in said[1]
    assert sum(int(s.trained.sum()) for s in play.segments) == sum(
        t.stop - t.start for t in play.turns
    )
    assert np.isnan(play.segments[0].engine_logprobs[play.segments[0].trained]).all()
    assert play.messages == (USER, TWO, MORE, THREE)


def test_a_cut_reply_has_no_end() -> None:
    chat, one = chatml(), Demonstration(Problem("p", prompt="1+1="), "2")
    whole, cut = (recited(chat, replace(one, cut=how), 0, 0) for how in (False, True))
    assert whole.segments[0].tokens.tolist() == [*cut.segments[0].tokens.tolist(), chat.end]
    assert (whole.truncated, cut.truncated) == (False, True)


def test_tokens_of_another_model_are_refused() -> None:
    chat = chatml()
    shown = [Demonstration(Problem("p", prompt="p"), "r")]
    many = len(chat.tokenizer)
    (row,) = group([1.0], [[many]]).trajectories
    other = replace(shown[0], segments=row.segments, turns=row.turns)
    with pytest.raises(UserError, match=f"has the token {many}, and the model knows {many}"):
        Recorded([other], chat, 0)


def with_tokens(**changed: Any) -> Demonstration:
    """A play of which everything is known, but for what is ``changed``."""
    (row,) = group([1.0], [[4, 5]]).trajectories
    system = {"role": "system", "content": "Add."}
    of = Problem("p", (system, USER), stop=(".",))
    return replace(Demonstration(of, "2", 1.0, "", (TWO,), row.segments, row.turns), **changed)


PLAY = with_tokens()
ROW, TURN = PLAY.segments[0], PLAY.turns[0]


@pytest.mark.parametrize(
    "other",
    [
        {"problem": replace(PLAY.problem, messages=(USER,))},
        {"problem": replace(PLAY.problem, messages=(), prompt="1+1=")},
        {"problem": replace(PLAY.problem, stop=("\n",))},
        {"problem": replace(PLAY.problem, id="q")},
        {"reply": "3"},
        {"reward": 0.5},
        {"said": (TWO, MORE, THREE)},
        {"cut": True},
        {"segments": (replace(ROW, tokens=ROW.tokens + 1),)},
        {"segments": (replace(ROW, trained=~ROW.trained),)},
        {"segments": (replace(ROW, engine_logprobs=ROW.engine_logprobs * 1.01),)},
        {"segments": (ROW, ROW)},
        {"turns": (replace(TURN, stop_reason="length"),)},
        {"turns": (replace(TURN, reward=0.5),)},
        {"turns": (replace(TURN, temperature=0.5),)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_run_goes_on_with_the_plays_that_it_was_begun_with_alone(other: dict[str, Any]) -> None:
    begun = Recorded([PLAY], chatml(), 0).state()
    Recorded([with_tokens()], chatml(), 0).load_state(begun)
    with pytest.raises(UserError, match="not those that the run was begun with"):
        Recorded([with_tokens(**other)], chatml(), 0).load_state(begun)


def test_the_name_of_plays_is_of_their_groups_and_the_same_in_every_process() -> None:
    apart, together = (
        Recorded([replace(PLAY, group=g) for g in groups], chatml(), 0).state()["replies"]
        for groups in (("", ""), ("g", "g"))
    )
    assert apart != together
    assert together == 1353778635941486167


LONG = (
    Demonstration(Problem("long", prompt="1+1="), "2" * 20),
    Demonstration(Problem("long", (USER,)), "2" * 20),
    Demonstration(Problem("long", (USER,)), "3", said=(TWO, MORE, THREE)),
    Demonstration(Problem("long", ({"role": "system", "content": "ab" * 9}, USER)), "2"),
    with_tokens(problem=Problem("long", (USER,))),
)


@pytest.mark.parametrize("one", LONG, ids=["text", "chat", "dialogue", "system", "tokens"])
def test_a_play_longer_than_the_context_is_refused(one: Demonstration) -> None:
    chat = chatml()
    tokens = len(recited(chat, one, 0, 0).segments[-1].tokens)
    short = Demonstration(Problem("short", prompt="1"), "2")
    refuse_longer([short, one], chat, "tiny", tokens)
    says = (
        f"play of problem 'long' has {tokens} tokens .* longer than tiny's context of {tokens - 1}"
    )
    with pytest.raises(UserError, match=says):
        refuse_longer([short, one], chat, "tiny", tokens - 1)


def test_plays_that_would_fit_as_bytes_are_not_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        Chat, "_tokens", lambda self, text, special: asked.append(text) or list(text.encode())
    )
    chat, of = chatml(), Problem("p", prompt="1+1=", stop=(".",))
    shown = [Demonstration(of, "2"), Demonstration(of, "\N{SNOWMAN}" * 30)]
    refuse_longer(shown[:1], chat, "tiny", 40)
    assert asked == []
    with pytest.raises(UserError, match="has 95 tokens"):  # each of three bytes
        refuse_longer(shown, chat, "tiny", 40)


def test_a_run_refuses_a_long_play_before_it_trains(tmp_path: Path) -> None:
    row = {"id": "long", "prompt": "1+1=", "reply": "2" * 5000}
    source = {"type": "recorded", "path": str(written(tmp_path, *REPLIES, row))}
    with pytest.raises(UserError, match=r"play of problem 'long' has 500\d tokens with its prompt"):
        Session(read(small(tmp_path, source=source, algorithm={"type": "sft"})), print)


# A share of each step.


def mixed(shares: tuple[float, float] = (0.5, 0.5), over: int = 0) -> tuple[Mixed, Echo]:
    chat = chatml()
    engine = Echo(chat)
    player = Player(engine, Dialogue(), chat, 8, 1.0)
    rollouts = Rollouts(player, Curriculum([asked(n) for n in "abcdefg"], 0), size=2, seed=0)
    old = [Demonstration(Problem(n, prompt=n), n) for n in "uvwxyz"]
    return Mixed(rollouts, Recorded(old, chat, 0), shares, over), engine


def shares(made: tuple[Mixed, Echo], steps: int, n: int) -> list[int]:
    """How many of each step's groups were recorded."""
    source, engine = made

    async def play() -> list[int]:
        found = []
        for engine.version in range(steps):
            groups = await source.groups(n, engine.version, everything)
            old = [g.problem.id in "uvwxyz" for g in groups]
            assert len(groups) == n
            assert old == sorted(old)
            assert source.metrics()["groups/recorded"] == sum(old)
            found.append(sum(old))
        return found

    return asyncio.run(play())


def test_a_share_of_each_step_is_recorded() -> None:
    assert shares(mixed(), 3, 4) == [2, 2, 2]
    assert shares(mixed((0.25, 0.25)), 4, 2) == [0, 1, 0, 1]  # what is owed is paid
    assert shares(mixed((1.0, 1.0)), 2, 3) == [3, 3]
    assert shares(mixed((0.0, 0.0)), 2, 3) == [0, 0]


def test_the_share_follows_its_schedule() -> None:
    assert shares(mixed((1.0, 0.0), over=4), 6, 4) == [4, 3, 2, 1, 0, 0]


def test_a_mixed_source_goes_on_where_it_was() -> None:
    def play(made: tuple[Mixed, Echo], steps: range) -> list[tuple[str, int]]:
        source, engine = made

        async def run() -> list[tuple[str, int]]:
            found = list[Group]()
            for engine.version in steps:
                found += await source.groups(3, engine.version, everything)
            return [(g.problem.id, g.trajectories[0].visit) for g in found]

        return asyncio.run(run())

    whole, first, later = (mixed((0.9, 0.2), over=5) for _ in range(3))
    want, got = play(whole, range(6)), play(first, range(3))
    later[0].load_state(json.loads(json.dumps(dict(first[0].state()))))
    assert got + play(later, range(3, 6)) == want
    assert later[0].state() == whole[0].state()


# Weights into the engine every so many steps.


def test_groups_may_be_as_old_as_the_loads_are_apart() -> None:
    chat = chatml()
    engine = Echo(chat)
    player = Player(engine, Dialogue(), chat, 8, 1.0)
    picks = Curriculum([asked(n) for n in "abcdefg"], 0)
    source = Rollouts(player, picks, size=2, seed=0, sync=3)

    async def run() -> list[int]:
        seen = []
        for step in range(7):
            engine.version = step - step % 3
            seen += [step - g.version for g in await source.groups(1, step, everything)]
        return seen

    assert asyncio.run(run()) == [0, 1, 2, 0, 1, 2, 0]
    assert source.dropped == 0


@dataclass(frozen=True)
class Odd(Arithmetic):
    """Something to win for a policy that knows nothing: half a reward for an odd length."""

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        odd = [0.5 * (len(t.text) % 2) for t in trajectories]
        said = [t.text == problem.solution for t in trajectories]
        return [Reward(1.0 if right else o) for right, o in zip(said, odd, strict=True)]


SMALL: dict[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": f"{__file__}:Odd", "digits": 1, "wrong": 0.5},
    "rollout": {"problems": 2, "group": 4, "max_tokens": 2},
    "evaluation": {"problems": 4},
    "learner": {"lr": 1e-3},
    "stop": {"steps": 4},
    "machine": {"threads": 1},
    "check": {"problems": 1},
}


def small(tmp_path: Path, **given: Any) -> dict[str, Any]:
    return {**SMALL, "runs": str(tmp_path / "runs"), **given}


def test_semi_online_dpo_samples_from_weights_of_every_few_steps(tmp_path: Path) -> None:
    source = {"type": "rollouts", "sync": 2}
    rollout = {**SMALL["rollout"], "tries": 20}
    given = small(tmp_path, source=source, rollout=rollout, checkpoint={"every": 0})
    run = train({**given, "algorithm": {"type": "dpo"}})
    rows = run.metrics()
    assert [row["staleness/max"] for row in rows] == [0, 1, 0, 1]
    assert [row["groups/dropped"] for row in rows] == [0] * 4
    assert all(
        row["groups/mixed_share"] == 1 for row in rows
    )  # groups without a winner are not kept
    assert all(0 <= row["preference/accuracy"] <= 1 for row in rows)
    loaded = [v for row in run.trajectories() if row["stage"] == "train" for v in [row["version"]]]
    assert {v for v in loaded if v < 4} == {0, 2}


@pytest.mark.parametrize("kind", ["recorded", "mixed"])
def test_a_run_of_recorded_data_resumes_bitwise(tmp_path: Path, kind: str) -> None:
    logs = written(tmp_path, *(pair(n) for n in range(1, 6)))
    source: dict[str, Any] = {"type": kind, "path": str(logs)}
    if kind == "mixed":
        source |= {"share": 0.75, "last": 0.25, "over": 4}
    given = small(
        tmp_path,
        algorithm={"type": "dpo" if kind == "recorded" else "awr"},
        source=source,
        checkpoint={"every": 2},
        stop={"steps": 5},
    )
    whole = train({**given, "name": "whole"})
    killed = read({**given, "name": "killed"})
    with pytest.raises(KeyboardInterrupt):
        train_recipe(killed, print, watches=[Interrupt(3)])
    resumed = resume_recipe(killed, print)
    assert untimed(resumed.metrics()) == untimed(whole.metrics())
    assert [row["groups/used"] for row in whole.metrics()] == [2] * 5


def pair(n: int) -> dict[str, Any]:
    return {"prompt": f"{n}+{n}=", "chosen": f"{2 * n}", "rejected": f"{2 * n + 1}"}


def test_dpo_of_pairs_learns_to_prefer(tmp_path: Path) -> None:
    logs = written(tmp_path, *(pair(n) for n in range(1, 5)))
    rollout = {**SMALL["rollout"], "problems": 4}
    source = {"type": "recorded", "path": str(logs)}
    given = small(tmp_path, source=source, rollout=rollout, stop={"steps": 30})
    run = train({**given, "algorithm": {"type": "dpo"}})
    first, last = run.metrics()[0], run.metrics()[-1]
    assert first["update/loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert first["preference/margin"] == pytest.approx(0, abs=1e-5)
    assert last["update/loss"] < 0.4
    assert last["preference/accuracy"] == 1
    assert last["preference/margin"] > 0.5


def test_a_runs_own_trajectories_are_recorded_groups(tmp_path: Path) -> None:
    first = train(small(tmp_path, algorithm={"type": "reinforce"}, name="first"))
    known = {p.id: p for p in Arithmetic(digits=1, wrong=0.5).problems("train")}
    shown = read_demonstrations(first.path, known)
    played = [r for r in first.trajectories() if r["problem"] in known]
    assert 0 < len(played) < len(first.trajectories())  # evaluations stay held out
    assert len(shown) == len(played) == 4 * 2 * 4
    assert {len(members) for members in sets(shown)} == {4}
    assert [one.cut for one in shown] == [row["stop"] == "length" for row in played]
    source = {"type": "recorded", "path": str(first.path)}
    run = train(small(tmp_path, algorithm={"type": "awr"}, source=source, name="second"))
    assert isinstance(run, Run)
    assert run.metrics()[-1]["groups/used"] == 2
    with pytest.raises(UserError, match="no graded trajectory of the env's train problems"):
        read_demonstrations(first.path, {})


def test_a_run_whose_plays_were_interrupted_is_no_data(tmp_path: Path) -> None:
    of = Problem("p", prompt="1+1=")
    (play,) = group([1.0], [[4, 5]]).trajectories
    play = replace(play, problem=of)
    cut = replace(play, turns=(Turn(0, 3, 4, "interrupted"), Turn(0, 4, 5, "stop")))
    for name, last, known in (("whole", play, True), ("cut", cut, False), ("old", cut, True)):
        rows = [trajectory_row(0, "rl", one) for one in (play, last)]
        if name == "old":  # nobody knows
            rows = [{k: v for k, v in row.items() if k != "interrupted"} for row in rows]
        folder = tmp_path / name / "trajectories"
        folder.mkdir(parents=True)
        TrajectoryFiles(folder).append(rows)
        if known:
            assert len(read_demonstrations(tmp_path / name, {"p": of})) == 2
    with pytest.raises(UserError, match=r"play '0/rl/p/0/0' was interrupted, .* --record FILE"):
        read_demonstrations(tmp_path / "cut", {"p": of})
    with pytest.raises(UserError, match="no graded trajectory"):
        read_demonstrations(tmp_path / "cut", {})  # of problems that do not count, none is asked


# What cannot be learned.

REPLIES = ({"prompt": "1+1=", "reply": "2"}, {"prompt": "1+2=", "reply": "4", "reward": 0})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"algorithm": {"type": "dpo"}}, "the recorded groups have one member each"),
        ({"algorithm": {"type": "grpo"}}, "the recorded groups have one member each"),
        ({"algorithm": {"type": "awr"}}, 'would count alike: set algorithm.baseline = "batch"'),
        ({"algorithm": {"type": "reinforce"}}, 'has no "logprobs": give them, use awr'),
    ],
    ids=lambda x: str(x)[:40],
)
def test_plays_that_say_too_little_are_refused(
    tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    source = {"type": "recorded", "path": str(written(tmp_path, *REPLIES))}
    with pytest.raises(UserError) as caught:
        Session(read(small(tmp_path, source=source, **given)), print)
    assert says in str(caught.value)


def test_groups_with_log_probabilities_serve_any_algorithm(tmp_path: Path) -> None:
    rows = []
    for n in range(4):
        for member, reward in enumerate((1.0, 0.0)):
            segment = {"tokens": [1, 2, 3 + member, 4], "turns": [[2, 4]], "logprobs": [-1, -2]}
            row = {"prompt": f"{n}", "reply": "x", "group": str(n), "reward": reward}
            rows.append({**row, "segments": [segment]})
    source = {"type": "recorded", "path": str(written(tmp_path, *rows))}
    run = train(small(tmp_path, source=source, algorithm={"type": "grpo"}))
    row = run.metrics()[0]
    assert (
        row["drift/max"] > 0.1
    )  # it was another policy, and its tokens are weighed by old / engine
    assert row["importance/effective_share"] < 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"source": {"type": "rollouts", "sync": 0}}, "sync is a number of steps of at least 1"),
        ({"source": {"type": "mixed", "share": 1.5}}, "share and last are shares between 0 and 1"),
        (
            {"source": {"type": "rollouts", "sync": 5}, "algorithm": {"type": "grpo"}},
            "source.sync=5 is for algorithms that take answers of any policy",
        ),
        (
            {"source": {"type": "rollouts", "sync": 5}, "evaluation": {"every": 4}},
            "evaluation.every=4 would load weights between the loads of every source.sync=5",
        ),
        (
            {"source": {"type": "rollouts", "sync": 7}},
            "checkpoint.every=50 would load weights between",
        ),
        (
            {"source": {"type": "mixed"}, "algorithm": {"type": "sft"}},
            "algorithm sft learns from given replies",
        ),
        (
            {"source": {"type": "mixed"}, "rollout": {"max_staleness": 1}},
            "rollout.max_staleness=1 means nothing for recorded data",
        ),
    ],
    ids=lambda x: str(x)[:60],
)
def test_contradictions(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        built(read({**small(tmp_path), "algorithm": {"type": "dpo"}, **given}))
    assert says in str(caught.value)
