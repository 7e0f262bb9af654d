"""Predictions of any number of samples into one file, part by part: a killed run goes on where it was."""

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
from g2d_pipeline.models.task import Classification
from g2d_pipeline.serving.predictor import Predictor, Tally
from g2d_pipeline.serving.samples import BATCH, Batch, open_samples

logger = logging.getLogger(__name__)

TOGETHER = 64  # parts in a row group
EVERY = 10.0  # seconds between two lines of the log
DIGEST, ATTRS = b"g2d.digest", b"PANDAS_ATTRS"  # keys of the file's metadata; the second is pandas' own


def write_predictions(
    predictor: Predictor, data: Any, file: Path, wait: bool = False, size: int = BATCH
) -> int:
    """Write what `Predictor.predict` returns of `data` to the parquet `file`; returns the number of samples.

    Memory does not grow with the samples. Parts are kept in a folder beside the file until it is whole: a
    part of the same model, rows and files (by size and time) is not computed again, and neither is a whole
    file of the same. Another process that writes the file is waited for, or LockedError raised."""
    parts = file.with_name(f"{file.name}.parts")
    with locked(file, wait):
        if (rows := _fresh(predictor, data, file, size)) is not None:
            logger.info("%s is fresh: %d samples.", file, rows)
            return rows
        parts.mkdir(parents=True, exist_ok=True)
        tally, digests, written, said = Tally(), list[str](), list[Path](), time.monotonic()
        for batch, digest in _digested(predictor, data, size):
            path = parts / f"{len(written):06d}-{digest}.parquet"
            if path.is_file():
                part = pd.read_parquet(path)
            else:
                part = predictor.predict_batch(batch)
                table = pa.Table.from_pandas(part, schema=_schema(predictor), preserve_index=False)
                with atomic_write(path) as temporary:
                    pq.write_table(table.replace_schema_metadata(None), temporary)
            tally.add(part)
            digests.append(digest)
            written.append(path)
            if time.monotonic() - said > EVERY:
                said = time.monotonic()
                logger.info("%d samples are predicted", tally.total)
        _merge(written, file, predictor, fingerprint(digests))
        tally.log()
        shutil.rmtree(parts, ignore_errors=True)
        return tally.total


def _digested(predictor: Predictor, data: Any, size: int) -> Iterator[tuple[Batch, str]]:
    with open_samples(data, predictor.inputs, size=size) as batches:
        for batch in batches:
            yield batch, _digest(batch, predictor)


def _digest(batch: Batch, predictor: Predictor) -> str:
    state = hashlib.blake2b(predictor.version.encode(), digest_size=8)
    state.update(pd.util.hash_pandas_object(batch.table, index=False).to_numpy().tobytes())
    state.update(
        np.stack(list(batch.present.values())).tobytes() + repr(sorted(batch.faults.items())).encode()
    )
    for m, kind in predictor.inputs.kinds.items():
        if isinstance(kind, ColumnKind) or m not in batch.table:
            continue
        state.update(cells_state(batch.table.loc[batch.present[m], m], batch.root))
    return state.hexdigest()


def _fresh(predictor: Predictor, data: Any, file: Path, size: int) -> int | None:
    """The number of samples of a file that is there, whole, and of this; else None."""
    try:
        about = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return None
    expected = (about.metadata or {}).get(DIGEST, b"").decode()
    actual = fingerprint([digest for _, digest in _digested(predictor, data, size)])
    return int(about.num_rows) if actual == expected else None


def _merge(parts: list[Path], file: Path, predictor: Predictor, digest: str) -> None:
    schema = _schema(predictor)
    about = {DIGEST: digest.encode(), ATTRS: json.dumps(predictor.attributes).encode()}
    with atomic_write(file) as temporary, pq.ParquetWriter(temporary, schema.with_metadata(about)) as writer:
        for start in range(0, len(parts), TOGETHER):
            writer.write_table(pa.concat_tables(map(pq.read_table, parts[start : start + TOGETHER])))


def _schema(predictor: Predictor) -> pa.Schema:
    """The columns of `Predictor.predict`, the same for every part."""
    classes = isinstance(predictor.task, Classification)
    texts = {"sample_id", "missing", "fault", "model"}

    def kind(name: str) -> pa.DataType:
        if name in texts or (classes and name.partition("/")[0] == "prediction"):
            return pa.string()
        return pa.float32() if name.startswith("probability/") else pa.float64()

    return pa.schema([(name, kind(name)) for name in predictor.columns])
