"""Anybody's own data: one table with a row a sample, and the files that it names (docs/own-data.md)."""

import os
import posixpath
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from g2d_pipeline.config import SPLIT_WORDS, SPLITS, IngestSettings, Split, Table, split_of
from g2d_pipeline.errors import ConfigError, data_error, did_you_mean
from g2d_pipeline.files import fingerprint
from g2d_pipeline.sources.faults import FEW_FOLDERS, is_litter, list_files
from g2d_pipeline.sources.hashing import content_hashes, remembered
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.table.settings import kind_of

VERSION = 1  # of how a table's paths are read; raise it where that changes
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".txt", ".npy")
COMMON = ENDINGS[:-2]  # of a file that is found by its name: a .txt or .npy may be anything

# file, relative to the raw folder → the split of all its rows, if it has one
Tables = dict[str, Split | None]


class TableLayout(Layout[Table]):
    """Any task and modalities; the columns of the table are the user's."""

    @cached_property
    def table_files(self) -> Tables:
        """See `find_tables`."""
        return find_tables(self.root, self.raw)

    @cached_property
    def start(self) -> str:
        """Where paths start, relative to raw_dir: `root`, or the folder of the tables, the one above several,
        where a table's own folder comes before its paths (`paths.read_paths`)."""
        if self.raw.root is not None:
            return self.raw.root
        folders = {posixpath.dirname(file) for file in self.table_files}
        return posixpath.commonpath(folders) if folders else ""

    def expected(self) -> str:
        raw = self.raw
        names = [raw.table] if isinstance(raw.table, str) else list((raw.table or {}).values())
        tables = ", ".join(map(repr, names))
        common = "'metadata.csv' (or .tsv, .jsonl, .parquet, .xlsx; or 'train.csv', 'val.csv' and 'test.csv')"
        return (
            f"{raw.raw_dir} must hold the table {tables or common} (set raw_dir and table in the data set's "
            f"parameters): a row a sample, the target in column {raw.target!r}, paths relative to its folder "
            "or `root`."
        )

    def suggest(self) -> str:
        near = list_files(self.root, at_most=FEW_FOLDERS) if self.root.is_dir() else []
        files = [f for f in near if PurePosixPath(f).suffix.lower() in COMMON]
        if self.raw.table is None:
            splits = _by_split(_by_stem(self.root, SPLIT_WORDS))
            if splits and (missing := [s for s in SPLITS if s not in splits]):
                drawn = " Val is drawn from train by `split: {val: 0.1}`." * (missing == ["val"])
                present, lacking = " and ".join(splits.values()), " and ".join(missing)
                return f" There is {present}, but no table for {lacking}.{drawn}"
            return f" There is {', '.join(files[:5])}: is it the table?" if files else ""
        names = [self.raw.table] if isinstance(self.raw.table, str) else self.raw.table.values()
        bases = {posixpath.basename(file): file for file in reversed(files)}
        hints = ""
        for name in (name for name in names if not (self.root / name).is_file()):
            base = posixpath.basename(name)
            near_name = did_you_mean(name, files) or did_you_mean(base, bases)
            hint = f" Did you mean {bases[base]!r}?" if base in bases else near_name
            hints += f" {name!r} is not there.{hint}"
        return hints

    def raw_files(self) -> list[Path]:
        """The tables."""
        joined = [join.table for join in self.raw.join if (self.root / join.table).is_file()]
        return sorted({self.root / file for file in [*self.table_files, *joined]}) if self.table_files else []

    def named_files(self, settings: IngestSettings, cache: Path | None) -> list[Path]:
        """The files that the tables name, and the pictures of folders that they name; nothing else is looked
        at, however wide the folder is. The tables are read for it where they have changed."""
        kinds = [kind_of(settings, modality) for modality in settings.columns]
        if {*kinds} <= {"tabular", "text"}:
            return []

        def read() -> list[str]:
            from g2d_pipeline.sources.table.samples import named_paths

            return named_paths(self, settings)

        tables = [digest for _, digest in content_hashes(self.raw_files(), cache).values()]
        key = fingerprint([VERSION, tables, self.raw.model_dump(mode="json"), settings.columns, kinds])
        names = remembered(cache and cache.with_name("named_files.json"), key, read)
        paths = [self.root / self.start / name for name in names]
        return [file for path in paths for file in (_pictures(path) if os.path.isdir(path) else [path])]  # noqa: PTH112

    def with_folds(self) -> Table:
        """The settings with the number of folds, where one group of the table at a time is left out."""
        raw = self.raw
        if raw.split is None or raw.split.folds != "leave_one_out":
            return raw
        from g2d_pipeline.sources.table.join import read_all, take_labelled
        from g2d_pipeline.sources.table.samples import group_cells

        table = take_labelled(read_all(self.root, raw, self.table_files, []), raw)
        table.require([str(raw.split.group)])
        names = set(group_cells(table, raw.split)) - {""}
        if len(names) < 3:
            held = f"{table.file} has {len(names)} groups in {raw.split.group!r}"
            headline, remedy = f"split.folds = leave_one_out: {held}", "train, val and test need one each."
            raise data_error(headline, map(repr, sorted(names)), remedy)
        if (raw.split.fold or 1) > len(names):
            raise ConfigError(f"split.fold = {raw.split.fold}: {table.file} has {len(names)} groups.")
        split = raw.split.model_copy(update={"folds": len(names)})
        return raw.model_copy(update={"split": split})

    @property
    def draws_test(self) -> bool:
        in_column = self.raw.split is not None and self.raw.split.column is not None
        return not in_column and None in self.table_files.values()

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """A sample a row: its id, split, target, the paths of media and the values of tabular modalities.

        Rows that can not be read, or have no target or file, are dropped while their share is at most
        `max_bad_fraction`; a split that is drawn is drawn after that. Raises DataError naming rows, columns
        and remedies, and ConfigError where the settings contradict themselves."""
        from g2d_pipeline.sources.table.samples import read_samples

        return read_samples(self, settings)


def _pictures(folder: Path) -> list[Path]:
    from g2d_pipeline.features.cells import images_in  # numpy, which a start-up does without

    return [folder / name for name in images_in(folder)]


# ------------------------------------------------------------------------------- which files hold the table
def find_tables(root: Path, raw: Table) -> Tables:
    """The table that is named, those of the splits, or what common folders call them; empty: not (all) there.
    DataError where two may be the one."""
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
    files = _by_stem(root, ["metadata"])
    if len(files) > 1:
        raise data_error("Two files may be the table", files, "name the right one under raw: `table: …`.")
    if files:
        return {files[0]: None}
    splits = _by_split(_by_stem(root, SPLIT_WORDS))
    if not splits:
        folders = [name for name in _names(root) if name.casefold() in SPLIT_WORDS]
        splits = _by_split(
            f"{name}/{file}" for name in folders for file in _by_stem(root / name, ["metadata"])
        )
    return {file: split for split, file in splits.items()} if needed <= splits.keys() else {}


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
