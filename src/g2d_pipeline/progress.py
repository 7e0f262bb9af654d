"""Progress for people: a live bar with ETA in a terminal, plain lines elsewhere, nothing when switched off."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

logger = logging.getLogger(__name__)

Advance = Callable[..., None]

REDRAW = 0.5  # seconds between two drawings of a live line, at least
BAR = 8  # columns of its bar, at least
WIDE_BAR = 40  # columns of its bar, at most


def is_live(mode: Literal["auto"] | bool) -> bool:
    """Whether a live bar is shown: asked for, or `auto` in a terminal that can draw one, outside CI (variable
    CI)."""
    if mode != "auto":
        return mode
    return (
        sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") not in ("dumb", "unknown")
    )


@contextmanager
def track(description: str, total: int, mode: Literal["auto"] | bool = "auto") -> Iterator[Advance]:
    """Yield `advance(steps=1, note="")`.

    In a terminal: a rich bar with elapsed time and ETA. With `auto` elsewhere: a log line at each tenth of
    the way. `mode=False`: nothing."""
    if is_live(mode):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=_console()) as bar, _logs_beside(_console()):
            task = bar.add_task(description, total=total, note="")
            yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)
        return

    start, done, tenths = time.monotonic(), 0, 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, tenths
        done += steps
        if mode is False or done * 10 // max(total, 1) <= tenths:
            return
        tenths = done * 10 // max(total, 1)
        elapsed = time.monotonic() - start
        eta = elapsed / done * (total - done)
        logger.info("%s: %d/%d, %.0f s, ETA %.0f s %s", description, done, total, elapsed, eta, note)

    yield advance


class EpochProgress:
    """Where a training run stands. This one shows nothing; those below show it."""

    def start(self, epoch: int, phase: str = "", batch: int = 0) -> None:
        """An epoch begins, counted from 1; `batch`: how many batches of it an earlier, interrupted run has
        done."""

    def advance(self, samples: int, terms: Callable[[], dict[str, float]]) -> None:
        """A batch is done. `terms()`, the means of the loss terms over this epoch, is called only to be
        shown."""

    def end(self, scores: dict[str, float]) -> None:
        """An epoch ended, with these scores."""


@contextmanager
def track_epochs(
    description: str, epochs: int, batches: int, mode: Literal["auto"] | bool = "auto", done: int = 0
) -> Iterator[EpochProgress]:
    """Yield the progress of a run of `epochs` times `batches`, of which an earlier run has done `done`
    batches.

    In a terminal: one line for the current epoch, drawn at most twice a second. With `auto` elsewhere: a log
    line at each tenth of the run (at the end of the epoch, with its scores, where the tenth is reached by its
    last batch). `mode=False`: nothing."""
    if mode is False:
        yield EpochProgress()
    elif is_live(mode):
        from rich.live import Live

        console = _console()
        progress = _LiveLine(description, epochs, batches, done)
        with Live(get_renderable=lambda: progress, console=console, auto_refresh=False) as live:
            progress.refresh = live.refresh
            with _logs_beside(console):
                yield progress
        if not (
            console.is_terminal or console.is_jupyter
        ):  # there Live writes the last state, but ends no line
            console.print()
    else:
        yield _LogLines(description, epochs, batches, done)


class _LogLines(EpochProgress):
    """Counts what is done, and says it in a log line at each tenth of the run."""

    def __init__(self, description: str, epochs: int, batches: int, done: int) -> None:
        self.description, self.epochs, self.batches = description, epochs, batches
        self.epoch, self.phase, self.batch = 0, "", 0
        self.terms: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.total = max(epochs * batches, 1)
        self.tenths = done * 10 // self.total
        self.began: float | None = None  # when this process began to train
        self.mark = 0.0  # when the last batch was done
        self.training = 0.0  # seconds in batches: without scoring
        self.seen = 0  # batches that this process did
        self.samples = 0

    def start(self, epoch: int, phase: str = "", batch: int = 0) -> None:
        self.epoch, self.phase, self.batch, self.terms = epoch, phase, batch, {}
        self.mark = time.monotonic()
        self.began = self.mark if self.began is None else self.began

    def advance(self, samples: int, terms: Callable[[], dict[str, float]]) -> None:
        now = time.monotonic()
        self.training += now - self.mark
        self.mark = now
        self.batch += 1
        self.seen += 1
        self.samples += samples
        if self.due(now):
            self.terms = terms()
            self.show(ended=False)

    def end(self, scores: dict[str, float]) -> None:
        self.scores, self.batch = scores, self.batches
        if self.due(time.monotonic()):
            self.show(ended=True)

    @property
    def position(self) -> int:
        """Batches from the beginning of the whole run."""
        return min((self.epoch - 1) * self.batches + self.batch, self.total)

    def due(self, now: float) -> bool:
        return self.position * 10 // self.total > self.tenths

    def show(self, ended: bool) -> None:
        if self.batch >= self.batches and not ended:
            return  # `end` will say it, with the scores
        self.tenths = self.position * 10 // self.total
        parts = [
            self.place(),
            self.phase,
            *_numbers(self.terms),
            *_numbers(self.scores),
            self.speed(),
            self.eta(),
        ]
        logger.info("%s: %s", self.description, ", ".join(filter(None, parts)))

    def place(self) -> str:
        return f"epoch {self.epoch}/{self.epochs}"

    def speed(self) -> str:
        rate = self.samples / self.training if self.training > 0 else 0.0
        return f"{rate:.{0 if rate >= 10 else 1}f} samples/s" if rate else ""

    def eta(self) -> str:
        """The time left, scoring included, if it goes on as it went in this process."""
        if not self.seen or self.began is None:
            return ""
        left = (time.monotonic() - self.began) / self.seen * (self.total - self.position)
        return f"ETA {duration(left)}"


class _LiveLine(_LogLines):
    """The same as one line in a terminal, which rich draws anew; also above it, whenever a log line is
    printed."""

    refresh: Callable[[], None]
    drawn = -REDRAW

    def start(self, epoch: int, phase: str = "", batch: int = 0) -> None:
        super().start(epoch, phase, batch)
        if self.due(self.mark):
            self.show(ended=False)

    def due(self, now: float) -> bool:
        return now - self.drawn >= REDRAW or self.position == self.total

    def show(self, ended: bool) -> None:
        self.refresh()
        self.drawn = time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line: description, epoch and ETA always; a loss term, phase, more terms, scores and speed as
        they fit."""
        from rich.progress_bar import ProgressBar
        from rich.segment import Segment
        from rich.text import Text

        if not self.epoch:
            return  # no epoch has begun
        numbers, speed = [*_numbers(self.terms), *_numbers(self.scores)], self.speed()

        def sides(kept: list[str]) -> tuple[Text, Text]:
            """What stands left and right of the bar."""
            left = Text(no_wrap=True, end="").append(self.description, "bold").append(f" {self.place()} ")
            if self.phase in kept:
                left.append(f"{self.phase} ", "cyan")
            right = Text(no_wrap=True)
            for part in (
                " · ".join(n for n in numbers if n in kept),
                speed if speed in kept else "",
                self.eta(),
            ):
                right.append(f" {part}" if part else "")
            return left, right

        kept: list[str] = []
        for part in filter(None, (*numbers[:1], self.phase, *numbers[1:], speed)):
            if sum(side.cell_len for side in sides([*kept, part])) + BAR <= options.max_width:
                kept.append(part)
        left, right = sides(kept)
        room = options.max_width - left.cell_len - right.cell_len
        yield left
        if room >= BAR:
            bar = ProgressBar(self.batches, self.batch, width=min(room, WIDE_BAR))
            # Without colours rich draws the done part alone: fill up, so that what follows stays in its
            # place.
            yield from Segment.adjust_line_length(list(console.render(bar, options)), min(room, WIDE_BAR))
        yield right


