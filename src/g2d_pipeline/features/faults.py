"""Media files that can not be used: what is wrong, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from g2d_pipeline.errors import DataError, G2DError, content_fault, media_fault
from g2d_pipeline.remote import fetch


class MediaError(DataError):
    """One recording or picture can not be used. `reason` is what is wrong with it, without its name."""

    def __init__(self, file: Path | str, reason: str) -> None:
        remedy = "copy or download it again, or leave it out of the raw data."
        super().__init__(f"{file} {reason}.\nWhat to do: {remedy}")
        self.file, self.reason = file, reason

    def __reduce__(self) -> tuple[type[Self], tuple[Path | str, str]]:
        """Sent to another process, it is made anew."""
        return type(self), (self.file, self.reason)


@contextmanager
def decoding(path: Path | str, failed: str = "can not be decoded", *usual: type[Exception]) -> Iterator[None]:
    """Whatever is raised inside, but for errors of ours, becomes a MediaError of this file, and its cause.

    Libraries raise almost anything for a broken file (SyntaxError, MemoryError, …). The reason is `failed`,
    the type of the error unless it is a `usual` one that says why, and what it says."""
    try:
        yield
    except G2DError:
        raise
    except Exception as error:
        said = " ".join(str(getattr(error, "strerror", None) or error).split())
        what = "is truncated" if "truncated" in said else failed
        named = [] if said and isinstance(error, usual) else [type(error).__name__]
        reason = f"{what} ({': '.join([*named, *([said] if said else [])])})"
        raise MediaError(path, reason) from error


def check_file(path: Path | str, content: bytes | None = None) -> None:
    """Raise MediaError where a file is missing, empty, a Git-LFS pointer or a web page (datasets.md §0.5).

    `content`: all of it, where it has been read already."""
    if content is None:
        fetch([path])
    if reason := media_fault(path) if content is None else content_fault(content):
        raise MediaError(path, reason)
