"""Spoken and handwritten digits, both real: FSDD recordings × MNIST test images (AV-MNIST's ingredients,
§2.1)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError, data_error, media_fault
from g2d_pipeline.sources.faults import BadRow, drop_or_raise, list_files, media_columns

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings, Split, SpokenMNIST
    from g2d_pipeline.sources.manifest import Manifest

RECORDINGS = "fsdd/recordings"
IMAGES = "mnist_t10k/t10k-images-idx3-ubyte.gz"
LABELS = "mnist_t10k/t10k-labels-idx1-ubyte.gz"
NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_/]+)_(?P<take>[0-9]+)\.wav")


def expected(raw: LayoutSettings) -> str:
    return (
        f"{raw.raw_dir} must hold the folders fsdd (recordings/{{digit}}_{{speaker}}_{{take}}.wav, from "
        f"github.com/Jakobovski/free-spoken-digit-dataset) and mnist_t10k ({Path(IMAGES).name} and "
        f"{Path(LABELS).name}). Set the environment variable G2D_SHARED_DATA to the folder that holds both."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The recordings and the two IDX files, as far as they are there."""
    found = [f"{RECORDINGS}/{name}" for name in list_files(root / RECORDINGS)]
    found += [name for name in (IMAGES, LABELS) if (root / name).exists()]
    return [root / name for name in found]


def read(settings: IngestSettings, root: Path) -> Manifest:
    """Pairs of one digit: FSDD's official test takes → test, `val_takes` → val, the others → train.

    No image is in two pairs, no recording in two splits; `speaker` is a column, not a group: every speaker is
    in every split, as FSDD's official test set has it. Raises DataError for missing, broken or too few files,
    and for recordings whose names do not parse (unless within `max_bad_fraction`)."""
    from g2d_pipeline.config import SpokenMNIST
    from g2d_pipeline.sources.idx import read_idx
    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.pairing import draw_images, pair, paired_table

    raw = settings.raw
    assert isinstance(raw, SpokenMNIST)
    if settings.task != "classification":
        raise ConfigError(
            f"{settings.dataset}: layout spoken_mnist is a classification, not a {settings.task}."
        )
    columns = media_columns(settings, ("audio", "image"))
    _check_folders(root, raw)
    images, labels = read_idx(root / IMAGES, 3), read_idx(root / LABELS, 1)
    if len(images) != len(labels):
        headline = f"{root / IMAGES} holds {len(images)} images, {root / LABELS} {len(labels)} labels"
        raise data_error(headline, [], "take both files from the same copy.")
    if strange := sorted(set(labels[labels > 9].tolist())):
        raise data_error(
            f"{root / LABELS} holds labels other than 0 to 9", strange, "download the file again."
        )
    if (wanted := sum(raw.pairs.values())) > len(labels):
        headline = (
            f"{raw.pairs} asks for {wanted} pairs; there are {len(labels)} images, and none is used twice"
        )
        raise data_error(headline, [], "lower `pairs` in the data set's parameters.")

    recordings, bad = _recordings(root)
    remedy = f"rename or replace them in {root / RECORDINGS}"
    dropped = drop_or_raise(bad, len(recordings) + len(bad), settings.max_bad_fraction, "recordings", remedy)
    splits = [_split_of(take, raw) for _, _, take, _ in recordings]
    remedy = (
        f"add such recordings to {root / RECORDINGS}, or change test_takes ({raw.test_takes}) "
        f"and val_takes ({raw.val_takes}); all other takes are train."
    )
    drawn = draw_images(labels, raw.pairs, raw.seed)
    pairs = pair(drawn, [digit for digit, *_ in recordings], splits, raw.seed, remedy)
    ids = [f"mnist{p.row:05d}_{Path(recordings[p.recording][3]).stem}" for p in pairs]
    paths, speakers = [path for *_, path in recordings], [speaker for _, speaker, _, _ in recordings]
    table = paired_table(pairs, ids, columns, paths, IMAGES, {"speaker": speakers})
    notes = [
        f"{len(pairs)} images are paired with {len({p.recording for p in pairs})} recordings of "
        f"{len(set(speakers))} speakers; recordings repeat within a split, images never."
    ]
    names = [str(d) for d in range(10)]
    return build(table, settings, raw_dir=raw.raw_dir, class_names=names, dropped=dropped, notes=notes)


def _check_folders(root: Path, raw: SpokenMNIST) -> None:
    if missing := [name for name in (RECORDINGS, IMAGES, LABELS) if not (root / name).exists()]:
        raise data_error(f"{root} is incomplete; missing", missing, expected(raw))


def _recordings(root: Path) -> tuple[list[tuple[int, str, int, str]], list[BadRow]]:
    """(digit, speaker, take, path) of every usable recording in order of name, and what is wrong with the
    others."""
    good: list[tuple[int, str, int, str]] = []
    bad: list[BadRow] = []
    for name in list_files(root / RECORDINGS):
        path = f"{RECORDINGS}/{name}"
        match = NAME.fullmatch(name)
        if match is None:
            bad.append(
                BadRow(path, None, "the name is not {digit}_{speaker}_{take}.wav, e.g. 7_jackson_12.wav")
            )
        elif fault := media_fault(root / path):
            bad.append(BadRow(path, None, fault))
        else:
            good.append((int(match["digit"]), match["speaker"], int(match["take"]), path))
    return good, bad


def _split_of(take: int, raw: SpokenMNIST) -> Split:
    return "test" if take in raw.test_takes else "val" if take in raw.val_takes else "train"
