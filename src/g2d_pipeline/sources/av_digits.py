"""The bundled sample: scikit-learn's handwritten digits × spoken digits synthesised with espeak-ng."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError, data_error, media_fault
from g2d_pipeline.sources.faults import BadRow, drop_or_raise, list_files, media_columns

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from g2d_pipeline.config import IngestSettings, LayoutSettings, Split
    from g2d_pipeline.sources.manifest import Manifest

BUNDLED = True
SPEECH, IMAGES, LABELS = "speech", "digits.npy", "digits_target.npy"
NAME = re.compile(r"(?P<digit>[0-9])_(?P<voice>[a-z0-9]+)\.flac")
TEST, VAL = 300, 290  # pictures; train gets the others
TEST_VOICES, VAL_VOICES = 6, 5
RESTORE = "restore it: `git checkout -- data/01_raw/av_digits`"


def expected(raw: LayoutSettings) -> str:
    return f"{raw.raw_dir} comes with the project (speech/*.flac, {IMAGES}, {LABELS}); {RESTORE}."


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The recordings and the two arrays, as far as they are there."""
    found = [name for name in (IMAGES, LABELS) if (root / name).exists()]
    found += [f"{SPEECH}/{name}" for name in list_files(root / SPEECH)]
    return [root / name for name in found]


def read(settings: IngestSettings, root: Path) -> Manifest:
    """Pairs of one digit, every picture once; no picture and no voice is in two splits (`group` is the
    voice).

    Pictures are split at random per class, voices at random, both by `raw.seed`. Raises DataError where a
    bundled file is missing or damaged."""
    from g2d_pipeline.config import AVDigits
    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.pairing import draw_images, pair, paired_table

    raw = settings.raw
    assert isinstance(raw, AVDigits)
    seed = raw.seed
    if settings.task != "classification":
        raise ConfigError(f"{settings.dataset}: layout av_digits is a classification, not a {settings.task}.")
    columns = media_columns(settings, ("audio", "image"))
    labels = _labels(root)
    recordings, bad = _recordings(root)
    dropped = drop_or_raise(bad, len(recordings) + len(bad), settings.max_bad_fraction, "recordings", RESTORE)
    voices = _split_voices(sorted({voice for _, voice, _ in recordings}), seed)
    wanted: dict[Split, int] = {"test": TEST, "val": VAL, "train": len(labels) - TEST - VAL}
    splits = [voices[voice] for _, voice, _ in recordings]
    pairs = pair(
        draw_images(labels, wanted, seed), [digit for digit, *_ in recordings], splits, seed, f"{RESTORE}."
    )
    ids = [f"digit{p.row:04d}_{recordings[p.recording][1]}" for p in pairs]
    groups = {"group": [voice for _, voice, _ in recordings]}
    table = paired_table(pairs, ids, columns, [path for *_, path in recordings], IMAGES, groups)
    return build(
        table,
        settings,
        raw_dir=settings.raw.raw_dir,
        class_names=[str(d) for d in range(10)],
        group_disjoint=True,
        dropped=dropped,
        notes=[
            "SAMPLE: the speech is synthetic (espeak-ng) and paired with pictures by digit; this is no benchmark."
        ],
    )


def _labels(root: Path) -> npt.NDArray[np.uint8]:
    """The pictures' digits [N], after a look at both arrays."""
    import numpy as np

    arrays = []
    for name in (IMAGES, LABELS):
        try:
            arrays.append(np.load(root / name, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise data_error(f"{root / name} can not be read ({error})", [], f"{RESTORE}.") from None
    images, labels = arrays
    if (
        images.dtype != np.uint8
        or images.ndim != 3
        or labels.shape != images.shape[:1]
        or labels.dtype != np.uint8
    ):
        found = f"{images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}"
        headline = f"{root}: {IMAGES} and {LABELS} are {found}, not uint8 [N, 8, 8] and uint8 [N]"
        raise data_error(headline, [], f"{RESTORE}.")
    if len(labels) <= TEST + VAL or labels.max() > 9:
        raise data_error(f"{root / LABELS} holds other labels than 1,797 from 0 to 9", [], f"{RESTORE}.")
    return np.asarray(labels)


def _recordings(root: Path) -> tuple[list[tuple[int, str, str]], list[BadRow]]:
    """(digit, voice, path) of every usable recording in order of name, and what is wrong with the others."""
    good: list[tuple[int, str, str]] = []
    bad: list[BadRow] = []
    for name in list_files(root / SPEECH):
        match = NAME.fullmatch(name)
        if match is None:
            bad.append(BadRow(f"{SPEECH}/{name}", None, "the name is not {digit}_{voice}.flac"))
        elif fault := media_fault(root / SPEECH / name):
            bad.append(BadRow(f"{SPEECH}/{name}", None, fault))
        else:
            good.append((int(match["digit"]), match["voice"], f"{SPEECH}/{name}"))
    return good, bad


def _split_voices(voices: list[str], seed: int) -> dict[str, Split]:
    import numpy as np

    mixed = [voices[i] for i in np.random.default_rng([seed, 3]).permutation(len(voices))]
    test, val = mixed[:TEST_VOICES], mixed[TEST_VOICES : TEST_VOICES + VAL_VOICES]
    return {voice: "test" if voice in test else "val" if voice in val else "train" for voice in voices}
