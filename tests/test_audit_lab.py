"""The gold-against-proxy lab: its numbers by hand, seeded faults, and a small one end to end."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from upslope.audit import ways
from upslope.audit.climb import Climbed, Followed, Look, arms_of, kls
from upslope.audit.followed import Seen, at_peak, formed, highest, kept, lost, seen, standard
from upslope.audit.lab_recipe import read_lab
from upslope.audit.lab_report import report
from upslope.audit.lab_results import TABLES, read_results
from upslope.audit.stopping import Stop, decided, formed_rl, keeps, smoothed, stopped, windows
from upslope.chat import Chat
from upslope.cli import app
from upslope.engines.local import LocalEngine
from upslope.envs.notes import Notes
from upslope.models.load import load
from upslope.models.logprobs import prepare
from upslope.rollout import Player
from upslope.scaling.overoptimised import best_of_n, kl_best_of_n
from upslope.types import Trajectory, UserError

NS = [1, 2, 4, 8, 16, 32, 64, 128]
RECIPE = """
model = "ladder:0.1m"
out = "lab"
seeds = 2
max_tokens = 8
env = { type = "notes", train = 30, test = 20 }
imitation = { steps = 3, problems = 8 }
pool = { problems = 8, replies = 32 }
proxies = { models = ["ladder:0.1m"], pairs = [8, 20], noisy = 20, held = 8, members = 2 }
training = { epochs = 1, batch = 8, lr = 1e-3 }
climb = { steps = 3, every = 1, problems = 2, group = 2, seeds = 1 }
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "lab.toml"


def worlds(seed: int = 0, problems: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """What replies have of something that gold likes up to 1.5 and no further; gold."""
    much = np.random.default_rng(seed).normal(size=(problems, 256))
    return much, np.where(much < 1.5, much, 3 - much)


# --- curves, by hand


def test_errors_are_of_problems_and_of_seeds() -> None:
    # Two seeds, two problems: seeds' means (2, 4) over problems, problems' means (1, 5) over seeds.
    values = np.array([[[0.0], [2.0]], [[4.0], [6.0]]])
    mean, error = standard(values)
    assert mean == pytest.approx([3.0])
    assert error == pytest.approx([np.sqrt(2.0 / 2 + 8.0 / 2)])
    assert seen(values[:1, :, 0]) == (1.0, 1.0)  # one seed: problems alone


def test_a_peak_is_looked_for_in_the_other_half() -> None:
    # Problems 0 and 2 peak at the second point, 1 and 3 at the third.
    gold = np.array([[[0.0, 3.0, 1.0], [0.0, 1.0, 4.0], [0.0, 3.0, 1.0], [0.0, 1.0, 4.0]]])
    assert highest(gold).tolist() == [2, 1, 2, 1]
    assert at_peak(gold).tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert lost(gold).tolist() == [[0.0, -3.0, 0.0, -3.0]]


def test_what_a_stop_keeps_of_the_gain() -> None:
    gold = np.array([[[1.0, 4.0, 5.0, 3.0]]])
    assert kept(gold, [1, 2, 3]) == pytest.approx([0.75, 1.0, 0.5])


def test_a_proxy_that_is_gold_never_falls_and_one_that_wants_more_does() -> None:
    much, gold = worlds()
    honest, fooled = (best_of_n(score, gold, NS)[None] for score in (gold, much))
    assert seen(lost(honest)).mean == 0.0
    fall = seen(lost(fooled))
    assert fall.mean / fall.error > 3
    distance = np.sqrt(kl_best_of_n(np.array(NS)))
    form = formed("best_of_n", distance, fooled)
    assert form is not None
    assert form.b.low > 0
    assert 0 < form.peak.value < distance[-1]
    assert form.gold.low <= form.gold.value <= form.gold.high


def test_a_form_foretells_what_follows_it() -> None:
    distance = np.linspace(0, 3, 13)
    gold = np.stack([s * distance * (1.2 - 0.3 * distance) for s in (0.9, 1.1)])[None]
    form = formed("best_of_n", distance, gold)
    assert form is not None
    assert (form.a.value, form.b.value) == pytest.approx((1.2, 0.3))
    assert form.r2.value == pytest.approx(1.0)
    assert form.peak.value == pytest.approx(2.0)
    assert form.gold.value == pytest.approx(1.2)
    assert form.nearer == 2.0
    assert form.told.value == pytest.approx(form.came.mean) == pytest.approx(0.9)
    assert formed("best_of_n", np.array([0.0, 1.0, 2.0]), gold[..., :3]) is None


# --- ways to resist


def test_what_an_ensemble_says() -> None:
    scores = np.array([[[1.0, 0.0]], [[3.0, 0.0]]])
    found = ways.several(scores, 2.0)
    assert {name: one.tolist() for name, one in found.items()} == {
        "mean": [[2.0, 0.0]],
        "worst": [[1.0, 0.0]],
        "mean - 2 deviation": [[0.0, 0.0]],
        "mean - 2 variance": [[0.0, 0.0]],
    }


def test_members_that_are_wrong_apart_lose_less_together() -> None:
    _, gold = worlds()
    random = np.random.default_rng(1)
    # Each member is drawn to some of the replies, by what has nothing to do with gold.
    scores = np.stack([gold + 3 * (random.random(gold.shape) < 0.05) for _ in range(5)])
    alone = np.mean([best_of_n(one, gold, NS).mean(0)[-1] for one in scores])
    worst = best_of_n(ways.several(scores, 1.0)["worst"], gold, NS).mean(0)[-1]
    assert worst > alone + 0.4


def test_without_length_there_is_no_slope() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 30, size=(4, 50)).astype(float)
    left = ways.without_length(random.normal(size=(4, 50)) + 0.3 * lengths, lengths)
    apart = lengths - lengths.mean(1, keepdims=True)
    assert (apart * left).sum() == pytest.approx(0.0, abs=1e-9)
    assert np.array_equal(ways.without_length(left, np.ones((4, 50))), left)


