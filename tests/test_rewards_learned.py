"""A reward model that a stage learns for itself: who is asked what, what is learned, what is kept,
and that a run that was killed goes on as if it had not been."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plays import Digits, ladder_chat
from records import Interrupt
from rewarded import Told, hosted
from test_resume import same, silent
from upslope.launch import train_recipe
from upslope.models.load import adapted, load
from upslope.preferences import gathered
from upslope.preferences.annotators import Annotator
from upslope.preferences.gathered import part_of, shuffled
from upslope.recipe import read
from upslope.recite import spoken
from upslope.resume import resume_recipe
from upslope.rewards import Host, learned
from upslope.rewards.learned import PAIRS, Learned, Taught
from upslope.runs import Run
from upslope.types import Group, Problem, Reward, Trajectory, UserError

FAST = Learned(pairs=120, held_out=0.4, lr=3e-3, epochs=2, batch=8, warmup=2)
WORDS = ("so", "we go", "the sea", "is it")


class Marks(Digits):
    """Forty questions; a reply earns as much as it has exclamation marks."""

    def problems(self, split: str) -> list[Problem]:  # type: ignore[override]
        return [Problem(str(i), prompt=f"{i}:", answer="") for i in range(40)]

    async def rewards(self, problem: Problem, trajectories: Sequence[Trajectory]) -> list[Reward]:
        return [Reward(float(t.text.count("!"))) for t in trajectories]


def marked(problem: Problem, member: int) -> str:
    """Every other reply has two more marks; all of problem 7 have one."""
    place = int(problem.id)
    words = WORDS[(place + member) % len(WORDS)]
    return words + "!" * (1 if place == 7 else 2 * (member % 2) + member // 4)


def host(
    told: Told | None = None, said: Callable[[Problem, int], str] = marked, seed: int = 5
) -> Host:
    """A small policy, which answers as is ``said``."""
    chat, env = ladder_chat(), Marks()

    async def play(problem: Problem, size: int) -> Group:
        plays = [spoken(chat, problem, said(problem, i)) for i in range(size)]
        found = await env.rewards(problem, plays)
        return Group(
            problem,
            tuple(
                replace(t, member=i, reward=r)
                for i, (t, r) in enumerate(zip(plays, found, strict=True))
            ),
        )

    return replace(hosted(told, env), policy=load("ladder:0.1m"), chat=chat, play=play, seed=seed)


def begun(settings: Learned, folder: Path, own: Host | None = None, *before: Path) -> Taught:
    """Opened and begun."""
    made: Any = settings.open(own or host())
    made.recall(before)
    asyncio.run(made.begin(folder))
    return made  # type: ignore[no-any-return]


def earned(made: Taught, *replies: str) -> list[Reward]:
    problem = Problem("1", prompt="1:", answer="")
    plays = [spoken(ladder_chat(), problem, reply) for reply in replies]
    try:
        return [*asyncio.run(made.rewards(problem, plays))]
    finally:
        asyncio.run(made.close())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / PAIRS).read_text().splitlines()]


def test_it_learns_what_the_env_prefers_and_its_work_is_the_rewards(tmp_path: Path) -> None:
    told = Told()
    made: Any = FAST.open(host(told))
    assert [r.total for r in earned(made, "so!!", "so")] == [2.0, 0.0]  # as the env grades
    asyncio.run(made.begin(tmp_path))
    assert told.lines[0] == "  reward: learning from 117 pairs"
    assert told.lines[1].startswith("  reward: model-0 is right on 100.0%")
    ((flops, tokens),) = told.spent
    # Two epochs over all pairs, both sides: six FLOPs a parameter and token at the least.
    assert tokens > 2 * sum(len("1:so") * 2 for _ in range(60))
    assert flops > 6 * 50_000 * tokens / 2
    few, many = earned(made, "we go", "we go!!!")
    assert many.total > few.total + 1.0


def test_all_problems_are_asked_as_often_two_by_two(tmp_path: Path) -> None:
    begun(FAST, tmp_path)
    # Three pairs of each of 40 problems; the replies to problem 7 all earn the same.
    found = rows(tmp_path)
    assert len(found) == 117
    own = [row for row in found if row["id"] == "3"]
    texts = [tuple(row[side][-1]["content"] for side in ("chosen", "rejected")) for row in own]
    assert sorted(texts) == [
        ("so!!", "is it"),
        ("so!!!", "is it!"),
        ("the sea!!", "we go"),
    ]
    assert own[0]["chosen"][0] == {"role": "raw", "content": "3:"}
    assert {(row["reward_chosen"], row["reward_rejected"]) for row in own} == {(2, 0), (3, 1)}


def test_only_as_many_are_asked_as_wanted_of_problems_at_random(tmp_path: Path) -> None:
    sizes: list[tuple[str, int]] = []
    own = host()

    async def play(problem: Problem, size: int) -> Group:
        sizes.append((problem.id, size))
        return await own.play(problem, size)

    settings = replace(FAST, pairs=100)
    begun(settings, tmp_path / "100", replace(own, play=play))
    order = [p.id for p in shuffled(Marks().problems("train"), 5)]  # type: ignore[arg-type]
    assert sizes == [(name, 6) for name in order]
    assert len(rows(tmp_path / "100")) == 100 - 3 * ("7" in order[:33]) - (order[33] == "7")
    sizes.clear()
    with pytest.raises(UserError, match=r"raise reward\.pairs"):
        begun(replace(FAST, pairs=9), tmp_path / "9", replace(own, play=play))
    assert sizes == [(name, 2) for name in order[:9]]


def test_a_reply_of_nothing_is_learned_from(tmp_path: Path) -> None:
    def said(problem: Problem, member: int) -> str:
        return "" if member % 2 else "!"

    begun(FAST, tmp_path, host(said=said))
    assert len(rows(tmp_path)) == 120
    assert {row["rejected"][-1]["content"] for row in rows(tmp_path)} == {""}


def test_flips_are_seeded_and_spare_what_judges(tmp_path: Path) -> None:
    noisy, found = replace(FAST, flips=0.3), []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        begun(noisy, tmp_path / name, host(seed=seed))
        found.append({json.dumps(row, sort_keys=True) for row in rows(tmp_path / name)})
    assert found[0] == found[1] != found[2]
    turned = {True: 0, False: 0}
    for row in rows(tmp_path / "a"):
        assert (row["reward_chosen"] < row["reward_rejected"]) == ("flipped" in row)
        asked = Problem("", messages=(row["chosen"][0],))
        turned[part_of(asked, 0.4, 5) == "test"] += "flipped" in row
    assert turned[True] == 0
    assert 0.1 * 117 < turned[False] < 0.5 * 117


def test_labels_turned_around_are_found_by_what_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that all labels have but the test's: what is said of the model is against the env."""
    real = gathered.labelled
    always = Annotator(flips=1.0)
    monkeypatch.setattr(gathered, "labelled", lambda pairs, by: real(pairs, always))
    told = Told()
    begun(FAST, tmp_path, host(told))
    assert told.lines[1].startswith("  reward: model-0 is right on 0.0%")


