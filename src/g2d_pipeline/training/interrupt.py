"""Ctrl-C and SIGTERM: finish the batch, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """`number`: the signal that asked to stop, or None."""

    number: int | None = None

    @property
    def name(self) -> str:
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number or 0).name


@contextmanager
def stop_on_signals(wanted: bool) -> Iterator[Stop]:
    """While it lasts, the first Ctrl-C or SIGTERM is only noted; a second one acts as it always does.

    Does nothing where it is not `wanted` (there is nowhere to save to) and outside the main thread. A signal
    that is ignored (nohup) stays ignored."""
    stop = Stop()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