def test_an_audit_of_everything_stops_at_the_peak() -> None:
    much, gold = worlds()
    curve = best_of_n(much, gold, NS).mean(0)
    assert ways.audited(much, gold, NS, 1.0, 0) == int(curve.argmax()) < len(NS) - 1
    assert ways.audited(gold, gold, NS, 1.0, 0) == len(NS) - 1


def test_an_audit_of_a_few_stops_near_the_peak() -> None:
    much, gold = worlds(problems=64)
    curve = best_of_n(much, gold, NS)[None]
    places = [ways.audited(much, gold, NS, 0.05, draw) for draw in range(20)]
    assert kept(curve, places).mean() > 0.9
    assert kept(curve, [len(NS) - 1])[0] < 0.5


# --- stopping along a climb


def climb(gold: list[float], plays: int = 64) -> Climbed:
    """Looks at every step, with the same seen by an audit of so many plays."""
    looks = [
        Look(step, Seen(0.1 * step, 0.0), Seen(g, 0.01), Seen(float(step), 0.0))
        for step, g in enumerate(gold)
    ]
    audited = [(step, plays, g) for step, g in enumerate(gold)]
    return Climbed("single", 0, looks, audited, 0.2, 0, 1.0)


def test_windows_are_of_enough_plays() -> None:
    found = windows([(0, 64, 0.0), (1, 64, 1.0), (2, 128, 0.5)], 0.2)
    assert [(w.middle, w.last, w.plays, w.gold.mean) for w in found] == [
        (0.5, 1, 128, 0.5),
        (2.0, 2, 128, 0.5),
    ]
    assert found[0].gold.error == pytest.approx(0.2 / 128**0.5)


