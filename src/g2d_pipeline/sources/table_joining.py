"""More than one table: many files of one form, further tables that add columns, and rows that are no samples."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import BadRow

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.config import IngestSettings, Join, Table
    from g2d_pipeline.sources.table_raw import RawTable

MEAN = re.compile(r"(.+)_mean([0-9]+)")  # `<column>_mean<days>`


def complete(table: RawTable, settings: IngestSettings, raw: Table, root: Path) -> RawTable:
    """`table` with the columns of the further tables `raw.join`, and without the rows that are no samples.

    A row whose key a further table lacks is one of `bad`. Raises DataError where such a table can not be
    read, where its keys are not unique, or where its numbers are none."""
    if isinstance(raw.table, str) and table.files is not None:
        table = replace(table, file=raw.table, notes=_shared(table, raw.table))
    for join in raw.join:
        table = _join(table, join, settings, root)
    return _labelled(table, raw.target) if raw.labelled_only else table


def _shared(table: RawTable, pattern: str) -> list[str]:
    """The notes on the files; what is true of each of them is said once."""
    files = list(dict.fromkeys(table.files if table.files is not None else []))
    said = [note.removeprefix(files[0]) for note in table.notes if note.startswith(f"{files[0]}: ")]
    common = [rest for rest in said if all(file + rest in table.notes for file in files)]
    repeated = {file + rest for file in files for rest in common}
    return [*(pattern + rest for rest in common), *(note for note in table.notes if note not in repeated)]


def _join(table: RawTable, join: Join, settings: IngestSettings, root: Path) -> RawTable:
    import pandas as pd

    from g2d_pipeline.sources.table_cells import read_features
    from g2d_pipeline.sources.table_reading import read_table

    ours, theirs = join.keys
    other = read_table(root / join.table, join.table)
    table.require([ours])
    other.require([theirs])
    notes = [*table.notes, *other.notes]
    here, there = _keys(table, other, ours, theirs, notes)
    numbers = _numbers(settings)
    columns = {h: c for h, c in zip(other.headers, other.columns, strict=True) if h not in ("", theirs)}
    plain = read_features(other, [c for c in columns if c in numbers], notes)
    means = _means(other, join, numbers, there, notes)

    position = there.get_indexer(here)
    found = np.flatnonzero(position >= 0)
    added: dict[str, pd.Series[Any]] = columns | {c: pd.Series(of) for c, of in (plain | means).items()}
    at = position[found]
    missing = {c: of[at] for c, of in other.missing.items() if c in columns and c not in plain}
    kept = _keep(table, found)
    lost = [
        BadRow(
            table.file_of(i),
            int(table.rows[i]),
            f"{join.table} has no row of {ours} {str(table[ours].iloc[i])!r}",
        )
        for i in np.flatnonzero(position < 0).tolist()
    ]
    return replace(
        kept,
        headers=[*kept.headers, *added],
        columns=[*kept.columns, *(of.take(at).reset_index(drop=True) for of in added.values())],
        bad=[*table.bad, *other.bad, *lost],
        notes=notes,
        missing=kept.missing | missing,
    )


def _keys(
    table: RawTable, other: RawTable, ours: str, theirs: str, notes: list[str]
) -> tuple[pd.Index, pd.Index]:
    """The keys of all rows, here and there: days where both columns are dates, else text. DataError: see
    `complete`."""
    import pandas as pd

    from g2d_pipeline.sources.table_cells import texts
    from g2d_pipeline.sources.table_kinds import looks_like_dates, read_dates

    if looks_like_dates(table[ours]) and looks_like_dates(other[theirs]):
        here = pd.Index(read_dates(table, ours, notes))
        there = pd.Index(read_dates(other, theirs, notes))
    else:
        here, there = pd.Index(texts(table[ours])), pd.Index(texts(other[theirs]))
        here, there = here.where(here != "", None), there.where(there != "", None)
    if there.hasnans:
        blank = [other.place(int(i), theirs) for i in np.flatnonzero(there.isna())]
        raise data_error(
            "Rows without the key that joins the tables", blank, "fill these cells, or remove the rows."
        )
    if len(double := np.flatnonzero(there.duplicated(keep=False))):
        named = [f"{other.place(int(i), theirs)}: {other[theirs].iloc[i]!r}" for i in double]
        raise data_error(
            "Rows with the same key, one of which is to be joined", named, "leave one row of each."
        )
    return here, there


def _numbers(settings: IngestSettings) -> set[str]:
    """The columns that modalities take as numbers."""
    from g2d_pipeline.sources.table_settings import kind_of

    named = {
        c for m, columns in settings.columns.items() if kind_of(settings, m) == "tabular" for c in columns
    }
    return named - {*settings.categorical, *settings.dates}


def _means(
    other: RawTable, join: Join, numbers: set[str], days: pd.Index, notes: list[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """The means over the last days that modalities ask for, each `[rows of other]`; blank cells do not count."""
    import pandas as pd

    from g2d_pipeline.sources.table_cells import read_features

    asked = [
        m
        for name in sorted(numbers)
        if (m := MEAN.fullmatch(name)) and int(m[2]) in join.means and m[1] in other
    ]
    if join.means and not isinstance(days, pd.DatetimeIndex):
        headline = f"{join.table}: means over days are asked for, and the keys are no dates"
        shown = [", ".join(map(repr, days[:3].tolist()))]
        raise data_error(headline, shown, "join by a column of dates, or remove `means` under `join`.")
    values = read_features(other, list(dict.fromkeys(m[1] for m in asked)), [])
    order = np.argsort(days.to_numpy(), kind="stable")
    found = {}
    for m in asked:
        mean = pd.Series(values[m[1]][order], index=days[order]).rolling(f"{m[2]}D", min_periods=1).mean()
        found[m[0]] = np.empty(len(order))
        found[m[0]][order] = mean.to_numpy()
    return found


def _labelled(table: RawTable, target: str) -> RawTable:
    """The rows with a target; the others are counted in a note."""
    from g2d_pipeline.sources.table_cells import is_missing

    table.require([target])
    there = np.flatnonzero(~is_missing(table[target]))
    if not len(there) and len(table.rows):
        raise data_error(
            f"{table.file}: the target {target!r} is blank in every row", [], "choose another `target`."
        )
    left_out = len(table.rows) - len(there)
    note = f"{left_out} of {len(table.rows)} rows have no {target!r}, and are left out (labelled_only)."
    return replace(_keep(table, there), notes=[*table.notes, note]) if left_out else table


def _keep(table: RawTable, rows: npt.NDArray[np.int64]) -> RawTable:
    """These positions alone."""
    return replace(
        table,
        columns=[column.take(rows).reset_index(drop=True) for column in table.columns],
        rows=table.rows[rows],
        first=table.first if isinstance(table.first, int) else table.first[rows],
        missing={name: of[rows] for name, of in table.missing.items()},
        files=None if table.files is None else table.files[rows],
    )
