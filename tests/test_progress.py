"""A training run's progress: the lines in a log, the line in a (pseudo-)terminal, nothing."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from g2d_pipeline import progress
from g2d_pipeline.progress import duration, is_live, track, track_epochs

TERMS = {"task": 0.512, "feature_distillation": 0.0312}
PHASE = "phase 1/2 (image learns)"


class Clock:
    """Seconds that pass only where a test says so; it stands in for the module `time`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(shown, epochs, batches, position=0, clock=None, seconds=0.0, terms=lambda: TERMS, phase=PHASE):
    """Train from `position` (batches done) to the end, `seconds` a batch of 10 samples."""
    for epoch in range(position // batches + 1, epochs + 1):
        done = position % batches if epoch == position // batches + 1 else 0
        shown.start(epoch, phase, done)
        for _ in range(done, batches):
            if clock is not None:
                clock.now += seconds
            shown.advance(10, terms)
        shown.end({"val": 0.8 + epoch / 1000})


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# ---------------------------------------------------------------------------------------------- in a log file
def test_plain_lines_at_each_tenth_with_the_scores_of_the_epoch(caplog, clock):
    caplog.set_level(logging.INFO)
    with track_epochs("g2d, seed 0", epochs=30, batches=4) as shown:
        run(shown, 30, 4, clock=clock, seconds=0.5)
    lines = logged(caplog)
    assert [int(re.search(r"epoch (\d+)/30", line)[1]) for line in lines] == list(range(3, 31, 3))
    assert lines[0] == (
        "g2d, seed 0: epoch 3/30, phase 1/2 (image learns), task 0.512, feature_distillation 0.0312, "
        "val 0.803, 20 samples/s, ETA 54 s"
    )
    assert lines[-1].endswith("val 0.83, 20 samples/s, ETA 0 s")


def test_a_tenth_within_an_epoch_is_said_at_once(caplog, clock):
    caplog.set_level(logging.INFO)
    with track_epochs("joint", epochs=2, batches=10) as shown:
        run(shown, 2, 10, clock=clock, seconds=60.0, phase="")
    lines = logged(caplog)
    assert len(lines) == 10
    assert lines[0] == "joint: epoch 1/2, task 0.512, feature_distillation 0.0312, 0.2 samples/s, ETA 0:18:00"
    assert re.search("epoch 1/2.* val 0.801", lines[4])


@given(epochs=st.integers(1, 7), batches=st.integers(1, 30), data=st.data())
def test_a_resumed_run_says_the_rest_and_its_eta_is_that_of_this_process(epochs, batches, data):
    position = data.draw(st.integers(0, epochs * batches - 1))
    called: list[int] = []
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        patch.setattr(progress.logger, "info", lambda text, *args: lines.append(text % args))
        with track_epochs("x", epochs, batches, done=position) as shown:
            run(shown, epochs, batches, position, clock, 5.0, lambda: called.append(1) or TERMS)  # type: ignore[func-returns-value]
    tenths = {n * 10 // (epochs * batches) for n in range(position, epochs * batches + 1)} - {
        position * 10 // (epochs * batches)
    }
    assert len(lines) == len(called) == len(tenths)
    assert lines[-1].startswith(f"x: epoch {epochs}/{epochs}, {PHASE}, task 0.512")
    assert lines[-1].endswith("2.0 samples/s, ETA 0 s")
    for line, tenth in zip(lines, sorted(tenths), strict=True):
        first = next(
            n for n in range(position, epochs * batches + 1) if n * 10 // (epochs * batches) == tenth
        )
        assert line.endswith(f", ETA {duration(5 * (epochs * batches - first))}")


def test_samples_are_counted_in_lines_at_each_tenth(caplog, clock):
    caplog.set_level(logging.INFO)
    for mode in ("auto", False):
        with track("featurize audio", 20, mode) as advance:
            for _ in range(20):
                clock.now += 4.0
                advance()
    lines = logged(caplog)
    assert len(lines) == 10
    assert lines[0] == "featurize audio: 2/20, 0.2 samples/s, ETA 72 s"
    assert lines[-1] == "featurize audio: 20/20, 0.2 samples/s, ETA 0 s"


@pytest.mark.parametrize(
    ("seconds", "batches"),  # of a batch; after which of ten lines come
    [(0.0, []), (0.4, []), (0.6, [9, 10]), (1.0, [5, 10]), (2.0, [3, 6, 9, 10]), (5.0, list(range(1, 11)))],
)
def test_lines_come_every_few_seconds_at_most_but_the_last(caplog, clock, seconds, batches):
    caplog.set_level(logging.INFO)
    with track_epochs("joint", epochs=10, batches=1) as shown:
        run(shown, 10, 1, clock=clock, seconds=seconds)
    assert [int(re.search(r"epoch (\d+)/10", line)[1]) for line in logged(caplog)] == batches


def test_speed_leaves_scoring_out_and_eta_has_it(caplog, clock):
    caplog.set_level(logging.INFO)
    with track_epochs("x", epochs=2, batches=1) as shown:
        shown.start(1)
        clock.now += 2.0
        shown.advance(10, dict)
        clock.now += 8.0
        shown.end({})
    assert logged(caplog) == ["x: epoch 1/2, 5.0 samples/s, ETA 10 s"]


def test_switched_off_nothing_is_asked_or_said(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with track_epochs("x", 3, 4, mode=False) as shown:
        run(shown, 3, 4, terms=lambda: pytest.fail("asked"))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_live_where_asked_for_without_a_terminal_leaves_the_last_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    progress._console.cache_clear()
    with track_epochs("x", 3, 4, mode=True) as shown:
        run(shown, 3, 4)
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 2
    assert lines[1] == ""
    assert re.search(
        r"x epoch 3/3 ━+ task 0.512 · phase 1/2 .* · feature_distillation 0.0312 · val 0.803 .* ETA 0 s",
        lines[0],
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.2, "41 s"), (100, "0:01:40"), (3661, "1:01:01"), (2e5, "55:33:20")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_ci_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    assert is_live("auto")
    monkeypatch.setenv("CI", "true")
    assert not is_live("auto")
    assert is_live(True)


# -------------------------------------------------------------------------------------------- the line itself
def line_at(width: int, clock: Clock, colours: bool = True, description: str = "g2d, seed 0") -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        console = Console(
            file=out, width=width, force_terminal=True, no_color=not colours, _environ={"TERM": "xterm"}
        )
        patch.setattr(progress, "_console", lambda: console)
        with track_epochs(description, 30, 40, mode=True) as shown:
            shown.start(12, PHASE, 10)
            clock.now += 2.5
            shown.advance(1280, lambda: TERMS)
    return next(line for line in reversed(screen(out.getvalue())) if line or not width)


def test_the_line_at_the_usual_widths(clock):
    start = r"g2d, seed 0 epoch 12/30 [━╸╺]{10} task 0.512 · "
    details = r"phase 1/2 \(image learns\) · feature_distillation 0.0312 · 512 samples/s"
    assert re.fullmatch(f"{start}{details} ETA 0:31:12", line_at(160, clock))
    assert re.fullmatch(rf"{start}phase 1/2 .*… ETA 0:31:12", line_at(80, clock))
    assert re.fullmatch(r"g2d, seed 0 epoch 12/30 [━╸╺]+ task 0.5.*… ETA 0:31:12", line_at(64, clock))


def test_without_colours_everything_stands_in_its_place(clock):
    plain = line_at(80, clock, colours=False)
    assert "━" in plain
    assert plain.index("task") == line_at(80, clock).index("task")


@given(
    width=st.integers(10, 250),
    colours=st.booleans(),
    description=st.text(st.characters(codec="utf-8"), max_size=30),
)
def test_one_line_at_any_width(width, colours, description):
    # Alone, what only changes the character before it (a combining mark, a tint) has no place on a screen.
    description = "".join(c for c in description if c.isprintable() and cell_len(c))
    with pytest.MonkeyPatch.context() as patch:
        line = line_at(width, Clock(patch), colours, description)
    assert "\n" not in line
    assert cell_len(line) <= width
    if width >= cell_len(description) + 40:
        assert line.startswith(f"{description} epoch 12/30")
        assert line.rstrip().endswith("ETA 0:31:12")


# ---------------------------------------------------------------------------------------------- in a terminal
def screen(written: str) -> list[str]:
    """The lines that a terminal shows after `written`: a carriage return, line feed, cursor up and erase line
    act."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", written):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif control.endswith("A"):
            row -= int(control[2:-1] or 1)
        elif control == "\x1b[2K":
            lines[row] = ""
        else:
            assert control.endswith("m") or control in ("\x1b[?25l", "\x1b[?25h"), control
    return [line.rstrip() for line in lines]


def in_terminal(script: str, columns: int = 100, **variables: str) -> list[str]:
    """Run a script in a pseudo-terminal and return what stands on its screen in the end."""
    pty, fcntl, termios = (
        pytest.importorskip("pty"),
        pytest.importorskip("fcntl"),
        pytest.importorskip("termios"),
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    dropped = ("CI", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    environment = (
        {k: v for k, v in os.environ.items() if k not in dropped} | {"TERM": "xterm-256color"} | variables
    )
    prologue = (
        "import logging, time\nfrom g2d_pipeline import progress\nfrom g2d_pipeline.progress import *\n"
    )
    prologue += "from g2d_pipeline.progress import track_epochs, rich_logs, track\nprogress.REDRAW = 0\n"
    process = subprocess.Popen(
        [sys.executable, "-c", prologue + textwrap.dedent(script)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return [line for line in screen(written.decode()) if line]


RUN = """
    with track_epochs("g2d, seed 0", 2, 3) as shown:
        for epoch in (1, 2):
            shown.start(epoch, "phase 1/2 (image learns)")
            for batch in range(3):
                shown.advance(10, lambda: {"task": 0.512})
                if batch == 1:
                    logging.getLogger("x").warning("epoch %d: the microphone is off", epoch)
            shown.end({"val": 0.81})
"""
LAST = r"g2d, seed 0 epoch 2/2 ━+ task 0\.512 · phase 1/2 \(image learns\) · val 0\.81 .*ETA 0 s"


@pytest.mark.parametrize(
    ("logs", "pattern"),
    [
        ("rich_logs()", r"\d\d:\d\d:\d\d WARNING  epoch {} the microphone is off"),
        ("logging.basicConfig()", r"WARNING:x:epoch {} the microphone is off"),
        ("import sys; logging.basicConfig(stream=sys.stdout)", r"WARNING:x:epoch {} the microphone is off"),
        ("", r"epoch {} the microphone is off"),
    ],
)
def test_log_lines_stand_above_the_live_line(logs, pattern):
    lines = in_terminal(f"{logs}\n{textwrap.dedent(RUN)}logging.getLogger('x').error('done')", columns=110)
    assert len(lines) == 4
    assert re.fullmatch(pattern.format("1:"), lines[0])
    assert re.fullmatch(pattern.format("2:"), lines[1])
    assert re.fullmatch(LAST, lines[2])
    assert lines[3].endswith("done")


def test_log_handlers_are_as_before_when_the_live_line_ends():
    assert in_terminal("""
    import sys
    logging.basicConfig()
    rich_logs()
    of_rich, plain = logging.getLogger().handlers[0], logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(plain)
    before = of_rich.console, plain.stream
    with track_epochs("x", 1, 1):
        assert of_rich.console is progress._console()
        assert plain.stream is not before[1]
    assert (of_rich.console, plain.stream) == before
    print("as before")
    """) == ["as before"]


def test_two_runs_leave_a_line_each_and_an_error_ends_the_line():
    lines = in_terminal(
        textwrap.dedent(RUN.replace("microphone is off", "x")).replace("batch == 1", "False")
        + textwrap.dedent("""
        try:
            with track_epochs("joint", 5, 2) as shown:
                shown.start(1)
                shown.advance(10, lambda: {"task": 0.5})
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("stopped")
        """)
    )
    assert len(lines) == 3
    assert re.fullmatch(LAST, lines[0])
    assert lines[1].startswith("joint epoch 1/5 ")
    assert lines[2] == "stopped"


def test_bars_that_nest_stay_apart():
    lines = in_terminal("""
    with track("featurize", 2) as advance:
        advance()
        with track_epochs("inner", 1, 2) as shown:
            shown.start(1)
            shown.advance(1, dict)
            logging.getLogger("x").warning("a word in between")
            shown.advance(1, dict)
            shown.end({})
        advance()
    with track_epochs("outer", 1, 1) as shown:
        shown.start(1)
        with track("predict", 2) as advance:
            advance(2)
        shown.advance(1, dict)
        shown.end({})
    """)
    assert len(lines) == 5
    assert [line.split()[0] for line in lines] == ["a", "inner", "featurize", "predict", "outer"]
    assert all("2/2" in line for line in lines[2:4])


def test_ci_in_a_terminal_gives_plain_lines():
    lines = in_terminal(
        "progress.QUIET = 0\nlogging.basicConfig(level='INFO', format='%(message)s')\n"
        + textwrap.dedent(RUN),
        columns=160,
        CI="1",
    )
    assert len(lines) == 2 + 6
    assert lines[-1].startswith("g2d, seed 0: epoch 2/2, phase 1/2 (image learns), task 0.512, val 0.81, ")
