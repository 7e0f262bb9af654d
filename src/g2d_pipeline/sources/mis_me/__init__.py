"""MIS-ME: XLSX label files and a flat folder of soil patches → volumetric water content (datasets.md §5)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from g2d_pipeline.config import SPLITS, IngestSettings, Split
from g2d_pipeline.config.layouts import MISME
from g2d_pipeline.errors import SHOWN, ConfigError, DataError, data_error, did_you_mean, media_fault
from g2d_pipeline.sources.cells import parse_number
from g2d_pipeline.sources.faults import BadRow, few
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.simulated import Simulated

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.sources.spreadsheet import Sheet

IMAGE_FOLDER = "Dataset_Conf_0.5/all_three_stations/images"
LABEL_FOLDER = "labels/classification"
WEATHER = (
    "air_temperature", "relative_humidity", "precipitation", "solar_flux_density", "wind_speed",
    "barometric_pressure", "tilt_north_south", "tilt_west_east",
)  # fmt: skip
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
STATION = re.compile(r"(?P<station>.+)_only_test_set\.xlsx")
TARGET, IMAGE = "vwc", "image"
TINY = 0.01  # a water content below makes the percentage error explode
SPARSE = 0.1  # share of blanks worth a note

FORMS = {  # of cells, worth a note
    "mark": "marks such as NaN or -9999 are read as missing",
    "text": "numbers are stored as text, and read as numbers",
}


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

    @property
    def pictures(self) -> list[str]:
        """The files in the image folder, wherever that is."""
        return [f for f in self.files if f"/{IMAGE_FOLDER}/" in f"/{f}"]

    def raw_files(self) -> list[Path]:
        """The label files and all images; empty where there are no label files."""
        labels = [f for f in self.files if f.endswith("_set.xlsx")]
        return [self.root / f for f in sorted([*labels, *self.pictures])] if labels else []

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """The published split; image paths, the table's columns as configured, `vwc`, and `station` if known.

        Rows whose image or target is missing are dropped while their share is at most `max_bad_fraction`.
        Raises DataError for all else that is wrong, with file, row (header = row 1), column and remedy."""
        from g2d_pipeline.sources.spreadsheet import read_sheet

        names = settings.columns.get("tabular", [])
        if leaks := [c for c in names if c in (TARGET, IMAGE) or c.startswith("soil_")]:
            raise ConfigError(
                f"{settings.dataset}: modalities.tabular.columns must not hold {', '.join(leaks)}: "
                "neither the target nor what is measured in the soil with it."
            )
        labels, station_files = self._find_labels()
        images = self._find_images() if columns else None
        required = [IMAGE, TARGET, *names]
        hint = " MIS-ME's first release (v1) has no weather columns: take the second (27 June)."
        hint = hint if set(WEATHER) & set(names) else ""
        sheets = {split: read_sheet(self.root / f, f, required, hint) for split, f in labels.items()}
        notes: list[str] = []
        _note_layout(sheets, required, notes)
        table = _read_rows(sheets, names, notes)
        _check_targets(sheets, table, notes)
        _check_blank_columns(sheets["train"], table[table["split"] == "train"], names, notes)

        good: list[bool] = []
        bad: list[BadRow] = []
        for split, row, name, target in table[["split", "row", "name", "target"]].to_numpy():
            fault = f"no value in column {TARGET!r}" if math.isnan(target) else None
            if not isinstance(name, str):
                fault = "no picture is named in column 'image'"
            elif images:
                fault = images.fault(name, hints=len(bad) < SHOWN) or fault
            good.append(fault is None)
            bad += [BadRow(sheets[split].file, row, fault)] if fault else []
        where = self.root / images.folder if images else self.root
        remedy = f"correct these rows, or the pictures in {where}"
        dropped = self.drop_or_raise(bad, len(table), settings, "rows", remedy)

        table = table[good].reset_index(drop=True)
        pictures, splits, places = table["name"], table["split"], table["row"].astype(str)
        # the picture's name; where that is repeated, split and row are added from the second time on
        further = pictures + "@" + splits + ":" + places
        table["sample_id"] = pictures.mask(pictures.duplicated(), further)
        order = ["sample_id", "split", "target", *columns.values(), *names]
        for column in columns.values():
            table[column] = f"{images.folder}/" + pictures if images else ""
        _note_repeats(table, notes)
        if stations := _stations(self.root, station_files, pictures[splits == "test"], notes):
            table["station"] = pictures.map(stations).where(splits == "test").fillna("")
            order.append("station")
        return Samples(table[order], dropped=dropped, notes=notes)

    def _find_labels(self) -> tuple[dict[Split, str], dict[str, str]]:
        """(split → its table, station → its test table), found by `*_train_set.xlsx` anywhere below `root`.

        DataError: there is none, more than one, or one of three is missing."""
        files, root = self.files, self.root
        tables = [f for f in files if f.endswith("_train_set.xlsx")]
        tables = [f for f in tables if PurePosixPath(f).name.startswith("combined")] or tables
        if not tables:
            others = [f for f in files if f.lower().endswith((".xlsx", ".xls", ".csv"))]
            headline = f"There is no *_train_set.xlsx below {root}" + ("; the tables there" if others else "")
            raise data_error(headline, others, self.expected())
        if len(tables) > 1:
            remedy = "keep one copy, or set raw_dir deeper."
            raise data_error(f"Several train sets below {root}", tables, remedy)
        splits = {split: f"{tables[0].removesuffix('train_set.xlsx')}{split}_set.xlsx" for split in SPLITS}
        if missing := [f"{f}.{did_you_mean(f, files)}" for f in splits.values() if f not in files]:
            raise data_error(f"Label files are missing in {root}", missing, self.expected())
        folder = tables[0].rpartition("/")[0]
        beside = [f for f in files if f.rpartition("/")[0] == folder and f not in splits.values()]
        matches = ((f, STATION.fullmatch(f.rpartition("/")[2])) for f in beside)
        return splits, {match["station"]: f for f, match in matches if match}

    def _find_images(self) -> Images:
        """The one image folder. Raises DataError naming the folders that hold images where it is not one."""
        root = self.root
        folders = sorted({f[: f"/{f}".index(f"/{IMAGE_FOLDER}/") + len(IMAGE_FOLDER)] for f in self.pictures})
        if len(folders) > 1:
            remedy = "keep one, or set raw_dir deeper."
            raise data_error(f"Several picture folders below {root}", folders, remedy)
        if not folders:
            others = sorted({f.rpartition("/")[0] or "." for f in self.files if f.lower().endswith(IMAGES)})
            what = "; pictures are in" if others else ", and no picture anywhere else"
            raise data_error(f"There is no picture in {root / IMAGE_FOLDER}{what}", others, self.expected())
        return Images(root, folders[0], [f.removeprefix(f"{folders[0]}/") for f in self.pictures])


class Images:
    """The flat folder of images: `names` in it, and what is wrong with a name that a table gives."""

    def __init__(self, root: Path, folder: str, names: Sequence[str]) -> None:
        self.root, self.folder, self.names = root, folder, set(names)
        self.plain = {_plain(name): name for name in names}

    def fault(self, name: str, hints: bool) -> str | None:
        """None: the image is there, and its first bytes are in order. `hints`: name the nearest (slow)."""
        if name in self.names:
            fault = media_fault(self.root / self.folder / name)
            return fault and f"picture {name!r}: {fault}"
        fault = f"picture {name!r} is not in the folder"
        if hints and (near := self.plain.get(_plain(name))) is not None:
            return f"{fault}; it is there as {near!r} ({_difference(name, near)})"
        return f"{fault}.{did_you_mean(name, self.names)}" if hints else fault


def _plain(name: str) -> str:
    """A name without folder, ending, blanks and case."""
    return re.sub(r"\s+", "", PurePosixPath(name.replace("\\", "/")).stem).casefold()


def _difference(name: str, near: str) -> str:
    if "/" in name or "\\" in name:
        return "the table has a folder before the name"
    if name.casefold() == near.casefold():
        return "upper and lower case differ"
    return "blanks differ" if re.sub(r"\s+", "", name) == re.sub(r"\s+", "", near) else "the ending differs"


def _name(cell: Any) -> str | None:
    """The name of a picture in a cell; None: it is blank."""
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


def _read_rows(sheets: Mapping[Split, Sheet], names: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """The rows of all sheets: `split`, `row` (as its sheet counts), `name` of the picture, `target` and the
    columns `names`, NaN = missing; indexed by place in the sheet. DataError: cells are no numbers."""
    import pandas as pd

    content: dict[str, list[Any]] = {
        "split": [split for split, sheet in sheets.items() for _ in sheet.rows],
        "row": [row for sheet in sheets.values() for row, _ in sheet.rows],
        "name": [_name(cell) for sheet in sheets.values() for cell in sheet.column(IMAGE)],
    }
    faults: list[str] = []
    for column in (TARGET, *names):
        values: list[float] = []
        forms: Counter[str] = Counter()
        for sheet in sheets.values():
            for i, cell in enumerate(sheet.column(column)):
                try:
                    value, form = parse_number(cell)
                except ValueError as error:
                    faults.append(f"{sheet.cell(i, column)}: {error}")
                else:
                    values.append(value)
                    forms[form] += 1
        content["target" if column == TARGET else column] = values
        noted = [f"{forms[form]} {what}" for form, what in FORMS.items() if forms[form]]
        notes += [f"Column {column!r}: {note}." for note in noted]
    if faults:
        remedy = "correct these cells; leave them blank where unknown."
        raise data_error("Cells that are not numbers", faults, remedy)
    index = [i for sheet in sheets.values() for i, _ in enumerate(sheet.rows)]
    return pd.DataFrame(content, index).astype(dict.fromkeys(["target", *names], "float64"))


def _check_targets(sheets: Mapping[Split, Sheet], table: pd.DataFrame, notes: list[str]) -> None:
    def places(wrong: pd.Series[bool]) -> list[str]:
        cells = table.loc[wrong, ["split", "target"]].itertuples(name=None)
        return [f"{sheets[split].cell(i, TARGET)}: {y:g}" for i, split, y in cells]

    targets = table["target"]
    if above := places(targets > 1):
        fraction = "volumetric water content is a fraction (m³/m³) below 1"
        remedy = f"{fraction}: divide the column {TARGET!r} by 100."
        raise data_error("Water contents above 1, as if in percent", above, remedy)
    if below := places(targets <= 0):
        remedy = "the percentage error divides by the target: remove these rows, or recalibrate the probe."
        raise data_error("Water contents of zero or below", below, remedy)
    if tiny := int((targets < TINY).sum()):
        large = "the mean absolute percentage error will be large there"
        notes.append(f"{tiny} water contents are below {TINY}: {large}.")


def _check_blank_columns(sheet: Sheet, train: pd.DataFrame, columns: Sequence[str], notes: list[str]) -> None:
    missing, total = train[list(columns)].isna().sum(), len(train)
    if blank := missing.index[missing == total].tolist():
        headline = f"{sheet.file}: columns that are blank in all {total} rows"
        remedy = "remove it from modalities.tabular.columns, or fill it."
        raise data_error(headline, blank, f"there is no mean to fill blanks with: {remedy}")
    sparse = missing[missing > SPARSE * total]
    notes += [f"Column {c!r} is blank in {count} of {total} rows of train." for c, count in sparse.items()]


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