def test_it_stops_where_gold_falls_and_goes_back() -> None:
    rising = [0.1 * step for step in range(8)]
    falling = [*rising, 0.6, 0.5, 0.4, 0.3, 0.2]
    assert decided(windows(climb(rising).audited, 0.2)) is None
    assert stopped(climb(rising)) == Stop(7.0, 0)
    stop = stopped(climb(falling))
    assert (stop.at, stop.when) == (6.5, 9)
    peak, there, share = keeps(climb(falling), stop)
    assert peak == pytest.approx(max(smoothed(climb(falling).looks)))
    assert share == pytest.approx(there / peak)
    assert share > 0.9


def test_the_form_of_a_climb() -> None:
    d = np.linspace(0.0, 3.0, 16)
    looks = [
        Look(i, Seen(x * x, 0.0), Seen(float(g), 1e-6), Seen(0.0, 0.0))
        for i, (x, g) in enumerate(
            zip(d, d * (1.2 - 0.6 * np.log(np.maximum(d, 1e-9))), strict=True)
        )
    ]
    form = formed_rl(Climbed("single", 0, looks, [], 0.2, 0, 1.0))
    assert form is not None
    assert (form.a.value, form.b.value) == pytest.approx((1.2, 0.6), abs=1e-3)
    assert form.peak.value == pytest.approx(np.e, abs=1e-2)
    assert form.told.value == pytest.approx(form.came.mean, abs=1e-3)


def test_rl_follows_the_proxy_that_did_best_on_held_out_pairs(recipe: Path) -> None:
    clean, noisy = (
        [Followed(seed, Path(f"{name}{seed}"), loss) for seed, loss in enumerate(losses)]
        for name, losses in (("clean", (0.5, 0.4)), ("noisy", (0.6, 0.7)))
    )
    arms = {(arm.name, arm.seed): arm for arm in arms_of(read_lab(recipe), clean, noisy)}
    best = {"type": "model", "path": "clean1"}
    assert list(arms) == [
        ("single", 0),
        ("KL penalty", 1),
        ("PAR", 1),
        ("ensemble", 1),
        ("noisy single", 0),
        ("noisy ensemble", 0),
    ]
    assert arms["KL penalty", 1].reward == best
    assert arms["KL penalty", 1].kl == 0.1
    assert arms["PAR", 1].reward["of"] == best
    assert arms["noisy single", 0].reward["path"] == "noisy0"
    assert [*arms["noisy ensemble", 0].reward["members"]] == ["m0", "m1"]


def test_the_kl_is_of_what_was_sampled() -> None:
    """What the sampler gave each token a log-probability of, less the reference's, summed."""
    policy = load("ladder:0.1m", 0)
    env, chat = Notes(train=2), Chat(policy.tokenizer, policy.eos)
    player = Player(LocalEngine(policy), env, chat, 6, 1.0, context=policy.context)
    problems = env.problems("train")[:2]
    groups = [asyncio.run(player.group(p, 0, 3, 0, "test")) for p in problems]
    prepare(policy)
    assert kls(groups, policy) == pytest.approx([0.0, 0.0], abs=1e-4)
    surer = [replace(g, trajectories=tuple(map(surely, g.trajectories))) for g in groups[:1]]
    tokens = np.mean([t.length for t in groups[0].trajectories])
    assert kls(surer, policy) == pytest.approx([0.1 * tokens], abs=1e-4)


def surely(play: Trajectory) -> Trajectory:
    """The same play by who was surer of each token, by 0.1 nats."""
    segment = play.segments[0]
    return replace(
        play,
        segments=(replace(segment, engine_logprobs=segment.engine_logprobs + np.float32(0.1)),),
    )


# --- recipes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pool.replies=16", "use at least 32"),
        ("proxies.pairs=[20, 8]", "begins with the fewest"),
        ("proxies.pairs=[8, 8]", "names one twice"),
        ("proxies.members=1", "proxies.members"),
        ("proxies.noise=1.5", "proxies.noise"),
        ("climb.stops=3", "climb.stops"),
        ("env.type=nothing", "nothing"),
        ("env.test=5", "pool.problems=8"),
    ],
)
def test_bad_recipes_are_refused(recipe: Path, change: str, said: str) -> None:
    from upslope.audit.lab import make

    with pytest.raises(UserError, match=said):
        make(read_lab(recipe, [change]), 1, print)


