"""What users get wrong: always a UserError of one sentence that names the key and the cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from upslope.launch import train_recipe
from upslope.models.load import load, save
from upslope.recipe import dump, read
from upslope.resume import resume_recipe
from upslope.rollout import Player
from upslope.runs import Run
from upslope.session import Built, Session
from upslope.types import UserError

BASE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 2, "group": 2, "max_tokens": 2},
    "evaluation": {"problems": 2},
    "stop": {"steps": 1},
    "machine": {"threads": 1},
    "check": {"problems": 1},
}
RECORDED = ('algorithm.type="sft"', 'source.type="recorded"')
STAGE = {"name": "rl", "stop": {"steps": 1}}
FILE = Path(__file__)
PLAYS = FILE.with_name("plays.py")

# what is wrong, and what the sentence must say
WRONG: Mapping[str, tuple[tuple[str, ...], str]] = {
    "misspelt table": (("rolout.group=4",), "unknown setting rolout: did you mean rollout?"),
    "misspelt key": (("rollout.groups=4",), "rollout.groups: did you mean rollout.group?"),
    "key without its table": (("lr=1e-3",), "unknown setting lr: did you mean learner.lr?"),
    "text for a number": (("rollout.group=four",), "rollout.group must be a whole number"),
    "fraction": (("rollout.group=2.5",), "rollout.group must be a whole number"),
    "number for a switch": (("check.enabled=1",), "check.enabled must be true or false"),
    "value for a table": (("rollout=3",), "rollout must be a table of settings"),
    "nothing to play": (("rollout.problems=0",), "rollout.problems must be a whole number of at l"),
    "temperature 0": (("rollout.temperature=0",), "rollout.temperature must be a number above 0"),
    "negative rate": (("learner.lr=-1.0",), "learner.lr must be a number above 0"),
    "infinite rate": (("learner.lr=inf",), "learner.lr"),
    "unknown correction": (("rollout.correction=none",), 'one of "decoupled", "bypass"'),
    "training split": (("evaluation.split=train",), 'evaluation.split must be one of "validation"'),
    "name with a slash": (('name="a/b"',), "name must be made of letters"),
    "no override": (("rollout.group",), "is no override: write key=value"),
    "group of 1": (("rollout.group=1",), "rollout.group=1 leaves grpo nothing to compare"),
    "group of 1 with a KL in the reward": (
        (
            "algorithm.type=rloo",
            "algorithm.kl.coefficient=0.05",
            "algorithm.kl.kind=k1",
            "algorithm.kl.place=reward",
            "rollout.group=1",
        ),
        "rollout.group=1 leaves rloo nothing to compare",
    ),
    "awr of groups of 1": (
        ("algorithm.type=awr", "rollout.group=1"),
        "rollout.group=1 has awr measure an answer against itself",
    ),
    "group of 1 with a punished length": (
        ("rollout.group=1", "algorithm.overlong.limit=8", "algorithm.overlong.cache=4"),
        "rollout.group=1 leaves grpo nothing to compare",
    ),
    "unequal updates": (
        ("rollout.problems=3", "learner.updates=2"),
        "rollout.problems=3 cannot be split into learner.updates=2",
    ),
    "no end": (("stop.steps=0",), "stop has no bound"),
    "money without price": (("stop.money=3",), "set machine.price_per_hour"),
    "gain never forecast": (("stop.gain=0.01",), "stop.gain=0.01 is forecast from evaluations"),
    "accuracy never measured": (("stop.accuracy=0.9",), "evaluation.every is 0"),
    "stale records": ((*RECORDED, "rollout.max_staleness=1"), "rollout.max_staleness=1 means noth"),
    "sft of rollouts": (('algorithm.type="sft"',), 'set source.type = "recorded"'),
    "grpo of records": (('source.type="recorded"',), "algorithm grpo compares the members"),
    "unknown source": (('source.type="replay"',), "source.type='replay' is unknown"),
    "unknown source setting": (
        ('source.type="rollouts"', "source.path=x"),
        "unknown setting source.path",
    ),
    "absent records": (
        (*RECORDED, 'source.path="none.jsonl"'),
        "source.path: cannot read none.jsonl",
    ),
    "unknown env": (("env.type=arithmetics",), "unknown env arithmetics: did you mean arithmetic?"),
    "unknown algorithm": (("algorithm.type=grop",), "unknown algorithm grop: did you mean grpo?"),
    "unknown env setting": (("env.digit=2",), "unknown setting env.digit: did you mean env.digits"),
    "env setting of a wrong type": (("env.digits=two",), "env.digits must be a whole number"),
    "env setting out of range": (("env.digits=10",), "env: digits must be from 1 to 9"),
    "no operation": (("env.operations=[]",), "env: operations must name at least one"),
    "unknown operation": (('env.operations=["divide"]',), "env.operations.0 should be 'add'"),
    "k1 as a loss": (
        ("algorithm.kl.kind=k1", "algorithm.kl.coefficient=0.1"),
        "algorithm.kl: k1 as a loss has an expected gradient of 0",
    ),
    "negative penalty": (("algorithm.kl.coefficient=-1.0",), "kl.coefficient must not be negative"),
    "decay above 1": (
        ('algorithm.type="reinforce"', "algorithm.decay=2.0"),
        "algorithm: decay must be between 0 and 1",
    ),
    "context": (("rollout.max_tokens=600",), "rollout.max_tokens=600 after a prompt of 4 tokens"),
    "unknown size": (("model=ladder:3m",), "no ladder model has the size '3m': choose 0.1m"),
    "absent model": (('model="./no/such/folder"',), "./no/such/folder"),
    "unknown model": (("model=smolm",), "smolm"),
    "absent env file": (('env.type="none.py:Env"',), "there is no file none.py to take the env"),
    "env file without a class": ((f'env.type="{FILE}"',), f"write {FILE}:Name"),
    "class that is not there": ((f'env.type="{FILE}:Nothing"',), "unknown class Nothing"),
    "env without settings": ((f'env.type="{FILE}:UserError"',), "must be a dataclass"),
    "env that is none": (
        (f'env.type="{PLAYS}:Said"', "env.left=[]"),
        "is not an env: it needs problems, play, rewards",
    ),
    "negative rank": (("lora.rank=-1",), "lora.rank must be a whole number of at least 0"),
    "adapter of nothing": (('lora.targets=["q_proj"]',), "there is none of: set lora.rank"),
    "matrix that is not there": (
        ("lora.rank=2", 'lora.targets=["query"]'),
        "lora.targets names 'query', which is no matrix of ladder:0.1m",
    ),
    "unknown schedule": (("learner.schedule=step",), 'learner.schedule must be one of "constant"'),
    "schedule without an end": (
        ("learner.schedule=cosine", "stop.steps=0", "stop.hours=1"),
        "falls towards an end that is not known: set stop.steps",
    ),
    "warm-up to the end": (
        ("learner.schedule=linear", "learner.warmup=5"),
        "learner.warmup=5 leaves none of the 1 updates",
    ),
    "rate that falls to 0": (("learner.floor=0",), "learner.floor must be a number above 0 and at"),
    "negative spike": (("learner.spike=-1",), "learner.spike must be a number of at least 0"),
    "decay of 1": (
        ("learner.beta2=1.0",),
        "learner.beta2 must be a number of at least 0 and below",
    ),
    "window without a budget": (("rollout.think_window=5",), "set rollout.think_tokens"),
    "thoughts past the context": (("rollout.think_tokens=600",), "rollout.think_tokens=600, its"),
    "interruption of no words": (('rollout.interrupt=""',), "rollout.interrupt must be text that"),
    "a bound without stale tokens": (
        ("rollout.importance_cap=3",),
        "rollout.importance_cap bounds the weights of stale tokens, and rollout.max_staleness=0",
    ),
    "a bound that is gone round": (
        ("rollout.importance=mask", "rollout.max_staleness=1", "rollout.correction=bypass"),
        'rollout.correction="bypass" takes the engine\'s for the old ones: leave it out',
    ),
    "a bound where nobody is corrected": (
        ("rollout.importance=mask", "rollout.max_staleness=1", "algorithm.type=dpo"),
        "algorithm dpo takes answers of any policy as they are: leave it out",
    ),
    "unknown bound": (("rollout.importance=clip",), 'must be one of "truncate", "mask"'),
    "floor above cap": (
        ("rollout.importance_floor=3",),
        "is above rollout.importance_cap=2: lower",
    ),
    "nothing to select from": (("evaluation.select=true",), "while evaluation.every is 0: set it"),
    "selection on test": (
        ("evaluation.select=true", "evaluation.every=1", "evaluation.split=validation"),
        "leave evaluation.split out",
    ),
    "unknown sink": (('sinks=["mlflow"]',), 'sinks.0 must be one of "tensorboard", "wandb"'),
    "sink that is no list": (("sinks=tensorboard",), 'sinks must be a list, not "tensorboard"'),
    "unknown preset": (("preset=dapoo",), "unknown preset dapoo: did you mean dapo?"),
    "preset that is no name": (("preset=3",), "preset must be text, not 3"),
    "preset that does not divide": (("preset=dapo",), "cannot be split into learner.updates=8"),
    "half an env of several": (("env.type=mixture",), "write [[env]] above each"),
    "share above 1": (
        ("source.type=rollouts", "source.retire=2.0"),
        "source: retire is a share between 0 and 1",
    ),
    "retired records": ((*RECORDED, "source.retire=0.5"), "unknown setting source.retire"),
    "unknown engine": (("engine.type=vlm",), "unknown engine vlm: there is local"),
    "engine that is none": ((f'engine.type="{PLAYS}:Digits"',), "is not an engine: it needs open"),
    "setting of an engine": (("engine.type=local", "engine.rows=3"), "unknown setting engine.rows"),
    "unknown device": (("machine.device=tpu",), 'machine.device must be one of "auto", "cpu"'),
    "limit without a cache": (("algorithm.overlong.limit=3",), "overlong.cache=0 must lie between"),
    "correction of a reward": (
        ("algorithm.kl.corrected=true", "algorithm.kl.place=reward"),
        'leave it out, or use kl.place = "loss"',
    ),
    "negative entropy": (
        ("algorithm.entropy.target=-1.0",),
        "target and step must not be negative",
    ),
    "length of 0": (("algorithm.type=dr_grpo", "algorithm.length=0"), "length must be at least 1"),
    "sets of k as large as the group": (
        ("algorithm.type=pass_at_k", "algorithm.k=2"),
        "rollout.group=2 has no more than one set of algorithm.k=2",
    ),
    "such sets within another algorithm": (
        ('algorithm={type="turns",of={type="gigpo",of={type="pass_at_k",k=2}}}',),
        "rollout.group=2 has no more than one set of algorithm.of.of.k=2",
    ),
    "a group of 1 with its mean": (
        ("algorithm.type=reinforce_pp", "algorithm.baseline=group", "rollout.group=1"),
        "rollout.group=1 leaves reinforce_pp nothing to compare",
    ),
    "greedy replies of records": (
        ('source.type="recorded"', 'algorithm.type="remax"'),
        "algorithm remax needs a greedy reply to each problem, which recorded data does not have",
    ),
    "dual clip at ratio 1": (("algorithm.clip_dual=1.0",), "clip_dual must be above 1, or 0"),
    "adaptive KL of nothing": (
        ("algorithm.kl.target=0.1",),
        "kl.target=0.1 adapts kl.coefficient=0 at kl.rate=0.1: all of these must be above 0",
    ),
    "no share held": (("algorithm.explore.share=0.0",), "explore.share must be above 0"),
    "unknown hold": (("algorithm.explore.hold=all",), 'explore.hold must be one of "nothing"'),
    "endless dynamic sampling": (
        ("algorithm.zero_variance=resample", "rollout.tries=0"),
        "rollout.tries must be a whole number of at least 1",
    ),
    "sequences dropped below nothing": (
        ("rollout.importance=opsm",),
        'rollout.importance="opsm" drops nothing below rollout.importance_floor=0',
    ),
    "window without width": (
        ("source.type=rollouts", "source.window.low=0.5", "source.window.high=0.5"),
        "source.window: window.low=0.5 must be below window.high=0.5",
    ),
    "nothing but replays": (
        ("source.type=rollouts", "source.window.replay=1.0"),
        "window.replay=1 a share below 1",
    ),
    "end without heat": (
        ("source.type=rollouts", "source.heat.end=0.0"),
        "heat.end=0 must be above 0",
    ),
    "unknown scale": (("algorithm.scale=all",), 'algorithm.scale must be one of "group", "batch"'),
    "unknown key of a table": (("algorithm.kl.coef=1.0",), "unknown setting algorithm.kl.coef"),
    "no checkpoint kept": (("checkpoint.keep=0",), "checkpoint.keep must be a whole number of at"),
    "stages as a number": (("stage=3",), "write stage.<name>.<key>=value"),
}

ARITHMETIC = BASE["env"]
LOGIC = {"type": "logic"}
# what is wrong: tables laid over BASE, overrides, and what the sentence must say
WRONG_TABLES: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...], str]] = {
    "two stages of one name": ({"stage": [STAGE, STAGE]}, (), "two stages are named rl"),
    "stage that is no table": ({"stage": [3]}, (), "stage.0 must be a table, not 3"),
    "model of a stage": (
        {"stage": [{**STAGE, "model": "ladder:1m"}]},
        (),
        "a stage cannot change model: set it once",
    ),
    "adapter of a stage": ({"stage": [{**STAGE, "lora": {}}]}, (), "a stage cannot change lora"),
    "dtype of a stage": (
        {"stage": [{**STAGE, "learner": {"dtype": "bfloat16"}}]},
        (),
        "stage.rl.learner.dtype differs from learner.dtype",
    ),
    "unknown stage": ({"stage": [STAGE]}, ("stage.rll.seed=1",), "unknown stage rll: did you mean"),
    "hidden by a stage": (
        {"stage": [STAGE]},
        ("stop.steps=2",),
        "stop.steps is set by the stage rl itself: write stage.rl.stop.steps=2",
    ),
    "no envs": ({"env": []}, (), "env of several must be a list of tables"),
    "env without a type": ({"env": [ARITHMETIC, {"digits": 2}]}, (), "env.? has no type: write"),
    "two envs of one name": (
        {"env": [ARITHMETIC, ARITHMETIC]},
        (),
        "two envs are called arithmetic: give each its own label",
    ),
    "weight of 0": (
        {"env": [{**ARITHMETIC, "weight": 0}, LOGIC]},
        (),
        "env.arithmetic.weight must be a number above 0, got 0",
    ),
    "weight in words": (
        {"env": [{**LOGIC, "weight": "much"}]},
        (),
        "env.logic.weight must be a nu",
    ),
    "endless weight": (
        {"env": [{**LOGIC, "weight": float("inf")}]},
        (),
        "env.logic.weight must be",
    ),
    "label with a slash": (
        {"env": [{**LOGIC, "label": "a/b"}]},
        (),
        "'a/b' must be text without /",
    ),
    "unknown env of several": ({"env": [ARITHMETIC, {"type": "logik"}]}, (), "did you mean logic?"),
    "setting of one of several": (
        {"env": [ARITHMETIC, {**LOGIC, "depth": 2}]},
        (),
        "unknown setting env.logic.depth: did you mean env.logic.depths?",
    ),
    "setting of none of several": (
        {"env": [ARITHMETIC, LOGIC]},
        ("env.digits=3",),
        "there is no env digits: write env.<label>.<key>=value",
    ),
    "several of which one shows nothing": (
        {"env": [ARITHMETIC, {"type": "prices"}]},
        RECORDED,
        "env prices writes no demonstrations: give source.path",
    ),
    "numbers of countdown": (
        {"env": {"type": "countdown", "numbers": 9}},
        (),
        "from 2 to 6, got 9",
    ),
    "depths of logic": ({"env": {**LOGIC, "depths": [20]}}, (), "env: depths go up to 12 with"),
    "items of prices": ({"env": {"type": "prices", "items": 99}}, (), "env: items is from 2 to 17"),
    "math of nothing": (
        {"env": {"type": "math"}},
        (),
        "name the questions: either path, or one or",
    ),
    "math of too much": (
        {"env": {"type": "math", "path": "a.jsonl", "train": "b.jsonl"}},
        (),
        "name the questions: either path, or one or",
    ),
    "math of no file": ({"env": {"type": "math", "train": "no.jsonl"}}, (), "cannot read no.jsonl"),
    "math of a table": ({"env": {"type": "math", "train": "a.csv"}}, (), "convert it to one"),
}

SHOWN = b'{"prompt": "1+1=", "reply": "2"}\n'
# the second line of a file of recorded replies, and what the sentence must say after "line 2"
WRONG_REPLIES: Mapping[str, tuple[bytes, str]] = {
    "cut off": (SHOWN[:-9], "the file ends in the middle of a row"),
    "another encoding": ('{"prompt": "\u00e9"}'.encode("latin-1"), "byte 0xe9 is not UTF-8"),
    "a list": (b"[1]", "expected an object in braces"),
    "no reply": (b'{"prompt": "1+1="}', '"reply" must be a non-empty string'),
    "two prompts": (b'{"prompt": "p", "messages": [1], "reply": "r"}', 'either "prompt" or "mess'),
    "message of a number": (
        b'{"messages": [{"role": "user", "content": 3}], "reply": "r"}',
        "an object with a role and content",
    ),
    "reward in words": (
        b'{"prompt": "p", "reply": "r", "reward": "good"}',
        '"reward" must be a nu',
    ),
}

ASKED = b'{"question": "1+1?", "answer": "#### 2", "id": 1}\n'
# the second line of a file of questions
WRONG_QUESTIONS: Mapping[str, tuple[bytes, str]] = {
    "cut off": (ASKED[:-9], "the file ends in the middle of a row"),
    "another encoding": ('{"question": "\u00e9"}'.encode("latin-1"), "byte 0xe9 is not UTF-8"),
    "no gold answer": (b'{"question": "1+2?", "answer": "three"}', 'does not end in "#### " and a'),
    "box that is open": (
        b'{"problem": "p", "solution": "$\\\\boxed{1$"}',
        "no \\boxed{} that closes",
    ),
    "other fields": (b'{"q": "1+2?", "a": "#### 3"}', 'the field "question" is missing'),
    "question of a list": (
        b'{"question": [1], "answer": "#### 3"}',
        '"question" must be text that',
    ),
    "the same question": (ASKED, "has the same question as"),
    "the same id": (b'{"question": "1+2?", "answer": "#### 3", "id": 1}', "has the same id '1' as"),
}


def refusal(folder: Path, overrides: tuple[str, ...] = (), recipe: Mapping[str, Any] = BASE) -> str:
    """The one sentence that a recipe is refused with; nothing is left of the run."""
    with pytest.raises(UserError) as caught:
        train_recipe(read({**recipe, "runs": str(folder)}, overrides), lambda line: None)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    overrides, says = WRONG[name]
    assert says in refusal(tmp_path / "runs", overrides)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_wrong_table_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    tables, overrides, says = WRONG_TABLES[name]
    assert says in refusal(tmp_path / "runs", overrides, {**BASE, **tables})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", WRONG_REPLIES)
def test_a_wrong_reply_is_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    row, says = WRONG_REPLIES[name]
    path = tmp_path / "shown.jsonl"
    path.write_bytes(SHOWN + row)
    said = refusal(tmp_path, (*RECORDED, f'source.path="{path}"'))
    assert said.startswith(f"source.path: {path}, line 2")
    assert says in said


@pytest.mark.parametrize("name", WRONG_QUESTIONS)
def test_a_wrong_question_is_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    row, says = WRONG_QUESTIONS[name]
    path = tmp_path / "asked.jsonl"
    path.write_bytes(ASKED + row)
    said = refusal(tmp_path, (), {**BASE, "env": {"type": "math", "train": str(path)}})
    assert said.startswith(f"{path}, line 2")
    assert says in said


def test_files_and_splits_without_rows_are_named(tmp_path: Path) -> None:
    empty, one = tmp_path / "empty.jsonl", tmp_path / "one.jsonl"
    empty.write_bytes(b"\n")
    one.write_bytes(ASKED)
    assert "empty.jsonl holds no rows" in refusal(tmp_path, (*RECORDED, f'source.path="{empty}"'))
    for key, file, says in (
        ("train", empty, "empty.jsonl holds no rows: give a file that does"),
        ("train", one, "the env has no problems in the evaluation's split"),
        ("test", one, "the env has no problems in its train split"),
    ):
        env = {"type": "math", key: str(file)}
        assert says in refusal(tmp_path, (), {**BASE, "env": env})


def test_something_required_is_missing(tmp_path: Path) -> None:
    without = {key: BASE[key] for key in BASE if key != "model"}
    assert "model is missing: a known model" in refusal(tmp_path, (), without)
    without = {key: BASE[key] for key in BASE if key != "env"}
    assert "env is missing" in refusal(tmp_path, (), without)
    without = {key: BASE[key] for key in BASE if key != "algorithm"}
    assert "algorithm is missing" in refusal(tmp_path, (), without)
    nameless = {**BASE, "stage": [{"stop": {"steps": 1}}]}
    assert "stage 1 has no name" in refusal(tmp_path, (), nameless)


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(UserError, match="there is no recipe"):
        read(path)
    path.write_text("[rollout\n")
    with pytest.raises(UserError, match="is not TOML at line 1"):
        read(path)
    path.write_bytes('model = "\u00e9"'.encode("latin-1"))
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        read(path)
    with pytest.raises(UserError, match="Is a directory"):
        read(tmp_path)


# what a run is resumed with, and what the sentence must say
WRONG_RESUMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "another run": (("name=other",), (), "there is no run"),
    "another seed": (("seed=1",), (), "seed differs from the run's: set it back, or go on with"),
    "another rate": (("learner.lr=0.1",), ("stop",), "by --allow learner.lr"),
    "another model": (("model=ladder:1m",), ("model",), "model differs from the run's and cannot"),
    "a damaged checkpoint": ((), (), "step-000001 is damaged: remove it to resume from the one"),
}


@pytest.mark.parametrize("name", WRONG_RESUMES)
def test_a_run_that_cannot_go_on_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    overrides, allow, says = WRONG_RESUMES[name]
    own = read({**BASE, "runs": str(tmp_path)})
    with Run.create(tmp_path, own.name, dump(own), own.seed) as run:
        run.checkpoint(1, lambda folder: (folder / "place.json").write_text("{"))
    given = read({**BASE, "runs": str(tmp_path)}, overrides)
    with pytest.raises(UserError) as caught:
        resume_recipe(given, lambda line: None, allow=allow)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_than_sixty_mistakes_are_told() -> None:
    tables = (WRONG, WRONG_TABLES, WRONG_REPLIES, WRONG_QUESTIONS, WRONG_RESUMES)
    assert sum(map(len, tables)) > 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(load("ladder:0.1m"), folder)
    return folder


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", b"{", "is not valid JSON"),
        ("config.json", b"{}", "names no model_type"),
        ("config.json", b'{"model_type": "none"}', "cannot be loaded (The checkpoint you are"),
        ("model.safetensors", b"", "is damaged"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "b.safetensors"}}',
            "lacks b.safet",
        ),
        ("tokenizer.json", b"{}", "cannot be loaded"),
        ("tokenizer_config.json", b"{", "cannot be loaded"),
        ("model.safetensors", None, "has no safetensors weights"),
        ("model.safetensors", b"half", "is damaged"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("tokenizer.json", b"{]", "is not valid JSON"),
    ],
)
def test_a_damaged_model_folder_is_named(
    tmp_path: Path, model: Path, file: str, content: bytes | None, says: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_bytes(content)
    said = refusal(tmp_path, (f'model="{folder}"',))
    assert says in said
    assert str(folder) in said


ENV = """
import asyncio, time
from dataclasses import dataclass
from upslope.envs.episodes import single_turn
from upslope.types import Problem, Reward

