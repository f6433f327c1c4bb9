"""Questions of several hops over procedural worlds: what they lead through, and what plays earn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from upslope.batteries import check_env
from upslope.dialogues import performed
from upslope.envs.archive import Archive
from upslope.retrieval.archive import LETTERS, NAMES, VOLUMES, Asked, World
from upslope.retrieval.index import in_memory
from upslope.retrieval.passages import Passage
from upslope.rewards.retrieval import Weights
from upslope.tools.play import Limits
from upslope.types import Problem, Reward, Trajectory, UserError

ALL, EXACT = Weights(1, 1, 1, 1, 1), Weights(1, 0, 0, 0, 0)


def earned(env: Archive, problem: Problem, replies: Sequence[str]) -> Reward:
    """What a play of these replies earns."""
    done = asyncio.run(performed(env, problem, replies))
    play = Trajectory(problem, 0, 0, (), (), done.messages, facts=done.facts)
    (reward,) = asyncio.run(env.rewards(problem, [play]))
    return reward


def fact(passage: Passage, kind: str) -> str:
    """A passage's own word for a link or a detail."""
    words = passage.text.split()
    return words[words.index(kind) + 1]


def volume_of(problem: Problem, people: int = 8) -> World:
    """The world that a problem of the terse form asks about."""
    return World.of(Asked.of(problem.id).volume, people, 2, 2, brief=True)


@pytest.mark.parametrize("form", ["terse", "react", "json"])
@pytest.mark.parametrize("weights", [EXACT, Weights(), ALL])
def test_it_passes_the_battery(form: Any, weights: Weights) -> None:
    env = Archive(hops=(1, 2, 3), form=form, weights=weights, train=60, test=20)
    proven = {p.claim: p.seen for p in check_env(env, problems=3)}
    assert proven["solutions earn the most, empty replies do not"] == "9 of 9 problems have one"


def test_following_the_links_gives_the_answer() -> None:
    for problem in Archive(hops=(1, 2, 3), people=6, train=90, test=5).problems("train"):
        one, passages = Asked.of(problem.id), volume_of(problem, 6).passages()
        titles = [p.title for p in passages]
        assert len({*titles}) == 6
        who, path = one.name, [one.name]
        for link in one.links:
            who = fact(passages[titles.index(who)], link)
            path.append(who)
        assert len({*path}) == len(path)
        said = [fact(passages[titles.index(name)], one.detail) for name in path]
        assert said[-1] == problem.answer
        assert said[-1] not in said[:-1]
        assert [*problem.info["evidence"]] == [passages[titles.index(name)].id for name in path]


def test_a_volume_has_one_world_and_is_in_one_split() -> None:
    assert World.of(7, 8, 2, 2, True) == World.of(7, 8, 2, 2, True) != World.of(8, 8, 2, 2, True)
    env, home = Archive(train=400, test=60), dict[int, str]()
    for split in ("train", "validation", "test"):
        for problem in env.problems(split):
            assert home.setdefault(Asked.of(problem.id).volume, split) == split
    assert len(home) > 300
    assert (len({*NAMES}), len({*LETTERS}), VOLUMES) == (1620, 26, 1000)


@pytest.mark.parametrize(("brief", "ids"), [(True, 26), (False, 900)])
def test_pages_that_were_not_found_are_not_guessed(brief: bool, ids: int) -> None:
    worlds = [World.of(volume, 5, 2, 1, brief) for volume in range(VOLUMES)]
    seen = Counter(name for world in worlds for name in world.ids)
    assert len(seen) > 0.99 * ids
    assert max(seen.values()) < 3 * 5 * VOLUMES / ids + 10  # no id is in most volumes
    assert all(len({*world.ids}) == 5 for world in worlds)


@pytest.mark.parametrize("brief", [True, False])
def test_a_search_for_a_name_finds_its_own_passage_first(brief: bool) -> None:
    for volume in range(60):
        made = World.of(volume, 6, 3, 3, brief)
        with closing(in_memory(made.passages())) as index:
            first = [index.search(name, 1)[0].id for name in made.people]
        assert first == [*made.ids]


