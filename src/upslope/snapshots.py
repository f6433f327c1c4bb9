"""Snapshots of Hugging Face repositories, of models and of data sets: from its cache, else fetched.

What is done with the files is not known here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,  # httpx's or httpx2's, as the hub's version has it
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from upslope.types import UserError

PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Wanted:
    """A repository and which of its files; ``check`` raises UserError where some are missing."""

    repository: str
    kind: Literal["model", "dataset"]
    check: Callable[[Path], None]
    only: list[str] | None = None
    never: list[str] | None = None

    def folder(self, *, local: bool) -> Path:
        """Its snapshot's folder, checked; ``local``: as far as it was fetched before."""
        found = snapshot_download(
            self.repository,
            repo_type=self.kind,
            local_files_only=local,
            etag_timeout=PROBE_SECONDS,
            allow_patterns=self.only,
            ignore_patterns=self.never,
        )
        self.check(Path(found))
        return Path(found)


def snapshot(wanted: Wanted, say: Callable[[str], None]) -> Path:
    """The snapshot's folder, from the hub's own cache if it is whole there.

    Raises UserError within seconds where the hub does not answer.
    """
    try:
        return wanted.folder(local=True)
    except HFValidationError:
        raise UserError("that is not a valid hub id, which reads owner/name") from None
    except (EntryNotFoundError, UserError):
        if constants.HF_HUB_OFFLINE:
            raise UserError("HF_HUB_OFFLINE is set, so unset it") from None
    try:
        with silent():
            # a probe, because snapshot_download's own look-up has no timeout
            HfApi().repo_info(wanted.repository, repo_type=wanted.kind, timeout=PROBE_SECONDS)
            say(f"fetching {wanted.repository} from the Hugging Face hub (once)")
            return wanted.folder(local=False)
    except GatedRepoError:
        raise UserError("accept its licence on the hub and run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"the hub has no such public {wanted.kind}, so check the name or run `hf auth login`"
        ) from None
    except (HTTPError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise UserError(f"the hub did not answer ({cause})") from None


@contextmanager
def silent() -> Iterator[None]:
    """The hub's library without its log lines and progress bars."""
    level, bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            enable_progress_bars()
