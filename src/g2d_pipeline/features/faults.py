"""How bad media are told: what is wrong, where, how often (the first five), and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from g2d_pipeline.errors import DataError

SHOWN = 5
LFS_POINTER = b"version https://git-lfs"


def data_error(headline: str, offenders: Iterable[object], remedy: str) -> DataError:
    """A DataError that says what is wrong, lists the first five offenders, says how many there are, and the remedy."""
    lines = [str(offender) for offender in offenders]
    shown = [f"  - {line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"  … and {len(lines) - SHOWN} more, {len(lines)} in all")
    return DataError("\n".join([f"{headline}:" if shown else f"{headline}.", *shown, f"What to do: {remedy}"]))


class MediaError(DataError):
    """One recording or picture can not be used. `reason` is what is wrong with it, without its name."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file} {reason}.\nWhat to do: copy or download it again, or leave it out of the raw data.")
        self.file, self.reason = file, reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[Path | str, str]]:
        """Sent to another process, it is made anew."""
        return type(self), (self.file, self.reason)


def check_file(path: Path) -> None:
    """Raise MediaError where a file is missing or empty, a Git-LFS pointer or a saved web page (datasets.md §0.5)."""
    try:
        with path.open("rb") as file:
            head = file.read(40)
    except FileNotFoundError:
        raise MediaError(path, "is missing") from None
    except IsADirectoryError:
        raise MediaError(path, "is a folder, not a file") from None
    except OSError as error:
        raise MediaError(path, f"can not be read ({error.strerror})") from None
    if not head:
        raise MediaError(path, "is empty (0 bytes)")
    if head.startswith(LFS_POINTER) and path.stat().st_size < 1024:
        raise MediaError(path, "is a Git-LFS pointer, not the file itself (run `git lfs pull` in the copy)")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise MediaError(path, "is a web page (HTML), not the file itself")
