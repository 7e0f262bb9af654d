"""Raw samples from a table, a folder or arrays, batch by batch, as the columns that a model is made from."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    modality → which samples have it `[n]`; `faults`: position → why one that is named can not be used."""

    table: pd.DataFrame
    root: Path
    present: dict[str, Any]
    faults: dict[int, dict[str, str]] = field(default_factory=dict)

    def fault(self, modality: str, rows: Mapping[int, str]) -> None:
        """These samples lack the modality, for these reasons."""
        for i, reason in rows.items():
            self.present[modality][i] = False
            self.faults.setdefault(i, {})[modality] = reason


@contextmanager
def open_samples(
    data: Any, inputs: Inputs, root: Path | str | None = None, size: int = BATCH
) -> Iterator[Iterator[Batch]]:
    """The batches of a table file (csv, tsv, jsonl, parquet, xlsx), a DataFrame, a folder (`folder_table`) or
    a dictionary of arrays (modality → `[N, …]`). `root`: where paths start, by default at the table.

    A parquet file is read batch by batch; other tables at once, and their files batch by batch. Raises
    DataError where a table can not be read, or has nothing that the model knows; ConfigError for other data.
    """
    settings = inputs.about["table"]
    raw = None if settings is None else Table.model_validate(settings)
    if isinstance(data, Mapping):
        with tempfile.TemporaryDirectory(prefix="g2d-arrays-") as scratch:
            table = _from_frame(_array_table(data, inputs, Path(scratch)), "the arrays")
            yield _batches(iter([table]), inputs, None, Path(scratch), size)
        return
    if isinstance(data, pd.DataFrame):
        yield _batches(iter([_from_frame(data, "the table")]), inputs, raw, Path(root or "."), size)
        return
    if not isinstance(data, str | Path):
        what = "a table file, a folder, a DataFrame or a dictionary of arrays"
        raise ConfigError(f"{type(data).__name__} is nothing to predict from. Allowed: {what}")
    path = Path(data).expanduser()
    if path.is_dir() and len(tables := find_tables(path, raw or Table(raw_dir=".", target="target"))) == 1:
        path = path / next(iter(tables))  # metadata.csv, or as the settings call it
    if path.is_dir():
        table = _from_frame(folder_table(path, inputs), str(path))
        yield _batches(iter([table]), inputs, None, Path(root or path), size)
        return
    if not path.is_file() or path.suffix.lower() not in ENDINGS:
        state = "is no table" if path.is_file() else "does not exist"
        raise DataError(f"{path} {state}. Allowed: a folder, or a table ({', '.join(COMMON)})")
    base = path.parent / (raw.root or "") if raw else path.parent
    start = Path(root) if root is not None else base if base.is_dir() else path.parent
    yield _batches(_from_file(path, raw, inputs, size), inputs, raw, start, size)


def _from_file(path: Path, raw: Table | None, inputs: Inputs, size: int) -> Iterator[RawTable]:
    """A parquet file without further tables in parts; any other at once."""
    settings = raw or Table(raw_dir=".", target="target")
    if path.suffix.lower() != ".parquet" or settings.join:
        numbers = [
            c
            for k in inputs.kinds.values()
            if isinstance(k.settings, TabularFeatures)
            for c in k.settings.columns
        ]
        table = read_all(path.parent, settings, [path.name], numbers)
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
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
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
    if len(lengths := {m: len(a) for m, a in arrays.items()}) and len({*lengths.values()}) > 1:
        raise ConfigError(f"the arrays are of different lengths: {lengths}")
    parts: dict[str, Any] = {}
    for m, values in arrays.items():
        kind, names = inputs.kinds[m], inputs.columns(m)
        if isinstance(kind, ColumnKind):
            frame = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values, object))
            if frame.shape[1] != len(names):
                raise ConfigError(f"{m} has {frame.shape[1]} columns, not {len(names)}: {', '.join(names)}")
            if frame is not values:
                frame = frame.set_axis(names, axis=1).infer_objects()
            parts |= {c: frame[c].tolist() for c in names}
            continue
        array = np.asarray(values)
        if array.dtype.kind not in "iufb":
            raise ConfigError(f"{m} holds {array.dtype}, not numbers: name files in a table instead")
        np.save(folder / f"{m}.npy", array)
        parts[m] = [f"{m}.npy#{i}" for i in range(len(array))]
    return pd.DataFrame({ID: [str(i) for i in range(next(iter(lengths.values()), 0))], **parts})


def folder_table(folder: Path, inputs: Inputs) -> pd.DataFrame:
    """A row a sample: `sample_id` and a column a modality, null where it has no file.

    Where there are folders named as modalities, the files in them with the same path, but for the ending, are
    a sample (in a video's, folders of pictures count as files). Else all files with the same path, but for
    the ending, are one, and the ending says which modality each is of. Tabular modalities have no files.
    Raises ConfigError where two modalities have the same endings, DataError where nothing fits."""
    media = [m for m in inputs.modalities if inputs.kinds[m].columns is None]
    folders = [m for m in media if (folder / m).is_dir()]
    files = list_files(folder)
    if folders:
        files_of = [
            (m, f, str(PurePosixPath(f).relative_to(m).with_suffix("")))
            for m in folders
            for f in _in(m, folder, files, inputs)
        ]
    else:
        endings = {m: inputs.kinds[m].endings for m in media}
        _refuse_shared(endings, folder)
        files_of = [
            (m, f, str(PurePosixPath(f).with_suffix("")))
            for f in files
            for m in media
            if PurePosixPath(f).suffix.lower() in endings[m]
        ]
    if not files_of:
        wanted = ", ".join(f"{m}/" for m in media)
        raise DataError(f"{folder} holds no file of the model's modalities: put them into folders {wanted}")
    rows: dict[str, dict[str, str]] = {}
    for m, file, stem in files_of:
        rows.setdefault(stem, {}).setdefault(m, file)
    table = pd.DataFrame([{"sample_id": stem, **rows[stem]} for stem in sorted(rows)])
    for m in [m for m in media if isinstance(inputs.kinds[m], ColumnKind) and m in table]:
        read = [None if pd.isna(f) else (folder / f).read_text(encoding="utf-8").strip() for f in table[m]]
        table[m] = pd.Series(read, dtype=object)
    return table


