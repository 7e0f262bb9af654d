"""Raw folders to break, and the settings that read them."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl

from g2d_pipeline.config import (
    MISME,
    AVDigits,
    CremaD,
    IngestSettings,
    LayoutSettings,
    RunOptions,
    SpokenMNIST,
    TargetSettings,
)
from g2d_pipeline.sources.mis_me import simulated as mis_me

PROJECT = Path(__file__).parents[2]
WEATHER = list(mis_me.WEATHER)
LABELS = "labels/classification/combined_only_{}_set.xlsx"
OPTIONS = RunOptions(device="cpu", progress=False)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
PICTURE = b"\xff\xd8\xff\xe0 a picture"


def ingest_settings(
    raw: LayoutSettings, modalities: Sequence[str] | Mapping[str, list[str]], /, **changes: Any
) -> IngestSettings:
    """Those of a classification from raw files, of which none may be bad; `modalities` with their columns, or
    with one column of their name each."""
    fields: dict[str, Any] = {
        "dataset": raw.layout,
        "source": "raw",
        "task": "classification",
        "target": TargetSettings(),
        "raw": raw,
        "columns": modalities if isinstance(modalities, Mapping) else {name: [name] for name in modalities},
        "max_bad_fraction": 0.0,
        "options": OPTIONS,
    }
    return IngestSettings(**fields | changes)


def mis_me_settings(raw_dir: str, **changes: Any) -> IngestSettings:
    target = TargetSettings(name="vwc", unit="m³/m³")
    columns = {"tabular": WEATHER, "image": ["image"]}
    return ingest_settings(
        MISME(raw_dir=raw_dir), columns, **{"task": "regression", "target": target} | changes
    )


def digits_settings(raw: AVDigits | SpokenMNIST, **changes: Any) -> IngestSettings:
    source = "sample" if raw.layout == "av_digits" else "raw"
    return ingest_settings(raw, ["audio", "image"], **{"source": source} | changes)


@dataclass
class RawCopy:
    """A raw folder in `project / raw`, a copy that a test may break."""

    project: Path

    @property
    def root(self) -> Path:
        return self.project / "raw"


# --------------------------------------------------------------------------------------------------- MIS-ME
class MISMECopy(RawCopy):
    @property
    def images(self) -> Path:
        return self.root / mis_me.IMAGE_FOLDER

    def table(self, split: str) -> Path:
        return self.root / LABELS.format(split)

    def edit(self, split: str, change: Callable[[Any], object]) -> None:
        """Apply `change` to the worksheet of a split's table."""
        book = openpyxl.load_workbook(self.table(split))
        change(book.worksheets[0])
        book.save(self.table(split))

    def put(self, split: str, row: int, column: str, value: object) -> None:
        self.edit(
            split, lambda sheet: setattr(sheet.cell(row, mis_me.HEADER.index(column) + 1), "value", value)
        )

    def get(self, split: str, row: int, column: str) -> Any:
        return (
            openpyxl.load_workbook(self.table(split))
            .worksheets[0]
            .cell(row, mis_me.HEADER.index(column) + 1)
            .value
        )

    def settings(self, **changes: Any) -> IngestSettings:
        return mis_me_settings("raw", **changes)


# --------------------------------------------------------------------------------------------------- digits
def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0))


# ------------------------------------------------------------------------------------------------- CREMA-D
class CremaDCopy(RawCopy):
    """36 clips."""

    def names(self, split: str) -> list[str]:
        return [line.split(",")[0] for line in (self.root / f"{split}.csv").read_text().split()]

    def wav(self, name: str) -> Path:
        return self.root / f"AudioWAV/{name}.wav"

    def film(self, name: str) -> Path:
        return self.root / f"VideoFlash/{name}.flv"

    def pictures(self, folder: str = "Image-01-FPS", count: int = 2) -> None:
        """A folder of pictures a clip, as extracted by the field's scripts."""
        for film in self.root.glob("VideoFlash/*.flv"):
            place = self.root / folder / film.stem
            place.mkdir(parents=True)
            for k in range(count):
                (place / f"{29 * k:05d}.jpg").write_bytes(PICTURE)

    def edit(self, split: str, change: Callable[[list[str]], list[str]]) -> None:
        """Apply `change` to the lines of a list."""
        path = self.root / f"{split}.csv"
        path.write_bytes("".join(f"{line}\r\n" for line in change(path.read_text().split())).encode())

    def settings(self, **changes: Any) -> IngestSettings:
        raw = {key: changes.pop(key) for key in list(changes) if key in CremaD.model_fields}
        target = TargetSettings(name="emotion")
        settings = CremaD(**{"raw_dir": "raw"} | raw)
        return ingest_settings(settings, ["audio", "visual"], **{"target": target} | changes)


