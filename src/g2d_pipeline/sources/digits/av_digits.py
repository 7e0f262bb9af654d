"""The bundled sample: scikit-learn's handwritten digits × spoken digits synthesised with espeak-ng."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.config import IngestSettings, Split
from g2d_pipeline.config.layouts import AVDigits
from g2d_pipeline.errors import data_error
from g2d_pipeline.files import load_npy
from g2d_pipeline.sources.digits import CLASSES, DigitsLayout
from g2d_pipeline.sources.layout import Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

IMAGES, LABELS = "digits.npy", "digits_target.npy"
TEST, VAL = 300, 290  # images; train gets the others
TEST_VOICES, VAL_VOICES = 6, 5
RESTORE = "restore it: `git checkout -- data/01_raw/av_digits`"


class AVDigitsLayout(DigitsLayout[AVDigits]):
    bundled = True
    sample_note = (
        "the speech is synthetic (espeak-ng) and paired with pictures by digit; this is no benchmark."
    )
    arrays = IMAGES, LABELS
    clip_folder = "speech"
    clip_name = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[a-z0-9]+)\.flac")
    clip_form = "{digit}_{voice}.flac"

    def expected(self) -> str:
        return f"{self.raw.raw_dir} comes with the project (speech/*.flac, {IMAGES}, {LABELS}); {RESTORE}."

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """Pairs of one digit, every image once; no image and no voice (`group`) is in two splits.

        Images (per class) and voices are split by `raw.seed`. DataError: a file is missing or damaged."""
        import numpy as np

        from g2d_pipeline.sources.digits.pairing import draw_images, pair, paired_table

        labels = _labels(self.root)
        clips, dropped = self.clips(settings, RESTORE)
        counts: dict[Split, int] = {"test": TEST, "val": VAL, "train": len(labels) - TEST - VAL}
        images = draw_images(labels, counts, self.raw.seed)
        voices = sorted({clip.speaker for clip in clips})
        mixed = [voices[i] for i in np.random.default_rng([self.raw.seed, 3]).permutation(len(voices))]
        test, val = mixed[:TEST_VOICES], mixed[TEST_VOICES : TEST_VOICES + VAL_VOICES]
        splits: list[Split] = [
            "test" if clip.speaker in test else "val" if clip.speaker in val else "train" for clip in clips
        ]
        pairs = pair(images, [clip.digit for clip in clips], splits, self.raw.seed, f"{RESTORE}.")
        ids = [f"digit{p.row:04d}_{clips[p.clip].speaker}" for p in pairs]
        table = paired_table(pairs, ids, clips, columns, IMAGES)
        table["group"] = [clips[p.clip].speaker for p in pairs]
        return Samples(table, CLASSES, dropped, group_disjoint=True)


def _labels(root: Path) -> "npt.NDArray[np.uint8]":
    """The images' digits [N], after a check of both arrays."""
    import numpy as np

    arrays = []
    for name in (IMAGES, LABELS):
        try:
            arrays.append(load_npy(root / name))
        except (OSError, ValueError, EOFError) as error:
            raise data_error(f"{root / name} can not be read ({error})", [], f"{RESTORE}.") from None
    images, labels = arrays
    same_type = images.dtype == labels.dtype == np.uint8
    if not (same_type and images.ndim == 3 and labels.shape == images.shape[:1]):
        shapes = f"{images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}"
        headline = f"{root}: {IMAGES} and {LABELS} are {shapes}, not uint8 [N, 8, 8] and uint8 [N]"
        raise data_error(headline, [], f"{RESTORE}.")
    if len(labels) <= TEST + VAL or labels.max() > 9:
        raise data_error(f"{root / LABELS} holds other labels than 1,797 from 0 to 9", [], f"{RESTORE}.")
    return np.asarray(labels)
