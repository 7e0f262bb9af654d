"""Ctrl-C and SIGTERM, in a process of ours and in a worker that no signal reaches."""

import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    number: int | None = None  # the signal that asked to stop


_stops: defaultdict[str, Stop] = defaultdict(Stop)  # in a worker, by the run of its tasks; "": all
_run = ""


def begin_task(run: str) -> None:
    """Note in a worker the run of its next task."""
    global _run
    _run = run


def ask_to_stop(number: int, run: str | None = None) -> None:
    """Ask the tasks of a run (None: the current one) in this process to stop, as a signal would."""
    _stops[_run if run is None else run].number = number


def asked_to_stop() -> bool:
    """Whether the current run, or the whole process, is to stop."""
    return any(_stops[run].number is not None for run in (_run, ""))


@contextmanager
def stop_on_signals(then: Callable[[int], None] = lambda number: None) -> Iterator[Stop]:
    """Inside, the first Ctrl-C or SIGTERM is only noted, and `then(number)` is called; a second one acts as
    outside. A signal that is ignored (nohup) stays ignored. Outside the main thread no signal arrives: there
    `ask_to_stop` is noted."""
    if threading.current_thread() is not threading.main_thread():
        yield _stops[_run]
        return
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {n: handler or signal.SIG_DFL for n, handler in before.items() if handler != signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number
        restore()
        then(number)

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Restore the handlers of SIGINT, SIGTERM and uncaught exceptions, which a library (Ray) sets inside."""
    hook, main = sys.excepthook, threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield
    finally:
        sys.excepthook = hook
        for number, handler in before.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler or signal.SIG_DFL)
