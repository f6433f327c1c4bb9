"""Metrics to TensorBoard, Weights & Biases or trackio, beside the run's own files.

A sink may raise, hang or lose its server, and the run goes on: each has a thread of its own and a
bounded queue, and is waited for only at the end, for a while. Names and steps are the run's.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from typing import Any, Protocol

from upslope.types import Action, Group, Metrics, UserError

PROJECT = "upslope"
ROWS = 1000  # that may wait for a sink
CLOSING = 30.0  # seconds that a sink has at the end


class Sink(Protocol):
    """What takes rows, one after another, and may fail at any of them."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Take a row of finite numbers; steps never go down."""

    def close(self) -> None:
        """Write or send what is left."""


class TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a run wrote after the checkpoint that it was resumed from is shown no more.
        path = str(folder / "tensorboard")
        self.writer: Any = SummaryWriter(path, purge_step=step, flush_secs=10)

    def log(self, step: int, metrics: Metrics) -> None:
        """A scalar for each metric."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class Wandb:
    """Weights & Biases: its files in the run's folder, and online where there is an account.

    The environment's ``WANDB_MODE`` and ``WANDB_PROJECT`` are respected.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        import wandb

        # Without an account wandb would ask for one, in a terminal that nobody may be looking at.
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            group=folder.name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """A row of its history; an evaluation joins its step's."""
        self.run.log(metrics, step=step)

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


class Trackio:
    """A local trackio database, which ``trackio show --project upslope`` shows."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        import trackio

        self.run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=folder.name,
            group=folder.name,
            config=dict(config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """A row of its table."""
        self.run.log(metrics, step=step)

    def close(self) -> None:
        """Write what is left."""
        self.run.finish()


SINKS: dict[str, Callable[[Path, Mapping[str, Any], int], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


class Feed:
    """A watch that hands rows to a sink in a thread of its own, and acts on nothing.

    ``opened`` makes the sink, given the first row's step. A sink that fails, or that leaves
    ``most`` rows waiting, gets no more; that is said once, on stderr.
    """

    def __init__(self, name: str, opened: Callable[[int], Sink], most: int = ROWS) -> None:
        self.name, self.failed = name, False
        self._opened = opened
        self._rows: Queue[tuple[int, Metrics] | None] = Queue(most)
        self._thread = threading.Thread(target=self._work, name=f"sink {name}", daemon=True)
        self._thread.start()

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """Queue the finite numbers of a row."""
        if not self.failed:
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            try:
                self._rows.put_nowait((step, finite))
            except Full:
                self._fail(f"{self._rows.maxsize} rows are waiting for it")
        return ()

    def ending(self) -> None:
        """Have the sink close after the rows that wait."""
        try:
            self._rows.put_nowait(None)
        except Full:
            self._fail(f"{self._rows.maxsize} rows are waiting for it")

    def join(self, seconds: float) -> None:
        """Wait for it to close, and leave it behind if it does not."""
        self._thread.join(0 if self.failed else seconds)
        if self._thread.is_alive():
            self._fail(f"it did not end within {seconds:g} s")

    def _work(self) -> None:
        try:
            sink: Sink | None = None
            while (row := self._rows.get()) is not None:
                sink = sink or self._opened(row[0])
                sink.log(*row)
            if sink is not None:
                sink.close()
        except Exception as error:  # noqa: BLE001
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        if not self.failed:
            self.failed = True
            print(
                f"upslope: the sink {self.name} gets no more metrics ({why}); the run goes on, and "
                "its metrics.jsonl has all of them",
                file=sys.stderr,
            )


def require(names: Sequence[str]) -> None:
    """Raise UserError where a sink's library is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"sinks names {name}, which is not installed: pip install {name}")


@contextmanager
def feeding(
    names: Sequence[str], folder: Path, config: Mapping[str, Any]
) -> Iterator[Sequence[Feed]]:
    """A watch for each sink of the run in ``folder``, closed at the end whatever came of it."""

    def opened(name: str) -> Callable[[int], Sink]:
        return lambda step: SINKS[name](folder, config, step)

    feeds = [Feed(name, opened(name)) for name in names]
    try:
        yield feeds
    finally:
        for feed in feeds:
            feed.ending()
        for feed in feeds:
            feed.join(CLOSING)