def duration(seconds: float) -> str:
    """`41 s`; from 100 seconds on `h:mm:ss`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _numbers(values: dict[str, float]) -> list[str]:
    return [f"{name} {value:.3g}" for name, value in values.items()]


@cache
def _console() -> Console:
    """The one console on stderr: bars that nest stay clear of one another only if they share it."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _logs_beside(console: Console) -> Iterator[None]:
    """While a bar is live: log lines bound for the terminal are printed above the bar, not into it."""
    from rich.file_proxy import FileProxy
    from rich.logging import RichHandler

    with ExitStack() as restore:
        for handler in logging.getLogger().handlers if console.is_terminal else ():
            if isinstance(handler, RichHandler):
                if handler.console.is_terminal:
                    restore.callback(setattr, handler, "console", handler.console)
                    handler.console = console
            elif isinstance(handler, logging.StreamHandler):
                stream = handler.stream
                if stream in (sys.__stdout__, sys.__stderr__) and stream.isatty():
                    restore.callback(handler.setStream, stream)
                    handler.setStream(FileProxy(console, stream))
        yield


def rich_logs_in_terminal() -> None:
    """Show log lines through rich where stdout is a terminal, so that they stay clear of the live bar."""
    if not sys.stdout.isatty():
        return
    from rich.logging import RichHandler

    handler = RichHandler(show_path=False, log_time_format="%H:%M:%S", omit_repeated_times=False)
    logging.getLogger().handlers = [handler]
