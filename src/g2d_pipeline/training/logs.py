"""Optional logs of a training run that other programs read while it goes on: a CSV file, TensorBoard events.

Both say what the rows say and nothing else: a run that was interrupted and goes on repairs what it finds."""

import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from g2d_pipeline.errors import ConfigError

EVENTS = "events.out.tfevents."  # how TensorBoard's files begin
Row = dict[str, Any]
Log = Callable[[list[Row]], None]


@contextmanager
def open_logs(kinds: Sequence[Literal["csv", "tensorboard"]], folder: Path | None) -> Iterator[Log]:
    """Yield what writes `<folder>/history.csv`, `<folder>/tensorboard/`, or for no kinds nothing: a function
    of all epochs so far, a row each ("epoch", "phase", "learning", "lr", "loss/task", …), the last one new.

    Raises ConfigError where a kind is unknown, the folder is not given, or TensorBoard is not installed."""
    with ExitStack() as stack:
        writers: list[Log] = []
        for kind in dict.fromkeys(kinds):
            if folder is None:
                raise ConfigError(
                    f"log={kind} needs a folder to write to, and none is given. Remedy: name one, or log=[]"
                )
            if kind == "csv":
                writers.append(partial(write_csv, folder))
            elif kind == "tensorboard":
                writers.append(stack.enter_context(tensorboard_log(folder)))
            else:
                raise ConfigError(f"log: {kind!r} is unknown. Allowed: csv, tensorboard")

        def log(rows: list[Row]) -> None:
            for write in writers:
                write(rows)

        yield log


def write_csv(folder: Path, rows: list[Row]) -> None:
    """Write `history.csv` anew and put it in place whole: a reader never meets half a line.

    A line an epoch; a column for each name, empty where an epoch does not have it."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "history.csv.tmp"  # one name: the next run replaces what a kill left
    pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(folder / "history.csv")


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[Log]:
    """Yield what writes the numbers of an epoch as scalars under their names, at step = epoch.

    The first call writes all epochs, and tells TensorBoard to forget the points of an earlier run from there
    on: what it shows are the rows, none missing, none twice (older points get the time of the resumption)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"log=tensorboard needs the package tensorboard ({error}). Remedy: "
            "pip install 'g2d-pipeline[tensorboard]'"
        ) from error

    events = folder / "tensorboard"
    writer: SummaryWriter | None = None

    def write(rows: list[Row]) -> None:
        nonlocal writer
        new = rows[-1:]
        if writer is None:
            number_event_files(events)  # of a run that was killed
            writer, new = SummaryWriter(str(events), purge_step=rows[0]["epoch"]), rows
        for row in new:
            for name, value in row.items():
                if name != "epoch" and isinstance(value, numbers.Real):
                    writer.add_scalar(name, float(value), row["epoch"])
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
            number_event_files(events)


def number_event_files(events: Path) -> None:
    """Name closed event files by their order: theirs hold the computer's name, nobody's business."""
    for number, file in enumerate(sorted(events.glob(f"{EVENTS}*")), start=1):
        # Sorts before a new file's time: TensorBoard reads by name.
        numbered = file.with_name(f"{EVENTS}{number:06d}")
        if file != numbered:
            with suppress(OSError):  # on Windows where somebody reads it just now: renamed the next time
                file.rename(numbered)
