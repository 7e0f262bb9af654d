"""Raw samples from a table, a folder or arrays, in batches of the columns that inputs are made of."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from g2d_pipeline.config import Table, TabularFeatures
from g2d_pipeline.errors import ConfigError, DataError, data_error
from g2d_pipeline.features.cells import images_in
from g2d_pipeline.features.inputs import Inputs
from g2d_pipeline.features.kinds import ColumnKind
from g2d_pipeline.sources.faults import list_files
from g2d_pipeline.sources.table import COMMON, ENDINGS, columns, find_tables
from g2d_pipeline.sources.table.frame import RawTable, as_text
from g2d_pipeline.sources.table.join import read_all
from g2d_pipeline.sources.table.paths import Files, needed_columns, path_ids, read_paths
from g2d_pipeline.sources.table.reading import typed_table
from g2d_pipeline.sources.table.settings import known_columns

BATCH = 256  # samples at once: as many as are evaluated at once in training
ID = "sample_id"


@dataclass(frozen=True)
class Batch:
    """`table` `[n, …]`: `sample_id`, and the manifest's columns of the modalities that are there. `present`:
    modality → which samples have it `[n]`; `faults`: position → modality → why its cell can not be used."""

    table: pd.DataFrame
    root: Path
    present: dict[str, Any]
    faults: dict[int, dict[str, str]] = field(default_factory=dict)

    def fault(self, modality: str, rows: Mapping[int, str]) -> None:
        """These samples lack the modality, for these reasons."""
        for i, reason in rows.items():
            self.present[modality][i] = False
            self.faults.setdefault(i, {})[modality] = reason


def read_samples(
    data: Any, inputs: Inputs, root: Path | str | None = None, size: int = BATCH
) -> Iterator[Batch]:
    """The batches of a table file (csv, tsv, jsonl, parquet, xlsx), a DataFrame, a folder (`folder_table`) or
    a dictionary of arrays (modality → `[N, …]`). `root`: where paths start, by default at the table.

    A parquet file is read batch by batch; other tables at once, and their files batch by batch. Raises
    DataError if a table can not be read, or has nothing that the model knows; ConfigError for other data."""
    settings = inputs.about["table"]
    raw = None if settings is None else Table.model_validate(settings)
    tables: Iterable[RawTable]
    if isinstance(data, Mapping):
        with tempfile.TemporaryDirectory(prefix="g2d-arrays-") as scratch:
            tables = [_from_frame(_array_table(data, inputs, Path(scratch)), "the arrays")]
            yield from _batches(tables, inputs, None, Path(scratch), size)
        return
    if isinstance(data, pd.DataFrame):
        tables, start = [_from_frame(data, "the table")], Path()
    elif isinstance(data, str | Path):
        path, layout = Path(data).expanduser(), raw or Table(raw_dir=".", target="target")
        if path.is_dir() and len(files := find_tables(path, layout)) == 1:
            path = path / next(iter(files))  # metadata.csv, or as the settings call it
        if path.is_dir():
            tables, start, raw = [_from_frame(folder_table(path, inputs), str(path))], path, None
        elif path.is_file() and path.suffix.lower() in ENDINGS:
            base = path.parent / (layout.root or "")
            tables, start = _from_file(path, layout, inputs, size), base if base.is_dir() else path.parent
        else:
            state = "is no table" if path.is_file() else "does not exist"
            raise DataError(f"{path} {state}. Allowed: a folder, or a table ({', '.join(COMMON)})")
    else:
        allowed = "a table file, a folder, a DataFrame or a dictionary of arrays"
        raise ConfigError(f"{type(data).__name__} is nothing to predict from. Allowed: {allowed}")
    yield from _batches(tables, inputs, raw, start if root is None else Path(root), size)


def _from_file(path: Path, layout: Table, inputs: Inputs, size: int) -> Iterator[RawTable]:
    """A parquet file without further tables in parts; any other table at once."""
    if path.suffix.lower() != ".parquet" or layout.join:
        tabular = [k.settings for k in inputs.kinds.values() if isinstance(k.settings, TabularFeatures)]
        table = read_all(path.parent, layout, [path.name], [c for s in tabular for c in s.columns])
        if table.bad:
            headline = f"{path}: {len(table.bad)} of {len(table) + len(table.bad)} rows can not be read"
            raise data_error(headline, table.bad, "correct them, or leave them out.")
        yield table
        return
    try:
        start = 0
        for part in pa.parquet.ParquetFile(path).iter_batches(16 * size):
            yield typed_table(pa.Table.from_batches([part]), path.name, start)
            start += part.num_rows
    except DataError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise data_error(f"{path} is no parquet table ({error})", [], "replace it by a whole copy.") from None


def _from_frame(frame: pd.DataFrame, name: str) -> RawTable:
    plain = {
        str(c): values if values.dtype.kind in "iuf" else as_text(values.tolist())
        for c, values in frame.items()
    }
    return typed_table(pa.table({c: pa.array(v, from_pandas=True) for c, v in plain.items()}), name)


def _array_table(arrays: Mapping[str, Any], inputs: Inputs, folder: Path) -> pd.DataFrame:
    """Media as rows of array files in `folder`, other modalities as columns. Raises ConfigError."""
    if unknown := sorted({*map(str, arrays)} - {*inputs.modalities}):
        raise ConfigError(f"the model has no modality {unknown[0]!r}. It has: {', '.join(inputs.modalities)}")
    lengths = {m: len(a) for m, a in arrays.items()}
    if len({*lengths.values()}) > 1:
        raise ConfigError(f"the arrays are of different lengths: {lengths}")
    table: dict[str, Any] = {ID: [str(i) for i in range(next(iter(lengths.values()), 0))]}
    for m, values in arrays.items():
        if isinstance(inputs.kinds[m], ColumnKind):
            names, is_frame = inputs.columns(m), isinstance(values, pd.DataFrame)
            frame = values if is_frame else pd.DataFrame(np.asarray(values, object)).infer_objects()
            if frame.shape[1] != len(names):
                raise ConfigError(f"{m} has {frame.shape[1]} columns, not {len(names)}: {', '.join(names)}")
            frame = frame if is_frame else frame.set_axis(names, axis=1)
            table |= {c: frame[c].tolist() for c in names}
            continue
        array = np.asarray(values)
        if array.dtype.kind not in "iufb":
            raise ConfigError(f"{m} holds {array.dtype}, not numbers: name files in a table instead")
        np.save(folder / f"{m}.npy", array)
        table[m] = [f"{m}.npy#{i}" for i in range(len(array))]
    return pd.DataFrame(table)


def folder_table(folder: Path, inputs: Inputs) -> pd.DataFrame:
    """A row a sample: `sample_id` and a column a modality, null if it has no file.

    If there are folders named as modalities, the files in them with the same path, but for the ending, are
    a sample (in a video's, folders of pictures count as files). Else all files with the same path, but for
    the ending, are one, and the ending says which modality each is of. Tabular modalities have no files.
    Raises ConfigError if two modalities have the same endings, DataError if nothing fits."""
    media = {m: kind for m, kind in inputs.kinds.items() if kind.columns is None}
    paths = [PurePosixPath(f) for f in list_files(folder)]
    rows = []
    if folders := [m for m in media if (folder / m).is_dir()]:
        for m in folders:
            inside = {p for p in paths if p.parts[0] == m}
            if getattr(media[m], "folders", False):
                clips = {p.parent for p in inside if len(p.parts) > 2 and images_in(folder / p.parent)}
                inside = clips | {p for p in inside if p.parent not in clips}
            rows += [(str(p.relative_to(m).with_suffix("")), m, str(p)) for p in sorted(inside, key=str)]
    else:
        for m, n in combinations(media, 2):
            if media[m].endings & media[n].endings:
                raise ConfigError(
                    f"{folder}: files of {m!r} and {n!r} have the same endings: put them into folders {m}/ "
                    f"and {n}/, or name them in a table."
                )
        for p in paths:
            rows += [
                (str(p.with_suffix("")), m, str(p)) for m in media if p.suffix.lower() in media[m].endings
            ]
    if not rows:
        wanted = ", ".join(f"{m}/" for m in media)
        raise DataError(f"{folder} holds no file of the model's modalities: put them into folders {wanted}")
    files = pd.DataFrame(rows, columns=[ID, "modality", "file"]).drop_duplicates([ID, "modality"])
    table = files.pivot(index=ID, columns="modality", values="file").reset_index()
    for m in [m for m in media if isinstance(media[m], ColumnKind) and m in table]:
        texts = [None if pd.isna(f) else (folder / f).read_text(encoding="utf-8").strip() for f in table[m]]
        table[m] = pd.Series(texts, dtype=object)
    return table


# ----------------------------------------------------------------------------------------- from their columns
def _batches(
    tables: Iterable[RawTable], inputs: Inputs, raw: Table | None, root: Path, size: int
) -> Iterator[Batch]:
    files = Files(root)
    for table in tables:
        samples = _read(table, inputs, raw, root)
        for start in range(0, len(table), size):
            rows = slice(start, start + size)
            faults = {i - start: f for i, f in samples.faults.items() if start <= i < start + size}
            present = {m: mask[rows].copy() for m, mask in samples.present.items()}
            batch = Batch(samples.table.iloc[rows].reset_index(drop=True), root, present, faults)
            _check_files(batch, inputs, files)
            yield batch


def _read(table: RawTable, inputs: Inputs, raw: Table | None, root: Path) -> Batch:
    """The manifest's columns of a whole table; files are checked batch by batch."""
    kinds = {m: inputs.about["modalities"][m]["kind"] for m in inputs.modalities}
    fields = {m: inputs.kinds[m].columns for m in kinds}
    named = {m: c for m, c in (raw.columns if raw else {}).items() if {*needed_columns(c)} <= {*table.names}}
    sources = known_columns({m: kinds[m] for m in kinds if fields[m] is None}, named, table)
    tabular = [m for m in kinds if any(c in table.names for c in fields[m] or ())]
    if not sources and not tabular:
        wanted = [c for m in kinds for c in fields[m] or [m]]
        raise data_error(f"{table.file} has no column of the model's", wanted, "name or rename its columns.")
    table.require(c for m in tabular for c in fields[m] or ())
    values: dict[str, Any] = {}
    batch = Batch(pd.DataFrame(), root, {m: np.zeros(len(table), bool) for m in kinds})
    paths = None
    for m, source in sources.items():
        if isinstance(inputs.kinds[m], ColumnKind):
            absent = np.any([as_text(table[name]).isna() for name in needed_columns(source)], axis=0)
            batch.present[m][:] = ~absent
            try:
                values[m] = columns.read_texts(table, source)
            except DataError:  # every text is empty: a model may get such a table
                values[m] = [""] * len(table)
        else:
            values[m] = read_paths(table, source, None)
            batch.present[m][:] = np.array(values[m], object) != ""
            paths = paths or values[m]
    for m in tabular:
        values |= _read_values(table, m, inputs, batch)
    ids = raw.id if raw and raw.id in table.names else ID if ID in table.names else None
    values[ID] = path_ids(table, paths) if ids is None else table.texts(ids)
    return Batch(pd.DataFrame(values), root, batch.present, batch.faults)


def _read_values(table: RawTable, modality: str, inputs: Inputs, batch: Batch) -> dict[str, Any]:
    """The columns of a tabular modality. A sample lacks it if all of its cells are blank, unless the
    training data had such samples."""
    settings = inputs.kinds[modality].settings
    values: dict[str, Any] = {}
    batch.present[modality][:] = True
    for name in settings.columns:
        values[name], faults = columns.read_numbers(table, name)
        faults |= dict.fromkeys(np.flatnonzero(np.isinf(values[name])).tolist(), "is infinite")
        values[name][list(faults)] = np.nan
        batch.fault(modality, {i: f"column {name!r}: {reason}" for i, reason in faults.items()})
    for name in settings.dates:
        blank = table.missing(name).all()  # which `read_dates` refuses
        dates = np.full(len(table), "NaT", "datetime64[ms]") if blank else columns.read_dates(table, name)
        values[name] = dates
    for name in settings.categorical:
        values[name] = pd.Series(table.texts(name), dtype="str").mask(table.missing(name))
    if not inputs.about["modalities"][modality]["statistics"]["blank_rows"]:
        batch.present[modality][pd.DataFrame(values).isna().all(axis=1).to_numpy(bool)] = False
    return values


def _check_files(batch: Batch, inputs: Inputs, files: Files) -> None:
    """Bring paths into plain form; samples whose file is missing, or is no file of data, lack it."""
    for m in inputs.modalities:
        if isinstance(inputs.kinds[m], ColumnKind) or m not in batch.table:
            continue
        cells, faults = batch.table[m].astype(object).tolist(), {}
        for i in np.flatnonzero(batch.present[m]).tolist():
            cells[i], fault = files.check(cells[i])
            if fault:
                faults[i] = fault
        batch.table[m] = pd.Series(cells, dtype=object)
        batch.fault(m, faults)
    files.checked.clear()
