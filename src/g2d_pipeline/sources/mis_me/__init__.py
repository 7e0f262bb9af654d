"""MIS-ME: XLSX label files and a flat folder of soil patches → volumetric water content (datasets.md §5)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.config import IngestSettings, Split
from g2d_pipeline.config.layouts import MISME
from g2d_pipeline.errors import SHOWN, ConfigError, DataError, data_error
from g2d_pipeline.sources.cells import parse_number
from g2d_pipeline.sources.faults import BadRow, few
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.mis_me.folder import IMAGE_FOLDER, WEATHER, find_images, find_labels, images_in
from g2d_pipeline.sources.simulated import Simulated

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.sources.spreadsheet import Sheet

TARGET, IMAGE = "vwc", "image"
TINY = 0.01  # a water content below makes the percentage error explode
SPARSE = 0.1  # share of blanks worth a note

FORMS = {  # of cells, worth a note
    "mark": "marks such as NaN or -9999 are read as missing",
    "text": "numbers are stored as text, and read as numbers",
}
# column → split → [rows of the sheet], NaN = missing
Values = Mapping[str, Mapping[Split, Sequence[float]]]


class MISMELayout(Layout[MISME]):
    task = "regression"
    modalities = ("image", "tabular")
    tables = ("tabular",)
    simulated = Simulated(
        "MIS-ME (Rakib et al., DSAA 2024)",
        "the pictures are brown noise\nthat darkens with water, the weather is drawn at random.",
    )
    sample_note = "simulated pictures and weather in MIS-ME's layout; no number from it means anything."

    def expected(self) -> str:
        return (
            f"put the MIS-ME release *with weather columns* (the second, of 27 June; not v1) under "
            f"{self.raw.raw_dir}: {IMAGE_FOLDER}/<pictures> and "
            "labels/classification/combined_only_{train,val,test}_set.xlsx."
        )

    def raw_files(self) -> list[Path]:
        """The label files and all images; empty where there are no label files."""
        labels = [f for f in self.files if f.endswith("_set.xlsx")]
        return [self.root / f for f in sorted([*labels, *images_in(self.files)])] if labels else []

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """The published split; image paths, the table's columns as configured, `vwc`, and `station` if known.

        Rows whose image or target is missing are dropped while their share is at most `max_bad_fraction`.
        Raises DataError for all else that is wrong, with file, row (header = row 1), column and remedy."""
        import pandas as pd

        from g2d_pipeline.sources.spreadsheet import read_sheet

        root, files = self.root, self.files
        names = _table_columns(settings)
        labels, station_files = find_labels(files, root, self.expected())
        images = find_images(files, root, self.expected()) if columns else None
        required = [IMAGE, TARGET, *names]
        hint = " MIS-ME's first release (v1) has no weather columns: take the second (27 June)."
        hint = hint if set(WEATHER) & set(names) else ""
        sheets = {split: read_sheet(root / f, f, required, hint) for split, f in labels.items()}
        notes: list[str] = []
        _note_layout(sheets, required, notes)
        numbers = _numbers(sheets, [TARGET, *names], notes)
        _check_targets(sheets, numbers[TARGET], notes)
        _check_blank_columns(sheets["train"], numbers, names, notes)

        rows: list[dict[str, Any]] = []
        bad: list[BadRow] = []
        for split, sheet in sheets.items():
            for i, ((row, _), cell) in enumerate(zip(sheet.rows, sheet.column(IMAGE), strict=True)):
                name = _name(cell)
                target = numbers[TARGET][split][i]
                if name is None:
                    bad.append(BadRow(sheet.file, row, "no picture is named in column 'image'"))
                elif images and (fault := images.fault(name, hints=len(bad) < SHOWN)):
                    bad.append(BadRow(sheet.file, row, fault))
                elif math.isnan(target):
                    bad.append(BadRow(sheet.file, row, f"no value in column {TARGET!r}"))
                else:
                    values = {c: numbers[c][split][i] for c in names}
                    rows.append({"split": split, "target": target, "name": name, "row": row} | values)
        remedy = f"correct these rows, or the pictures in {root / images.folder if images else root}"
        dropped = self.drop_or_raise(bad, len(rows) + len(bad), settings, "rows", remedy)

        table = pd.DataFrame(rows, columns=["name", "row", "split", "target", *names])
        table = table.astype(dict.fromkeys(["target", *names], "float64"))
        pictures, splits, places = table["name"], table["split"], table["row"].astype(str)
        # the picture's name; where that is repeated, split and row are added from the second time on
        further = pictures + "@" + splits + ":" + places
        table["sample_id"] = pictures.mask(pictures.duplicated(), further)
        order = ["sample_id", "split", "target", *columns.values(), *names]
        for column in columns.values():
            table[column] = f"{images.folder}/" + pictures if images else ""
        _note_repeats(table, notes)
        if stations := _stations(root, station_files, pictures[splits == "test"], notes):
            table["station"] = pictures.map(stations).where(splits == "test").fillna("")
            order.append("station")
        return Samples(table[order], dropped=dropped, notes=notes)


def _table_columns(settings: IngestSettings) -> list[str]:
    table = settings.columns.get("tabular", [])
    if leaks := [c for c in table if c in (TARGET, IMAGE) or c.startswith("soil_")]:
        raise ConfigError(
            f"{settings.dataset}: modalities.tabular.columns must not hold {', '.join(leaks)}: "
            "neither the target nor what is measured in the soil with it."
        )
    return table


def _name(cell: Any) -> str | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _note_layout(sheets: Mapping[Split, Sheet], required: Sequence[str], notes: list[str]) -> None:
    for sheet in sheets.values():
        notes += sheet.notes
        if not sheet.rows:
            remedy = "replace the file by a whole copy."
            raise data_error(f"{sheet.file} has a header but no rows", [], remedy)
        if empty := sheet.empty_rows:
            rows = few(empty, " …")
            notes.append(f"{sheet.file}: {len(empty)} wholly empty rows are left out (row {rows}).")
    if ignored := dict.fromkeys(h for s in sheets.values() for h in s.headers if h and h not in required):
        notes.append(f"Columns of the label files that are not used: {', '.join(ignored)}.")


def _numbers(sheets: Mapping[Split, Sheet], columns: Sequence[str], notes: list[str]) -> Values:
    """The columns as numbers. Raises DataError naming the cells that are none."""
    values: dict[str, dict[Split, list[float]]] = {}
    faults: list[str] = []
    for column in columns:
        values[column] = {split: [] for split in sheets}
        forms: Counter[str] = Counter()
        for split, sheet in sheets.items():
            for i, cell in enumerate(sheet.column(column)):
                try:
                    value, form = parse_number(cell)
                except ValueError as error:
                    faults.append(f"{sheet.cell(i, column)}: {error}")
                else:
                    values[column][split].append(value)
                    forms[form] += 1
        noted = [f"{forms[form]} {what}" for form, what in FORMS.items() if forms[form]]
        notes += [f"Column {column!r}: {note}." for note in noted]
    if faults:
        remedy = "correct these cells; leave them blank where unknown."
        raise data_error("Cells that are not numbers", faults, remedy)
    return values


def _check_targets(
    sheets: Mapping[Split, Sheet], targets: Mapping[Split, Sequence[float]], notes: list[str]
) -> None:
    cells = [(sheet, i, y) for split, sheet in sheets.items() for i, y in enumerate(targets[split])]
    if above := [f"{sheet.cell(i, TARGET)}: {y:g}" for sheet, i, y in cells if y > 1]:
        fraction = "volumetric water content is a fraction (m³/m³) below 1"
        remedy = f"{fraction}: divide the column {TARGET!r} by 100."
        raise data_error("Water contents above 1, as if in percent", above, remedy)
    if below := [f"{sheet.cell(i, TARGET)}: {y:g}" for sheet, i, y in cells if y <= 0]:
        remedy = "the percentage error divides by the target: remove these rows, or recalibrate the probe."
        raise data_error("Water contents of zero or below", below, remedy)
    if tiny := sum(y < TINY for _, _, y in cells):
        large = "the mean absolute percentage error will be large there"
        notes.append(f"{tiny} water contents are below {TINY}: {large}.")


def _check_blank_columns(train: Sheet, numbers: Values, columns: Sequence[str], notes: list[str]) -> None:
    missing, total = {c: sum(map(math.isnan, numbers[c]["train"])) for c in columns}, len(train.rows)
    if blank := [c for c in columns if missing[c] == total]:
        headline = f"{train.file}: columns that are blank in all {total} rows"
        remedy = "remove it from modalities.tabular.columns, or fill it."
        raise data_error(headline, blank, f"there is no mean to fill blanks with: {remedy}")
    sparse = [c for c in columns if missing[c] > SPARSE * total]
    notes += [f"Column {c!r} is blank in {missing[c]} of {total} rows of train." for c in sparse]


def _note_repeats(table: pd.DataFrame, notes: list[str]) -> None:
    splits = table.groupby("name", sort=False)["split"].agg(["size", "nunique"])
    crossing, within = splits["nunique"] > 1, splits["size"] > splits["nunique"]
    for repeated, where in ((crossing, "more than one split"), (within, "more than one row of a split")):
        if repeated.any():
            names = splits.index[repeated].tolist()
            notes.append(f"{len(names)} pictures are in {where}, e.g. {few(names)}.")


def _stations(
    root: Path, files: Mapping[str, str], tested: pd.Series[str], notes: list[str]
) -> dict[str, str]:
    """image → station; only the station files tell, for reports alone. `tested`: the test set's images."""
    from g2d_pipeline.sources.spreadsheet import read_sheet

    stations: dict[str, str] = {}
    for station, file in files.items():
        try:
            sheet = read_sheet(root / file, file, [IMAGE])
        except DataError as error:
            headline = str(error).splitlines()[0].rstrip(":.")
            notes.append(f"Station {station} is left out of the column 'station': {headline}.")
            continue
        for name in map(_name, sheet.column(IMAGE)):
            if name is not None:
                stations.setdefault(name, station)
    unknown = int((~tested.isin(list(stations))).sum())
    if stations and unknown:
        notes.append(f"{unknown} test pictures are in no station file; their station is left blank.")
    return stations
