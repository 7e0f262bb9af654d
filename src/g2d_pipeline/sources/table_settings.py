"""What the settings of a `table` ask for, and which of the table's columns that means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.sources.faults import nearest
from g2d_pipeline.sources.table_files import TableFile, paths_start

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings, SplitFractions, Table
    from g2d_pipeline.sources.table_raw import RawTable

RESERVED = ("sample_id", "split", "target", "group")  # columns of every manifest


def table_settings(raw: LayoutSettings) -> Table:
    from g2d_pipeline.config import Table

    assert isinstance(raw, Table)
    return raw


def paths_dir(raw: Table, tables: Sequence[TableFile]) -> str:
    """The folder where paths start, with raw_dir before it."""
    return str(PurePosixPath(raw.raw_dir) / paths_start(raw, tables))


def fractions(raw: Table, tables: Sequence[TableFile]) -> SplitFractions | None:
    """The shares of a split that is drawn; None: a column tells it, or the files do."""
    from g2d_pipeline.config import SplitFractions

    if isinstance(raw.split, str) or tables[0].split is not None:
        return None
    return raw.split or SplitFractions()


def kind_of(settings: IngestSettings, modality: str) -> str:
    """Its kind; where the settings do not say, `file` for one column of its own name, else `tabular`."""
    own = settings.columns[modality] == [modality]
    return settings.kinds.get(modality, "file" if own else "tabular")


def check_settings(settings: IngestSettings, raw: Table, tables: Sequence[TableFile]) -> None:
    """ConfigError where the settings contradict one another; nothing of this needs the table's cells."""
    name = settings.dataset
    if tables[0].split is not None and raw.split is not None:
        raise ConfigError(
            f"{name}: raw.split is set, and there is a table for each split ({', '.join(t.file for t in tables)}): "
            "remove `split`, or name one table of all rows under `table`."
        )
    for modality in raw.columns:
        if modality not in settings.columns:
            raise ConfigError(
                f"{name}: raw.columns names {modality!r}, which is no modality{nearest(modality, settings.columns)}; "
                f"there are {', '.join(settings.columns)}."
            )
        if kind_of(settings, modality) == "tabular":
            raise ConfigError(
                f"{name}: raw.columns is for media and texts; the tabular modality {modality!r} has its own `columns`."
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
                raise ConfigError(
                    f"{name}: column {column!r} is {not_features[column]}: remove it from {modality!r}."
                )
            if column in RESERVED:
                raise ConfigError(
                    f"{name}: {column!r} of modality {modality!r} is a name that every manifest uses for itself: "
                    "rename the column or modality."
                )
    if raw.split is not None and not isinstance(raw.split, str) and raw.split.group == raw.target:
        raise ConfigError(
            f"{name}: split.group is the target {raw.target!r}: each class would be in one split only."
        )


def own_columns(raw: Table) -> list[str]:
    split = raw.split if isinstance(raw.split, str) or raw.split is None else raw.split.group
    return [
        c
        for c in (raw.target, raw.id, split, raw.group, *(join.keys[0] for join in raw.join))
        if c is not None
    ]


def find_columns(settings: IngestSettings, raw: Table, table: RawTable, notes: list[str]) -> dict[str, str]:
    """Modality of media or text → its column, or its template.

    That is what `raw.columns` says; else the column of its own name, `<modality>_file_name` or
    `<modality>_file`; the same of its kind, if it is the only one of that kind; for a single medium
    `file_name` (audiofolder, imagefolder), or the only `…_file_name`; for sound the column of the only video.
    DataError where there is none."""
    kinds = {name: kind for name in settings.columns if (kind := kind_of(settings, name)) != "tabular"}
    found = {name: raw.columns[name] for name in kinds if name in raw.columns}
    media = [name for name, kind in kinds.items() if kind != "text"]
    usual = {name: _usual(name, kind, list(kinds.values())) for name, kind in kinds.items()}
    for name in kinds:
        if name not in found and (column := next((c for c in usual[name] if c in table), None)):
            found[name] = column
    videos = [name for name in media if kinds[name] == "video"]
    leader = (
        media[:1]
        if len(media) == 1
        else videos
        if [kinds[m] for m in media].count("audio") == len(media) - 1
        else []
    )
    if len(leader) == 1 and leader[0] not in found:
        only = [h for h in table.headers if h == "file_name"] or [
            h for h in table.headers if h.endswith("_file_name")
        ]
        if len(only) == 1:
            found[leader[0]] = only[0]
    for name in media:
        if name not in found and kinds[name] == "audio" and len(videos) == 1 and videos[0] in found:
            found[name] = found[videos[0]]
            notes.append(
                f"{name}: the table has no column of its own for it, so it is the sound of {videos[0]!r}."
            )
    for name in kinds:
        if name not in found:
            known = [h for h in table.headers if h]
            headline = f"{table.file} has no column of modality {name!r}{nearest(name, known)}; it has"
            alone = ["file_name"] if leader == [name] else []
            usual[name] += alone
            remedy = f"say which one under raw: `columns: {{{name}: <column>}}`; without that it is one of {usual[name]}."
            raise data_error(headline, [", ".join(known)], remedy + table.hint)
    return {name: found[name] for name in kinds}


def _usual(name: str, kind: str, kinds: Sequence[str]) -> list[str]:
    """What a modality's column is usually called, the most likely first."""
    names = [name, kind] if kinds.count(kind) == 1 and kind != "file" else [name]
    if kind == "text":
        return list(dict.fromkeys(names))
    return list(dict.fromkeys(f"{of}{ending}" for of in names for ending in ("", "_file_name", "_file")))


def needed_columns(column: str) -> list[str]:
    """The columns of the table that a medium's column or template needs."""
    from g2d_pipeline.sources.table_paths import fields

    return [f for f in fields(column) if f not in ("row", "index")] if "{" in column else [column]
