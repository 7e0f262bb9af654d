"""Every real file in the shared data folder, through the code that featurize runs: in = through + named.

    python scripts/real_files.py        (writes docs/results/real_files.md)

The folder is found by the environment variable G2D_SHARED_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from g2d_pipeline.config import (
    AudioFeatures,
    ImageFeatures,
    IngestSettings,
    RunOptions,
    TargetSettings,
    VectorFeatures,
    VGGSound,
    VideoFeatures,
)
from g2d_pipeline.errors import DataError
from g2d_pipeline.features.cells import read_idx
from g2d_pipeline.features.chunks import decode_cells
from g2d_pipeline.features.kinds import FileKind, kind_of
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.vggsound.lists import class_names, read_lists

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT = REPOSITORY / "docs/results/real_files.md"
AT_ONCE = 64

SOUND = AudioFeatures(
    sample_rate=16_000, seconds=10.0, fill="repeat", clamp=True, peak_normalise=False
)  # VGGSound's
DIGIT = AudioFeatures(sample_rate=8_000, seconds=1.0)
SPREAD = VideoFeatures(frames=3, pick="even", size=[64])
ONE_A_SECOND = VideoFeatures(frames=3, pick="published", size=[64])  # as of VGGSound
ONE_PICTURE = VideoFeatures(frames=1, pick="published", size=[64])  # as of CREMA-D
PICTURE = ImageFeatures(size=[64])
GREY = ImageFeatures(size=[28], channels=1)
FILM = {"3 pictures, spread": SPREAD, "3 pictures, one a second": ONE_A_SECOND, "sound track": SOUND}


@dataclass(frozen=True)
class Check:
    """Files of a `folder` on their `ways` into features (name → settings); `patterns` with blanks between
    them.

    `rows`: of an array file.
    """

    folder: str
    patterns: str
    ways: dict[str, Any]
    rows: int = 0

    def cells(self, data: Path) -> list[str]:
        """What a manifest's column would hold, relative to the folder."""
        root = data / self.folder
        files = sorted(
            f.relative_to(root).as_posix() for pattern in self.patterns.split() for f in root.glob(pattern)
        )
        return [f"{f}#{row}" for f in files for row in range(self.rows)] if self.rows else files


CHECKS = [
    Check("video_samples", "*.mp4 *.webm", FILM),
    Check("ravdess_av", "original/*.mp4", FILM),
    Check("ravdess_av", "small/*.mp4", FILM),
    Check("grid_clips", "*.mpg", FILM),
    Check("ravdess_audio", "*.wav", {"recording": SOUND}),
    Check("cremad_clips", "AudioWAV/*.wav", {"recording": SOUND}),
    Check("cremad_meta", "lfs_pointers/AudioWAV/*.wav", {"recording": SOUND}),
    Check("cremad_meta", "lfs_pointers/VideoFlash/*.flv", {"1 picture, one a second": ONE_PICTURE}),
    Check("vggsound_meta", "*.wav", {"recording": SOUND}),
    Check("fsdd", "recordings/*.wav", {"recording": DIGIT}),
    Check("houses", "images/*.jpg", {"picture": PICTURE}),
    Check("mnist_t10k", "t10k-images-*.gz", {"picture": GREY}, rows=10_000),
    Check("cremad_features", "*_features.npy", {"vector": VectorFeatures()}, rows=704),
]


@dataclass
class Account:
    """What became of the samples of one check on one way. `named`: cell → what is said of it; `through`: they
    have features that are finite and not all alike, or are among `constant`: said to be silent or of one
    colour."""

    check: Check
    way: str
    given: int
    through: int = 0
    named: dict[str, str] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)

    @property
    def unaccounted(self) -> int:
        return self.given - self.through - len(self.named)


def account(check: Check, way: str, data: Path, cells: Sequence[str]) -> Account:
    """Send the cells through the code of featurize. What leaves no trace in the features and is not named is
    counted nowhere."""
    settings, root = check.ways[way], data / check.folder
    found = Account(check, way, len(cells))
    kind = kind_of(settings)
    assert isinstance(kind, FileKind)
    for start in range(0, len(cells), AT_ONCE):
        some = tuple(cells[start : start + AT_ONCE])
        values, findings = decode_cells(kind, some, root)
        found.named |= {some[k]: reason for k, reason in findings.faults.items()}
        constant = findings.notes["constant"]
        found.constant += [some[k] for k in constant]
        rows = np.asarray(values).reshape(len(values), -1)
        said = np.isin(np.arange(len(rows)), list(constant))
        features = np.isfinite(rows).all(axis=1) & ((rows.min(axis=1) < rows.max(axis=1)) | said)
        features[list(findings.faults)] = False
        found.through += int(features.sum())
    return found


def accounts(data: Path) -> Iterator[Account]:
    for check in CHECKS:
        cells = check.cells(data)
        for way in check.ways:
            yield account(check, way, data, cells)


