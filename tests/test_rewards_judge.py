"""Judges: verdicts read from words, servers that are down, slow or odd, the policy as its own."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from judges import Answer, Served, completion, serving
from plays import asked, chatml
from rewarded import Told, again, graded, hosted, totals
from upslope.engines.scripted import ScriptedEngine
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.rewards.cached import Cached
from upslope.rewards.endpoint import Endpoint
from upslope.rewards.failures import VerdictError
from upslope.rewards.judge import Judge
from upslope.rewards.passes import Passes
from upslope.rewards.verdicts import better, filled, number, question_of
from upslope.types import Problem, UserError

REPLY = re.compile(r"<reply>\n(.*)\n</reply>", re.S)
SIDES = re.compile(r"<reply_a>\n(.*)\n</reply_a>\n<reply_b>\n(.*)\n</reply_b>", re.S)


def rating(prompt: str) -> Answer:
    """As many points as the reply says."""
    found = REPLY.search(prompt)
    assert found
    return completion(f"I think so.\nVerdict: {found[1]}")


def longer(prompt: str) -> Answer:
    """The longer reply is better."""
    found = SIDES.search(prompt)
    assert found
    a, b = map(len, found.groups())
    return completion("Verdict: " + ("tie" if a == b else "A" if a > b else "B"))


def judge(served: Served, retries: int = 0, timeout: float = 5.0, **settings: Any) -> Judge:
    endpoint = Endpoint(served.url, "tiny", timeout=timeout, retries=retries, backoff=0.0)
    return Judge(endpoint=endpoint, **settings)


def ended(grades: Any, *replies: str, problem: Problem | None = None) -> Any:
    """Rewards of one group, the judge closed after it, and what it counted."""
    try:
        return again(grades, *replies, problem=problem), grades.metrics()
    finally:
        asyncio.run(grades.close())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7.0),
        (" 7.5 ", 7.5),
        ("Verdict: 3", 3.0),
        ("verdict = 3.", 3.0),
        ("**Verdict:** **8**/10", 8.0),
        ("Verdict: 2, no.\nVerdict: 4", 4.0),
        ("A 9 at first, but Verdict: 0", 0.0),
    ],
)
def test_numbers_are_read(text: str, value: float) -> None:
    assert number(text, 0, 10) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("good", "unparsable"),
        ("", "unparsable"),
        ("I give it 7", "unparsable"),
        ("Verdict: nan", "unparsable"),
        ("Verdict: inf", "unparsable"),
        ("Verdict: 1e3", "unparsable"),
        ("Verdict: 1.2.3", "unparsable"),
        ("Verdict: \u0667", "unparsable"),
        ("Verdict: 11", "out_of_range"),
        ("Verdict: -1", "out_of_range"),
    ],
)
def test_what_is_no_number_in_range_is_a_failure_of_its_kind(text: str, kind: str) -> None:
    with pytest.raises(VerdictError) as caught:
        number(text, 0, 10)
    assert caught.value.kind == kind


def test_sides_are_read() -> None:
    assert [better(f"so. Verdict: {side}") for side in ("A", "B.", "Tie", "**a**")] == [
        1,
        0,
        0.5,
        1,
    ]
    with pytest.raises(VerdictError, match="unparsable"):
        better("Verdict: both")


def test_a_reply_is_never_read_as_a_template() -> None:
    fields = {"reply": "{reference} {x}", "reference": "42"}
    assert filled("{reply} | {reference} | {json}", fields) == "{reference} {x} | 42 | {json}"


def test_a_dialogue_is_asked_with_its_roles() -> None:
    said = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"))]
    assert question_of(said) == "a"
    assert question_of([*said, *said]) == "user: a\nassistant: b\nuser: a"


def test_a_number_earns_where_it_is_in_its_range() -> None:
    told = Told()
    with serving(rating) as served:
        grades = judge(served, low=-10.0, high=10.0).open(hosted(told))
        found, counted = ended(grades, "5", "-10", "11", "x")
    assert totals(found) == [0.75, 0.0, 0.0, 0.0]
    assert [r.valid for r in found] == [True, True, False, False]
    assert found[0].parts == {"verdict": 5.0}
    assert found[2].reason == "out_of_range: 11 is not from -10 to 10"
    assert found[3].reason.startswith("unparsable: no number in")
    assert counted["judge/asked"] == 4
    assert (counted["judge/failed/out_of_range"], counted["judge/failed/unparsable"]) == (1, 1)
    assert {body["model"] for body in served.asked} == {"tiny"}
    assert {body["path"] for body in served.asked} == {"/v1/chat/completions"}
    # A server's FLOPs are not known, its tokens are.
    assert told.spent == [(0.0, 11)] * 4


def test_the_order_of_the_group_changes_no_verdict() -> None:
    with serving(rating) as served:
        grades = judge(served).open(hosted())
        assert totals(again(grades, "1", "2", "3")) == [0.1, 0.2, 0.3]
        found, _ = ended(grades, "3", "2", "1")
    assert totals(found) == [0.3, 0.2, 0.1]


def test_pairs_in_a_group_are_compared_in_both_orders() -> None:
    with serving(longer) as served:
        grades = judge(served, verdict="pair").open(hosted())
        found, counted = ended(grades, "a", "aaa", "aa")
    # Each with the next one, in a ring of three: all pairs, in two orders.
    assert totals(found) == [0.0, 1.0, 0.5]
    assert counted["judge/asked"] == 6


def test_a_judge_that_likes_what_comes_first_says_nothing() -> None:
    with serving(lambda prompt: completion("Verdict: A")) as served:
        grades = judge(served, verdict="pair").open(hosted())
        found, _ = ended(grades, "a", "b", "a")
    assert totals(found) == [0.5, 0.5, 0.5]


def test_equal_replies_are_a_tie_without_a_question() -> None:
    with serving(longer) as served:
        grades = judge(served, verdict="pair").open(hosted())
        found, counted = ended(grades, "a", "a")
        alone = again(grades, "a")
        asyncio.run(grades.close())
    assert (totals(found), counted["judge/asked"]) == ([0.5, 0.5], 0)
    assert (alone[0].valid, "nothing to compare" in alone[0].reason) == (False, True)


def test_replies_are_compared_with_what_is_known_to_be_right() -> None:
    with serving(longer) as served:
        settings = judge(served, verdict="pair", against="reference")
        known = settings.open(hosted())
        found, _ = ended(known, "a", "aaaaa", problem=asked("q"))  # its answer is "yes"
        unknown = settings.open(hosted())
        none, _ = ended(unknown, "a", problem=Problem("p", prompt="p"))
    assert totals(found) == [0.0, 1.0]
    assert none[0].reason == "the problem has no solution to compare with"
    assert (known.compares, judge(served, verdict="pair").open(hosted()).compares) == (False, True)  # type: ignore[attr-defined]


def nowhere() -> Served:
    """Where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return Served(f"http://127.0.0.1:{held.getsockname()[1]}/v1")


