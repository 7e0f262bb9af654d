"""A small raw CREMA-D folder, and the ways in which real copies differ from a whole one (§1.5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2d_pipeline.config import CremaD, IngestSettings, RunOptions, TargetSettings

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
PICTURE = b"\xff\xd8\xff\xe0 a picture"


@dataclass
class Copy:
    """A raw CREMA-D folder of 36 clips in `project / raw`, and the means to break it."""

    project: Path

    @property
    def root(self) -> Path:
        return self.project / "raw"

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
        fields: dict[str, Any] = {
            "dataset": "crema_d",
            "source": "raw",
            "task": "classification",
            "target": TargetSettings(name="emotion"),
            "raw": CremaD(**{"raw_dir": "raw"} | raw),
            "columns": {"audio": ["audio"], "visual": ["visual"]},
            "max_bad_fraction": 0.0,
            "options": RunOptions(device="cpu", progress=False),
        }
        return IngestSettings(**fields | changes)


# --------------------------------------------------------------------------------------------- harmless
def nest(copy: Copy) -> None:
    inner = copy.project / "inner"
    copy.root.rename(inner)
    (copy.root / "CREMA-D").mkdir(parents=True)
    inner.rename(copy.root / "CREMA-D/CREMA-D-master")


def litter(copy: Copy) -> None:
    for name in (".DS_Store", "AudioWAV/.DS_Store", "AudioWAV/._1001_IEO_NEU_XX.wav", "VideoFlash/Thumbs.db"):
        (copy.root / name).write_bytes(b"litter")
    (copy.root / "__MACOSX/AudioWAV").mkdir(parents=True)
    (copy.root / "__MACOSX/AudioWAV/._1001_IEO_NEU_XX.wav").write_bytes(b"litter")


def upper_case(copy: Copy) -> None:
    for file in copy.root.glob("AudioWAV/*.wav"):
        file.rename(file.with_suffix(".WAV"))
    (copy.root / "AudioWAV").rename(copy.root / "audiowav")


def byte_order_mark(copy: Copy) -> None:
    path = copy.root / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def rename_actor(copy: Copy, name: str, new: str, old: str | None = None) -> None:
    """Rename a clip of train everywhere; `old`: a name of its WAV that the lists do not have."""
    copy.wav(name).rename(copy.wav(old or new))
    copy.film(name).rename(copy.film(new))
    copy.edit("train", lambda lines: [line.replace(f"{name},", f"{new},") for line in lines])


def to_known(new: str, old: str | None = None) -> Callable[[Copy], None]:
    """Some clip of train with the emotion of `new` becomes `new`."""
    return lambda c: rename_actor(c, next(n for n in c.names("train") if n[9:12] == new[9:12]), new, old)


def mp4(copy: Copy) -> None:
    for file in copy.root.glob("VideoFlash/*.flv"):
        file.rename(file.with_suffix(".mp4"))


# ----------------------------------------------------------------------------------------------- harmful
def pointers(folder: str, count: int) -> Callable[[Copy], None]:
    def damage(copy: Copy) -> None:
        for file in sorted(f for f in (copy.root / folder).iterdir() if f.suffix in (".wav", ".flv"))[:count]:
            file.write_bytes(POINTER)

    return damage


def first(change: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    return lambda lines: [change(lines[0]), *lines[1:]]


def hashed(copy: Copy) -> None:
    for k, file in enumerate(sorted(copy.root.glob("AudioWAV/*.wav"))):
        file.rename(file.with_name(f"{k:032x}_3.wav"))


def other_rate_alone(copy: Copy) -> None:
    copy.pictures("Image-30-FPS")
    shutil.rmtree(copy.root / "VideoFlash")


def empty_pictures(copy: Copy) -> None:
    copy.pictures()
    for file in (copy.root / "Image-01-FPS/1001_IEO_NEU_XX").iterdir():
        file.unlink()
    (copy.root / "Image-01-FPS/1001_IEO_NEU_XX/.DS_Store").write_bytes(b"litter")


def broken_picture(copy: Copy) -> None:
    copy.pictures()
    (copy.root / "Image-01-FPS/1001_IEO_NEU_XX/00029.jpg").write_bytes(b"")


def missing_pictures(copy: Copy) -> None:
    copy.pictures()
    shutil.rmtree(copy.root / "Image-01-FPS/1001_IEO_NEU_XX")


def same_clip_in_both(copy: Copy) -> None:
    line = f"{copy.names('test')[0]},{copy.names('test')[0][9:12]}"
    copy.edit("train", lambda lines: [*lines, line])


def all_but(emotion: str) -> Callable[[Copy], None]:
    return lambda c: c.edit("train", lambda lines: [line for line in lines if not line.endswith(emotion)])


def two_lists(copy: Copy) -> None:
    (copy.root / "old").mkdir()
    for name in ("train.csv", "test.csv"):
        shutil.copy(copy.root / name, copy.root / "old" / name)
