"""A client of OpenEnv's protocol against a server that speaks it, and servers that do not."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from plays import chatml
from upslope.batteries import check_env
from upslope.batteries.env import GARBAGE
from upslope.engines.scripted import ScriptedEngine
from upslope.envs.openenv import OpenEnv, filled
from upslope.rollout import Player
from upslope.types import Group, UserError

pytest.importorskip("websockets")


def guess(kind: str, data: dict[str, Any], state: dict[str, Any]) -> Any:
    """A game: add two numbers; an answer that is none is at fault, a wrong one is told so."""
    if kind == "reset":
        state["seed"] = data["seed"] % 10_000
        asked = f"{state['seed']}+1"
        return {"observation": {"question": asked, "metadata": {}}, "reward": None, "done": False}
    if not isinstance(data["answer"], int):
        return {"error": "VALIDATION_ERROR", "message": "answer is no integer"}
    right = data["answer"] == state["seed"] + 1
    observation = {"question": "again"}
    return {"observation": observation, "reward": 1.0 if right else -0.25, "done": right}


@contextmanager
def served(game: Callable[[str, dict[str, Any], dict[str, Any]], Any]) -> Iterator[str]:
    """The URL of a server, until the block ends; one game a connection."""
    from websockets.sync.server import ServerConnection, serve

    def session(wire: ServerConnection) -> None:
        state: dict[str, Any] = {}
        for message in wire:
            asked = json.loads(message)
            if asked["type"] == "close":
                return
            said = game(asked["type"], asked["data"], state)
            if said is None:
                return
            if "error" in said:
                data = {"message": said["message"], "code": said["error"]}
                wire.send(json.dumps({"type": "error", "data": data}))
            else:
                wire.send(json.dumps({"type": "observation", "data": said}))

    with serve(session, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def env(url: str, **more: Any) -> OpenEnv:
    given: dict[str, Any] = {"action": {"answer": "{reply}"}, "train": 6, "test": 2, **more}
    return OpenEnv(url, seconds=5.0, **given)


def played(made: OpenEnv, *replies: str, split: Any = "train") -> Group:
    chat = chatml()
    engine = ScriptedEngine(replies, chat.tokenizer, chat.end)
    problem = made.problems(split)[0]
    player = Player(engine, made, chat, 40, 1.0, 4)
    return asyncio.run(player.group(problem, 0, 1, 0, "train"))


def test_seeds_are_problems_and_steps_are_turns() -> None:
    with served(guess) as url:
        made = env(url)
        again = env(url)
        for split in ("train", "validation", "test"):
            ids = [p.id for p in made.problems(split)]  # type: ignore[arg-type]
            assert ids == [p.id for p in again.problems(split)]  # type: ignore[arg-type]
        (problem, *_) = made.problems("train")
        question = problem.messages[0]["content"]
        answer = int(question.removesuffix("+1")) + 1
        group = played(made, "7", "what?", str(answer))
    (play,) = group.trajectories
    assert [m["content"] for m in play.messages] == [
        question,
        "7",
        "again",
        "what?",
        "error: answer is no integer",
        str(answer),
    ]
    assert [turn.reward for turn in play.turns] == [-0.25, 0.0, 0.0]
    (reward,) = group.rewards
    assert (reward.total, reward.correct, reward.valid) == (0.75, 0.0, True)
    assert play.facts == {"rewards": [-0.25, 1.0], "errors": 1, "failure": ""}


def lost(kind: str, data: dict[str, Any], state: dict[str, Any]) -> Any:
    return guess(kind, data, state) if kind == "reset" else None


def full(kind: str, data: dict[str, Any], state: dict[str, Any]) -> Any:
    told = {"error": "CAPACITY_REACHED", "message": "no place"}
    return guess(kind, data, state) if kind == "reset" else told


def foreign(kind: str, data: dict[str, Any], state: dict[str, Any]) -> Any:
    return guess(kind, data, state) if kind == "reset" else {"hello": 1}


def infinite(kind: str, data: dict[str, Any], state: dict[str, Any]) -> Any:
    said = guess(kind, data, state)
    return said if kind == "reset" else {**said, "reward": float("inf")}


@pytest.mark.parametrize(
    ("game", "words"),
    [(lost, "session ended"), (full, "no place"), (foreign, "form"), (infinite, "form")],
)
def test_a_servers_fault_is_an_invalid_reward_with_a_reason(game: Any, words: str) -> None:
    with served(game) as url:
        (reward,) = played(env(url), "7").rewards
    assert not reward.valid
    assert words in reward.reason


def test_a_server_that_goes_away_fails_plays_and_not_the_run() -> None:
    with served(guess) as url:
        made = env(url)
        made.problems("train")
    (reward,) = played(made, "7").rewards
    assert (reward.valid, "cannot be reached" in reward.reason) == (False, True)


def test_mistakes_are_sentences() -> None:
    def same(kind: str, data: dict[str, Any], state: dict[str, Any]) -> Any:
        return {"observation": {"text": "hello"}, "reward": 0, "done": False}

    with served(same) as url:
        with pytest.raises(UserError, match="only 1 different"):
            env(url).problems("train")
        told = env(url, question="Game {seed}: {observed}").problems("test")
    assert len({p.messages[0]["content"] for p in told}) == 2
    with pytest.raises(UserError, match="cannot be used"):
        env("http://127.0.0.1:9").problems("train")
    with pytest.raises(UserError, match="url must"):
        env("localhost")
    with pytest.raises(UserError, match="above 0"):
        env("http://a", at_once=0)


def test_a_reply_fills_an_action() -> None:
    template = {"move": "{reply}", "text": "I say {reply}", "list": ["{reply}", 1]}
    assert filled(template, " 5") == {"move": 5, "text": "I say  5", "list": [5, 1]}
    assert filled("{reply}", "up") == "up"


def test_it_passes_the_battery() -> None:
    """Nobody knows a gold play of a server, so the proofs of one have nothing to prove."""
    with served(guess) as url:
        proven = {proof.claim: proof.seen for proof in check_env(env(url), problems=2)}
    assert proven["rewards are deterministic"] == "6 problems, 3 times"
    assert proven["rewards survive garbage"] == f"{len(GARBAGE)} kinds"