# How real copies differ from a whole one (§1.5): harmless, and then harmful.
def nest(copy: CremaDCopy) -> None:
    inner = copy.project / "inner"
    copy.root.rename(inner)
    (copy.root / "CREMA-D").mkdir(parents=True)
    inner.rename(copy.root / "CREMA-D/CREMA-D-master")


def litter(copy: CremaDCopy) -> None:
    for name in (".DS_Store", "AudioWAV/.DS_Store", "AudioWAV/._1001_IEO_NEU_XX.wav", "VideoFlash/Thumbs.db"):
        (copy.root / name).write_bytes(b"litter")
    (copy.root / "__MACOSX/AudioWAV").mkdir(parents=True)
    (copy.root / "__MACOSX/AudioWAV/._1001_IEO_NEU_XX.wav").write_bytes(b"litter")


def upper_case(copy: CremaDCopy) -> None:
    for file in copy.root.glob("AudioWAV/*.wav"):
        file.rename(file.with_suffix(".WAV"))
    (copy.root / "AudioWAV").rename(copy.root / "audiowav")


def byte_order_mark(copy: CremaDCopy) -> None:
    path = copy.root / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def rename_actor(copy: CremaDCopy, name: str, new: str, old: str | None = None) -> None:
    """Rename a clip of train everywhere; `old`: a name of its WAV that the lists do not have."""
    copy.wav(name).rename(copy.wav(old or new))
    copy.film(name).rename(copy.film(new))
    copy.edit("train", lambda lines: [line.replace(f"{name},", f"{new},") for line in lines])


def to_known(new: str, old: str | None = None) -> Callable[[CremaDCopy], None]:
    """Some clip of train with the emotion of `new` becomes `new`."""
    return lambda c: rename_actor(c, next(n for n in c.names("train") if n[9:12] == new[9:12]), new, old)


def mp4(copy: CremaDCopy) -> None:
    for file in copy.root.glob("VideoFlash/*.flv"):
        file.rename(file.with_suffix(".mp4"))


# Harmful:
def pointers(folder: str, count: int) -> Callable[[CremaDCopy], None]:
    def damage(copy: CremaDCopy) -> None:
        for file in sorted(f for f in (copy.root / folder).iterdir() if f.suffix in (".wav", ".flv"))[:count]:
            file.write_bytes(POINTER)

    return damage


def first(change: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    return lambda lines: [change(lines[0]), *lines[1:]]


def hashed(copy: CremaDCopy) -> None:
    for k, file in enumerate(sorted(copy.root.glob("AudioWAV/*.wav"))):
        file.rename(file.with_name(f"{k:032x}_3.wav"))


def other_rate_alone(copy: CremaDCopy) -> None:
    copy.pictures("Image-30-FPS")
    shutil.rmtree(copy.root / "VideoFlash")


def empty_pictures(copy: CremaDCopy) -> None:
    copy.pictures()
    for file in (copy.root / "Image-01-FPS/1001_IEO_NEU_XX").iterdir():
        file.unlink()
    (copy.root / "Image-01-FPS/1001_IEO_NEU_XX/.DS_Store").write_bytes(b"litter")


def broken_picture(copy: CremaDCopy) -> None:
    copy.pictures()
    (copy.root / "Image-01-FPS/1001_IEO_NEU_XX/00029.jpg").write_bytes(b"")


def missing_pictures(copy: CremaDCopy) -> None:
    copy.pictures()
    shutil.rmtree(copy.root / "Image-01-FPS/1001_IEO_NEU_XX")


def same_clip_in_both(copy: CremaDCopy) -> None:
    line = f"{copy.names('test')[0]},{copy.names('test')[0][9:12]}"
    copy.edit("train", lambda lines: [*lines, line])


def all_but(emotion: str) -> Callable[[CremaDCopy], None]:
    return lambda c: c.edit("train", lambda lines: [line for line in lines if not line.endswith(emotion)])


def two_lists(copy: CremaDCopy) -> None:
    (copy.root / "old").mkdir()
    for name in ("train.csv", "test.csv"):
        shutil.copy(copy.root / name, copy.root / "old" / name)