def test_members_see_other_draws_and_say_how_far_they_are_apart(tmp_path: Path) -> None:
    made = begun(replace(FAST, members=2, how="worst"), tmp_path)
    one, other = (load_file(tmp_path / f"model-{i}" / "score.safetensors") for i in range(2))
    assert not torch.equal(one["score.weight"], other["score.weight"])
    (seen,) = earned(made, "so!!")
    parts = [seen.parts[f"model-{i}"] for i in range(2)]
    assert parts[0] != parts[1]
    assert seen.total == min(parts)
    assert seen.parts["disagreement"] == pytest.approx(abs(parts[0] - parts[1]) / 2)


def test_pairs_of_earlier_stages_are_learned_from_once(tmp_path: Path) -> None:
    def new(problem: Problem, member: int) -> str:
        return marked(problem, member).replace("so", "a")

    # "so" is in two pairs of every other problem and in one of the others; problem 7 has none.
    begun(FAST, tmp_path / "first")
    for settings, said, line in (
        (FAST, new, "learning from 117 pairs, and 58 of earlier stages"),
        (FAST, marked, "learning from 117 pairs"),
        (replace(FAST, earlier=False), new, "learning from 117 pairs"),
    ):
        told, folder = Told(), tmp_path / line / said.__name__
        begun(settings, folder, host(told, said), tmp_path / "first", tmp_path / "sft")
        assert told.lines[0] == f"  reward: {line}"
        assert len(rows(folder)) == 117


