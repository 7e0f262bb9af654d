"""UR-Funny's samples as open arrays beside the pickles: written once, identified by the pickles' content."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from g2d_pipeline.errors import data_error
from g2d_pipeline.files import atomic_folder
from g2d_pipeline.sources.faults import BadRow, drop_or_raise
from g2d_pipeline.sources.hashing import hash_files
from g2d_pipeline.sources.ur_funny.cleaning import Record, Steps, clean
from g2d_pipeline.sources.ur_funny.readers import KEYS, READERS

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same pickles give other arrays
RECORD = "samples.json"


def converted(
    root: Path, form: str, files: Mapping[str, str], context: bool, allowed: float
) -> tuple[str, Record]:
    """The name of the folder of arrays below `root`, and its record; made unless it exists for these very
    files.

    `form`: a key of `READERS`; `files`: content → name; `allowed`: the share of bad samples above which
    nothing is written. The folder is named by the content of `files` and appears when it is whole: for each
    modality `<modality>.npy`, float32 [N, T, F] with T the longest sample's steps, at most 50; the steps
    behind a sample's end are NaN in all features, and nothing else is NaN. Raises DataError as the readers
    do, and where the folder can not be written."""
    paths = [root / name for name in sorted(files.values())]
    folder = f"converted-{hash_files(paths, root, f'ur_funny:{VERSION}:{context}', None)[:12]}"
    if (record := _read_record(root / folder)) is not None:
        return folder, record
    logger.info("Converting the pickles in %s to arrays, once …", root)
    record, arrays = clean(READERS[form](root, files, context))
    drop_or_raise(record.bad, record.total, allowed, "samples", f"replace the files in {root}")
    if not arrays:
        raise data_error(f"{root} holds no usable sample", map(str, record.published), "replace the files.")
    _write(root, folder, record, arrays)
    return folder, record


def _write(root: Path, folder: str, record: Record, arrays: Sequence[Mapping[str, Steps]]) -> None:
    """The arrays and the record in `root / folder`, which appears when it is whole."""
    try:
        with atomic_folder(root / folder) as new:
            for modality in arrays[0]:
                _write_array(new / f"{modality}.npy", [sample[modality] for sample in arrays])
            text = json.dumps(asdict(record), ensure_ascii=False) + "\n"
            (new / RECORD).write_text(text, encoding="utf-8")
    except OSError as error:
        headline = f"The pickles can not be converted into {root / folder} ({error.strerror})"
        remedy = "make room and give permission there, or link the pickles into a folder that raw_dir names."
        raise data_error(headline, [], remedy) from None


def _write_array(path: Path, samples: Sequence[Steps]) -> None:
    """A .npy file [N, T, F], one sample after the other: a full disk is an OSError, not a crash of a map."""
    block = np.empty((max(map(len, samples)), samples[0].shape[1]), "<f4")
    shape = (len(samples), *block.shape)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for sample in samples:
            block[: len(sample)] = sample
            block[len(sample) :] = np.nan
            file.write(block.tobytes())


def _read_record(folder: Path) -> Record | None:
    """The record of a folder that exists and is whole; None otherwise."""
    try:
        content = json.loads((folder / RECORD).read_bytes())
        for key in ("bad", "published"):
            content[key] = [BadRow(**row) for row in content[key]]
        record = Record(**content)
        arrays = [np.load(folder / f"{m}.npy", mmap_mode="r", allow_pickle=False) for m in KEYS]
        if {len(record.rows)} == set(map(len, arrays)):
            return record
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        pass
    logger.warning("%s is not whole; it is made anew.", folder)
    return None
