"""Media files that can not be used: what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from g2d_pipeline.errors import DataError, content_fault, media_fault


class MediaError(DataError):
    """One recording or picture can not be used. `reason` is what is wrong with it, without its name."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(
            f"{file} {reason}.\nWhat to do: copy or download it again, or leave it out of the raw data."
        )
        self.file, self.reason = file, reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[Path | str, str]]:
        """Sent to another process, it is made anew."""
        return type(self), (self.file, self.reason)


def check_file(path: Path | str) -> None:
    """Raise MediaError where a file is missing or empty, a Git-LFS pointer or a saved web page (datasets.md
    §0.5)."""
    if reason := media_fault(path):
        raise MediaError(path, reason)


def check_content(path: Path, content: bytes) -> None:
    """The same of a file that has been read: `content` is all of it."""
    if reason := content_fault(content):
        raise MediaError(path, reason)