def labelled(file: Path, count: int = 120) -> str:
    """Pairs of which the one without marks won."""
    pairs = [{"prompt": f"{i}:", "chosen": f"we {i}", "rejected": "we!!"} for i in range(count)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return str(file)


def test_judged_pairs_are_read_and_the_env_is_not_asked(tmp_path: Path) -> None:
    async def play(problem: Problem, size: int) -> Group:
        raise AssertionError("nobody is asked")

    file = labelled(tmp_path / "labels.jsonl")
    with open(file, "a") as more:
        more.write(json.dumps({"prompt": "x:", "chosen": "a" * 999, "rejected": "b"}) + "\n")
    told = Told()
    made = begun(replace(FAST, labels=file), tmp_path, replace(host(told), play=play))
    assert len(rows(tmp_path)) == 121
    assert any("1 of 121 pairs are left out: they are longer" in line for line in told.lines)
    few, many = earned(made, "we 3", "we!!")
    assert few.total > many.total


def test_what_is_on_disk_is_taken_by_a_resumed_stage(tmp_path: Path) -> None:
    before = earned(begun(FAST, tmp_path), "so!!", "we")
    moved = host(said=lambda problem, member: "!" * member)
    told = Told()
    made = begun(FAST, tmp_path, replace(moved, spend=lambda f, n: told.spent.append((f, n))))
    assert told.spent == []
    assert earned(made, "so!!", "we") == before


def test_what_cannot_be_is_said_before_anything_is_learned(tmp_path: Path) -> None:
    lines, own = Told(), host()
    with pytest.raises(UserError, match="has an adapter: name what it is to begin as"):
        FAST.open(replace(own, policy=adapted(load("ladder:0.1m"), 2, 4.0, (), 0)))
    with pytest.raises(UserError, match="none"):
        replace(FAST, model=str(tmp_path / "none")).open(own)
    for name, text, why in (
        ("none", None, "none"),
        ("bad", '{"prompt": "a:", "chosen": "b"}\n', r"bad.jsonl, line 1: a pair needs"),
        ("same", '{"prompt": "a:", "chosen": "b", "rejected": "b"}\n', "neither wins"),
    ):
        file = tmp_path / f"{name}.jsonl"
        if text:
            file.write_text(text)
        with pytest.raises(UserError, match=why):
            replace(FAST, labels=str(file)).open(own)
    with pytest.raises(UserError, match=r"3 pairs .* and 0 to stop by, .* give more in reward.lab"):
        replace(FAST, labels=labelled(tmp_path / "few.jsonl", 3)).open(host(seed=2))
    equal = host(lines, said=lambda problem, member: "so!")
    with pytest.raises(UserError, match="0 pairs with a winner to learn from"):
        begun(FAST, tmp_path / "equal", equal)
    assert (lines.spent, lines.lines) == ([], [])


def test_plays_of_several_turns_are_refused_in_the_self_check(tmp_path: Path) -> None:
    problem = Problem("1", prompt="1:", answer="")
    play = spoken(ladder_chat(), problem, "so!")
    twice = replace(play, turns=(*play.turns, *play.turns))
    with pytest.raises(UserError, match="single replies, and a play of problem '1' has 2"):
        asyncio.run(FAST.open(host()).rewards(problem, [twice]))  # type: ignore[arg-type]
    judged = replace(FAST, labels=labelled(tmp_path / "labels.jsonl")).open(host())
    assert asyncio.run(judged.rewards(problem, [twice]))[0].total == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"pairs": 0}, "pairs, members"),
        ({"flips": 0.5}, "flips is a share"),
        ({"smoothing": -0.1}, "smoothing is a share"),
        ({"held_out": 1.0}, "held_out is a share"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"labels": "x.jsonl", "flips": 0.1}, "judged pairs stay as they are"),
        ({"how": "worst"}, "is of several members"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Learned(**settings)


RECIPE: dict[str, Any] = {
    "name": "run",
    "model": "ladder:0.1m",
    "env": {"type": "notes", "train": 40, "test": 8},
    "rollout": {"problems": 2, "group": 4, "max_tokens": 12, "rows": 80},
    "evaluation": {"problems": 2},
    "learner": {"lr": 1e-3},
    "checkpoint": {"every": 1},
    "check": {"problems": 1},
    "machine": {"threads": 1},
    "stage": [
        {
            "name": "sft",
            "algorithm": {"type": "sft"},
            "source": {"type": "recorded"},
            "rollout": {"problems": 32},
            "stop": {"steps": 4},
        },
        *(
            {
                "name": name,
                "algorithm": {"type": "rloo", "kl": {"coefficient": 0.1}},
                "reward": {
                    "type": "mix",
                    "parts": {
                        "own": {
                            "reward": {
                                "type": "learned",
                                "pairs": 60,
                                "held_out": 0.4,
                                "members": 2,
                                "lr": 1e-3,
                                "epochs": 1,
                                "flips": 0.2,
                            }
                        }
                    },
                },
                "stop": {"steps": 2},
            }
            for name in ("first", "second")
        ),
    ],
}


def trained(folder: Path, *watches: Any) -> Run:
    return train_recipe(read({**RECIPE, "runs": str(folder)}), silent, watches=watches)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two rounds that nothing interrupted."""
    return trained(tmp_path_factory.mktemp("whole"))


def test_a_later_stage_learns_from_the_pairs_of_an_earlier_one(whole: Run) -> None:
    first, second = (whole.path / "rewards" / name / "own" for name in ("first", "second"))
    texts = [{json.dumps(row["chosen"]) for row in rows(one)} for one in (first, second)]
    assert texts[0] != texts[1]
    spent = [row.get("ledger/flops/reward", 0.0) for row in whole.metrics()]
    assert spent[3] == 0.0  # the check's passes have a phase of their own
    learning = (spent[4] - spent[3], spent[6] - spent[5])
    assert learning[1] > 1.3 * learning[0] > 10 * (spent[5] - spent[4])
    assert whole.metrics()[4]["ledger/seconds/reward"] > 0


def killed(folder: Path, learning: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies when it is about to learn its n-th model."""
    left, real = [learning], learned.trained

    def dying(*args: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(learned, "trained", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(folder)


@pytest.mark.parametrize("learning", [1, 2, 4])
def test_killed_while_it_learns_and_resumed_it_is_the_same_run(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learning: int
) -> None:
    killed(tmp_path, learning, monkeypatch)
    same(resume_recipe(read({**RECIPE, "runs": str(tmp_path)}), silent), whole)


@pytest.mark.parametrize("step", [5, 7])
def test_a_stage_that_goes_on_has_the_models_of_its_start(
    whole: Run, tmp_path: Path, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(step + 1))
    name = {5: "first", 7: "second"}[step]
    weights = tmp_path / "run" / "rewards" / name / "own" / "model-1" / "score.safetensors"
    made = weights.stat().st_mtime_ns
    same(resume_recipe(read({**RECIPE, "runs": str(tmp_path)}), silent), whole)
    assert weights.stat().st_mtime_ns == made


def test_models_kept_from_before_a_checkpoint_would_hide_their_work(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that the test above would find."""
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(5))
    monkeypatch.setattr("upslope.rewarding.remove_folder", lambda folder: None)
    run = resume_recipe(read({**RECIPE, "runs": str(tmp_path)}), silent)
    rewards = [one.metrics()[-1]["ledger/flops/reward"] for one in (run, whole)]
    assert rewards[0] < 0.9 * rewards[1]