@pytest.mark.parametrize(
    ("env", "said"),
    [("reasoning_gym:chain_sum", "demonstrates nothing"), ("honeypot", "true reward beside")],
)
def test_an_env_that_will_not_do_is_refused(recipe: Path, env: str, said: str) -> None:
    from upslope.audit.lab import make

    text = RECIPE.replace('env = { type = "notes", train = 30, test = 20 }', 'env = { type = "x" }')
    recipe.write_text(text.replace('"x"', f'"{env}"'), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        make(read_lab(recipe), 1, print)


def test_results_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no results of a lab"):
        read_results(tmp_path)


def test_the_committed_report_is_made_from_its_tables(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[1] / "studies" / "lab"
    for name in TABLES:
        shutil.copy(shipped / name, tmp_path / name)
    report(tmp_path)
    for made in (*tmp_path.glob("*.svg"), tmp_path / "report.md"):
        assert made.read_text(encoding="utf-8") == (shipped / made.name).read_text(encoding="utf-8")


# --- end to end


def test_a_small_lab(recipe: Path, tmp_path: Path) -> None:
    """Everything is made, told, and not made a second time."""
    runner = CliRunner()
    words = ["audit", "lab", str(recipe), "--jobs", "1"]
    first = runner.invoke(app, words, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    curves, steps, about = read_results(tmp_path / "lab")
    names = {row["proxy"] for row in curves}
    assert {"ladder:0.1m, 8 pairs", "worst, noisy", "mean of weights, noisy"} <= names
    alone = [row for row in curves if row["proxy"] == "single, noisy"]
    assert [row["n"] for row in alone] == [1, 2, 4, 8, 16, 32]
    assert all(b["score"] >= a["score"] for a, b in pairwise(alone))
    assert alone[0]["gold"] == pytest.approx(curves[0]["gold"])  # the best of one asks no proxy
    arms = {"single", "KL penalty", "PAR", "ensemble", "noisy single", "noisy ensemble"}
    assert {row["arm"] for row in steps} == arms
    began = [row for row in steps if row["step"] == 0]
    assert all(abs(row["kl"]) < 1e-4 for row in began)  # rounding of engine and learner
    assert all(one["kept"] is None or one["kept"] <= 1 for one in about["climbs"])
    text = (tmp_path / "lab" / "report.md").read_text(encoding="utf-8")
    assert "## Ways to resist" in text
    for name in ("best_of_n", "proxy", "ways", "climb"):
        assert f"({name}.svg)" in text
        assert (tmp_path / "lab" / f"{name}.svg").read_text(encoding="utf-8").endswith("</svg>\n")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "lab" / "proxies").rglob("*.npy")}
    again = runner.invoke(app, words, catch_exceptions=False)
    assert again.exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert read_results(tmp_path / "lab")[:2] == (curves, steps)
    seconds = json.loads((tmp_path / "lab" / "seconds.json").read_text(encoding="utf-8"))
    assert set(seconds) == {"policy", "pool and pairs", "proxies", "mean of weights", "RL"}
    text = (tmp_path / "lab" / "report.md").read_text(encoding="utf-8")
    (tmp_path / "lab" / "report.md").unlink()
    told = runner.invoke(app, [*words, "--report"], catch_exceptions=False)
    assert told.exit_code == 0
    assert (tmp_path / "lab" / "report.md").read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_workers_make_the_same_lab(recipe: Path, tmp_path: Path) -> None:
    from upslope.audit.lab import make
    from upslope.audit.lab_results import write_results

    for jobs in (1, 2):
        lab = make(read_lab(recipe, [f"out=lab{jobs}", "climb.steps=0"]), jobs, print)
        write_results(lab, tmp_path / f"results{jobs}")
    one, two = (read_results(tmp_path / f"results{jobs}") for jobs in (1, 2))
    assert one[0] == two[0]
    assert one[2]["ways"] == two[2]["ways"]
    assert one[1] == two[1] == []