@dataclass(frozen=True)
class Env:
    play = single_turn

    def problems(self, split):
        names = [f"{{split}}-{{i}}" for i in range({count})]
        return [Problem(name, prompt="a", solution={solution!r}) for name in names]

    async def rewards(self, problem, trajectories):
        {rewards}
"""


def env_file(folder: Path, rewards: str, solution: str = "b", count: int = 4) -> str:
    """An env from outside the package, whose grader does this."""
    path = folder / "mine.py"
    path.write_text(ENV.format(rewards=rewards, solution=solution, count=count))
    return f'env.type="{path}:Env"'


@pytest.mark.parametrize("check", ["true", "false"])
@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        ("return [1 / 0]", "Env.rewards raised ZeroDivisionError on problem"),
        ("return [Reward(float('nan'))] * len(trajectories)", "gave a reward that is not finite"),
        ("return [Reward(0.0)]", "Env.rewards returned 1 rewards for 2 trajectories"),
        ("return None", "other than a list of Reward"),
        ("return problem.nothing", "raised AttributeError"),
    ],
)
def test_a_faulty_grader_is_named(tmp_path: Path, rewards: str, says: str, check: str) -> None:
    overrides = (env_file(tmp_path, rewards), f"check.enabled={check}", "evaluation.samples=2")
    assert says in refusal(tmp_path, overrides)


@pytest.mark.parametrize("hang", ["await asyncio.sleep(600)", "time.sleep(600)"])
def test_a_grader_that_hangs_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: str
) -> None:
    sound = Session.player

    def hasty(self: Session, one: Built) -> Player:
        return replace(sound(self, one), grading=0.05)

    monkeypatch.setattr(Session, "player", hasty)
    rewards = f"""if problem.id.startswith("train"):
            {hang}
        return [Reward(0.0) for _ in trajectories]"""
    said = refusal(tmp_path, (env_file(tmp_path, rewards, ""), "check.enabled=false"))
    assert said.startswith("Env.rewards took more than 0.05 s on problem 'train-")
    with Run.resume(tmp_path / "run") as run:
        assert len(run.evaluations()) == 1
        assert run.metrics() == []


def test_an_env_without_problems_is_named(tmp_path: Path) -> None:
    env = env_file(tmp_path, "return []", count=0)
    assert "the env has no problems in" in refusal(tmp_path, (env, "check.enabled=false"))


def test_an_env_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    said = refusal(tmp_path, (f'env.type="{tmp_path / "broken.py"}:Env"',))
    assert "broken.py failed: ModuleNotFoundError" in said


def test_an_error_in_building_an_env_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, (env_file(tmp_path, "return []"), "env.size=3"))
    assert "unknown setting env.size" in said
