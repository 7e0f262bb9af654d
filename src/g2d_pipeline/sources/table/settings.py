"""What the settings of a `table` ask for, and which of the table's columns each modality has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from g2d_pipeline.config import SplitFractions
from g2d_pipeline.config.features import is_selector
from g2d_pipeline.errors import ConfigError, data_error, did_you_mean, enumerated
from g2d_pipeline.sources.table.files import Tables, paths_start

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, Table
    from g2d_pipeline.sources.table.frame import RawTable

RESERVED = ("sample_id", "split", "target", "group")  # columns of every manifest


def paths_dir(raw: Table, tables: Tables) -> str:
    """The folder where paths start, with raw_dir before it."""
    return str(PurePosixPath(raw.raw_dir) / paths_start(raw, tables))


def fractions(raw: Table, tables: Tables) -> SplitFractions | None:
    """The shares of a split that is drawn; None: a column says it, or the files do."""
    if isinstance(raw.split, str) or None not in tables.values():
        return None
    return raw.split or SplitFractions()


def kind_of(settings: IngestSettings, modality: str) -> str:
    """Its kind; where the settings do not say, `file` for one column of its own name, else `tabular`."""
    own = settings.columns[modality] == [modality]
    return settings.kinds.get(modality, "file" if own else "tabular")


def check_settings(settings: IngestSettings, raw: Table, tables: Tables) -> None:
    """ConfigError where the settings contradict one another; nothing of this needs the table's cells."""
    for problem in _contradictions(settings, raw, tables):
        raise ConfigError(f"{settings.dataset}: {problem}")


def _contradictions(settings: IngestSettings, raw: Table, tables: Tables) -> Iterator[str]:
    if None not in tables.values() and raw.split is not None:
        yield (
            f"raw.split is set, and there is a table for each split ({', '.join(tables)}): remove `split`, "
            "or name one table of all rows under `table`."
        )
    known = ", ".join(settings.columns)
    for modality in raw.columns:
        if modality not in settings.columns:
            hint = did_you_mean(modality, settings.columns)
            yield f"raw.columns names {modality!r}, which is no modality.{hint} There are {known}."
        elif kind_of(settings, modality) == "tabular":
            yield (
                "raw.columns is for media and texts; the tabular modality "
                f"{modality!r} has its own `columns`."
            )
    if settings.task == "classification" and raw.log_target:
        yield "log_target is for a regression, not for a classification."
    if settings.task == "regression" and raw.classes is not None:
        yield "classes are for a classification, not for a regression."
    for key, names in (("classes", raw.classes), ("names", raw.names)):
        if names is not None and len(set(names)) < len(names):
            yield f"raw.{key} holds a name twice: {names}."
    columns = [(modality, column) for modality, names in settings.columns.items() for column in names]
    counts = Counter(column for _, column in columns if not is_selector(column))
    if double := sorted(column for column, count in counts.items() if count > 1):
        yield f"two modalities have the same column or name: {enumerated(double)}."
    uses = {raw.target: "the target", raw.id: "the id"}
    if isinstance(raw.split, str):
        uses[raw.split] = "the split"
    for modality, column in columns:
        if column in uses and modality not in raw.columns:
            yield f"column {column!r} is {uses[column]}: remove it from {modality!r}."
        if column in RESERVED:
            yield (
                f"{column!r} of modality {modality!r} is a name that every manifest uses for itself: rename "
                "the column or modality."
            )
    if isinstance(raw.split, SplitFractions) and raw.split.group == raw.target:
        yield f"split.group is the target {raw.target!r}: each class would be in one split only."


def own_columns(raw: Table) -> list[str]:
    """The columns that `raw` itself names, but for those of modalities."""
    split = raw.split.group if isinstance(raw.split, SplitFractions) else raw.split
    names = (raw.target, raw.id, split, raw.group, *(join.keys[0] for join in raw.join if join.keys))
    return [name for name in names if name is not None]


def uses(raw: Table) -> dict[str, str]:
    """Column → what it is other than a feature: what patterns leave out."""
    own = dict.fromkeys(own_columns(raw), "the split, a group or a key")
    own |= {raw.target: "the target"} | ({} if raw.id is None else {raw.id: "the id"})
    return dict.fromkeys(RESERVED, "a name that every manifest uses") | own


def tabular_columns(settings: IngestSettings, modalities: Collection[str]) -> tuple[list[str], list[str]]:
    """The columns of the tabular `modalities`, and those of them that are numbers."""
    every = [c for m in modalities for c in settings.columns[m]]
    others = {*settings.categorical, *settings.dates}
    return every, [name for name in every if name not in others]


def find_columns(settings: IngestSettings, raw: Table, table: RawTable) -> dict[str, str]:
    """Modality of media or text → its column, or its template.

    That is what `raw.columns` says; else the column of its own name, `<modality>_file_name` or
    `<modality>_file`; the same of its kind, if it is the only one of that kind; for a single medium
    `file_name` (audiofolder, imagefolder), or the only `…_file_name`; for sound that of the only video.
    DataError where there is none."""
    kinds = {name: kind for name in settings.columns if (kind := kind_of(settings, name)) != "tabular"}
    columns = {name: raw.columns[name] for name in kinds if name in raw.columns}
    media = [name for name, kind in kinds.items() if kind != "text"]
    common = {name: _common_names(name, kind, list(kinds.values())) for name, kind in kinds.items()}
    for name in kinds:
        if name not in columns and (column := next((c for c in common[name] if c in table.names), None)):
            columns[name] = column
    videos = [name for name in media if kinds[name] == "video"]
    audio = [name for name in media if kinds[name] == "audio"]
    # the one medium that `file_name` can name: a single one, or a video whose sound the others are
    single = media if len(media) == 1 else videos if len(audio) == len(media) - 1 else []
    if len(single) == 1 and single[0] not in columns:
        matches = [name for name in table.names if name.endswith("_file_name")]
        matches = ["file_name"] if "file_name" in table.names else matches
        columns |= dict.fromkeys(single, matches[0]) if len(matches) == 1 else {}
    for name in audio:
        if name not in columns and len(videos) == 1 and videos[0] in columns:
            columns[name] = columns[videos[0]]
            table.note(
                f"{name}: the table has no column of its own for it, so it is the sound of {videos[0]!r}."
            )
    if missing := next((name for name in kinds if name not in columns), None):
        known = table.names
        hint = did_you_mean(missing, known)
        names = common[missing] + (["file_name"] if single == [missing] else [])
        remedy = (
            f"say which one under raw: `columns: {{{missing}: <column>}}`; without that it is one of {names}."
        )
        headline = f"{table.file} has no column of modality {missing!r}{f'.{hint}' if hint else '; it has'}"
        raise data_error(headline, [enumerated(known)], remedy + table.hint)
    return {name: columns[name] for name in kinds}


def _common_names(name: str, kind: str, kinds: Sequence[str]) -> list[str]:
    """What a modality's column is commonly called, the most likely first."""
    names = [name, kind] if kinds.count(kind) == 1 and kind != "file" else [name]
    endings = [""] if kind == "text" else ["", "_file_name", "_file"]
    return list(dict.fromkeys(f"{stem}{ending}" for stem in names for ending in endings))
