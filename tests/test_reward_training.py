"""Training reward models: it learns, repeats itself and stops; recipes, data, the commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from upslope.chat import Chat
from upslope.cli import app
from upslope.engines.scripted import ScriptedEngine
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.notes import Notes, gold
from upslope.ledger import Ledger
from upslope.models.load import load
from upslope.models.reward_folder import load_reward_model
from upslope.models.reward_model import RewardModel, reward_model_of
from upslope.preferences.gathered import columns_of, from_env, from_file
from upslope.preferences.learned import Compared, PairLoss, Rated, Stepped
from upslope.preferences.made import of_pairs, raw_of, train_recipe
from upslope.preferences.moved import pairs_of
from upslope.preferences.pair import Pair, dialogue
from upslope.preferences.process import row_of, solutions_of, stepped, worth_of
from upslope.preferences.recipe import Pairs, dump, read_recipe
from upslope.preferences.training import Fit, Training, tempered, train
from upslope.preferences.transcripts import messages_of
from upslope.types import Problem, UserError

FAST = Training(lr=3e-3, epochs=2, batch=16, warmup=2)
RECIPE = """
model = "ladder:0.1m"
out = "judge"
[env]
type = "notes"
train = 80
test = 60
[pairs]
slices = ["topic"]
[training]
lr = 3e-3
epochs = 1
batch = 16
[machine]
threads = 1
"""


def mute(line: str) -> None:
    """Nobody listens."""


def fresh(*names: str, seed: int = 0) -> RewardModel:
    return reward_model_of(load("ladder:0.1m", seed), names or ("reward",))


def simple(count: int, **info: Any) -> list[Pair]:
    """Pairs in which the side with more marks won."""
    asked = [Problem(str(i), prompt=f"{i}:") for i in range(count)]
    return [Pair(p, "so!!", "so.", {"margin": i / count, **info}) for i, p in enumerate(asked)]


def test_it_learns_and_the_same_seed_gives_the_same_weights() -> None:
    found = from_env(Notes(train=160, test=60), "notes", Pairs(train=128), 0)
    seen = []
    for seed in (0, 0, 1):
        model, ledger = fresh(), Ledger()
        lesson = Compared.of(model, found.train, PairLoss(centring=0.001))
        held = Compared.of(model, found.validation, PairLoss())
        trained = train(model, lesson, held, FAST, seed, ledger, mute)
        seen.append(trained)
        assert len(trained.rows) == 2 * 8
        held_out = [row.get("reward_model/held_out_loss", 9.0) for row in trained.rows]
        assert trained.loss == min(held_out) == held_out[trained.best - 1]
        # The heads began at 0: log 2 before anything was learned.
        assert trained.rows[0]["reward_model/loss"] == pytest.approx(np.log(2))
        assert trained.loss < 0.66
        assert trained.rows[-1]["ledger/flops/update"] > trained.rows[0]["ledger/flops/update"] > 0
        report = of_pairs(trained.model, found.test)
        assert report.accuracy.mean > 0.65
    first, again, other = ([p.clone() for p in t.model.parameters().values()] for t in seen)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    # What is scored was whitened on what was learned from.
    raw, _ = seen[0].model.scores(torch.tensor([[5, 1]]), torch.tensor([2]))
    assert float(seen[0].model.normal.std) != 1
    assert torch.isfinite(seen[0].model.normalised(raw)).all()


def test_the_gradient_is_that_of_finite_differences_and_of_any_split() -> None:
    """Analytic, through the packed trunk; in double precision, so that differences are exact."""
    pairs = simple(8)
    model = fresh()
    torch.manual_seed(0)
    with torch.no_grad():
        model.head.weight.normal_(std=0.3)
    lesson = Compared.of(model, pairs, PairLoss(margins=True, centring=0.01, smoothing=0.1))
    whole = Fit(model, Training(), 1, Ledger())
    total = whole.gradient(lesson, range(8))
    kept = {name: p.grad.clone() for name, p in whole.own.items() if p.grad is not None}
    assert {"head.weight", "model.layers.0.mlp.up_proj.weight"} <= set(kept)
    whole.optimiser.zero_grad()
    parts = Fit(model, Training(micro_tokens=1), 1, Ledger())
    assert parts.gradient(lesson, range(8)) == pytest.approx(total, rel=1e-5)
    for name, gradient in kept.items():
        found = parts.own[name].grad
        assert found is not None
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-4)
    # Along the gradient itself, where single precision suffices.
    with torch.no_grad():
        weight, slope = model.head.weight, kept["head.weight"]
        values = []
        for step in (1e-2, -1e-2):
            weight += step * slope
            values.append(whole.look(lesson))
            weight -= step * slope
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(float((slope**2).sum()), rel=1e-3)


def test_heads_learn_each_its_own() -> None:
    """The second prefers what the first rejects; one without a preference learns nothing."""
    info = {"plain_chosen": 0.0, "plain_rejected": 1.0, "none_chosen": 1.0, "none_rejected": 1.0}
    model = fresh("reward", "plain", "none")
    lesson = Compared.of(model, simple(16, **info), PairLoss())
    assert lesson.sign.tolist() == [[1, -1, 0]] * 16
    fit = Fit(model, Training(lr=1e-2), 8, Ledger())
    for _ in range(8):
        fit.update(lesson, range(16))
    raw = model.scores(*_rows(model, "so!!", "so."))[0]
    ahead = raw[0] - raw[1]
    assert ahead[0] > 0.5
    assert ahead[1] < -0.5
    assert torch.equal(model.head.weight[2], torch.zeros(64))


def _rows(model: RewardModel, *texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    from upslope.models.reward_model import padded

    asked = Problem("x", prompt="3:")
    return padded([model.encode(dialogue(asked, text)) for text in texts])


def test_ratings_and_steps_are_learned() -> None:
    model = fresh()
    rated = Rated.of(model, simple(8, reward_chosen=2.0, reward_rejected=-1.0))
    assert len(rated) == 16
    assert rated.target[:2].tolist() == [[2.0], [-1.0]]
    fit = Fit(model, Training(lr=3e-3), 40, Ledger())
    first = [fit.update(rated, range(16))["reward_model/loss"] for _ in range(40)]
    assert first[0] == pytest.approx(0.5 * (4 + 1) / 2)
    assert first[-1] < 0.05

    model = fresh()
    asked = Problem("x", prompt="1+1=")
    rows = [row_of(model, asked, ("1+1=", "2")), row_of(model, asked, ("0+3=", "3"))]
    ends = [model.tokenizer.decode(rows[0].tokens[place]) for place in rows[0].at]
    assert ends == ["=", "<|eos|>"]
    lesson = Stepped(rows, [np.array(w, np.float32) for w in ((1, 1), (0.25, 0))])
    fit = Fit(model, Training(lr=1e-2), 60, Ledger())
    losses = [fit.update(lesson, (0, 1))["reward_model/loss"] for _ in range(60)]
    least = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / 4  # a soft label's own entropy
    assert losses[0] == pytest.approx(np.log(2))
    assert losses[-1] == pytest.approx(least, abs=0.02)


def test_a_temperature_makes_chances_come_true() -> None:
    """A head that tells 3 of 4 pairs right, and is far too sure: its chances become 3/4."""
    model = fresh("reward", "none")
    info = {"none_chosen": 0.0, "none_rejected": 0.0}
    pairs = [p._replace(info=info) for p in simple(32)]
    turned = [
        Pair(p.problem, p.rejected, p.chosen, info) if i % 4 == 0 else p
        for i, p in enumerate(pairs)
    ]
    fit, lesson = Fit(model, Training(lr=1e-2), 30, Ledger()), Compared.of(model, pairs, PairLoss())
    for _ in range(30):
        fit.update(lesson, range(32))
    kept = model.head.weight[1].clone()
    held = Compared.of(model, turned, PairLoss())
    before, order = fit.look(held), ahead(model, pairs)
    tempered(model, held, 4096)
    assert before > 1
    assert fit.look(held) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=0.02)
    assert float(torch.sigmoid(ahead(model, pairs)).mean()) == pytest.approx(0.75, abs=0.02)
    assert torch.equal(ahead(model, pairs).argsort(), order.argsort())
    assert torch.equal(model.head.weight[1], kept)


def ahead(model: RewardModel, pairs: Sequence[Pair]) -> torch.Tensor:
    """How far the chosen side is, by the first head."""
    raw = torch.from_numpy(raw_of(model, pairs, 4096))[:, :, 0]
    return raw[:, 0] - raw[:, 1]


def test_it_stops_where_held_out_loss_rises_and_keeps_the_best() -> None:
    model = fresh()
    lesson = Compared.of(model, simple(32), PairLoss())
    worse = [Pair(p.problem, p.rejected, p.chosen, p.info) for p in simple(16)]
    settings = Training(lr=1e-3, epochs=50, batch=8, every=1, patience=3)
    said: list[str] = []
    trained = train(model, lesson, Compared.of(model, worse, PairLoss()), settings, 0, Ledger(),
                    said.append)  # fmt: skip
    assert len(trained.rows) == trained.best + 3 < 200
    assert "stopped" in said[-1]
    report = [r["reward_model/held_out_loss"] for r in trained.rows]
    assert trained.loss == min(report) == report[trained.best - 1]


def test_a_loss_that_is_not_finite_skips_its_update_and_in_a_row_stops() -> None:
    model = fresh()
    lesson = Compared.of(model, simple(8), PairLoss(margins=True))
    lesson.margin[0] = np.inf
    before = [p.clone() for p in model.parameters().values()]
    fit = Fit(model, Training(), 8, Ledger())
    assert fit.update(lesson, range(8))["reward_model/skipped"] == 1
    assert all(map(torch.equal, before, model.parameters().values()))
    for _ in range(2):
        fit.update(lesson, range(8))
    with pytest.raises(UserError, match="not finite in 4 updates in a row: lower training"):
        fit.update(lesson, range(8))


def test_pairs_of_an_env_follow_gold_and_flips_turn_a_share() -> None:
    env = Notes(train=300, test=60)
    plain = from_env(env, "notes", Pairs(train=200), 0)
    assert len(plain.train) == 200
    for pair in plain.train:
        topic = pair.problem.answer
        high, low = gold(topic, pair.chosen).total, gold(topic, pair.rejected).total
        assert high > low
        assert (pair.info["reward_chosen"], pair.info["reward_rejected"]) == (high, low)
    noisy = from_env(env, "notes", Pairs(train=200, flips=0.25), 0)
    turned = [p for p in noisy.train if p.info["reward_chosen"] < p.info["reward_rejected"]]
    assert len(turned) == pytest.approx(50, abs=18)
    assert all(p.info["flipped"] == "yes" for p in turned)
    assert all(p.info["reward_chosen"] > p.info["reward_rejected"] for p in noisy.test)
    asked = [
        {p.problem.prompt for p in part} for part in (plain.train, plain.validation, plain.test)
    ]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    with pytest.raises(UserError, match="demonstrates one reply to each problem"):
        from_env(Arithmetic(train=20, test=10), "arithmetic", Pairs(), 0)


def test_pairs_are_sampled_from_a_policy(tmp_path: Path) -> None:
    env = Notes(train=12, test=12)
    settings = Pairs(policy="ladder:0.1m", train=20, max_tokens=6)
    found = from_env(env, "notes", settings, 0)
    assert found.train
    assert len(found.train) <= 20
    assert found.train == from_env(env, "notes", settings, 0).train


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pairs_of_a_file(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Hi"}
    yes, no = ({"role": "assistant", "content": text} for text in ("Yes", "No"))
    rows = [
        {"prompt": "1+1=", "chosen": "2", "rejected": "3", "source": "Ann", "margin": 0.5},
        {"chosen": [user, yes], "rejected": [user, no]},
        {"prompt": [user], "chosen": [no, user, yes], "rejected": [no, user, no]},
    ]
    one, two, three = pairs_of(write(tmp_path / "pairs.jsonl", rows))
    assert (one.problem.prompt, one.chosen, one.rejected) == ("1+1=", "2", "3")
    assert dict(one.info) == {"source": "Ann", "margin": 0.5}
    assert (two.problem.messages, two.chosen, two.rejected) == ((user,), "Yes", "No")
    assert three.problem.messages == (user, no, user)
    assert columns_of([one, two], ["source", "absent"]) == {"source": ["Ann", "none"]}
    wrong = [{"prompt": "a", "chosen": "b", "rejected": "b"}]
    with pytest.raises(UserError, match="line 1: chosen and rejected are the same"):
        list(pairs_of(write(tmp_path / "same.jsonl", wrong)))
    apart = [{"prompt": [user], "chosen": [no, user, yes], "rejected": [yes, user, no]}]
    with pytest.raises(UserError, match="the sides differ before their last reply"):
        list(pairs_of(write(tmp_path / "apart.jsonl", apart)))


def test_questions_of_a_file_are_split_not_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i // 2}:", "chosen": "yes", "rejected": f"no {i}"} for i in range(400)]
    found = from_file(Pairs(path=str(write(tmp_path / "p.jsonl", rows)), held_out=0.4, train=0), 0)
    parts = [
        {p.problem.prompt for p in part} for part in (found.train, found.validation, found.test)
    ]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    counts = [len(found.train), len(found.validation), len(found.test)]
    assert sum(counts) == 400
    assert counts[0] == pytest.approx(240, abs=40)
    assert all(len(part) % 2 == 0 for part in (found.train, found.validation, found.test))


def test_steps_of_a_file_and_by_playing_on(tmp_path: Path) -> None:
    rows = [{"prompt": "5+7=", "completions": ["5+5=10", "12"], "labels": [True, 0.5]}] * 8
    found = solutions_of(write(tmp_path / "steps.jsonl", rows))
    assert found[0].steps == ("5+5=10\n", "12")
    assert found[0].worth == (1.0, 0.5)
    assert len(stepped(fresh(), found)) == 8
    with pytest.raises(UserError, match="7 solutions are too few"):
        stepped(fresh(), found[:7])
    for wrong in ({"labels": [True]}, {"labels": [True, 2]}, {"completions": "no"}):
        with pytest.raises(UserError, match='line 1: "completions" must be a list of texts'):
            solutions_of(write(tmp_path / "wrong.jsonl", [{**rows[0], **wrong}]))
    # Of completions after "1", three of four end right; "12" is right, and "13" is not.
    policy = load("ladder:0.1m")
    chat, env = Chat(policy.tokenizer, policy.eos), Arithmetic()
    problem = next(p for p in env.problems("train") if p.solution == "12")
    engine = ScriptedEngine(["2", "2", "3", "2"], policy.tokenizer, chat.end)
    worth = asyncio.run(worth_of(engine, env, chat, problem, ("1", "2"), 4, 4, 0))
    assert worth == [0.75, 1.0]
    engine = ScriptedEngine(["2", "2", "3", "2"], policy.tokenizer, chat.end)
    assert asyncio.run(worth_of(engine, env, chat, problem, ("1", "3"), 4, 4, 0))[1] == 0.0


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "judge.toml"


def test_the_commands(recipe: Path) -> None:
    said = CliRunner().invoke(app, ["reward-model", "train", str(recipe)])
    assert said.exception is None, said.exception
    out = recipe.parent / "judge"
    report = json.loads((out / "report.json").read_text())
    assert f"accuracy {100 * report['accuracy']['mean']:.1f}%" in said.output
    assert {*report["slices"]} == {"length", "topic"}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert rows[-1]["reward_model/held_out_loss"] < np.log(2)
    assert (out / "reliability.svg").read_text().startswith("<svg")
    assert read_recipe(out / "reward_model.toml") == read_recipe(recipe)
    assert load_reward_model(out / "model").names == ("reward",)
    again = CliRunner().invoke(app, ["reward-model", "eval", str(recipe)])
    assert again.exception is None, again.exception
    assert json.loads((out / "report.json").read_text()) == report
    elsewhere = ["reward-model", "eval", str(recipe), "--model", "nowhere"]
    refused = CliRunner().invoke(app, elsewhere)
    assert "nowhere is no reward model" in str(refused.exception)


def test_other_heads_are_judged_as_well(recipe: Path) -> None:
    given = read_recipe(recipe, ["heads=['reward', 'length', 'marks']", "training.epochs=4"])
    _, seen = train_recipe(given, mute)
    heads = seen.slices["head"]
    assert {*heads} == {"length", "marks"}
    assert all(0 < count <= seen.pairs for count, _ in heads.values())
    assert heads["marks"][1].mean > 0.7


def test_transcripts_are_dialogues_and_long_ones_are_left_out(recipe: Path) -> None:
    """hh-rlhf's form; a second turn of one speaker goes on in the first."""
    text = "\n\nHuman: Hi\n\nAssistant: Oh\n\nHuman: Go\n\nHuman: on\n\nAssistant:"
    assert messages_of(text + " No.\n\nAnd so") == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Oh"},
        {"role": "user", "content": "Go\n\non"},
        {"role": "assistant", "content": "No.\n\nAnd so"},
    ]
    rows = [
        {
            "chosen": f"\n\nHuman: {i}?\n\nAssistant: Yes",
            "rejected": f"\n\nHuman: {i}?\n\nAssistant:",
        }
        for i in range(120)
    ]
    rows += [{side: text.replace("?", "?" * 600) for side, text in rows[0].items()}] * 3
    path = write(recipe.parent / "hh.jsonl", rows)
    first = next(pairs_of(path))
    assert (first.problem.messages[0]["content"], first.chosen, first.rejected) == ("0?", "Yes", "")
    file = recipe.parent / "hh.toml"
    file.write_text(f'model = "ladder:0.1m"\nout = "hh"\npairs.path = "{path}"\n', encoding="utf-8")
    said: list[str] = []
    changes = ["pairs.held_out=0.4", "training.lr=3e-3", "training.batch=8"]
    _, seen = train_recipe(read_recipe(file, changes), said.append)
    assert said[0].startswith("3 of 123 pairs are left out: they are longer than the 512 tokens")
    assert seen.accuracy.mean == 1


