"""Digits seen and heard: what `av_digits`, the bundled sample, and `spoken_mnist`, all real, share."""

import re
from pathlib import Path
from typing import NamedTuple

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.errors import media_fault
from g2d_pipeline.sources.faults import BadRow, list_files
from g2d_pipeline.sources.layout import Layout, R

CLASSES = [str(digit) for digit in range(10)]


class Clip(NamedTuple):
    """A recording of a spoken digit; `take`: -1 where there is one a speaker."""

    digit: int
    speaker: str
    take: int
    path: str


class DigitsLayout(Layout[R]):
    """Pairs of an image and a clip of one digit. `arrays`: the files of the images and of their labels, and
    `clip_folder`: of the clips, relative to `root`; `clip_name`: a pattern with the groups digit, speaker and
    perhaps take; `clip_form`: it for messages."""

    task = "classification"
    modalities = ("audio", "image")
    arrays: tuple[str, str]
    clip_folder: str
    clip_name: re.Pattern[str]
    clip_form: str

    @property
    def clip_files(self) -> list[str]:
        return [f"{self.clip_folder}/{name}" for name in list_files(self.root / self.clip_folder)]

    def raw_files(self) -> list[Path]:
        arrays = [name for name in self.arrays if (self.root / name).exists()]
        return [self.root / name for name in sorted([*arrays, *self.clip_files])]

    def clips(self, settings: IngestSettings, remedy: str) -> tuple[list[Clip], list[BadRow]]:
        """Every usable clip in order of name, and what is dropped (see `drop_or_raise`)."""
        good: list[Clip] = []
        bad: list[BadRow] = []
        for path in self.clip_files:
            match = self.clip_name.fullmatch(path.removeprefix(f"{self.clip_folder}/"))
            if match is None:
                bad.append(BadRow(path, None, f"the name is not {self.clip_form}"))
            elif fault := media_fault(self.root / path):
                bad.append(BadRow(path, None, fault))
            else:
                take = int(match.groupdict().get("take", -1))
                good.append(Clip(int(match["digit"]), match["speaker"], take, path))
        return good, self.drop_or_raise(bad, len(good) + len(bad), settings, "recordings", remedy)
