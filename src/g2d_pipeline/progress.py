"""Progress for people: a live bar with ETA in a terminal, plain lines elsewhere, nothing when switched off."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

logger = logging.getLogger(__name__)

Advance = Callable[..., None]


def is_live(mode: Literal["auto"] | bool) -> bool:
    """Whether a live bar is shown: asked for, or `auto` in a terminal."""
    return sys.stderr.isatty() if mode == "auto" else mode


@contextmanager
def track(description: str, total: int, mode: Literal["auto"] | bool = "auto") -> Iterator[Advance]:
    """Yield `advance(steps=1, note="")`.

    In a terminal: a rich bar with elapsed time and ETA. With `auto` elsewhere: a log line at each tenth of the way.
    `mode=False`: nothing.
    """
    if is_live(mode):
        from rich.console import Console
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
        with Progress(*columns, console=Console(stderr=True)) as bar:
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


def rich_logs_in_terminal() -> None:
    """Show log lines through rich where stdout is a terminal, so that they stay clear of the live bar."""
    if not sys.stdout.isatty():
        return
    from rich.logging import RichHandler

    handler = RichHandler(show_path=False, log_time_format="%H:%M:%S", omit_repeated_times=False)
    logging.getLogger().handlers = [handler]
