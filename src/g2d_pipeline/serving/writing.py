"""Predictions of any number of samples in one file, written in parts, so that a killed run resumes."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from g2d_pipeline.features.cells import cells_state
from g2d_pipeline.features.kinds import ColumnKind
from g2d_pipeline.files import atomic_write, fingerprint, locked
from g2d_pipeline.serving.predictor import Predictor, Tally
from g2d_pipeline.serving.samples import BATCH, Batch, read_samples

logger = logging.getLogger(__name__)

TOGETHER = 64  # parts in a row group
EVERY = 10.0  # seconds between lines of the log
DIGEST, ATTRS = b"g2d.digest", b"PANDAS_ATTRS"  # keys of the file's metadata; the second one is pandas'


def write_predictions(
    predictor: Predictor, data: Any, file: Path, wait: bool = False, size: int = BATCH
) -> int:
    """Write what `Predictor.predict` returns of `data` to the parquet `file`; returns the number of samples.

    Memory does not grow with the samples. Parts are kept in a folder beside the file until it is whole: a
    part, or a whole file, of the same model, rows and files (by size and time) is not computed again.
    `wait` for another process that writes the file; else LockedError is raised."""
    parts = file.with_name(f"{file.name}.parts")
    with locked(file, wait):
        if (rows := _fresh(predictor, data, file, size)) is not None:
            logger.info("%s is fresh: %d samples.", file, rows)
            return rows
        parts.mkdir(parents=True, exist_ok=True)
        tally, digests, written, logged = Tally(), list[str](), list[Path](), time.monotonic()
        for batch, digest in _digested(predictor, data, size):
            path = parts / f"{len(written):06d}-{digest}.parquet"
            if path.is_file():
                part = pd.read_parquet(path)
            else:
                part = predictor.predict_batch(batch)
                schema = pa.schema(predictor.columns)
                table = pa.Table.from_pandas(part, schema=schema, preserve_index=False)
                with atomic_write(path) as temporary:
                    pq.write_table(table.replace_schema_metadata(None), temporary)
            tally.add(part)
            digests.append(digest)
            written.append(path)
            if time.monotonic() - logged > EVERY:
                logged = time.monotonic()
                logger.info("%d samples are predicted", tally.total)
        _merge(written, file, predictor, fingerprint(digests))
        tally.log()
        shutil.rmtree(parts, ignore_errors=True)
        return tally.total


def _digested(predictor: Predictor, data: Any, size: int) -> Iterator[tuple[Batch, str]]:
    """The batches, each with a hash of the model, its rows and its files (by size and time)."""
    for batch in read_samples(data, predictor.inputs, size=size):
        state = hashlib.blake2b(predictor.version.encode(), digest_size=8)
        state.update(pd.util.hash_pandas_object(batch.table, index=False).to_numpy().tobytes())
        state.update(np.stack(list(batch.present.values())).tobytes())
        state.update(repr(sorted(batch.faults.items())).encode())
        for m, kind in predictor.inputs.kinds.items():
            if not isinstance(kind, ColumnKind) and m in batch.table:
                state.update(cells_state(batch.table.loc[batch.present[m], m], batch.root))
        yield batch, state.hexdigest()


def _fresh(predictor: Predictor, data: Any, file: Path, size: int) -> int | None:
    """The number of samples of a whole file of this model and these data; None if there is none."""
    try:
        about = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return None
    expected = (about.metadata or {}).get(DIGEST, b"").decode()
    actual = fingerprint([digest for _, digest in _digested(predictor, data, size)])
    return int(about.num_rows) if actual == expected else None


def _merge(parts: list[Path], file: Path, predictor: Predictor, digest: str) -> None:
    metadata = {DIGEST: digest.encode(), ATTRS: json.dumps(predictor.attributes).encode()}
    schema = pa.schema(predictor.columns, metadata=metadata)
    with atomic_write(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(parts), TOGETHER):
            writer.write_table(pa.concat_tables(map(pq.read_table, parts[start : start + TOGETHER])))
