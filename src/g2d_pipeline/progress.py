"""Progress: a live bar with ETA in a terminal, log lines elsewhere, nothing when switched off."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task
    from rich.text import Text

logger = logging.getLogger(__name__)
REDRAW = 0.5  # seconds between two drawings of a bar, at least
QUIET = 5.0  # seconds without a log line, at least, from the start of a run on
Mode = Literal["auto"] | bool


def is_live(mode: Mode) -> bool:
    """Whether a live bar is shown: asked for, or `auto` in a terminal that can draw one, outside CI."""
    capable = not os.environ.get("CI") and os.environ.get("TERM") not in ("dumb", "unknown")
    return sys.stderr.isatty() and capable if mode == "auto" else mode


@contextmanager
def track(description: str, total: int, mode: Mode = "auto") -> Iterator[Callable[..., None]]:
    """Yield `advance(samples=1)`; `total`: samples. Shown like an epoch of `track_epochs`."""
    with track_epochs(description, 0, total, mode) as progress:
        progress.start(1)
        yield lambda samples=1: progress.advance(samples, dict, samples)
        progress.end({})


@contextmanager
def track_epochs(
    description: str, epochs: int, batches: int, mode: Mode = "auto", done: int = 0
) -> Iterator[EpochProgress]:
    """Yield the progress of a run of `epochs` times `batches`, of which an earlier run has done `done`.

    In a terminal: a bar for the current epoch, drawn at most twice a second. With `auto` elsewhere: a log
    line at each tenth of the run (with the scores, where an epoch ends there), but none within five seconds
    of the start or of the one before, unless it is the last. `mode=False`: nothing."""
    with _bar() if is_live(mode) else nullcontext() as live:
        yield EpochProgress(description, epochs, batches, done, live, silent=mode is False)


class EpochProgress:
    """The progress of a training run, in the bar `live`, in log lines, or not shown (`silent`)."""

    def __init__(
        self, description: str, epochs: int, batches: int, done: int, live: Progress | None, silent: bool
    ) -> None:
        self.description, self.epochs, self.batches, self.live = description, epochs, batches, live
        self.total = max((epochs or 1) * batches, 1)
        self.tenths = 10 if silent else done * 10 // self.total  # of the run, as shown last
        self.drawn = float("-inf")  # time of the last drawing or log line
        self.task = live.add_task(description, total=batches, visible=False) if live else None
        self.epoch, self.phase, self.batch = 0, "", 0
        self.terms: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.began: float | None = None  # time of the first epoch of this process
        self.mark = self.training = 0.0  # time of the last batch; seconds in batches, without scoring
        self.seen = self.samples = 0  # batches and samples of this process

    def start(self, epoch: int, phase: str = "", batch: int = 0) -> None:
        """An epoch begins, counted from 1; `batch`: those of it that an interrupted run has done."""
        self.epoch, self.phase, self.batch, self.terms = epoch, phase, batch, {}
        self.mark = time.monotonic()
        if self.began is None:
            self.began = self.mark
            self.drawn = self.drawn if self.live else self.mark
        if self.live and self._due():
            self._show()

    def advance(self, samples: int, terms: Callable[[], dict[str, float]], batches: int = 1) -> None:
        """Batches are done. `terms()`: the means of the loss terms over this epoch, called to be shown."""
        now = time.monotonic()
        self.training, self.mark = self.training + now - self.mark, now
        self.batch += batches
        self.seen += batches
        self.samples += samples
        if self._due():
            self.terms = terms()
            if self.live or self.batch < self.batches:  # else `end` does, with the scores
                self._show()

    def end(self, scores: dict[str, float]) -> None:
        """An epoch ended, with these scores."""
        self.scores, self.batch = scores, self.batches
        if self._due():
            self._show()

    @property
    def _position(self) -> int:
        return min((self.epoch - 1) * self.batches + self.batch, self.total)

    def _due(self) -> bool:
        now, done = time.monotonic(), self._position == self.total
        if self.live is not None:
            return now - self.drawn >= REDRAW or done
        since = self.began if done and self.began is not None else self.drawn
        return self._position * 10 // self.total > self.tenths and now - since >= QUIET

    def _show(self) -> None:
        place = f"epoch {self.epoch}/{self.epochs}" if self.epochs else f"{self.batch}/{self.batches}"
        eta = speed = ""
        if self.seen and self.began is not None:  # scoring included, at the speed of this process
            seconds = (time.monotonic() - self.began) / self.seen
            eta = f"ETA {duration(seconds * (self.total - self._position))}"
        if self.samples and self.training > 0:
            rate = self.samples / self.training
            speed = f"{rate:.{0 if rate >= 10 else 1}f} samples/s"
        numbers = [f"{name} {value:.3g}" for name, value in (*self.terms.items(), *self.scores.items())]
        if self.live is not None and self.task is not None:
            detail = " · ".join(filter(None, (*numbers[:1], self.phase, *numbers[1:], speed)))
            fields: dict[str, Any] = {"place": place, "detail": detail, "eta": eta}
            self.live.update(self.task, completed=self.batch, visible=True, refresh=True, **fields)
        else:
            parts = filter(None, (place, self.phase, *numbers, speed, eta))
            logger.info("%s: %s", self.description, ", ".join(parts))
        self.tenths, self.drawn = self._position * 10 // self.total, time.monotonic()


def duration(seconds: float) -> str:
    """`41 s`; from 100 seconds on `h:mm:ss`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@cache
def _console() -> Console:
    """The one console on stderr: bars that nest stay clear of one another only if they share it."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    """rich's Progress. Meanwhile log lines bound for the terminal are printed above it, not into it."""
    from rich.file_proxy import FileProxy
    from rich.logging import RichHandler
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Detail(ProgressColumn):
        """A column that gives way to the others: its end is cut where the terminal is narrow."""

        def render(self, task: Task) -> Text:
            return Text(task.fields["detail"], no_wrap=True, overflow="ellipsis")

    console = _console()
    keys = ("description", "fields[place]", "fields[eta]")
    description, place, eta = (TextColumn(f"{{task.{key}}}", markup=False) for key in keys)
    columns = (description, place, BarColumn(10), Detail(), eta)
    with Progress(*columns, console=console, auto_refresh=False) as live, ExitStack() as restore:
        for handler in logging.getLogger().handlers if console.is_terminal else ():
            if isinstance(handler, RichHandler) and handler.console.is_terminal:
                restore.callback(setattr, handler, "console", handler.console)
                handler.console = console
            elif isinstance(handler, logging.StreamHandler):
                stream = handler.stream
                if stream in (sys.__stdout__, sys.__stderr__) and stream.isatty():
                    restore.callback(handler.setStream, stream)
                    handler.setStream(FileProxy(console, stream))
        yield live


def rich_logs() -> None:
    """Show log lines through rich, so that they stay clear of a live bar."""
    from rich.logging import RichHandler

    handler = RichHandler(show_path=False, log_time_format="%H:%M:%S", omit_repeated_times=False)
    logging.getLogger().handlers = [handler]
