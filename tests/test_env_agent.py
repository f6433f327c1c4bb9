"""Agents in processes of their own: played, graded, trained; what they do wrong is survived."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

import upslope
from plays import ladder_chat
from upslope.batteries.env import check_env
from upslope.engines.scripted import ScriptedEngine
from upslope.envs.agent import Agent
from upslope.envs.arithmetic import Arithmetic
from upslope.rollout import Player, Thinking
from upslope.types import Completion, Group, Problem, Sampling, UserError

# OpenAI's client takes half a second to import: the tests' agents speak HTTP by themselves.
ASK = """
import json, os, sys, urllib.request
task = json.load(sys.stdin)
said = []
def ask(words, **more):
    said.append({"role": "user", "content": words})
    body = json.dumps({"model": "any", "messages": said, **more}).encode()
    head = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, body, head)) as answer:
        said.append(json.load(answer)["choices"][0]["message"])
    return said[-1]["content"]
"""
SUM = Arithmetic(train=4, test=4)
PROBLEM = Problem("sum", prompt="1+2=", answer="3", solution="3", stop=("\n",))


def script(folder: Path, code: str) -> tuple[str, ...]:
    path = folder / "agent.py"
    path.write_text(ASK + code, encoding="utf-8")
    return ("python", str(path))


def played(env: Agent, replies: list[str], size: int = 1, turns: int = 4) -> Group:
    chat = ladder_chat()
    engine = ScriptedEngine(replies, chat.tokenizer, chat.end)
    player = Player(engine, env, chat, 20, 1.0, turns, context=300)
    return asyncio.run(player.group(PROBLEM, 0, size, 0, "train"))


@pytest.mark.parametrize("warm", [(), ("json", "urllib.request")])
def test_an_agent_is_played_and_what_it_prints_is_graded(
    tmp_path: Path, warm: tuple[str, ...]
) -> None:
    code = "a = ask(task['prompt'] + '?'); open('seen.txt', 'w').write(a); print(ask('sure?'))"
    env = Agent(script(tmp_path, code), SUM, warm=warm, keep=("seen.txt", "none.txt"))
    group = played(env, ["4", "3"])
    (play,) = group.trajectories
    assert play.facts["failure"] == ""
    assert play.facts["files"] == {"seen.txt": "4"}
    assert (play.facts["calls"], play.facts["code"]) == (2, 0)
    assert play.reward is not None
    assert (play.reward.valid, play.reward.correct) == (True, 1.0)
    (row,) = play.segments
    text = ladder_chat().tokenizer.decode(row.tokens)
    expected = "<|user|>1+2=?<|assistant|>4<|eos|><|user|>sure?<|assistant|>3<|eos|>"
    assert text == expected
    assert [turn.segment for turn in play.turns] == [0, 0]
    assert row.trained.sum() == 4  # two digits and their ends
    assert [m["content"] for m in play.messages] == ["1+2=?", "4", "sure?", "3"]


def test_without_output_the_last_answer_is_graded(tmp_path: Path) -> None:
    group = played(Agent(script(tmp_path, "ask('x')"), SUM), ["3"])
    assert group.rewards[0].correct == 1.0


def test_the_question_is_one_word_of_the_command(tmp_path: Path) -> None:
    code = "ask('x'); print(3 if sys.argv[1] == '1+2= exactly' else 0)"
    command = (*script(tmp_path, code), "{question} exactly")
    assert played(Agent(command, SUM), ["x"]).rewards[0].correct == 1.0


def test_the_answer_is_not_told(tmp_path: Path) -> None:
    env = Agent(script(tmp_path, "ask('x'); print(sorted(task), 'solution' in str(task))"), SUM)
    told = played(env, ["x"]).trajectories[0].facts["output"]
    assert told == "['id', 'info', 'messages', 'prompt'] False\n"


WRONG: dict[str, tuple[str, str]] = {
    "crashes": ("ask('x'); raise RuntimeError('no luck')", "code 1: RuntimeError: no luck"),
    "exits": ("ask('x'); sys.exit(3)", "code 3"),
    "kills itself": ("ask('x'); os.kill(os.getpid(), 9)", "code -9"),
    "never asks": ("print(3)", "never asked"),
    "hangs": ("ask('x'); import time; time.sleep(60)", "more than 1 s"),
    "writes for ever": ("ask('x')\nwhile True: print('y' * 1000)", "more than 5000 bytes"),
    "floods": (
        "import urllib.error\nwhile True:\n try: ask('x')\n except urllib.error.HTTPError: pass",
        "beyond the bounds",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_an_agent_does_wrong_is_an_invalid_reward_with_a_reason(
    kind: str, tmp_path: Path
) -> None:
    code, reason = WRONG[kind]
    seconds = 1.0 if kind == "hangs" else 30.0
    env = Agent(script(tmp_path, code), SUM, seconds=seconds, output=5000)
    (reward,) = played(env, ["4"] * 9).rewards
    assert not reward.valid
    assert reason in reward.reason


def test_an_agent_that_leaves_while_it_is_answered_is_no_answer(tmp_path: Path) -> None:
    """The engine's work on it is given up, and the run goes on."""
    code = """
ask('first')
import http.client, threading
url = os.environ["OPENAI_BASE_URL"].removeprefix("http://").partition("/")[0]
wire = http.client.HTTPConnection(url)
key = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
body = json.dumps({"messages": [{"role": "user", "content": "slow"}]})
wire.request("POST", "/v1/chat/completions", body, key)
os._exit(1)
"""
    chat, cancelled = ladder_chat(), []

    class Slow(ScriptedEngine):
        async def sample(self, tokens: Any, sampling: Sampling) -> Completion:
            if "slow" in chat.tokenizer.decode(tokens):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.append(True)
                    raise
            return await super().sample(tokens, sampling)

    env = Agent(script(tmp_path, code), SUM)
    player = Player(Slow(["4"], chat.tokenizer, chat.end), env, chat, 20, 1.0, 4)
    began = time.monotonic()
    group = asyncio.run(player.group(PROBLEM, 0, 1, 0, "train"))
    assert time.monotonic() - began < 20
    assert not group.rewards[0].valid
    assert len(group.trajectories[0].turns) == 1


