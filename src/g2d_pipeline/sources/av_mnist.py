"""AV-MNIST: six arrays of poor images and spoken digits' spectrograms → 10 digits (datasets.md §2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import BadRow, drop_or_raise, list_files, media_columns
from g2d_pipeline.sources.simulated import data_dir

if TYPE_CHECKING:
    from g2d_pipeline.config import AVMNIST, IngestSettings, LayoutSettings
    from g2d_pipeline.sources.manifest import Manifest

Kind = Literal["image", "audio", "label"]
File = Literal["train", "test"]
ARRAYS: dict[tuple[Kind, File], str] = {
    ("image", "train"): "image/train_data.npy",
    ("image", "test"): "image/test_data.npy",
    ("audio", "train"): "audio/train_data.npy",
    ("audio", "test"): "audio/test_data.npy",
    ("label", "train"): "train_labels.npy",
    ("label", "test"): "test_labels.npy",
}
MODALITIES = ("audio", "image")
PUBLISHED: dict[File, int] = {"train": 60_000, "test": 10_000}


def expected(raw: LayoutSettings) -> str:
    return (
        f"unpack avmnist.tar.gz (from the link in MultiBench's README, github.com/pliang279/MultiBench; about 1.3 GB "
        f"unpacked, an archive of a few kB is a saved web page) into {raw.raw_dir}: image/{{train,test}}_data.npy, "
        "audio/{train,test}_data.npy, train_labels.npy, test_labels.npy."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """Those of the six arrays that are there, in the folder that holds most of them."""
    files = list_files(root, skip={"sample"})
    prefix = folder_of(files, root)
    found = set(files)
    return sorted(root / f"{prefix}{name}" for name in ARRAYS.values() if f"{prefix}{name}" in found)


def read(settings: IngestSettings, root: Path) -> Manifest:
    """A row a digit, in the arrays' order: cells `image/train_data.npy#<row>`, the label, and MultiBench's
    split, where the last `val_rows` of the train arrays are val.

    Rows with labels outside 0 to 9 are dropped while their share is at most `max_bad_fraction`. Raises
    DataError for arrays that are missing, broken, of another shape or type, or that do not fit together;
    ConfigError for modalities and tasks that the data do not have, and where `val_rows` leaves no train."""
    import numpy as np
    import pandas as pd

    from g2d_pipeline.sources.av_mnist_arrays import look, open_arrays
    from g2d_pipeline.sources.manifest import build

    raw = _of(settings.raw)
    if settings.task != "classification":
        raise ConfigError(f"{settings.dataset}: layout av_mnist is a classification, not a {settings.task}.")
    columns = media_columns(settings, MODALITIES)
    kinds: list[Kind] = [kind for kind in ("image", "audio") if kind in columns]
    files = list_files(root, skip={"sample"})
    prefix = folder_of(files, root) or ""
    arrays = open_arrays(root, prefix, [*kinds, "label"], files)
    counts: dict[File, int] = {file: len(arrays["label", file]) for file in ("train", "test")}
    held_out = raw.sample_rows["val"] if settings.source == "sample" else raw.val_rows
    if held_out >= counts["train"]:
        raise ConfigError(
            f"{settings.dataset}: val_rows={held_out} leaves nothing for train of the {counts['train']} rows of "
            f"{ARRAYS['label', 'train']}. Lower raw.val_rows."
        )

    parts: list[pd.DataFrame] = []
    bad: list[BadRow] = []
    for file, count in counts.items():
        labels = arrays["label", file].astype(np.int64)
        row = np.arange(count)
        part = pd.DataFrame({"sample_id": [f"{file}{i:05d}" for i in row], "split": file, "target": labels})
        if file == "train":
            part.loc[count - held_out :, "split"] = "val"
        for kind in kinds:
            part[columns[kind]] = [f"{prefix}{ARRAYS[kind, file]}#{i}" for i in row]
        wrong = (labels < 0) | (labels > 9)
        name = prefix + ARRAYS["label", file]
        bad += [
            BadRow(name, int(i), f"label {labels[i]} is not one of 0 to 9 (rows count from 0)")
            for i in row[wrong]
        ]
        parts.append(part[~wrong])
    remedy = "use the published label files (a copy whose labels run from 1 to 10 has them shifted)"
    dropped = drop_or_raise(bad, sum(counts.values()), settings.max_bad_fraction, "rows", remedy)
    notes = look(arrays)
    if settings.source == "sample":
        notes.insert(0, "SAMPLE: simulated arrays in AV-MNIST's layout; no number from them means anything.")
    else:
        if counts != PUBLISHED:
            told = ", ".join(
                f"{file} {counts[file]:,} of the published {n:,}" for file, n in PUBLISHED.items()
            )
            notes.insert(0, f"These arrays are not the published ones: rows of {told}.")
        if prefix:
            notes.append(f"The arrays lie deeper, in {prefix}.")
    return build(
        pd.concat(parts),
        settings,
        raw_dir=data_dir(settings),
        class_names=[str(digit) for digit in range(10)],
        dropped=dropped,
        notes=notes,
    )


def folder_of(files: Sequence[str], root: Path) -> str | None:
    """The folder that holds most of the six arrays, as `""` or `"avmnist/"`; None: there is not one of them.

    `files`: everything in `root` (`list_files`). Raises DataError where two folders hold as many: copies.
    """
    held: dict[str, int] = {}
    for file in files:
        for name in ARRAYS.values():
            if f"/{file}".endswith(f"/{name}"):
                prefix = file.removesuffix(name)
                held[prefix] = held.get(prefix, 0) + 1
    if not held:
        return None
    best = sorted(prefix for prefix, count in held.items() if count == max(held.values()))
    if len(best) > 1:
        folders = [str(root / prefix) for prefix in best]
        raise data_error(
            "Several copies of AV-MNIST's arrays", folders, "keep one, or set raw_dir to one of them."
        )
    return best[0]


def _of(raw: LayoutSettings) -> AVMNIST:
    from g2d_pipeline.config import AVMNIST

    assert isinstance(raw, AVMNIST)
    return raw
