"""The math env: data sets in both forms, split, asked and graded; and faulty files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from fake_hub import Hub
from replies import marks, rewards_of
from upslope.batteries import check_env
from upslope.components import build
from upslope.envs.datasets import hub_files, read_rows
from upslope.envs.mathematics import EXAMPLES, Mathematics
from upslope.seeds import split_of
from upslope.types import Demonstrates, Split, UserError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Rows = Sequence[Mapping[str, Any]]


def eggs(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Questions in GSM8K's form."""
    return [
        {
            "question": f"Ada has {n} eggs and buys 1,000 more. How many has she?",
            "answer": f"She has {n} + 1000 = <<{n}+1000={n + 1000}>>{n + 1000}.\n#### {n + 1000:,}",
        }
        for n in range(first, first + count)
    ]


def halves(count: int) -> list[dict[str, Any]]:
    """Questions in MATH's form."""
    return [
        {
            "problem": f"What is $\\frac{{{n}}}{{2}}$?",
            "solution": f"Just that: $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
            "answer": f"\\frac{{{n}}}{{2}}",
            "unique_id": f"half/{n}",
        }
        for n in range(count)
    ]


def written(path: Path, rows: Rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("form", ["chat", "text"])
@pytest.mark.parametrize("rows", [eggs, halves])
def test_it_passes_the_battery(tmp_path: Path, form: Any, rows: Any) -> None:
    path = written(tmp_path / "all.jsonl", rows(100))
    proven = {p.claim: p.seen for p in check_env(Mathematics(path=path, form=form), problems=2)}
    assert proven["solutions earn the most, empty replies do not"] == "6 of 6 problems have one"


def test_problems_in_the_form_of_gsm8k(tmp_path: Path) -> None:
    (problem,) = Mathematics(test=written(tmp_path / "a.jsonl", eggs(1))).problems("test")
    assert problem.messages[0]["content"] == (
        "Ada has 0 eggs and buys 1,000 more. How many has she?\n\n"
        "Think step by step, and put the final answer in \\boxed{}."
    )
    assert problem.answer == "1,000"
    assert problem.solution == "She has 0 + 1000 = 1000.\n#### 1,000"
    text = Mathematics(test=written(tmp_path / "a.jsonl", eggs(1)), form="text")
    (few_shot,) = text.problems("test")
    assert few_shot.prompt == f"{EXAMPLES}Question: {eggs(1)[0]['question']}\nAnswer:"
    assert few_shot.solution.startswith(" She has")
    assert few_shot.stop == ("\nQuestion:",)
    assert few_shot.id == problem.id != ""
    bare = Mathematics(test=written(tmp_path / "a.jsonl", eggs(1)), instruction="")
    assert bare.problems("test")[0].messages[0]["content"] == eggs(1)[0]["question"]


def test_problems_in_the_form_of_math(tmp_path: Path) -> None:
    rows = halves(2)
    del rows[0]["answer"]
    rows += [{"problem": "What is 40 + 2?", "answer": 42, "id": 7}]
    rows += [{"problem": "x", "solution": "A proof with $\\boxed{2}$ in it.", "answer": "3"}]
    problems = Mathematics(test=written(tmp_path / "a.jsonl", rows)).problems("test")
    assert [p.answer for p in problems] == ["\\frac{0}{2}", "\\frac{1}{2}", "42", "3"]
    assert [p.id for p in problems][:3] == ["half/0", "half/1", "7"]
    assert problems[2].solution == "\\boxed{42}"
    assert problems[3].solution == "A proof with $\\boxed{2}$ in it. \\boxed{3}"


def test_grading(tmp_path: Path) -> None:
    env = Mathematics(test=written(tmp_path / "a.jsonl", eggs(1)))
    (problem,) = env.problems("test")
    right = ("#### 1000", "\\boxed{1,000}", "\\boxed{$1000.0$}", "\\boxed{10^3}")
    assert marks(env, problem, *right) == [(1, 1)] * 4
    assert marks(env, problem, "so 1,000 eggs", "1000 or 999", "") == [(1, 0), (0, 0), (0, 0)]
    assert marks(env, problem, problem.messages[0]["content"]) == [(0, 1)]  # an empty box
    both = "\\boxed{1000} \\boxed{999}", "\\boxed{999} \\boxed{1000}", "\\boxed{999, 1000}"
    assert marks(env, problem, *both) == [(0, 1), (1, 1), (0, 1)]
    long = "1000 " * 20_000, "\\boxed{" + "1000+" * 20_000 + "0}", "9" * 100_000
    assert [mark for mark, _ in marks(env, problem, *long)] == [1, 0, 0]
    hung, sound = rewards_of(env, problem, "\\boxed{10^{10^{10}}}", "#### 1000")
    assert (hung.valid, hung.reason) == (False, "grading took more than 2 CPU-seconds")
    assert sound.correct == 1


def test_one_file_is_split_by_its_questions(tmp_path: Path) -> None:
    env = Mathematics(path=written(tmp_path / "all.jsonl", eggs(300)))
    found = {split: [p.info["question"] for p in env.problems(split)] for split in SPLITS}
    assert sum(map(len, found.values())) == 300
    for split, questions in found.items():
        assert {split_of(question) for question in questions} == {split}


def test_files_for_each_split_and_validation_from_train(tmp_path: Path) -> None:
    train = written(tmp_path / "train.jsonl", eggs(200))
    test = written(tmp_path / "test.jsonl", eggs(50, first=200))
    both = Mathematics(train=train, test=test)
    sizes = [len(both.problems(split)) for split in SPLITS]
    assert (sum(sizes[:2]), sizes[2]) == (200, 50)
    assert 5 < sizes[1] < 30
    third = written(tmp_path / "validation.jsonl", eggs(9, first=300))
    three = Mathematics(train=train, validation=third, test=test)
    assert [len(three.problems(split)) for split in SPLITS] == [200, 9, 50]
    only = Mathematics(test=test)
    assert [len(only.problems(split)) for split in SPLITS] == [0, 0, 50]
    assert isinstance(only, Demonstrates)
    assert [r for _, r in both.demonstrations("train")] == [
        p.solution for p in both.problems("train")
    ]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(eggs(3)), tmp_path / "test.parquet")
    problems = Mathematics(test=str(tmp_path / "test.parquet")).problems("test")
    assert [p.answer for p in problems] == ["1,000", "1,001", "1,002"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine, and a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    handler = type("Handler", (Hub,), {"files": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        here = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        there = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")[2]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{here}/{{repo_id}}{there}")
        yield handler
        http.shutdown()


def lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_hub_data_set_is_fetched_once_and_split_as_its_files_say(hub: type[Hub]) -> None:
    hub.files = {
        "main/train-00000-of-00002.jsonl": lines(eggs(30)),
        "main/train-00001-of-00002.jsonl": lines(eggs(10, first=30)),
        "main/test.jsonl": lines(eggs(5, first=40)),
        "socratic/train.jsonl": lines(eggs(1)),
        "README.md": b"not wanted",
    }
    env = Mathematics(path="owner/tiny", subset="main")
    assert [len(env.problems(split)) for split in SPLITS][2] == 5
    assert sum(len(env.problems(split)) for split in SPLITS) == 45
    fetched = len(hub.asked)
    assert not any("README" in path for path in hub.asked)
    assert len(Mathematics(path="owner/tiny", subset="main").problems("test")) == 5
    assert len(hub.asked) == fetched
    with pytest.raises(UserError, match=r"no subset '': set subset to one of main, socratic"):
        Mathematics(path="owner/tiny").problems("test")


def test_a_hub_data_set_of_one_file(hub: type[Hub]) -> None:
    hub.files = {"data/test-00000-of-00001.jsonl": lines(halves(4))}
    assert len(Mathematics(path="owner/tiny").problems("test")) == 4
    assert set(hub_files("owner/tiny")) == set(SPLITS)


def test_a_hub_that_has_nothing_is_quoted(hub: type[Hub]) -> None:
    with pytest.raises(UserError, match=r"^owner/none: the hub has no such public dataset.*file$"):
        Mathematics(path="owner/none").problems("test")
    hub.files = {"README.md": b"words"}
    with pytest.raises(
        UserError, match=r"^owner/tiny: it has no \*.jsonl or .* or \*.parquet file"
    ):
        Mathematics(path="owner/tiny").problems("test")
    with pytest.raises(UserError, match=r"^no such/folder/: that is not a valid hub id"):
        Mathematics(path="no such/folder/").problems("test")


def test_a_hub_data_set_without_named_splits(hub: type[Hub]) -> None:
    hub.files = {"questions.jsonl": lines(eggs(3))}
    with pytest.raises(UserError, match=r"no file named after a split.*give the path of a file"):
        Mathematics(path="owner/tiny").problems("test")


GOOD = lines(eggs(2))
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", r"data.jsonl holds no rows"),
    "blank lines": (b"\n \n", r"data.jsonl holds no rows"),
    "cut off": (GOOD[:-30], r"line 2: not valid JSON \(the file ends in the middle of a row\)"),
    "no JSON": (GOOD + b"{'a': 1}\n", r"line 3: not valid JSON .* mend or remove the line"),
    "Latin-1": (GOOD + "{'caf\u00e9'}\n".encode("latin-1"), r"line 3: byte 0xe9 is not UTF-8, so"),
    "UTF-16": ("{}\n".encode("utf-16"), r"line 1: byte 0xff is not UTF-8, so save"),
    "a list": (b"[1, 2]\n", r"line 1: expected an object in braces"),
    "null": (GOOD + b"null\n", r"line 3: expected an object in braces"),
    "no question": (b'{"q": "a", "answer": "#### 1"}\n', r'line 1: the field "question" is missi'),
    "empty question": (
        b'{"question": " ", "answer": "#### 1"}\n',
        r'line 1: the field "question" must be text that is not empty',
    ),
    "no answer": (b'{"question": "a"}\n', r'line 1: the field "answer" is missing'),
    "a list for an answer": (
        b'{"problem": "a", "answer": ["1"]}\n',
        r'line 1: the field "answer" must be text',
    ),
    "no hashes": (b'{"question": "a", "answer": "1"}\n', r'line 1: "answer" does not end in "####'),
    "no gold number": (
        b'{"question": "a", "answer": "so #### one"}\n',
        r"line 1: the gold answer 'one' is no number, so mend or remove the row",
    ),
    "an empty gold answer": (b'{"question": "a", "answer": "b #### "}\n', r"gold answer is empty"),
    "no box": (b'{"problem": "a", "solution": "so 1"}\n', r'line 1: "solution" has no \\boxed{}'),
    "an open box": (b'{"problem": "a", "solution": "\\\\boxed{1"}\n', r"no \\boxed{} that closes"),
    "unequal braces": (
        b'{"problem": "a", "answer": "\\\\frac{1}{2"}\n',
        r"line 1: the gold answer .* has unequal braces",
    ),
    "marks only": (b'{"problem": "a", "answer": "?"}\n', r"has neither a letter nor a digit"),
    "the same question": (GOOD + GOOD, r"line 3 has the same question as .*, line 1: remove one"),
    "the same id": (
        lines([{**row, "id": 5} for row in eggs(2)]),
        r"line 2 has the same id '5' as .*, line 1: remove one",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_faulty_file_is_one_sentence_with_the_line(tmp_path: Path, name: str) -> None:
    data, says = BAD[name]
    (tmp_path / "data.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=says) as caught:
        Mathematics(test=str(tmp_path / "data.jsonl")).problems("test")
    assert str(caught.value).startswith(str(tmp_path / "data.jsonl"))
    assert "\n" not in str(caught.value)


def test_other_faulty_files(tmp_path: Path) -> None:
    for name, says in (("none.jsonl", "No such file"), ("data.csv", "neither a .jsonl nor a .par")):
        with pytest.raises(UserError, match=says):
            read_rows(tmp_path / name)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cut.parquet is not a whole Parquet file"):
        read_rows(tmp_path / "cut.parquet")
    one, other = written(tmp_path / "a.jsonl", eggs(3)), written(tmp_path / "b.jsonl", eggs(1))
    with pytest.raises(UserError, match=r"b.jsonl, line 1 has the same question as .*a.jsonl, li"):
        Mathematics(train=one, test=other).problems("train")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "name the questions: either path, or one or more of train, validation and test"),
        ({"path": "a.jsonl", "test": "b.jsonl"}, "name the questions: either path, or"),
        ({"test": "b.jsonl", "subset": "main"}, "it needs path = owner/name"),
        ({"test": "b.jsonl", "form": "raw"}, "env.form"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build(Mathematics, settings, "env")