def test_a_server_that_is_down_is_unreachable() -> None:
    found, counted = ended(judge(nowhere(), retries=1).open(hosted()), "1", "2")
    assert all(r.reason.startswith("unreachable: ") and not r.valid for r in found)
    assert counted["judge/failed/unreachable"] == 2


def test_a_slow_server_is_given_up_in_time() -> None:
    with serving(rating, seconds=1.5) as served:
        began = time.monotonic()
        found, counted = ended(judge(served, timeout=0.1, retries=1).open(hosted()), "1")
        assert time.monotonic() - began < 1.0
    assert found[0].reason == "timeout: no answer within 0.1 s"
    assert counted["judge/failed/timeout"] == 1
    assert len(served.asked) == 2


def test_a_server_that_drips_is_given_up_too() -> None:
    def drip(listener: socket.socket) -> None:
        heard, _ = listener.accept()
        with heard:
            heard.recv(1 << 16)
            heard.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    heard.sendall(b" ")
                    time.sleep(0.02)
            except OSError:
                pass

    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        found, _ = ended(judge(served, timeout=0.2).open(hosted()), "1")
        thread.join(timeout=5)
    assert found[0].reason == "timeout: no answer within 0.2 s"


@pytest.mark.parametrize(
    ("answers", "tries", "reason"),
    [
        ([(500, b""), (429, b""), completion("Verdict: 5")], 3, ""),
        ([(503, b"")] * 3, 3, "refused: HTTP status 503"),
        ([(401, b"your key is sk-1")], 1, "refused: HTTP status 401"),
        ([(200, b"<html>")], 1, "unparsable: the answer is no chat completion"),
        ([(200, b"[]")], 1, "unparsable: the answer is no chat completion"),
        ([(200, b'{"choices": []}')], 1, "unparsable: the answer is no chat completion"),
        (
            [(200, b'{"choices": [{"message": {"content": null}}]}')],
            1,
            "unparsable: the answer is no chat completion",
        ),
    ],
)
def test_retries_are_for_what_may_pass(answers: list[Answer], tries: int, reason: str) -> None:
    left = list(answers)
    with serving(lambda prompt: left.pop(0)) as served:
        found, _ = ended(judge(served, retries=2).open(hosted()), "1")
    assert len(served.asked) == tries
    assert (found[0].valid, found[0].reason) == (not reason, reason)


