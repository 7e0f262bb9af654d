"""Files of a finished store that are missing or damaged are made again, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import data_error
from g2d_pipeline.features.files import create, writing_to
from g2d_pipeline.features.inputs import Inputs
from g2d_pipeline.features.media import CHUNK
from g2d_pipeline.features.store import array_files, find_faults, read_meta
from g2d_pipeline.files import atomic_write, content_hash

if TYPE_CHECKING:
    from g2d_pipeline.features.writing import Manifest

logger = logging.getLogger(__name__)


def repair_store(folder: Path, manifest: Manifest, root: Path) -> list[str]:
    """Make the damaged files of a store's arrays (shards, or whole ones) again from the raw files below
    `root`; returns their names. Each replaces the old one once it has the checksum that it had.

    Raises DataError where a file of another sort is damaged, a raw file can not be read, or what is made
    differs: then the store has to be made anew."""
    meta = read_meta(folder)
    faults, inputs = find_faults(folder, meta), Inputs(folder, meta)
    gone = {one["sample_id"] for one in meta["dropped"]}
    table = manifest.table[~manifest.table["sample_id"].astype(str).isin(gone)]
    made = []
    for name, about in meta["modalities"].items():
        columns, start = table[manifest.meta["columns"][name]], 0
        for file, (shape, checksum) in array_files(about, len(table)).items():
            if file in faults:
                logger.warning("%s: %s %s: it is made again.", folder.name, file, faults[file])
                own = columns.iloc[start : start + shape[0]]
                with writing_to(folder, 0), atomic_write(folder / file) as temporary:
                    array = create(temporary, about["dtype"], shape)
                    for first in range(0, shape[0], CHUNK):
                        part = own.iloc[first : first + CHUNK]
                        array[first : first + CHUNK], bad = inputs.encode(name, part, root)
                        if bad:
                            raise _not_repaired(folder, list(bad.values()))
                    array.flush()
                    if content_hash(temporary) != checksum:
                        raise _not_repaired(folder, [f"{file}: raw files or the code have changed"])
                made.append(file)
            start += shape[0]
    if others := [f"{file} {fault}" for file, fault in faults.items() if file not in made]:
        raise _not_repaired(folder, others)
    return made


def _not_repaired(folder: Path, lines: list[str]) -> Exception:
    remedy = f"delete the folder {folder} and run again, or add `--params rebuild=true`."
    return data_error(f"The feature store {folder} is broken and can not be repaired", lines, remedy)
