"""Spoken and handwritten digits, both real: FSDD clips × MNIST test images (AV-MNIST's ingredients, §2.1)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.config import IngestSettings, Split
from g2d_pipeline.config.layouts import SpokenMNIST
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.digits import CLASSES, DigitsLayout
from g2d_pipeline.sources.layout import Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

IMAGES = "mnist_t10k/t10k-images-idx3-ubyte.gz"
LABELS = "mnist_t10k/t10k-labels-idx1-ubyte.gz"


class SpokenMNISTLayout(DigitsLayout[SpokenMNIST]):
    arrays = IMAGES, LABELS
    clip_folder = "fsdd/recordings"
    clip_name = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_/]+)_(?P<take>[0-9]+)\.wav")
    clip_form = "{digit}_{speaker}_{take}.wav, e.g. 7_jackson_12.wav"

    def expected(self) -> str:
        return (
            f"{self.raw.raw_dir} must hold the folders fsdd (recordings/{{digit}}_{{speaker}}_{{take}}.wav, "
            f"from github.com/Jakobovski/free-spoken-digit-dataset) and mnist_t10k ({Path(IMAGES).name} and "
            f"{Path(LABELS).name}). Set the environment variable G2D_SHARED_DATA to the folder that holds "
            "both."
        )

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """Pairs of one digit: FSDD's official test takes → test, `val_takes` → val, the others → train.

        No image is in two pairs, no clip in two splits; `speaker` is a column, not a group: every speaker is
        in every split, as FSDD's official test set has it. DataError for missing, broken or too few files."""
        from g2d_pipeline.sources.digits.pairing import draw_images, pair, paired_table

        raw, folder = self.raw, self.root / self.clip_folder
        labels = self._labels()
        clips, dropped = self.clips(settings, f"rename or replace them in {folder}")
        remedy = (
            f"add such recordings to {folder}, or change test_takes ({raw.test_takes}) "
            f"and val_takes ({raw.val_takes}); all other takes are train."
        )
        images = draw_images(labels, raw.pairs, raw.seed)
        test, val = raw.test_takes, raw.val_takes
        splits: list[Split] = [
            "test" if clip.take in test else "val" if clip.take in val else "train" for clip in clips
        ]
        pairs = pair(images, [clip.digit for clip in clips], splits, raw.seed, remedy)
        ids = [f"mnist{p.row:05d}_{Path(clips[p.clip].path).stem}" for p in pairs]
        table = paired_table(pairs, ids, clips, columns, IMAGES)
        table["speaker"] = [clips[p.clip].speaker for p in pairs]
        used, speakers = len({p.clip for p in pairs}), len({clip.speaker for clip in clips})
        note = (
            f"{len(pairs)} images are paired with {used} recordings of {speakers} speakers; recordings "
            "repeat within a split, images never."
        )
        return Samples(table, CLASSES, dropped, [note])

    def _labels(self) -> "npt.NDArray[np.uint8]":
        """The images' digits [N], after a check of both files and of `pairs`."""
        from g2d_pipeline.features.cells import read_idx

        root, raw = self.root, self.raw
        if missing := [name for name in (self.clip_folder, IMAGES, LABELS) if not (root / name).exists()]:
            raise data_error(f"{root} is incomplete; missing", missing, self.expected())
        images, labels = read_idx(root / IMAGES, 3), read_idx(root / LABELS, 1)
        if len(images) != len(labels):
            headline = f"{root / IMAGES} holds {len(images)} images, {root / LABELS} {len(labels)} labels"
            raise data_error(headline, [], "take both files from the same copy.")
        if wrong := sorted(set(labels[labels > 9].tolist())):
            headline = f"{root / LABELS} holds labels other than 0 to 9"
            raise data_error(headline, wrong, "download the file again.")
        if (total := sum(raw.pairs.values())) > len(labels):
            images_held = f"there are {len(labels)} images, and none is used twice"
            remedy = "lower `pairs` in the data set's parameters."
            raise data_error(f"{raw.pairs} asks for {total} pairs; {images_held}", [], remedy)
        return labels
