"""Which files are the table: the one that is named, one for each split, or what usual folders call them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from g2d_pipeline.config.base import SPLITS, Split
from g2d_pipeline.config.layouts import SPLIT_WORDS
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import list_files, nearest

if TYPE_CHECKING:
    from g2d_pipeline.config import Table
    from g2d_pipeline.sources.table_raw import RawTable

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".txt", ".npy")
USUAL = ENDINGS[:-2]  # of a file that is found by its name: a .txt or .npy may be anything
STEM = "metadata"


@dataclass(frozen=True)
class TableFile:
    """A file relative to the raw folder; `split`: which all of its rows belong to, or None: the rows tell."""

    file: str
    split: Split | None = None


def find_tables(root: Path, raw: Table) -> list[TableFile]:
    """The table, or the three of the splits; empty: not (all) there. DataError where two files may be the
    one."""
    if isinstance(raw.table, str) and "*" in raw.table:
        depth = raw.table.count("/")
        alike = [f for f in list_files(root) if f.count("/") == depth and PurePosixPath(f).match(raw.table)]
        named = [TableFile(file) for file in alike]
    elif isinstance(raw.table, str):
        named = [TableFile(raw.table)]
    elif raw.table is not None:
        named = [TableFile(raw.table[split], split) for split in SPLITS]
    else:
        named = _usual_tables(root)
    return named if all((root / table.file).is_file() for table in named) else []


def _usual_tables(root: Path) -> list[TableFile]:
    if usual := _usual(root, STEM):
        if len(usual) > 1:
            raise data_error("Two files may be the table", usual, "name the right one under raw: `table: …`.")
        return [TableFile(usual[0])]
    found = _for_splits(_usual(root, *SPLIT_WORDS))
    if not found:
        folders = [name for name in _names(root) if name.casefold() in SPLIT_WORDS]
        found = _for_splits(f"{folder}/{file}" for folder in folders for file in _usual(root / folder, STEM))
    return [TableFile(found[split], split) for split in SPLITS] if len(found) == len(SPLITS) else []


def paths_start(raw: Table, tables: Sequence[TableFile]) -> str:
    """Where paths start, relative to raw_dir: `root`, or the folder of the tables, the one above where they
    have many.

    There a table's own folder comes before its paths (`read_tables`).
    """
    if raw.root is not None:
        return raw.root
    folders = {posixpath.dirname(table.file) for table in tables}
    return posixpath.commonpath(folders) if folders else ""


def describe(raw: Table) -> str:
    """The table's name in messages, before it is found."""
    if isinstance(raw.table, str):
        return repr(raw.table)
    if raw.table is not None:
        return ", ".join(map(repr, raw.table.values()))
    return "'metadata.csv' (or .tsv, .jsonl, .parquet, .xlsx; or 'train.csv', 'val.csv' and 'test.csv')"


def suggest(root: Path, raw: Table) -> str:
    """What may have been meant, where `find_tables` finds nothing; a sentence, or nothing."""
    there = [f for f in list_files(root) if PurePosixPath(f).suffix.lower() in USUAL] if root.is_dir() else []
    if raw.table is None:
        found = _for_splits([*_usual(root, *SPLIT_WORDS)])
        if found and (missing := [s for s in SPLITS if s not in found]):
            return f" There is {' and '.join(found.values())}, but no table for {' and '.join(missing)}."
        return f" There is {', '.join(there[:5])}: is it the table?" if there else ""
    named = [raw.table] if isinstance(raw.table, str) else list(raw.table.values())
    near = [f"{name!r} is not there{_near(name, there)}" for name in named if not (root / name).is_file()]
    return f" {'; '.join(near)}." if near else ""


def _near(name: str, there: Sequence[str]) -> str:
    """The nearest path, or else the file that has the nearest name in any folder."""
    base = {posixpath.basename(f): f for f in reversed(there)}
    if posixpath.basename(name) in base:
        return f" (nearest: {base[posixpath.basename(name)]!r})"
    return nearest(name, there) or nearest(posixpath.basename(name), base)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _usual(folder: Path, *stems: str) -> list[str]:
    """The tables directly in a folder with one of these names, in any case."""
    paths = [PurePosixPath(name) for name in _names(folder)]
    return [str(p) for p in paths if p.suffix.lower() in USUAL and p.stem.casefold() in stems]


def _for_splits(files: Iterable[str]) -> dict[Split, str]:
    """split → file, by their names. DataError where two are of one split."""
    from g2d_pipeline.config.layouts import split_of

    found: dict[Split, list[str]] = {}
    for file in files:
        if (split := split_of(file)) is not None:
            found.setdefault(split, []).append(file)
    if double := [f"{split}: {', '.join(of)}" for split, of in found.items() if len(of) > 1]:
        remedy = "name the right ones under raw: `table: {train: …, val: …, test: …}`."
        raise data_error("Two files may be the table of a split", double, remedy)
    return {split: found[split][0] for split in SPLITS if split in found}


# --------------------------------------------------------------------------------------- several as one table
def read_tables(root: Path, tables: Sequence[TableFile], names: Sequence[str] | None = None) -> RawTable:
    """All rows, in the order of the tables; of several tables those columns that all have.

    Raises DataError as `table_reading.read_table` does.
    """
    from g2d_pipeline.sources.table_raw import joined
    from g2d_pipeline.sources.table_reading import read_table

    read = {table.file: read_table(root / table.file, table.file, names) for table in tables}
    return next(iter(read.values())) if len(read) == 1 else joined(list(read.values()))