def _in(modality: str, folder: Path, files: list[str], inputs: Inputs) -> list[str]:
    """The files in a modality's folder; of a video's, in place of pictures in folders those folders."""
    inside = [f for f in files if f.startswith(f"{modality}/")]
    if not getattr(inputs.kinds[modality], "folders", False):
        return inside
    pictures = {str(PurePosixPath(f).parent) for f in inside if f.count("/") > 1}
    clips = {p for p in pictures if images_in(folder / p)}
    return sorted(clips | {f for f in inside if str(PurePosixPath(f).parent) not in clips})


def _refuse_shared(endings: Mapping[str, frozenset[str]], folder: Path) -> None:
    names = list(endings)
    for i, m in enumerate(names):
        if other := next((n for n in names[i + 1 :] if endings[m] & endings[n]), None):
            raise ConfigError(
                f"{folder}: files of {m!r} and {other!r} have the same endings: put them into folders {m}/ "
                f"and {other}/, or name them in a table."
            )


# ----------------------------------------------------------------------------------------- from their columns
def _batches(
    tables: Iterator[RawTable], inputs: Inputs, raw: Table | None, root: Path, size: int
) -> Iterator[Batch]:
    files = Files(root)
    for table in tables:
        whole = _read(table, inputs, raw, root)
        for start in range(0, len(table), size):
            rows = slice(start, start + size)
            faults = {i - start: f for i, f in whole.faults.items() if start <= i < start + size}
            present = {m: mask[rows].copy() for m, mask in whole.present.items()}
            batch = Batch(whole.table.iloc[rows].reset_index(drop=True), root, present, faults)
            _check_files(batch, inputs, files)
            yield batch


def _read(table: RawTable, inputs: Inputs, raw: Table | None, root: Path) -> Batch:
    """The manifest's columns of a table; that a file is there is checked batch by batch."""
    kinds = {m: inputs.about["modalities"][m]["kind"] for m in inputs.modalities}
    fields = {m: inputs.kinds[m].columns for m in kinds}
    named = {m: c for m, c in (raw.columns if raw else {}).items() if {*needed_columns(c)} <= {*table.names}}
    sources = known_columns({m: kinds[m] for m in kinds if fields[m] is None}, named, table)
    tabular = [m for m in kinds if (names := fields[m]) is not None and any(c in table.names for c in names)]
    if not sources and not tabular:
        wanted = [c for m in kinds for c in fields[m] or [m]]
        raise data_error(f"{table.file} has no column of the model's", wanted, "name or rename its columns.")
    table.require(c for m in tabular for c in fields[m] or ())
    values: dict[str, Any] = {}
    batch = Batch(pd.DataFrame(), root, {m: np.zeros(len(table), bool) for m in kinds})
    paths = None
    for m, source in sources.items():
        if isinstance(inputs.kinds[m], ColumnKind):
            cells = {name: as_text(table[name]).isna().to_numpy(bool) for name in needed_columns(source)}
            batch.present[m][:] = ~np.any(list(cells.values()), axis=0)
            values[m] = _texts(table, source) if batch.present[m].any() else [""] * len(table)
        else:
            values[m] = read_paths(table, source, None)
            batch.present[m][:] = np.array(values[m], object) != ""
            paths = paths or values[m]
    for m in tabular:
        values |= _read_values(table, m, inputs, batch)
    ids = raw.id if raw and raw.id in table.names else ID if ID in table.names else None
    values[ID] = path_ids(table, paths) if ids is None else table.texts(ids)
    return Batch(pd.DataFrame(values), root, batch.present, batch.faults)


def _texts(table: RawTable, source: str) -> Any:
    try:
        return columns.read_texts(table, source)
    except DataError:  # every text is empty: a model may be asked so
        return [""] * len(table)


def _read_values(table: RawTable, modality: str, inputs: Inputs, batch: Batch) -> dict[str, Any]:
    """The columns of a tabular modality. A sample lacks it where all of its cells are blank, unless the data
    that were trained on had such samples."""
    settings = inputs.kinds[modality].settings
    values: dict[str, Any] = {}
    batch.present[modality][:] = True
    for name in settings.columns:
        values[name], faults = columns.read_numbers(table, name)
        faults |= dict.fromkeys(np.flatnonzero(np.isinf(values[name])).tolist(), "is infinite")
        values[name][list(faults)] = np.nan
        batch.fault(modality, {i: f"column {name!r}: {reason}" for i, reason in faults.items()})
    for name in settings.dates:
        absent = table.missing(name).all()
        nothing = np.full(len(table), "NaT", "datetime64[ms]")
        values[name] = nothing if absent else columns.read_dates(table, name)
    for name in settings.categorical:
        values[name] = pd.Series(table.texts(name), dtype="str").mask(table.missing(name))
    blank = pd.DataFrame(values).isna().all(axis=1).to_numpy(bool)
    if not inputs.about["modalities"][modality]["statistics"]["blank_rows"]:
        batch.present[modality][blank] = False
    return values


def _check_files(batch: Batch, inputs: Inputs, files: Files) -> None:
    """Bring paths into plain form; samples whose file is not there, or is no file of data, lack it."""
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