def test_the_next_try_waits_twice_as_long() -> None:
    with serving(lambda prompt: (500, b"")) as served:
        settings = Judge(endpoint=Endpoint(served.url, retries=2, backoff=0.05))
        began = time.monotonic()
        ended(settings.open(hosted()), "1")
        assert time.monotonic() - began >= 0.05 + 0.1


def test_the_key_is_the_environments_and_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with serving(lambda prompt: (401, b"sk-secret is wrong")) as served:
        settings = Judge(endpoint=Endpoint(served.url, key="JUDGE_KEY", retries=0))
        told = Told()
        grades: Any = settings.open(hosted(told))
        found, _ = ended(grades, "1")
    assert served.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in f"{settings} {grades} {found} {told} {vars(grades)}"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match=r"no JUDGE_KEY, which endpoint\.key names"):
        settings.open(hosted())


def test_too_many_failures_stop_the_run_and_few_do_not() -> None:
    def half(prompt: str) -> Answer:
        found = REPLY.search(prompt)
        assert found
        return completion("Verdict: 5" if int(found[1]) % 2 else "hm")

    replies = [str(n) for n in range(30)]
    with serving(half) as served:
        found, _ = ended(judge(served, failures=0.6).open(hosted()), *replies)
        assert sum(r.valid for r in found) == 15
        with pytest.raises(UserError, match=r"of the last \d+ verdicts of http.*failures=0\.4"):
            ended(judge(served, failures=0.4).open(hosted()), *replies)
        # A few say nothing of a share.
        ended(judge(served, failures=0.0).open(hosted()), *replies[:19])


def test_no_more_are_under_way_than_allowed() -> None:
    with serving(rating, seconds=0.01) as served:
        endpoint = Endpoint(served.url, at_once=3)
        ended(Judge(endpoint=endpoint).open(hosted()), *[str(n % 10) for n in range(12)])
    assert served.most == 3


def test_four_passes_cost_the_time_of_one() -> None:
    def took(settings: Any) -> float:
        grades = settings.open(hosted())
        began = time.monotonic()
        again(grades, "1", "2")
        return time.monotonic() - began

    with serving(rating, seconds=0.1) as served:
        one = took(judge(served))
        assert took(Passes(judge(served), 4)) < 2 * one


def test_each_pass_draws_by_itself() -> None:
    with serving(rating) as served:
        graded(Passes(judge(served, temperature=1.0), 3), "1", "1")
    assert len({body["seed"] for body in served.asked}) == 6


def test_a_cache_around_a_judge_saves_its_questions() -> None:
    with serving(rating) as served:
        grades = Cached(judge(served)).open(hosted())
        again(grades, "1", "1", "2")
        again(grades, "2", "1")
    assert len(served.asked) == 2


