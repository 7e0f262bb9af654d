"""MIS-ME: XLSX label files and a flat folder of soil patches → volumetric water content (datasets.md §5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import SHOWN, ConfigError, DataError, data_error
from g2d_pipeline.sources.faults import BadRow, drop_or_raise, list_files, nearest
from g2d_pipeline.sources.mis_me_folder import IMAGE_FOLDER, find_labels, find_pictures, pictures_in
from g2d_pipeline.sources.simulated import data_dir

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings, Split
    from g2d_pipeline.sources.manifest import Manifest
    from g2d_pipeline.sources.spreadsheet import Sheet

MODALITIES = ("image", "tabular")
TARGET, IMAGE = "vwc", "image"
WEATHER = {
    "air_temperature", "relative_humidity", "precipitation", "solar_flux_density", "wind_speed",
    "barometric_pressure", "tilt_north_south", "tilt_west_east",
}  # fmt: skip
TINY = 0.01  # a water content below makes the percentage error explode
SPARSE = 0.1  # share of blanks worth a note


def expected(raw: LayoutSettings) -> str:
    return (
        f"put the MIS-ME release *with weather columns* (the second, of 27 June; not v1) under {raw.raw_dir}: "
        f"{IMAGE_FOLDER}/<pictures> and labels/classification/combined_only_{{train,val,test}}_set.xlsx."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The label files and all pictures; empty where there are no label files."""
    files = list_files(root, skip={"sample"})
    labels = [f for f in files if f.endswith("_set.xlsx")]
    return [root / f for f in sorted([*labels, *pictures_in(files)])] if labels else []


def read(settings: IngestSettings, root: Path) -> Manifest:
    """The published split; image paths, the table's columns in the configured order, `vwc`, and `station`
    where known.

    Rows whose picture or target is missing are dropped while their share is at most `max_bad_fraction`.
    Raises DataError for everything else that is wrong, with file, row (header = row 1), column and remedy.
    """
    import pandas as pd

    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.spreadsheet import read_sheet

    if settings.task != "regression":
        raise ConfigError(f"{settings.dataset}: layout mis_me is a regression, not a {settings.task}.")
    image_column, table_columns = _columns(settings)
    files = list_files(root, skip={"sample"})
    labels = find_labels(files, root, expected(settings.raw))
    pictures = find_pictures(files, root, expected(settings.raw)) if image_column else None
    required = [IMAGE, TARGET, *table_columns]
    sheets = {
        s: read_sheet(root / f, f, required, _release_hint(table_columns)) for s, f in labels.splits.items()
    }
    notes: list[str] = []
    _note_layout(sheets, required, notes)
    numbers = _numbers(sheets, [TARGET, *table_columns], notes)
    _check_targets(sheets, numbers[TARGET], notes)
    _check_blank_columns(sheets["train"], numbers, table_columns, notes)

    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    total = 0
    for split, sheet in sheets.items():
        for i, ((row, _), cell) in enumerate(zip(sheet.rows, sheet.column(IMAGE), strict=True)):
            total += 1
            name = _name(cell)
            y = numbers[TARGET][split][i]
            if name is None:
                bad.append(BadRow(sheet.file, row, "no picture is named in column 'image'"))
            elif pictures and (fault := pictures.fault(name, hints=len(bad) < SHOWN)):
                bad.append(BadRow(sheet.file, row, fault))
            elif math.isnan(y):
                bad.append(BadRow(sheet.file, row, f"no value in column {TARGET!r}"))
            else:
                values = {c: numbers[c][split][i] for c in table_columns}
                rows.append({"split": split, "target": y, "name": name, "row": row} | values)
    remedy = f"correct these rows, or the pictures in {root / pictures.folder if pictures else root}"
    if settings.source == "sample":
        remedy = f"delete {root}: the sample is made anew"
    dropped = drop_or_raise(bad, total, settings.max_bad_fraction, "rows", remedy)

    table = pd.DataFrame({"sample_id": _ids(rows), "split": [r["split"] for r in rows]})
    table["target"] = pd.Series([r["target"] for r in rows], dtype="float64")
    if image_column and pictures:
        table[image_column] = [f"{pictures.folder}/{r['name']}" for r in rows]
    for column in table_columns:
        table[column] = pd.Series([r[column] for r in rows], dtype="float64")
    _note_repeats(rows, notes)
    if stations := _stations(root, labels.stations, rows, notes):
        table["station"] = [stations.get(r["name"], "") if r["split"] == "test" else "" for r in rows]
    if settings.source == "sample":
        notes.insert(
            0, "SAMPLE: simulated pictures and weather in MIS-ME's layout; no number from it means anything."
        )
    return build(table, settings, raw_dir=data_dir(settings), dropped=dropped, notes=notes)


