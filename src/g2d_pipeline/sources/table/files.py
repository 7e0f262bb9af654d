"""Which files hold the table: the one that is named, one for each split, or what common folders call them."""

import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from g2d_pipeline.config import SPLIT_WORDS, SPLITS, Split, Table, split_of
from g2d_pipeline.errors import data_error, did_you_mean
from g2d_pipeline.sources.faults import FEW_FOLDERS, is_litter, list_files

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".txt", ".npy")
COMMON = ENDINGS[:-2]  # of a file that is found by its name: a .txt or .npy may be anything
STEM = "metadata"

# file, relative to the raw folder → the split of all its rows, if it has one
Tables = dict[str, Split | None]


def find_tables(root: Path, raw: Table) -> Tables:
    """The table, or those of the splits; empty: not (all) there. DataError where two may be the one."""
    tables: Tables
    if raw.table is None:
        draws_val = raw.split is not None and raw.split.val is not None
        tables = _common_tables(root, {"train", "test"} if draws_val else set(SPLITS))
    elif not isinstance(raw.table, str):
        tables = {raw.table[split]: split for split in SPLITS if split in raw.table}
    elif "*" in raw.table:
        matches = (path.relative_to(root) for path in root.glob(raw.table.replace("**", "*").lstrip("/")))
        tables = dict.fromkeys(sorted(str(p) for p in matches if not any(map(is_litter, p.parts))))
    else:
        tables = {raw.table: None}
    return tables if all((root / file).is_file() for file in tables) else {}


def _common_tables(root: Path, needed: set[Split]) -> Tables:
    files = _by_stem(root, [STEM])
    if len(files) > 1:
        raise data_error("Two files may be the table", files, "name the right one under raw: `table: …`.")
    if files:
        return {files[0]: None}
    splits = _by_split(_by_stem(root, SPLIT_WORDS))
    if not splits:
        folders = [name for name in _names(root) if name.casefold() in SPLIT_WORDS]
        splits = _by_split(f"{name}/{file}" for name in folders for file in _by_stem(root / name, [STEM]))
    return {file: split for split, file in splits.items()} if needed <= splits.keys() else {}


def paths_start(raw: Table, tables: Iterable[str]) -> str:
    """Where paths start, relative to raw_dir: `root`, or the folder of the tables, the one above several,
    where a table's own folder comes before its paths (`paths.read_paths`)."""
    if raw.root is not None:
        return raw.root
    folders = {posixpath.dirname(file) for file in tables}
    return posixpath.commonpath(folders) if folders else ""


def path_prefix(raw: Table, tables: Iterable[str]) -> str | None:
    """Where paths start, if each table's own folder comes before its paths there; else None."""
    start = paths_start(raw, tables)
    beside = raw.root is not None or all(posixpath.dirname(file) == start for file in tables)
    return None if beside else start


def suggest(root: Path, raw: Table) -> str:
    """What may have been intended, where `find_tables` finds nothing; a sentence, or nothing."""
    near = list_files(root, at_most=FEW_FOLDERS) if root.is_dir() else []
    files = [f for f in near if PurePosixPath(f).suffix.lower() in COMMON]
    if raw.table is None:
        splits = _by_split(_by_stem(root, SPLIT_WORDS))
        if splits and (missing := [s for s in SPLITS if s not in splits]):
            drawn = " Val is drawn from train by `split: {val: 0.1}`." * (missing == ["val"])
            present, lacking = " and ".join(splits.values()), " and ".join(missing)
            return f" There is {present}, but no table for {lacking}.{drawn}"
        return f" There is {', '.join(files[:5])}: is it the table?" if files else ""
    names = [raw.table] if isinstance(raw.table, str) else list(raw.table.values())
    absent = (name for name in names if not (root / name).is_file())
    return "".join(f" {name!r} is not there.{_nearest(name, files)}" for name in absent)


def _nearest(name: str, files: list[str]) -> str:
    """The nearest path, or else the file that has the nearest name in any folder."""
    bases = {posixpath.basename(file): file for file in reversed(files)}
    base = posixpath.basename(name)
    if base in bases:
        return f" Did you mean {bases[base]!r}?"
    return did_you_mean(name, files) or did_you_mean(base, bases)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _by_stem(folder: Path, stems: Iterable[str]) -> list[str]:
    """The tables directly in a folder with one of these names, in any case."""
    paths = [PurePosixPath(name) for name in _names(folder)]
    return [str(p) for p in paths if p.suffix.lower() in COMMON and p.stem.casefold() in stems]


def _by_split(files: Iterable[str]) -> dict[Split, str]:
    """split → file, by their names. DataError where two are of one split."""
    matches: dict[Split, list[str]] = {}
    for file in files:
        if (split := split_of(file)) is not None:
            matches.setdefault(split, []).append(file)
    if double := [f"{split}: {', '.join(names)}" for split, names in matches.items() if len(names) > 1]:
        remedy = "name the right ones under raw: `table: {train: …, val: …, test: …}`."
        raise data_error("Two files may be the table of a split", double, remedy)
    return {split: matches[split][0] for split in SPLITS if split in matches}