def test_the_policy_may_judge_itself_and_is_told_what_that_means() -> None:
    chat, told = chatml(), Told()
    engine = ScriptedEngine(["Verdict: 4", "Verdict: 11"], chat.tokenizer, chat.end)
    grades = Judge().open(hosted(told, engine=engine))
    found = again(grades, "x", "y")
    assert [r.valid for r in found] == [True, False]
    assert found[0].total == 0.4
    assert "weights change" in told.lines[0]
    assert len(told.spent) == 2
    short: Any = replace(hosted(engine=engine), policy=type("P", (), {"context": 10}))
    (one,) = again(Judge().open(short), "x")
    assert one.reason.startswith("refused: a question of")


RECIPE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "rloo"},
    "rollout": {"problems": 2, "group": 4, "max_tokens": 4, "rows": 16},
    "evaluation": {"problems": 4},
    "stop": {"steps": 2},
    "machine": {"threads": 1},
    "check": {"problems": 1},
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """A small run with a reward."""

    def trained(reward: Mapping[str, Any], **more: Any) -> Any:
        recipe = {**RECIPE, **more, "reward": reward, "runs": str(tmp_path / "runs")}
        return train_recipe(read(recipe), lambda line: None)

    return trained


def test_a_run_goes_on_without_its_judge(run: Callable[..., Any]) -> None:
    said = [completion("Verdict: 5")] * 4  # as many as the self-check asks for

    def dies(prompt: str) -> Answer:
        return said.pop() if said else (503, b"")

    with serving(dies) as served:
        endpoint = {"url": served.url, "retries": 0, "backoff": 0.0}
        down = {"type": "judge", "endpoint": endpoint}
        rows = run({**down, "failures": 1.0}).metrics()
        assert [row["reward/invalid_share"] for row in rows] == [1.0, 1.0]
        assert [row["update/grad_norm"] for row in rows] == [0.0, 0.0]
        assert [row["judge/failed/refused"] for row in rows] == [8.0, 16.0]
        assert rows[-1]["judge/asked"] == 4 + 16
        said += [completion("Verdict: 5")] * 4
        with pytest.raises(UserError, match=r"verdicts of http.* more than failures=0\.5"):
            run(down, stop={"steps": 9})


def test_a_judge_that_is_down_from_the_start_is_said_by_the_self_check(
    run: Callable[..., Any],
) -> None:
    endpoint = {"url": nowhere().url, "retries": 0}
    with pytest.raises(UserError, match=r"none of the first .* \(unreachable: .*refused\)"):
        run({"type": "judge", "endpoint": endpoint})


def test_a_run_says_what_share_of_it_its_reward_took(run: Callable[..., Any]) -> None:
    with serving(lambda prompt: completion("Verdict: 5"), seconds=0.02) as served:
        judged = {"weight": 0.0, "reward": {"type": "judge", "endpoint": {"url": served.url}}}
        own = {"reward": {"type": "env"}}
        rows = run({"type": "mix", "parts": {"own": own, "judged": judged}}).metrics()
    for row in rows:
        spent = row["ledger/seconds/reward"] / row["ledger/seconds"]
        assert row["reward/seconds_share"] == pytest.approx(spent)
        assert 0 < row["reward/seconds_share"] < 1
        assert row["reward/flops_share"] == 0.0  # of a server nobody knows
        assert row["reward/part/own"] == row["reward/mean"]
    (before, after) = (row["ledger/tokens/reward"] for row in rows)
    assert after - before == 11 * 8


def test_references_are_the_rewards_work(run: Callable[..., Any]) -> None:
    env = {"type": "arithmetic", "digits": 1, "train": 6, "test": 4}
    made = run({"type": "par", "replies": 2}, env=env)
    rows = made.metrics()
    assert rows[0]["ledger/flops/reward"] > 0
    assert rows[0]["ledger/flops/reward"] == rows[1]["ledger/flops/reward"]
    share = rows[1]["ledger/flops/reward"] / rows[1]["ledger/training_flops"]
    assert rows[1]["reward/flops_share"] == pytest.approx(share)
    assert (made.path / "rewards" / "train" / "references.json").is_file()
    assert 0.0 < rows[0]["reward/mean"] < 1.0