# ------------------------------------------------------------------------------------------ what is asked for
def _columns(settings: IngestSettings) -> tuple[str | None, list[str]]:
    """The manifest's column of the picture (None: not asked for) and the table's columns."""
    for name in settings.columns:
        if name not in MODALITIES:
            raise ConfigError(
                f"{settings.dataset}: layout mis_me has no modality {name!r}{nearest(name, MODALITIES)}; "
                f"it has {', '.join(MODALITIES)}. Rename or remove it under `modalities`."
            )
    table = settings.columns.get("tabular", [])
    if leaks := [c for c in table if c in (TARGET, IMAGE) or c.startswith("soil_")]:
        raise ConfigError(
            f"{settings.dataset}: modalities.tabular.columns must not hold {', '.join(leaks)}: "
            "neither the target nor what is measured in the soil with it."
        )
    if "image" in settings.columns and len(settings.columns["image"]) != 1:
        raise ConfigError(f"{settings.dataset}: modality 'image' has one column of paths.")
    return settings.columns.get("image", [None])[0], table


def _release_hint(columns: Sequence[str]) -> str:
    asked = WEATHER & set(columns)
    return " MIS-ME's first release (v1) has no weather columns: take the second (27 June)." if asked else ""


def _name(cell: Any) -> str | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


# -------------------------------------------------------------------------------------- what is in the tables
def _note_layout(sheets: Mapping[Split, Sheet], required: Sequence[str], notes: list[str]) -> None:
    for sheet in sheets.values():
        if not sheet.rows:
            raise data_error(
                f"{sheet.file} has a header but no rows", [], "replace the file by a whole copy."
            )
        if sheet.empty_rows:
            shown = ", ".join(map(str, sheet.empty_rows[:SHOWN])) + (
                " …" if len(sheet.empty_rows) > SHOWN else ""
            )
            notes.append(
                f"{sheet.file}: {len(sheet.empty_rows)} wholly empty rows are left out (row {shown})."
            )
    ignored = dict.fromkeys(h for sheet in sheets.values() for h in sheet.headers if h and h not in required)
    if ignored:
        notes.append(f"Columns of the label files that are not used: {', '.join(ignored)}.")


def _numbers(
    sheets: Mapping[Split, Sheet], columns: Sequence[str], notes: list[str]
) -> dict[str, dict[Split, list[float]]]:
    """column → split → values [rows of the sheet], NaN = missing."""
    from g2d_pipeline.sources.spreadsheet import read_numbers

    read = {c: {split: read_numbers(sheet, c) for split, sheet in sheets.items()} for c in columns}
    each = [n for by_split in read.values() for n in by_split.values()]
    if faults := [fault for n in each for fault in n.faults]:
        raise data_error(
            "Cells that are not numbers", faults, "correct these cells; leave them blank where unknown."
        )
    for c, by_split in read.items():
        if marks := sum(n.marks for n in by_split.values()):
            notes.append(f"Column {c!r}: {marks} marks such as NaN or -9999 are read as missing.")
        if texts := sum(n.texts for n in by_split.values()):
            notes.append(f"Column {c!r}: {texts} numbers are stored as text, and read as numbers.")
    return {c: {split: n.values for split, n in by_split.items()} for c, by_split in read.items()}


