"""What the settings of a `table` ask for, and which of the table's columns each modality has."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from g2d_pipeline.config import SPLITS, IngestSettings, SplitFractions, Table, is_selector
from g2d_pipeline.errors import SHOWN, ConfigError, DataError, data_error, did_you_mean, enumerated

if TYPE_CHECKING:
    from g2d_pipeline.sources.table import Tables
    from g2d_pipeline.sources.table.frame import RawTable  # pandas, which a start-up does without

RESERVED = ("sample_id", "split", "target", "group")  # columns of every manifest


def kind_of(settings: IngestSettings, modality: str) -> str:
    """Its kind; where the settings do not say, `file` for one column of its own name, else `tabular`."""
    default = "file" if settings.columns[modality] == [modality] else "tabular"
    return settings.kinds.get(modality, default)


def check_settings(settings: IngestSettings, raw: Table, tables: Tables) -> None:
    """ConfigError where the settings contradict one another; nothing of this needs the table's cells."""
    for problem in _contradictions(settings, raw, tables):
        raise ConfigError(f"{settings.dataset}: {problem}")


def _contradictions(settings: IngestSettings, raw: Table, tables: Tables) -> Iterator[str]:
    split = raw.split or SplitFractions()
    if None not in tables.values() and raw.split is not None:
        if len(tables) == len(SPLITS):
            remedy = "remove `split`, or name one table of all rows under `table`."
            yield f"raw.split is set, and there is a table for each split ({', '.join(tables)}): {remedy}"
        if any(x is not None for x in (split.column, split.test, split.folds)):
            remedy = "remove column, test and folds under raw.split; val is drawn from train."
            yield f"{' and '.join(tables)} say what train and test are: {remedy}"
    for modality in raw.columns:
        if modality not in settings.columns:
            hint, known = did_you_mean(modality, settings.columns), ", ".join(settings.columns)
            yield f"raw.columns names {modality!r}, which is no modality.{hint} There are {known}."
        elif kind_of(settings, modality) == "tabular":
            owner = f"the tabular modality {modality!r}"
            yield f"raw.columns is for media and texts; {owner} has its own `columns`."
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
    uses = {raw.target: "the target", raw.id: "the id", split.column: "the split"}
    for modality, column in columns:
        if column in uses and modality not in raw.columns:
            yield f"column {column!r} is {uses[column]}: remove it from {modality!r}."
        if column in RESERVED:
            reserved = "a name that every manifest uses for itself: rename the column or modality."
            yield f"{column!r} of modality {modality!r} is {reserved}"
    if split.group == raw.target:
        yield f"split.group is the target {raw.target!r}: each class would be in one split only."


def own_columns(raw: Table) -> dict[str, str]:
    """The columns that `raw` itself names, but for those of modalities → what they are."""
    split, keys = raw.split or SplitFractions(), (join.keys[0] for join in raw.join if join.keys)
    names = (raw.target, raw.id, split.column, split.group, raw.group, *keys)
    uses: dict[str | None, str] = dict.fromkeys(names, "the split, a group or a key")
    uses |= {raw.target: "the target", raw.id: "the id"}
    return {name: use for name, use in uses.items() if name is not None}


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
    columns = known_columns(kinds, raw.columns, table)
    if missing := next((name for name in kinds if name not in columns), None):
        hint = did_you_mean(missing, table.names)
        remedy = f"say which one under raw: `columns: {{{missing}: <column>}}`; "
        remedy += f"without that it is one of {_common_names(missing, kinds)}."
        headline = f"{table.file} has no column of modality {missing!r}{f'.{hint}' if hint else '; it has'}"
        raise data_error(headline, [enumerated(table.names)], remedy + table.hint)
    return columns


def known_columns(kinds: Mapping[str, str], named: Mapping[str, str], table: RawTable) -> dict[str, str]:
    """Modality of media or text → its column, or its template, as of `find_columns`; those without one are
    left out. `kinds`: modality → its kind; `named`: what the settings say."""
    columns = {name: column for name, column in named.items() if name in kinds}
    names = table.names
    files = [name for name in names if name.endswith("_file_name")]
    for name in (name for name in kinds if name not in columns):
        likely = _common_names(name, kinds) + (files if name == _single(kinds) and len(files) == 1 else [])
        if matches := [column for column in likely if column in names]:
            columns[name] = matches[0]
    videos = [name for name in kinds if kinds[name] == "video"]
    if len(videos) == 1 and videos[0] in columns:
        for name in (name for name in kinds if kinds[name] == "audio" and name not in columns):
            columns[name] = columns[videos[0]]
            what = "the table has no column of its own for it"
            table.note(f"{name}: {what}, so it is the sound of {videos[0]!r}.")
    return {name: columns[name] for name in kinds if name in columns}


def _single(kinds: Mapping[str, str]) -> str | None:
    """The one medium that `file_name` can name: the only one, or a video whose sound the others are."""
    media = [name for name, kind in kinds.items() if kind != "text"]
    videos = [name for name in media if kinds[name] == "video"]
    audio = [name for name in media if kinds[name] == "audio"]
    one = media if len(media) == 1 else videos if len(audio) == len(media) - 1 else []
    return one[0] if len(one) == 1 else None


def _common_names(name: str, kinds: Mapping[str, str]) -> list[str]:
    """What a modality's column is commonly called, the most likely first."""
    kind = kinds[name]
    names = [name, kind] if list(kinds.values()).count(kind) == 1 and kind != "file" else [name]
    endings = [""] if kind == "text" else ["", "_file_name", "_file"]
    common = [f"{stem}{ending}" for stem in names for ending in endings]
    return list(dict.fromkeys(common)) + ["file_name"] * (name == _single(kinds))


