"""Simulated samples of published layouts, for who has no raw data: always marked SAMPLE.

A layout that can be simulated describes it in `Layout.simulated`, and its folder has a module `simulated`
with `make(root, size, seed)`; equal arguments give equal bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from g2d_pipeline.errors import data_error
from g2d_pipeline.files import atomic_folder

if TYPE_CHECKING:
    from g2d_pipeline.config import Split

logger = logging.getLogger(__name__)

SAMPLE_TEXT = "SAMPLE.txt"


class Simulated(NamedTuple):
    """`published`: the data set whose layout it has; `content`: what is in it instead; `recipe`: raise it
    when `make` changes what it writes."""

    published: str
    content: str
    recipe: int = 1

    def text(self, module: str, size: Mapping[Split, int] | int, seed: int) -> str:
        """What SAMPLE.txt says; a sample whose text differs is made anew. `size`: rows of each split, or
        clips."""
        if isinstance(size, int):
            counts = f"clips: {size}"
        else:
            counts = f"rows: train {size['train']}, val {size['val']}, test {size['test']}"
        return (
            f"SAMPLE: everything in this folder is simulated by {module}.\n"
            f"It has the layout of {self.published} and none of its data: {self.content} "
            "No number made from it means anything.\n"
            "Delete the folder at will; it is made anew when it is needed.\n"
            f"{counts}; seed: {seed}; recipe: {self.recipe}\n"
        )


def ensure_folder(root: Path, text: str, make: Callable[[Path], object]) -> None:
    """`make` the sample at `root` unless it is there with this text. It is made beside and renamed when
    whole.

    Raises DataError where a folder is there that is no sample: it is never touched."""
    if _text_of(root) == text:
        return
    if root.exists() and _text_of(root) is None:
        headline = f"{root} is in the way of the simulated sample: it has no {SAMPLE_TEXT}"
        raise data_error(headline, [], "move it away, or set another raw_dir.")
    logger.info("Making the simulated sample in %s …", root)
    try:
        with atomic_folder(root) as new:
            make(new)
            (new / SAMPLE_TEXT).write_text(text, encoding="utf-8", newline="\n")
    except OSError:
        if _text_of(root) != text:  # another run has not just made the same one
            raise


def _text_of(root: Path) -> str | None:
    """What SAMPLE.txt says; None where there is none."""
    try:
        return (root / SAMPLE_TEXT).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        headline = f"{root / SAMPLE_TEXT} can not be read ({error})"
        raise data_error(headline, [], "delete the folder.") from None