@dataclass(frozen=True)
class ListAccount:
    """A list of samples: rows that are there, rows that are read, and what the source says of the others."""

    name: str
    rows: int
    read: int
    told: list[str]


def list_accounts(data: Path) -> list[ListAccount]:
    """VGGSound's official lists, and MNIST's labels."""
    found = []
    for name in ("test.csv", "vggsound_head.csv"):
        rows = len((data / "vggsound_meta" / name).read_text("utf-8").splitlines())
        lists = read_lists(data / "vggsound_meta", [name])
        labels = {clip.label for clip in lists.clips}
        told = [
            f"{len(labels)} of the {len(class_names())} classes, {sum(',' in label for label in labels)} "
            "with a comma",
            f"{sum(clip.video.startswith('-') for clip in lists.clips)} ids begin with a dash",
            *map(str, lists.bad),
            *lists.notes,
        ]
        found.append(ListAccount(f"vggsound_meta/{name}", rows, len(lists.clips), told))
    labels = read_idx(data / "mnist_t10k/t10k-labels-idx1-ubyte.gz", 1)
    told = [f"labels {labels.min()} to {labels.max()}"]
    return [*found, ListAccount("mnist_t10k/t10k-labels-idx1-ubyte.gz", 10_000, len(labels), told)]


def missing_clips(data: Path) -> str:
    """What who has VGGSound's lists and one sound is told by `kedro run`."""
    settings = IngestSettings(
        dataset="vggsound",
        source="raw",
        task="classification",
        target=TargetSettings(name="sound"),
        raw=VGGSound(raw_dir="vggsound_meta"),
        columns={"audio": ["audio"]},
        max_bad_fraction=0.5,
        options=RunOptions(device="cpu", progress=False),
    )
    try:
        read_raw(settings, data)
    except DataError as error:
        return str(error).replace(f"{data}{os.sep}", "")
    raise AssertionError("fifteen thousand clips are missing, and nothing was said")


# --------------------------------------------------------------------------------------------------- the page
def page(data: Path) -> str:
    """The report as markdown; equal for equal files and libraries."""
    found, lists = list(accounts(data)), list_accounts(data)
    assert not any(a.unaccounted for a in found), [a for a in found if a.unaccounted]
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("av", "soundfile", "pillow", "torch", "torchaudio")
    )
    counted = {a.check.folder: set[str]() for a in found}
    for a in found:
        counted[a.check.folder] |= {c.partition("#")[0] for c in a.check.cells(data)}
    used = {f"{folder}/{file}" for folder, files in counted.items() for file in files} | {
        a.name for a in lists
    }
    others = sorted(str(f.relative_to(data)) for f in data.rglob("*") if f.is_file())
    others = [f for f in others if f not in used]
    lines = [
        "# Every real file, accounted for",
        "",
        "Made by `python scripts/real_files.py` from the shared data (see the README in each folder there), "
        "with",
        f"{libraries}.",
        "Every file goes the way on which `featurize` sends it: samples in = samples through + samples "
        "named.",
        "",
        "| folder | files | way | in | through | named | silent or blank |",
        "|---|---|---|---|---|---|---|",
    ]
    for a in found:
        lines.append(
            f"| {a.check.folder} | `{a.check.patterns}` | {a.way} | {a.given:,} | {a.through:,} | "
            f"{len(a.named)} "
            f"| {len(a.constant)} |"
        )
    total = [sum(n) for n in zip(*((a.given, a.through, len(a.named)) for a in found), strict=True)]
    lines += [
        f"| all | | | {total[0]:,} | {total[1]:,} | {total[2]} | {sum(len(a.constant) for a in found)} |",
        "",
        "## Named: what does not get through, and what is said of it",
        "",
        "| file | way | it … |",
        "|---|---|---|",
    ]
    lines += [
        f"| {a.check.folder}/{cell} | {a.way} | {said} |" for a in found for cell, said in a.named.items()
    ]
    lines += [
        "",
        "## Silent or blank: gets through, and is counted in the store's notes",
        "",
        *(f"- {a.check.folder}/{cell} ({a.way})" for a in found for cell in a.constant),
        "",
        "## Lists",
        "",
        "| list | rows | read | |",
        "|---|---|---|---|",
        *(f"| {a.name} | {a.rows:,} | {a.read:,} | {'; '.join(a.told)} |" for a in lists),
        "",
        "With these lists and one sound in the raw folder, `kedro run --params dataset=vggsound` (sound "
        "alone) says:",
        "",
        "```text",
        missing_clips(data),
        "```",
        "",
        "## Files that are no samples",
        "",
        "Tables, lists and labels, which data sets read, not modalities; and one archive of arrays (a "
        "modality takes",
        "`.npy` files):",
        "",
        *(f"- {name}" for name in others if not name.endswith("README.md")),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    data = Path(os.environ.get("G2D_SHARED_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    REPORT.write_text(page(data), encoding="utf-8")
    print(f"{REPORT.relative_to(REPOSITORY)} is written.")


if __name__ == "__main__":
    main()