def test_an_average_of_members_is_one_model_with_a_scale_of_its_own(recipe: Path) -> None:
    said: list[str] = []
    model, _ = train_recipe(read_recipe(recipe, ["average=2", "training.epochs=1"]), said.append)
    assert sum("to learn from" in line for line in said) == 2
    assert float(model.normal.std) not in (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["training.lrr=1"], "unknown setting training.lrr: did you mean training.lr?"),
        (["pairs.path=x.jsonl"], "give either pairs.path or an"),
        (["loss.type=process"], "learns from steps: name their file in pairs.path"),
        (["loss.type=regression", "loss.smoothing=0.1"], "compares none: leave them out"),
        (["lora.targets=['q_proj']"], "set lora.rank"),
        (["training.lr=0"], "training.lr must be a number above 0, not 0"),
        (["heads=['reward', 'kind']"], "heads names 'kind', and a pair of problem .* it has numbers"
         " for ending, length, marks, reward, topic, variety"),
        (["pairs.train=4"], "4 pairs are too few to learn from: give at least 8"),
        (["env.type=arithmetic"], "unknown setting|demonstrates one reply"),
        (["out=judge.toml"], "exists and is no reward model's folder"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be(recipe: Path, changes: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train_recipe(read_recipe(recipe, changes), mute)


def test_a_recipe_survives_its_file(recipe: Path) -> None:
    given = read_recipe(recipe, ["seed=3", "loss.centring=0.01", "heads=['a', 'b']"])
    recipe.write_text(dump(given), encoding="utf-8")
    assert read_recipe(recipe) == given
    with pytest.raises(UserError, match="there is no recipe"):
        read_recipe(recipe.parent / "other.toml")


def test_equal_sides_and_heads_without_columns() -> None:
    model = fresh()
    same = [*simple(8), Pair(Problem("q", prompt="q"), "a", "a", {})]
    with pytest.raises(UserError, match="a pair of problem 'q' has two equal sides"):
        Compared.of(model, same, PairLoss())
    with pytest.raises(UserError, match="has no number reward_chosen: it has numbers for no head"):
        Rated.of(model, simple(8))