def test_running_out_of_turns_is_the_policys_and_is_graded(tmp_path: Path) -> None:
    group = played(Agent(script(tmp_path, "while True: ask('x')"), SUM), ["3"] * 9, turns=2)
    (play,) = group.trajectories
    assert group.rewards[0].valid  # though the agent raised what the refusal is to it
    assert (play.facts["cut"], play.turns[-1].stop_reason, len(play.turns)) == ("turns", "turns", 2)


def test_nothing_that_it_started_outlives_it(tmp_path: Path) -> None:
    code = f"""
ask('x')
import subprocess
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print(3)
"""
    for warm in ((), ("json",)):
        assert played(Agent(script(tmp_path, code), SUM, warm=warm), ["4"]).rewards[0].correct == 1
        pid = int((tmp_path / "pid").read_text())
        for _ in range(100):
            state = Path(f"/proc/{pid}/stat")
            if not state.exists() or state.read_text().split()[2] == "Z":
                break
            time.sleep(0.02)
        else:
            os.kill(pid, 9)
            raise AssertionError("a child of the agent goes on")


def test_members_of_a_group_differ_and_are_the_same_again(tmp_path: Path) -> None:
    """No more than ``at_once`` at a time; draws depend on the member alone."""
    env = Agent(script(tmp_path, "print(ask('x'))"), SUM, at_once=2, warm=("json",))
    chat = ladder_chat()
    seeds = []
    for _ in range(2):
        engine = ScriptedEngine(["3"] * 4, chat.tokenizer, chat.end)
        player = Player(engine, env, chat, 20, 1.0, 4)
        asyncio.run(player.group(PROBLEM, 0, 4, 0, "train"))
        seeds.append(sorted(sampling.seed for _, sampling in engine.seen))
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4


def test_it_is_an_env_like_any_other() -> None:
    proofs = check_env(Agent(("python", "agent.py"), Arithmetic()))
    assert len(proofs) > 4


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="command is empty"):
        Agent((), SUM)
    with pytest.raises(UserError, match="bounds"):
        Agent(("python", "a.py"), SUM, seconds=0)
    with pytest.raises(UserError, match="keep"):
        Agent(("python", "a.py"), SUM, keep=("../x",))
    with pytest.raises(UserError, match="warm is for"):
        Agent(("node", "a.js"), SUM, warm=("json",))
    with pytest.raises(UserError, match="nosuchprogram"):
        played(Agent(("nosuchprogram",), SUM), ["x"])
    with pytest.raises(UserError, match="nosuchmodule"):
        played(Agent(script(tmp_path, ""), SUM, warm=("nosuchmodule",)), ["x"])
    chat = ladder_chat()
    engine = ScriptedEngine(["x"], chat.tokenizer, chat.end)
    thinking = Thinking(2, 0, "stop </think>")
    player = Player(engine, Agent(script(tmp_path, ""), SUM), chat, 9, 1.0, thinking=thinking)
    with pytest.raises(UserError, match="think_tokens"):
        asyncio.run(player.group(PROBLEM, 0, 1, 0, "train"))


def test_a_run_trains_through_it_and_survives_agents_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
said = ask(task["prompt"], max_tokens=1)
if task["id"] in "bf": sys.exit(9)
print(said)
"""
    digits = f"{Path(__file__).with_name('plays.py')}:Digits"
    env = {"type": "agent", "command": [*script(tmp_path, code)], "of": {"type": digits}}
    run = upslope.train(
        {
            "model": "ladder:0.1m",
            "machine": {"threads": 1},
            "env": {**env, "warm": ["json", "urllib.request"]},
            "algorithm": {"type": "grpo"},
            "rollout": {"problems": 4, "group": 6, "max_tokens": 2},
            "evaluation": {"problems": 2},
            "stop": {"steps": 2},
        }
    )
    assert run.result() is not None
    rows = run.metrics()
    assert all(row["reward/invalid_share"] == 0.25 for row in rows)
    told = [row["drift/max"] for row in rows if "drift/max" in row]
    assert told
    assert max(told) < 1e-3