def test_questions_in_words() -> None:
    one = Asked(37, "bek", ("pal", "boss"), "town")
    assert one.sentence == "In volume 37, what is the town of the boss of the pal of Bek?"
    assert Asked.of(one.key) == one
    problem = Archive(form="react", train=5, test=5).problems("test")[0]
    assert str(problem.messages[0]["content"]).endswith(Asked.of(problem.id).sentence)
    assert problem.answer in NAMES or problem.answer.lower() in NAMES


def test_a_play_in_terse_form() -> None:
    env = Archive(train=10, test=5, weights=EXACT)
    problem = env.problems("test")[0]
    one, passages = Asked.of(problem.id), volume_of(problem).passages()
    assert problem.prompt == f"{one.key}?\n"
    by_id = {passage.id: passage for passage in passages}
    replies = env.solved(problem)
    first, second = (by_id[name] for name in problem.info["evidence"])
    assert replies == [
        f"search {first.title}",
        f"open {first.id}",
        f"search {second.title}",
        f"open {second.id}",
        f"={problem.answer}",
    ]
    done = asyncio.run(performed(env, problem, replies))
    said = [str(m["content"]) for m in done.messages]
    assert said[2].startswith(f"{first.id} {first.title}\n")  # titles count twice
    assert said[4] == f"{first.title}: {first.text}\n"
    assert fact(first, one.links[0]) == second.title
    assert done.facts["opened"] == [first.id, second.id]
    assert {first.id, second.id} <= {*done.facts["listed"]}


def test_parts_by_hand() -> None:
    env = Archive(form="react", weights=ALL, train=10, test=5, k=1)
    problem = env.problems("test")[0]
    first, second = problem.info["evidence"]
    replies = [f'Action: open[id="{first}"]', f"Final: {problem.answer} or so [{first}] [{second}]"]
    reward = earned(env, problem, replies)
    # f1: one word of three; recall and ndcg at 1: the first is evidence; of both cited one was seen
    parts = {"exact": 0, "f1": 0.5, "recall": 1, "ndcg": 1, "citations": 0.5, "correct": 0}
    assert reward.parts == pytest.approx(parts)
    assert reward.total == pytest.approx(3 / 5)


def test_what_cannot_be_read_costs() -> None:
    env = Archive(train=10, test=5, weights=EXACT, limits=Limits(malformed=-0.25))
    problem = env.problems("test")[0]
    right = [*env.solved(problem)]
    assert earned(env, problem, right).total == 1
    assert earned(env, problem, ["find it", "open", *right]).total == 0.5
    # an id that is not there, or a query without words, is a mistake and no bad form
    assert earned(env, problem, ["open 99", "search ?", *right]).total == 1
    assert earned(env, problem, right[:-1]).total == 0
    assert earned(env, problem, ["search zzz"] * 20).total == 0


def test_slips_stop_a_hop_early() -> None:
    env = Archive(hops=(1, 2, 3), wrong=0.5, weights=EXACT, train=120, test=5)
    shown = list(env.plays("train"))
    assert shown == list(env.plays("train"))
    assert [p.id for p, _ in shown] == [p.id for p in env.problems("train")]
    slips = 0
    for problem, replies in shown:
        reward = earned(env, problem, replies)
        slipped = [*replies] != [*env.solved(problem)]
        assert reward.total == (0 if slipped else 1)
        answers = volume_of(problem).answers(Asked.of(problem.id))
        assert len(replies) == 2 * (len(answers) - slipped) + 1
        if slipped and len(answers) > 1:
            assert replies[-1] == f"={answers[-2]}"
        slips += slipped
    assert 40 <= slips <= 80  # 60 of 120 on average


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hops": ()}, "hops are from 1 to 3"),
        ({"hops": (4,)}, "hops are from 1 to 3: each takes a person and two turns"),
        ({"hops": (3,), "people": 2, "links": 1}, "hops are from 1 to 2"),
        ({"people": 2}, "people is from 3, one more than links, to 13, got 2"),
        ({"links": 4}, "links and details are from 1 to 3"),
        ({"wrong": 2.0}, "wrong is a share between 0 and 1"),
        ({"test": 0}, "train, test, results and k are numbers: set each to at least 1"),
    ],
)
def test_wrong_settings_are_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Archive(**settings)


def test_too_few_questions_are_a_sentence() -> None:
    env = Archive(hops=(1,), people=2, links=1, details=1, train=5, test=300)
    with pytest.raises(UserError, match=r"there are only \d+ test questions .* lower test, or"):
        env.problems("test")
