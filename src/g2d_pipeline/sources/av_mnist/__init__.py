"""AV-MNIST: six arrays of poor images and spoken digits' spectrograms → 10 digits (datasets.md §2)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.config.layouts import AVMNIST
from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.simulated import Simulated

FILES = ("train", "test")
Key = tuple[str, str]  # image, audio or label; one of FILES
ARRAYS = {(kind, file): f"{kind}/{file}_data.npy" for kind in ("image", "audio") for file in FILES}
ARRAYS |= {("label", file): f"{file}_labels.npy" for file in FILES}
PUBLISHED = {"train": 60_000, "test": 10_000}


class AVMNISTLayout(Layout[AVMNIST]):
    task = "classification"
    modalities = ("audio", "image")
    simulated = Simulated(
        "AV-MNIST as MultiBench hands it out",
        "the pictures are three\ncomponents of scikit-learn's 8 x 8 digits, spectrograms are drawn.",
    )
    sample_note = "simulated arrays in AV-MNIST's layout; no number from them means anything."

    def expected(self) -> str:
        return (
            "unpack avmnist.tar.gz (from the link in MultiBench's README, github.com/pliang279/MultiBench; "
            "about 1.3 GB unpacked, an archive of a few kB is a saved web page) into "
            f"{self.raw.raw_dir}: image/{{train,test}}_data.npy, audio/{{train,test}}_data.npy, "
            "train_labels.npy, test_labels.npy."
        )

    def raw_files(self) -> list[Path]:
        """Those of the six arrays that are there, in the folder that holds most of them."""
        prefix = folder_of(self.files, self.root)
        paths = {f"{prefix}{name}" for name in ARRAYS.values()} & set(self.files)
        return [self.root / path for path in sorted(paths)]

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """A row a digit, in the arrays' order: cells `image/train_data.npy#<row>`, the label, and
        MultiBench's split, where the last `val_rows` of the train arrays are val.

        Rows with labels outside 0 to 9 are dropped while their share is at most `max_bad_fraction`. Raises
        DataError as `open_arrays` does; ConfigError where `val_rows` leaves no train."""
        import numpy as np
        import pandas as pd

        from g2d_pipeline.sources.av_mnist.arrays import note_content, open_arrays

        prefix = folder_of(self.files, self.root) or ""
        media = [medium for medium in ("image", "audio") if medium in columns]
        keys = [key for key in ARRAYS if key[0] in (*media, "label")]
        arrays = open_arrays(self.root, prefix, keys, self.files)
        counts = {file: len(arrays["label", file]) for file in FILES}
        simulated = settings.source == "sample"
        val_rows = self.raw.sample_rows["val"] if simulated else self.raw.val_rows
        if val_rows >= counts["train"]:
            raise ConfigError(
                f"{settings.dataset}: val_rows={val_rows} leaves nothing for train of the {counts['train']} "
                f"rows of {ARRAYS['label', 'train']}. Lower raw.val_rows."
            )
        parts: list[pd.DataFrame] = []
        bad: list[BadRow] = []
        for file in FILES:
            name, labels = ARRAYS["label", file], arrays["label", file].astype(np.int64)
            row = np.arange(len(labels))
            ids = [f"{file}{i:05d}" for i in row]
            split = np.where(row < len(labels) - val_rows, file, "val") if file == "train" else file
            part = pd.DataFrame({"sample_id": ids, "split": split, "target": labels})
            for medium in media:
                part[columns[medium]] = [f"{prefix}{ARRAYS[medium, file]}#{i}" for i in row]
            wrong = (labels < 0) | (labels > 9)
            reason = "label {} is not one of 0 to 9 (rows count from 0)"
            bad += [BadRow(prefix + name, int(i), reason.format(labels[i])) for i in row[wrong]]
            parts.append(part[~wrong])
        remedy = "use the published label files (a copy whose labels run from 1 to 10 has them shifted)"
        dropped = self.drop_or_raise(bad, sum(counts.values()), settings, "rows", remedy)
        notes = note_content(arrays)
        if not simulated and counts != PUBLISHED:
            counted = [f"{file} {counts[file]:,} of the published {n:,}" for file, n in PUBLISHED.items()]
            notes.insert(0, f"These arrays are not the published ones: rows of {', '.join(counted)}.")
        if not simulated and prefix:
            notes.append(f"The arrays lie deeper, in {prefix}.")
        return Samples(pd.concat(parts), [str(digit) for digit in range(10)], dropped, notes)


def folder_of(files: Sequence[str], root: Path) -> str | None:
    """The folder that holds most of the six arrays, as `""` or `"avmnist/"`; None: there is not one of them.

    `files`: everything in `root`. Raises DataError where two folders hold as many: copies."""
    pairs = ((file, name) for file in files for name in ARRAYS.values())
    held = Counter(file.removesuffix(name) for file, name in pairs if f"/{file}".endswith(f"/{name}"))
    best = sorted(prefix for prefix, count in held.items() if count == max(held.values()))
    if len(best) > 1:
        remedy = "keep one, or set raw_dir to one of them."
        raise data_error("Several copies of AV-MNIST's arrays", [root / prefix for prefix in best], remedy)
    return best[0] if best else None
