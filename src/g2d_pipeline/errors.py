"""Errors for users: one readable message, an exit status, no traceback."""

import difflib
from collections.abc import Iterable
from pathlib import Path

POINTER = 1024  # bytes: a Git-LFS pointer has fewer
RENAMED = {"muted": "masked", "n_jobs": "compute.workers", "retries": "compute.retries"}  # old keys
SHOWN = 5  # offenders that a message lists; the others are counted


class G2DError(Exception):
    """A failure that users can act on: the command line prints the message and exits with `exit_status`."""

    exit_status = 1


class ConfigError(G2DError, ValueError):
    """A parameter is wrong: the message names file, key, value and what is allowed (exit status 2)."""

    exit_status = 2


class DataError(G2DError, ValueError):
    """Raw data or an artefact is wrong: the message names file, row and remedy (exit status 1)."""


class LockedError(G2DError):
    """Another run is making the same artefact (exit status 1)."""


class TrainingError(G2DError):
    """The training of one run failed, by its own fault: other runs go on (exit status 1)."""


class RefusedData(G2DError):
    """A gate of retraining refuses new data (exit status 3)."""

    exit_status = 3


class InterruptedRun(G2DError):
    """Ctrl-C or SIGTERM: training finished its batch and saved its state. Exit status: 128 + the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


def is_failed_training(error: Exception) -> bool:
    """Whether other runs go on after this error of one training: it diverged, did not fit into memory, or its
    method failed on these data. Errors of configuration, raw data and disk, and interruptions end all."""
    return isinstance(error, TrainingError) or not isinstance(error, G2DError | OSError)


def mistake_under(error: BaseException) -> BaseException | None:
    """The G2DError or OSError that Kedro wrapped into `error`, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, G2DError | OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with the nearest known word, whatever its case and blanks; "" where all differ."""
    names = list(known)
    plain = {name.strip().casefold(): name for name in names}
    near = plain.get(word.strip().casefold()) or next(iter(difflib.get_close_matches(word, names, n=1)), None)
    if (renamed := RENAMED.get(word, "")).partition(".")[0] in names:
        near = renamed
    return f" Did you mean '{near}'?" if near is not None else ""


def enumerated(names: Iterable[str], most: int = 30) -> str:
    """Names for a message, separated by commas; of more than `most` the first ones and their number."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names):,} in all)" if len(names) > most else "")


def data_error(headline: str, offenders: Iterable[object], remedy: str) -> DataError:
    """A DataError: what is wrong, `SHOWN` of the offenders and how many there are, and the remedy."""
    lines = [str(offender) for offender in offenders]
    listed = [f"  - {line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        listed.append(f"  … and {len(lines) - SHOWN} more, {len(lines)} in all")
    return DataError("\n".join([f"{headline}{':' if listed else '.'}", *listed, f"What to do: {remedy}"]))


def media_fault(path: Path | str) -> str | None:
    """What is wrong with a media file by its size and first 40 bytes; None: nothing (datasets.md §0.5)."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - strings are quicker, and there are many files
            start = file.read(POINTER)
    except FileNotFoundError:
        return "is missing"
    except IsADirectoryError:
        return "is a folder, not a file"
    except OSError as error:
        return f"can not be read ({error.strerror})"
    return content_fault(start)


def content_fault(start: bytes) -> str | None:
    """The same of a file's content, or of its first 1024 bytes."""
    if not start:
        return "is empty (0 bytes)"
    if start.startswith(b"version https://git-lfs") and len(start) < POINTER:
        return "is a Git-LFS pointer, not the file itself (run `git lfs pull` in the copy)"
    if start[:40].lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return "is a web page (HTML), not the file itself"
    return None
