"""Anybody's own data: one table with a row a sample, and the files that it names (docs/own-data.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.config.layouts import Table
from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import list_files
from g2d_pipeline.sources.layout import Layout
from g2d_pipeline.sources.table.files import find_tables, paths_start, suggest

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings
    from g2d_pipeline.sources.layout import Samples

PAPERS = (".md", ".txt", ".rst", ".pdf", ".html", ".py", ".ipynb", ".yml", ".yaml", ".log")


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
        """The table and every file, papers apart, in the folder where paths start."""
        tables = find_tables(self.root, self.raw)
        if not tables:
            return []
        base = self.root / paths_start(self.raw, tables)
        media = (base / file for file in list_files(base) if not file.lower().endswith(PAPERS))
        joined = (file for join in self.raw.join if (file := self.root / join.table).is_file())
        return sorted({*media, *(self.root / file for file in tables), *joined})

    def with_folds(self) -> Table:
        """The settings with the number of folds, where one group of the table at a time is left out."""
        raw = self.raw
        if raw.split is None or raw.split.folds != "leave_one_out":
            return raw
        from g2d_pipeline.sources.table.join import read_all
        from g2d_pipeline.sources.table.splits import group_cells

        table = read_all(self.root, raw, find_tables(self.root, raw), [])
        table.require([str(raw.split.group)])
        names = set(group_cells(table, raw.split)) - {""}
        if len(names) < 3:
            headline = (
                f"split.folds = leave_one_out: {table.file} has {len(names)} groups in {raw.split.group!r}"
            )
            raise data_error(headline, map(repr, sorted(names)), "train, val and test need one each.")
        if (raw.split.fold or 1) > len(names):
            raise ConfigError(f"split.fold = {raw.split.fold}: {table.file} has {len(names)} groups.")
        split = raw.split.model_copy(update={"folds": len(names)})
        return raw.model_copy(update={"split": split})

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """A sample a row: its id, split, target, the paths of media and the values of tabular modalities.

        Rows that can not be read, or have no target or file, are dropped while their share is at most
        `max_bad_fraction`; a split that is drawn is drawn after that. Raises DataError naming rows, columns
        and remedies, and ConfigError where the settings contradict themselves."""
        from g2d_pipeline.sources.table.samples import read_samples

        return read_samples(self, settings)