# ---------------------------------------------------------------------------- patterns, ranges and exclusions
def select_columns(
    settings: IngestSettings, table: RawTable, modalities: Collection[str], uses: Mapping[str, str]
) -> IngestSettings:
    """The settings with names for all that stands for columns of the tabular `modalities`.

    `uses`: column → what else it is (the target, …): only its name selects it, no pattern. A name of the
    table is that column, whatever it looks like. The table notes what is selected and what is left out.
    Raises DataError for what matches nothing, for unknown ends of ranges, and for columns selected twice."""
    entries = {m: settings.columns[m] for m in modalities}
    if not any(is_selector(entry) for listed in entries.values() for entry in listed):
        return settings
    known, named = set(table.names), dict[str, str]()
    for modality, listed in entries.items():
        names = [entry for entry in listed if entry in known or not is_selector(entry)]
        named |= dict.fromkeys(names, f"named by {modality!r}")
    reserved = dict.fromkeys(RESERVED, "a name that every manifest uses")
    selection = _Selection(table, known, {**named, **reserved, **uses})
    keys = dict.fromkeys(settings.categorical, "categorical") | dict.fromkeys(settings.dates, "dates")
    columns, kinds = dict(settings.columns), {"categorical": list[str](), "dates": list[str]()}
    for modality, listed in entries.items():
        parts, key = dict[str, list[str]](), "columns"
        for entry in listed:
            key = key if entry.startswith("!") else keys.get(entry, "columns")  # exclusions follow patterns
            parts.setdefault(key, []).append(entry)
        selected = {key: selection.select(modality, part) for key, part in parts.items()}
        columns[modality] = [name for part in selected.values() for name in part]
        kinds = {key: [*kinds[key], *selected.get(key, [])] for key in kinds}
    return settings.model_copy(update={"columns": columns, **kinds})


class _Selection:
    """What has been selected of the `known` columns so far: column → the entry that did."""

    def __init__(self, table: RawTable, known: Collection[str], uses: Mapping[str, str]) -> None:
        self.table, self.names, self.known, self.uses = table, table.names, known, uses
        self.by: dict[str, str] = {}

    def select(self, modality: str, entries: Iterable[str]) -> list[str]:
        """The columns of one list of a modality."""
        selected: dict[str, None] = {}
        for entry in entries:
            where = f"modality {modality!r}: {entry!r}"
            if entry in self.known or not is_selector(entry):
                matches = [entry]
            elif entry.startswith("!"):
                if not (matches := [name for name in self._match(entry[1:], where) if name in selected]):
                    raise self._nothing(f"{where} excludes nothing", entry[1:], selected)
                for name in matches:
                    del selected[name], self.by[name]
                continue
            else:
                every = self._match(entry, where)
                left = [f"{name!r} ({self.uses[name]})" for name in every if name in self.uses]
                if not (matches := [name for name in every if name not in self.uses]):
                    also = f" but what is used elsewhere, {enumerated(left, SHOWN)}" if left else ""
                    raise self._nothing(f"{where} matches no column{also}", entry, self.names)
                out_of_it = f"; left out: {enumerated(left, SHOWN)}" if left else ""
                first_last = " to ".join(map(repr, dict.fromkeys((matches[0], matches[-1]))))
                self.table.note(f"{where} is {first_last} (columns: {len(matches):,}){out_of_it}.")
            if double := [name for name in matches if name in self.by]:
                lines = [f"{name!r}, by {self.by[name]!r} and {entry!r}" for name in double]
                remedy = f'name each column once, or exclude it from a pattern: `"!{double[0]}"` behind it.'
                raise self.table.error("columns that are selected twice", lines, remedy)
            selected |= dict.fromkeys(matches)
            self.by |= dict.fromkeys(matches, entry)
        return list(selected)

    def _match(self, pattern: str, where: str) -> list[str]:
        """The columns that a pattern, a range or a name means, in the table's order. The columns of a range
        `first..last` are those between: by their names' numbers, where both ends are such; else by place."""
        if pattern in self.known:
            return [pattern]
        if "*" in pattern:
            form = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
            return [name for name in self.names if form.fullmatch(name)]
        if ".." not in pattern:
            return []
        ends = [end.strip() for end in pattern.split("..", 1)]
        numbers = {name: value for name in self.names if (value := finite_number(name)) is not None}
        numeric = all(finite_number(end) is not None for end in ends)
        places = numbers if numeric else {name: float(i) for i, name in enumerate(self.names)}
        first, last = (float(end) if numeric else places.get(end, -1) for end in ends)
        for end, place in zip(ends, (first, last), strict=True):
            if place not in places.values():
                hint = did_you_mean(end, self.names)
                if numeric and numbers:
                    hint = f" The nearest is {min(numbers, key=lambda n: abs(numbers[n] - float(end)))!r}."
                headline = f"{where}: {self.table.file} has no column {end!r}, an end of the range"
                raise data_error(headline, [], f"name two columns, as in `454..950`.{hint}")
        if not (matches := [name for name, place in places.items() if first <= place <= last]):
            remedy = f"write {ends[1]}..{ends[0]}."
            raise data_error(f"{where}: {ends[0]!r} comes after {ends[1]!r}", [], remedy)
        return matches

    def _nothing(self, headline: str, pattern: str, known: Iterable[str]) -> DataError:
        hint = did_you_mean(pattern.replace("*", ""), known)
        return data_error(headline, [], f"correct it.{hint} {self.table.file} has: {enumerated(self.names)}.")


def finite_number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
