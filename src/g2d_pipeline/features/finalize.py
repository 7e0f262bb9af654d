"""The last steps of a modality of files: transforms of the whole array, the normaliser, and notes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g2d_pipeline.config import SPLITS
from g2d_pipeline.errors import SHOWN
from g2d_pipeline.features.files import FITTED, Array, Floats, Rows, create, mapped, rename, rows_in_file
from g2d_pipeline.features.kinds import Findings
from g2d_pipeline.features.media import CHUNK, Media
from g2d_pipeline.features.reuse import write_cells
from g2d_pipeline.features.statistics import relative_errors
from g2d_pipeline.files import content_hash, release_pages

logger = logging.getLogger(__name__)


def finish(
    folder: Path,
    media: Media,
    findings: Findings,
    kept: Rows | None,
    train: Rows,
    sample_ids: Sequence[str],
    split: Array,
    notes: list[str],
) -> dict[str, Any]:
    """From decoded to stored: the entry of a modality in `meta.json`; adds to its `notes`.

    `kept`: the decoded rows that are stored; None: all. `train` is of them, `sample_ids`, `split` of all."""
    stored = np.arange(len(sample_ids)) if kept is None else kept
    sentences, counts = describe_notes(media, findings, sample_ids, split, stored)
    notes += sentences
    decoded = mapped(folder / media.file(media.kind.decoded))
    path = folder / media.file()
    statistics, more = dict[str, Any](), dict[str, Any]()
    present, rows = np.unique(media.code[stored], return_index=True)  # cells, and a stored row of each
    if media.kind.decoded:
        samples = len(stored)
        array, statistics, errors = media.kind.transform(path, decoded, stored, train, sample_ids)
        fitted = folder / media.file(FITTED)
        more = {
            "decoded": str(decoded.dtype),
            FITTED: {"file": fitted.name, "checksum": content_hash(fitted)},
        }
    else:
        samples, errors = _errors(folder, media, present, len(media.cells) - len(findings.faults))
        array = decoded if kept is None else _move(folder / media.file("kept"), path, decoded, kept)
    scale = 1 / 255 if array.dtype == np.uint8 else 1.0
    mean, std, further = media.kind.normaliser(array, train, scale)
    release_pages(array)
    about: dict[str, Any] = {
        "shape": list(array.shape[1:]),
        "dtype": str(array.dtype),
        "normaliser": {"scale": scale, "mean": mean, "std": std},
        "statistics": statistics | further | {"distinct": len(present)},
        **more,
    }
    if errors is not None:
        count = samples * int(np.prod(decoded.shape[2:]))
        about["rounding"] = error = relative_errors(errors, count, std)
        notes.append(
            f"{media.name}: stored as float16, which rounds by at most {error['max']:.2g}, and by "
            f"{error['rms']:.2g} in the root mean square, in standard deviations of train."
        )
        logger.info(notes[-1])
    if (records := folder / media.file("records")).exists():
        cells = folder / media.file("cells")
        write_cells(cells, mapped(records)[present], rows.astype(np.int64))
        about["cells"] = {"file": cells.name, "checksum": content_hash(cells)}
    return about | {"found": counts}


def _errors(folder: Path, media: Media, present: Rows, good: int) -> tuple[int, Floats | None]:
    """How many cells, those that are `good` or `present`, have these rounding errors `[n, 2, C]`."""
    if media.spec.dtype != "float16":
        return 0, None
    if (file := folder / media.file("rounding")).exists():
        return good, np.asarray(mapped(file))
    records = mapped(folder / media.file("records"))[present]
    return len(present), np.stack([records["worst"], records["squares"]], axis=1)[:, :, None]


def _move(temporary: Path, path: Path, decoded: Array, kept: Rows) -> Array:
    """The rows `kept` of a decoded array alone, in its place."""
    array = create(temporary, decoded.dtype, (len(kept), *decoded.shape[1:]), rows_in_file(decoded))
    for start in range(0, len(kept), CHUNK):
        array[start : start + CHUNK] = decoded[kept[start : start + CHUNK]]
        release_pages(decoded)
        release_pages(array)
    array.flush()
    rename(temporary, path)
    return mapped(path)


def describe_notes(
    media: Media, findings: Findings, sample_ids: Sequence[str], split: Array, stored: Rows
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """What decoding noticed in the rows `stored`: sentences, which are logged, too; and for the data report
    note → how many `samples` of each split, and the `first` five."""
    sentences, noticed = [], {}
    is_stored = np.zeros(len(sample_ids), bool)
    is_stored[stored] = True
    for note, counts in findings.notes.items():
        rows_of = {k: rows[is_stored[rows]] for k in counts for rows in [media.rows(k)]}
        rows = np.sort(np.concatenate([np.empty(0, np.int64), *rows_of.values()]))
        if not len(rows):
            continue
        first = [sample_ids[row] for row in rows[:SHOWN]]
        noticed[note] = {"samples": {s: int((split[rows] == s).sum()) for s in SPLITS}, "first": first}
        words = media.kind.notes[note].format(total=sum(n * len(rows_of[k]) for k, n in counts.items()))
        share = f"{len(rows)} of {len(stored)} samples"
        named = ", ".join(first) + (", …" if len(rows) > SHOWN else "")
        sentences.append(f"{media.name}: {share} have {media.kind.plural} {words}: {named}")
        logger.warning(sentences[-1])
    return sentences, noticed