def _check_targets(
    sheets: Mapping[Split, Sheet], targets: Mapping[Split, Sequence[float]], notes: list[str]
) -> None:
    cells = [
        (sheet, i, y) for s, sheet in sheets.items() for i, y in enumerate(targets[s]) if not math.isnan(y)
    ]
    if percent := [f"{sheet.cell(i, TARGET)}: {y:g}" for sheet, i, y in cells if y > 1]:
        remedy = (
            f"volumetric water content is a fraction (m³/m³) below 1: divide the column {TARGET!r} by 100."
        )
        raise data_error("Water contents above 1, as if in percent", percent, remedy)
    if negative := [f"{sheet.cell(i, TARGET)}: {y:g}" for sheet, i, y in cells if y <= 0]:
        remedy = "the percentage error divides by the target: remove these rows, or recalibrate the probe."
        raise data_error("Water contents of zero or below", negative, remedy)
    if tiny := sum(y < TINY for _, _, y in cells):
        notes.append(
            f"{tiny} water contents are below {TINY}: the mean absolute percentage error will be large there."
        )


def _check_blank_columns(
    train: Sheet,
    numbers: Mapping[str, Mapping[Split, Sequence[float]]],
    columns: Sequence[str],
    notes: list[str],
) -> None:
    missing = {c: sum(map(math.isnan, numbers[c]["train"])) for c in columns}
    if blank := [c for c in columns if missing[c] == len(train.rows)]:
        remedy = "such a column has no mean to fill blanks with: remove it from modalities.tabular.columns, or fill it."
        raise data_error(f"{train.file}: columns that are blank in all {len(train.rows)} rows", blank, remedy)
    for c, count in missing.items():
        if count > SPARSE * len(train.rows):
            notes.append(f"Column {c!r} is blank in {count} of {len(train.rows)} rows of train.")


# ----------------------------------------------------------------------------------------------- what follows
def _ids(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The picture's name; where it is repeated, split and row are added from the second time on."""
    ids: list[str] = []
    seen: set[str] = set()
    for r in rows:
        name = r["name"] if r["name"] not in seen else f"{r['name']}@{r['split']}:{r['row']}"
        seen.add(name)
        ids.append(name)
    return ids


def _note_repeats(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> None:
    splits: dict[str, list[str]] = {}
    for r in rows:
        splits.setdefault(r["name"], []).append(r["split"])
    crossing = [name for name, found in splits.items() if len(set(found)) > 1]
    within = [name for name, found in splits.items() if len(found) > len(set(found))]
    for found, where in ((crossing, "more than one split"), (within, "more than one row of a split")):
        if found:
            notes.append(f"{len(found)} pictures are in {where}, e.g. {', '.join(found[:SHOWN])}.")


def _stations(
    root: Path, files: Mapping[str, str], rows: Sequence[Mapping[str, Any]], notes: list[str]
) -> dict[str, str]:
    """picture → station for the test set; only the station files tell, and they are for reports alone."""
    from g2d_pipeline.sources.spreadsheet import read_sheet

    stations: dict[str, str] = {}
    for station, file in files.items():
        try:
            sheet = read_sheet(root / file, file, [IMAGE])
        except DataError as error:
            headline = str(error).splitlines()[0].rstrip(":.")
            notes.append(f"Station {station} is left out of the column 'station': {headline}.")
            continue
        for cell in sheet.column(IMAGE):
            if (name := _name(cell)) is not None:
                stations.setdefault(name, station)
    unknown = sum(r["split"] == "test" and r["name"] not in stations for r in rows)
    if stations and unknown:
        notes.append(f"{unknown} test pictures are in no station file; their station is left blank.")
    return stations
