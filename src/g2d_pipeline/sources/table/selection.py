"""Which columns of a table patterns, ranges and exclusions select (`config.features.is_selector`)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from g2d_pipeline.config.features import is_selector
from g2d_pipeline.errors import SHOWN, DataError, data_error, did_you_mean, enumerated

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings
    from g2d_pipeline.sources.table.frame import RawTable

REMEDY = 'name each column once, or exclude it from a pattern: `"!{name}"` behind it.'


def select_columns(
    settings: IngestSettings, table: RawTable, modalities: Collection[str], uses: Mapping[str, str]
) -> IngestSettings:
    """The settings with names for all that stands for columns of the tabular `modalities`.

    `uses`: column → what else it is (the target, …): only its name selects it, no pattern. A name of the
    table is that column, whatever it looks like. The table notes what is selected and what is left out.
    Raises DataError for what matches nothing, for unknown ends of ranges, and for columns selected twice."""
    entries = {m: settings.columns[m] for m in modalities}
    if not any(is_selector(entry) for own in entries.values() for entry in own):
        return settings
    written = {
        e: f"named by {m!r}"
        for m, own in entries.items()
        for e in own
        if e in table.data or not is_selector(e)
    }
    selection = _Selection(table, {**written, **uses})
    by_key: dict[str, list[str]] = {"columns": [], "categorical": [], "dates": []}
    columns = dict(settings.columns)
    for modality, own in entries.items():
        columns[modality] = []
        for key, part in _by_key(settings, own):
            selected = selection.of(modality, part)
            columns[modality] += selected
            by_key[key] += selected
    kinds = {key: by_key[key] for key in ("categorical", "dates")}
    return settings.model_copy(update={"columns": columns, **kinds})


def _by_key(settings: IngestSettings, entries: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    """The entries of a modality in parts, each with its key; an exclusion has that of what it follows."""
    keys = dict.fromkeys(settings.categorical, "categorical") | dict.fromkeys(settings.dates, "dates")
    parts: list[tuple[str, list[str]]] = []
    for entry in entries:
        key = parts[-1][0] if entry.startswith("!") and parts else keys.get(entry, "columns")
        if not parts or parts[-1][0] != key:
            parts.append((key, []))
        parts[-1][1].append(entry)
    return parts


class _Selection:
    """What has been selected so far: column → the entry that did."""

    def __init__(self, table: RawTable, uses: Mapping[str, str]) -> None:
        self.table, self.names, self.uses = table, table.names, uses
        self.known = set(self.names)
        self.by: dict[str, str] = {}

    def of(self, modality: str, entries: Iterable[str]) -> list[str]:
        """The columns of one list of a modality."""
        own: dict[str, str] = {}
        for entry in entries:
            where = f"modality {modality!r}: {entry!r}"
            if entry in self.known or not is_selector(entry):
                self._add(own, [entry], entry)
            elif entry.startswith("!"):
                if not (out := [name for name in self._match(entry[1:], where) if name in own]):
                    raise self._nothing(f"{where} excludes nothing", entry[1:], own)
                for name in out:
                    del own[name], self.by[name]
            else:
                matches = self._match(entry, where)
                left = [f"{name!r} ({self.uses[name]})" for name in matches if name in self.uses]
                matches = [name for name in matches if name not in self.uses]
                if not matches:
                    also = f" but what is used elsewhere, {enumerated(left, SHOWN)}" if left else ""
                    raise self._nothing(f"{where} matches no column{also}", entry, self.names)
                self._add(own, matches, entry)
                out_of_it = f"; left out: {enumerated(left, SHOWN)}" if left else ""
                first_last = " to ".join(map(repr, dict.fromkeys((matches[0], matches[-1]))))
                self.table.note(f"{where} is {first_last} (columns: {len(matches):,}){out_of_it}.")
        return list(own)

    def _add(self, own: dict[str, str], names: Iterable[str], entry: str) -> None:
        if double := [f"{n!r}, by {self.by[n]!r} and {entry!r}" for n in names if n in self.by]:
            remedy = REMEDY.format(name=double[0].split("'")[1])
            raise data_error(f"{self.table.file}: columns that are selected twice", double, remedy)
        own |= dict.fromkeys(names, entry)
        self.by |= dict.fromkeys(names, entry)

    def _match(self, pattern: str, where: str) -> list[str]:
        """The columns that a pattern, a range or a name means, in the table's order."""
        if pattern in self.known:
            return [pattern]
        if "*" not in pattern:
            return self._between(pattern, where) if ".." in pattern else []
        form = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
        return [name for name in self.names if form.fullmatch(name)]

    def _between(self, pattern: str, where: str) -> list[str]:
        """The columns of `first..last`: where both are numbers, those whose names are numbers between them;
        else those that stand between them."""
        ends = [end.strip() for end in pattern.split("..", 1)]
        numbers = {name: value for name in self.names if (value := _number(name)) is not None}
        values = [_number(end) for end in ends]
        numeric = None not in values
        for end, value in zip(ends, values, strict=True):
            if not (value in numbers.values() if numeric else end in self.known):
                hint = did_you_mean(end, self.names)
                if numeric and numbers:
                    hint = f" The nearest is {min(numbers, key=lambda n: abs(numbers[n] - (value or 0)))!r}."
                headline = f"{where}: {self.table.file} has no column {end!r}, an end of the range"
                raise data_error(headline, [], f"name two columns, as in `454..950`.{hint}")
        places = numbers if numeric else {name: float(i) for i, name in enumerate(self.names)}
        first, last = values if numeric else [places[end] for end in ends]
        if not (matches := [name for name, at in places.items() if (first or 0) <= at <= (last or 0)]):
            remedy = f"write {ends[1]}..{ends[0]}."
            raise data_error(f"{where}: {ends[0]!r} comes after {ends[1]!r}", [], remedy)
        return matches

    def _nothing(self, headline: str, pattern: str, known: Iterable[str]) -> DataError:
        hint = did_you_mean(pattern.replace("*", ""), known)
        return data_error(headline, [], f"correct it.{hint} {self.table.file} has: {enumerated(self.names)}.")


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
