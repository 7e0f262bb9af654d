"""Anybody's own data: one table with a row a sample, and the files that it names (docs/own-data.md)."""

import os
from collections.abc import Mapping
from pathlib import Path

from g2d_pipeline.config import IngestSettings, Table
from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.files import fingerprint
from g2d_pipeline.sources.hashing import content_hashes, remembered
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.table.files import find_tables, paths_start, suggest
from g2d_pipeline.sources.table.settings import kind_of

VERSION = 1  # of how a table's paths are read; raise it where that changes


class TableLayout(Layout[Table]):
    """Any task and modalities; the columns of the table are the user's."""

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
        return suggest(self.root, self.raw)

    def raw_files(self) -> list[Path]:
        """The tables."""
        tables = find_tables(self.root, self.raw)
        joined = [join.table for join in self.raw.join if (self.root / join.table).is_file()]
        return sorted({self.root / file for file in [*tables, *joined]}) if tables else []

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
        base = self.root / paths_start(self.raw, find_tables(self.root, self.raw))
        paths = [base / p for p in remembered(cache and cache.with_name("named_files.json"), key, read)]
        return [file for path in paths for file in (_pictures(path) if os.path.isdir(path) else [path])]  # noqa: PTH112

    def with_folds(self) -> Table:
        """The settings with the number of folds, where one group of the table at a time is left out."""
        raw = self.raw
        if raw.split is None or raw.split.folds != "leave_one_out":
            return raw
        from g2d_pipeline.sources.table.join import read_all, take_labelled
        from g2d_pipeline.sources.table.splits import group_cells

        table = take_labelled(read_all(self.root, raw, find_tables(self.root, raw), []), raw)
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
        return not in_column and None in find_tables(self.root, self.raw).values()

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
