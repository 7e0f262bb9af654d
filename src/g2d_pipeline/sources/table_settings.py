"""What the settings of a `table` ask for, and which of the table's columns that means."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import nearest

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings, Table
    from g2d_pipeline.sources.table_reading import RawTable

RESERVED = ("sample_id", "split", "target", "group")  # columns of every manifest


def table_settings(raw: LayoutSettings) -> Table:
    from g2d_pipeline.config import Table

    assert isinstance(raw, Table)
    return raw


def paths_start(raw: Table) -> str:
    """Where paths start, relative to raw_dir."""
    return raw.root if raw.root is not None else posixpath.dirname(raw.table)


def paths_dir(raw: Table) -> str:
    """The same with raw_dir before it."""
    return str(PurePosixPath(raw.raw_dir) / paths_start(raw))


def check_settings(settings: IngestSettings, raw: Table) -> None:
    """ConfigError where the settings contradict one another; nothing of this needs the table."""
    name = settings.dataset
    for modality in raw.columns:
        if modality not in settings.columns:
            raise ConfigError(
                f"{name}: raw.columns names {modality!r}, which is no modality{nearest(modality, settings.columns)}; "
                f"there are {', '.join(settings.columns)}."
            )
        if settings.columns[modality] != [modality]:
            raise ConfigError(
                f"{name}: raw.columns is for media; the tabular modality {modality!r} has its own `columns`."
            )
    if settings.task == "classification" and raw.log_target:
        raise ConfigError(f"{name}: log_target is for a regression, not for a classification.")
    if settings.task == "regression" and raw.classes is not None:
        raise ConfigError(f"{name}: classes are for a classification, not for a regression.")
    for key, names in (("classes", raw.classes), ("names", raw.names)):
        if names is not None and len(set(names)) < len(names):
            raise ConfigError(f"{name}: raw.{key} holds a name twice: {names}.")
    named = [column for columns in settings.columns.values() for column in columns]
    if double := sorted({column for column in named if named.count(column) > 1}):
        raise ConfigError(f"{name}: two modalities have the same column or name: {', '.join(double)}.")
    not_features = {raw.target: "the target", raw.id: "the id"}
    if isinstance(raw.split, str):
        not_features[raw.split] = "the split"
    for modality, columns in settings.columns.items():
        for column in columns:
            if column in not_features and modality not in raw.columns:
                raise ConfigError(f"{name}: column {column!r} is {not_features[column]}: remove it from {modality!r}.")
            if column in RESERVED:
                raise ConfigError(
                    f"{name}: {column!r} of modality {modality!r} is a name that every manifest uses for itself: "
                    "rename the column or modality."
                )
    if not isinstance(raw.split, str) and raw.split.group == raw.target:
        raise ConfigError(f"{name}: split.group is the target {raw.target!r}: each class would be in one split only.")


def own_columns(raw: Table) -> list[str]:
    split = raw.split if isinstance(raw.split, str) else raw.split.group
    return [c for c in (raw.target, raw.id, split) if c is not None]


def find_modalities(
    settings: IngestSettings, raw: Table, table: RawTable
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Media: modality → column or template; tabular: modality → columns.

    A modality with one column of its own name may be either: it is tabular where most of that column is numbers, unless
    `raw.columns` names it.
    """
    from g2d_pipeline.sources.table_cells import looks_numeric

    media: dict[str, str] = {}
    tabular: dict[str, list[str]] = {}
    for name, columns in settings.columns.items():
        own = columns == [name] and name not in raw.columns
        if columns != [name] or (own and name in table and looks_numeric(table[name])):
            tabular[name] = columns
        else:
            media[name] = raw.columns.get(name, "")
    for name in media:
        alone = ["file_name"] if len(media) == 1 else []
        usual = [name, f"{name}_file_name", f"{name}_file", *alone]
        media[name] = media[name] or next((c for c in usual if c in table), "")
        if not media[name]:
            known = [h for h in table.headers if h]
            headline = f"{table.file} has no column of modality {name!r}{nearest(name, known)}; it has"
            remedy = f"say which one under raw: `columns: {{{name}: <column>}}`; without that it is one of {usual}."
            raise data_error(headline, [", ".join(known)], remedy + table.hint)
    return media, tabular


def needed_columns(column: str) -> list[str]:
    """The columns of the table that a medium's column or template needs."""
    from g2d_pipeline.sources.table_paths import fields

    return [f for f in fields(column) if f not in ("row", "index")] if "{" in column else [column]
