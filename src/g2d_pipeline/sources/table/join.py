"""Further tables that add columns to the rows with the same key, and rows that are no samples."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from g2d_pipeline.config import Join, Table, Task
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.cells import SENTINEL
from g2d_pipeline.sources.table.columns import Floats, holds_dates, read_dates, read_features
from g2d_pipeline.sources.table.frame import RawTable, as_text
from g2d_pipeline.sources.table.reading import read_table, read_tables

MEAN = re.compile(r"(.+)_mean([0-9]+)")  # `<column>_mean<days>`


def read_all(root: Path, raw: Table, files: Collection[str], numbers: Collection[str]) -> RawTable:
    """The rows of the `files` with the columns of the further tables `raw.join`. `numbers`: the columns that
    modalities take as numbers.

    A row whose key a further table lacks is one of `bad`. Raises DataError where a table can not be read,
    where the keys of a further one are not unique, or where its numbers are none."""
    table = read_tables(root, files, raw.names)
    if isinstance(raw.table, str) and table.several:
        table = replace(table, file=raw.table, notes=_common_notes(table, raw.table))
    for join in raw.join:
        table = _join(table, join, root, {*numbers})
    return table


def _common_notes(table: RawTable, pattern: str) -> list[str]:
    """The notes on the files; what is true of each of them is said once."""
    files = table.places["file"].unique().tolist()
    first = files[0] if files else ""
    rests = [note.removeprefix(first) for note in table.notes if note.startswith(f"{first}: ")]
    common = [rest for rest in rests if all(file + rest in table.notes for file in files)]
    repeated = {file + rest for file in files for rest in common}
    return [*(pattern + rest for rest in common), *(note for note in table.notes if note not in repeated)]


def _join(table: RawTable, join: Join, root: Path, numbers: Collection[str]) -> RawTable:
    other = read_table(root / join.table, join.table, join.names or None, by_stem=True)
    table = replace(table, notes=[*table.notes, *other.notes])
    other = replace(other, notes=table.notes)  # notes on either go into one list
    columns, keys = other.data, list[str]()
    if join.keys is None:
        left, right = _rows(table, other)
        reason = f"the row of {join.table} beside it is empty or can not be read"
    else:
        ours, theirs = join.keys
        table.require([ours])
        other.require([theirs])
        left, right = _keys(table, other, ours, theirs)
        columns = columns.drop(columns=theirs)
        keys, reason = table.texts(ours).tolist(), f"{join.table} has no row of {ours}"
    features = read_features(other, [str(name) for name in columns if name in numbers])
    means = _means(other, join, numbers, right)
    columns = columns.assign(**features, **means)

    position = right.get_indexer(left)
    matched = np.flatnonzero(position >= 0)
    kept = table.take(matched)
    added = columns.iloc[position[matched]].reset_index(drop=True)
    faults = dict.fromkeys(np.flatnonzero(position < 0).tolist(), reason)
    if keys:
        numbers_of = {str(key).lstrip("0"): key for key in right}  # numbers lack the leading zeros of text
        near = {i: numbers_of.get(keys[i].lstrip("0")) for i in faults if keys[i]}
        hints = {i: f" (it has {key!r}: zeros differ)" for i, key in near.items() if key is not None}
        faults = {i: f"{reason} {keys[i]!r}{hints.get(i, '')}" for i in faults}
    double = kept.data.columns.intersection(added.columns)
    repeated = {
        name
        for name in double
        if join.keys or as_text(kept[name]).fillna("").ne(as_text(added[name]).fillna("")).any()
    }
    return replace(
        kept,
        data=pd.concat([kept.data, added.drop(columns=double)], axis=1),
        bad=[*table.bad, *other.bad, *table.bad_rows(faults)],
        repeated=table.repeated | other.repeated | repeated,
        separators=other.separators | table.separators,
        hint=f"{table.hint} {join.table} is joined to it.",
    )


def _rows(table: RawTable, other: RawTable) -> tuple[pd.Index, pd.Index]:
    """The row indices of both tables; DataError where the tables differ in length."""
    if table.several:
        remedy = "give `key: <column>` in place of `align: row`."
        raise data_error(f"{other.file} aligns by row, and the rows are of several tables", [], remedy)
    ours, theirs = (sum(part.lengths.values()) for part in (table, other))
    if ours != theirs:
        headline = f"{other.file} has {theirs:,} rows, and {table.file} has {ours:,}: they can not align"
        raise data_error(headline, [], "give each row its own; or join by a column, `key: <column>`.")
    return pd.Index(table.places["index"]), pd.Index(other.places["index"])


def _keys(table: RawTable, other: RawTable, ours: str, theirs: str) -> tuple[pd.Index, pd.Index]:
    """The keys of both tables: days where both are dates, else text. DataError as in `read_all`."""
    if holds_dates(table, ours) and holds_dates(other, theirs):
        left, right = pd.Index(read_dates(table, ours)), pd.Index(read_dates(other, theirs))
    else:
        indexes = pd.Index(table.texts(ours)), pd.Index(other.texts(theirs))
        left, right = (index.where(index != "", None) for index in indexes)
    if right.hasnans:
        blank = other.cells(np.flatnonzero(right.isna()).tolist(), theirs)
        remedy = "fill these cells, or remove the rows."
        raise data_error("Rows without the key that joins the tables", blank, remedy)
    if len(double := np.flatnonzero(right.duplicated(keep=False))):
        headline = "Rows with the same key, one of which is to be joined"
        raise data_error(headline, other.cells(double, theirs), "leave one row of each.")
    return left, right


def _means(other: RawTable, join: Join, numbers: Collection[str], days: pd.Index) -> dict[str, Floats]:
    """The means over the last days that modalities use, each `[rows of other]`; blank cells do not count."""
    matches = [
        match
        for name in sorted(numbers)
        if (match := MEAN.fullmatch(name)) and int(match[2]) in join.means and match[1] in other.data
    ]
    if join.means and not isinstance(days, pd.DatetimeIndex):
        headline = f"{join.table}: means over days are asked for, and the keys are no dates"
        lines = [", ".join(map(repr, days[:3].tolist()))]
        raise data_error(headline, lines, "join by a column of dates, or remove `means` under `join`.")
    values = read_features(replace(other, notes=[]), list(dict.fromkeys(match[1] for match in matches)))
    by_day = pd.DataFrame(values, index=days).sort_index()
    means = {m[0]: by_day[m[1]].rolling(f"{m[2]}D", min_periods=1).mean() for m in matches}
    return {name: mean.reindex(days).to_numpy() for name, mean in means.items()}


def take_labelled(table: RawTable, raw: Table, task: Task = "classification") -> RawTable:
    """The rows that are samples: all, or with `labelled_only` those with a target; then the others are
    counted in a note, and marks such as NA there, where the target is a class. DataError: there are none."""
    if not raw.labelled_only:
        return table
    target, classes = raw.target, None if task == "regression" else raw.classes or ()
    table.require([target])
    sentinel = pd.to_numeric(table[target], errors="coerce").eq(SENTINEL).to_numpy(bool)
    labelled = np.flatnonzero(~(table.missing(target, classes or ()) | sentinel))
    if not len(labelled) and len(table):
        raise table.error(f"the target {target!r} is blank in every row", [], "choose another `target`.")
    if rest := len(table) - len(labelled):
        table.note(f"{rest} of {len(table)} rows have no {target!r}, and are left out (labelled_only).")
        for mark, rows in table.marks(target).items():
            if classes is not None and mark not in classes:
                text = f"{int(rows.sum())} of these rows hold {mark!r}, which means missing"
                table.note(f"{text}; if it is a class, list all under `classes`.")
    return table.take(labelled)
