"""UR-Funny's samples as open arrays beside the pickles: written once, found again by the pickles' content."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import BadRow, drop_or_raise
from g2d_pipeline.sources.hashing import hash_files
from g2d_pipeline.sources.ur_funny_cleaning import Record, Steps, clean
from g2d_pipeline.sources.ur_funny_multibench import read_multibench
from g2d_pipeline.sources.ur_funny_sdk import read_sdk

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same pickles give other arrays
RECORD = "samples.json"


def converted(root: Path, files: Mapping[str, str], context: bool, allowed: float) -> tuple[str, Record]:
    """The name of the folder of arrays below `root`, and its record; made unless it is there for these very
    files.

    The folder is named by the content of `files` (what it holds → its name) and appears when it is whole: for
    each modality `<modality>.npy`, float32 [N, T, F] with T the longest sample's steps, at most 50; the steps
    behind a sample's end are NaN in all features, and nothing else is NaN. `allowed`: the share of bad
    samples above which nothing is written. Raises DataError as the readers do, and where the folder can not
    be written."""
    header = f"ur_funny:{VERSION}:{context}"
    folder = (
        f"converted-{hash_files([root / name for name in sorted(files.values())], root, header, None)[:12]}"
    )
    if (record := _read_record(root / folder)) is not None:
        return folder, record
    logger.info("Converting the pickles in %s to arrays, once …", root)
    if "multibench" in files:
        collection = read_multibench(root / files["multibench"])
        collection.notes.insert(0, f"Read from {files['multibench']}, MultiBench's form of UR-Funny.")
    else:
        collection = read_sdk(root, files, context)
        sentences = "the context's sentences and the punchline" if context else "the punchline alone"
        collection.notes.insert(0, f"Read from the SDK's six pickles: {sentences}.")
    if context and "multibench" in files:
        collection.notes.append(
            "context: true changes nothing: this file has one sequence a sample, as it is."
        )
    record, arrays = clean(collection)
    drop_or_raise(record.bad, record.total, allowed, "samples", f"replace the files in {root}")
    if not arrays:
        raise data_error(
            f"{root} holds no usable sample", [str(b) for b in record.published], "replace the files."
        )
    _write(root, folder, record, arrays)
    return folder, record


def _write(root: Path, folder: str, record: Record, arrays: Sequence[Mapping[str, Steps]]) -> None:
    """The arrays and the record in `root / folder`, which appears when it is whole."""
    workshop: Path | None = None
    try:
        _sweep(root)
        workshop = Path(tempfile.mkdtemp(prefix=".converting-", dir=root))
        new = workshop / "new"
        new.mkdir()
        length = max(record.steps)
        for modality in arrays[0]:
            _write_array(new / f"{modality}.npy", [sample[modality] for sample in arrays], length)
        (new / RECORD).write_text(json.dumps(asdict(record), ensure_ascii=False) + "\n", encoding="utf-8")
        if (root / folder).exists():  # not whole: `_read_record` found nothing there
            (root / folder).replace(workshop / "old")
        new.replace(root / folder)
    except OSError as error:
        headline = f"The pickles can not be converted into {root / folder} ({error.strerror})"
        remedy = "make room and give permission there, or link the pickles into another folder and set raw_dir to it."
        raise data_error(headline, [], remedy) from None
    finally:
        if workshop is not None:
            shutil.rmtree(workshop, ignore_errors=True)


def _write_array(path: Path, samples: Sequence[Steps], length: int) -> None:
    """A .npy file [N, length, F], written one sample after the other (a full disk is an OSError, not a
    crash)."""
    block = np.empty((length, samples[0].shape[1]), "<f4")
    shape = (len(samples), *block.shape)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for sample in samples:
            block[: len(sample)] = sample
            block[len(sample) :] = np.nan
            file.write(block.tobytes())


def _read_record(folder: Path) -> Record | None:
    """The record of a folder that is there and whole; None otherwise."""
    try:
        content = json.loads((folder / RECORD).read_bytes())
        for key in ("bad", "published"):
            content[key] = [BadRow(**row) for row in content[key]]
        record = Record(**content)
        whole = {len(record.ids)} == {
            len(np.load(folder / f"{modality}.npy", mmap_mode="r", allow_pickle=False))
            for modality in ("audio", "visual", "text")
        }
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        logger.warning("%s is not whole; it is made anew.", folder)
        return None
    return record


def _sweep(root: Path) -> None:
    """Remove workshops of killed runs, an hour old."""
    for entry in os.scandir(root):
        if (
            entry.name.startswith(".converting-")
            and entry.is_dir()
            and time.time() - entry.stat().st_mtime > 3600
        ):
            shutil.rmtree(entry.path, ignore_errors=True)
