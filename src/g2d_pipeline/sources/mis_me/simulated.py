"""A simulated MIS-ME folder (datasets.md §5.6): strong pictures, a weak table, blemishes of real copies."""

import datetime
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openpyxl
from PIL import Image

from g2d_pipeline.config import SPLITS, Split
from g2d_pipeline.sources.mis_me import IMAGE_FOLDER, LABEL_FOLDER, WEATHER

STATIONS = ("OK001", "OK002", "OK003")
SHARES = (365, 241, 294)  # of the published test set
BLANKS = 0.03
BLANK_COLUMN, BLANK_STATION = "barometric_pressure", "OK002"
HEADER = ("timestamp", "station", "image", "vwc", *WEATHER)
DRY, WET = np.array([168.0, 128.0, 92.0]), np.array([66.0, 46.0, 32.0])  # RGB
HUES = {"OK001": (1.06, 1.0, 0.94), "OK002": (0.97, 1.0, 1.07), "OK003": (1.0, 0.97, 1.0)}
EPOCH = datetime.datetime(2020, 4, 1)
ZIP_TIME = (1980, 1, 1, 0, 0, 0)

Pixels = npt.NDArray[np.float64]


def make(folder: Path, rows: Mapping[Split, int], seed: int) -> None:
    """Write six XLSX files and an image a row into the existing folder; equal arguments give equal bytes.

    `rows`: how many train, val and test have."""
    (folder / IMAGE_FOLDER).mkdir(parents=True)
    (folder / LABEL_FOLDER).mkdir(parents=True)
    for k, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, k])
        wetness, lines = _rows(split, rows[split], rng)
        for w, cells in zip(wetness, lines, strict=True):
            draw_patch(w, HUES[cells[1]], rng).save(folder / IMAGE_FOLDER / cells[2], quality=88)
        mixed = [lines[i] for i in rng.permutation(len(lines))]
        write_xlsx(folder / LABEL_FOLDER / f"combined_only_{split}_set.xlsx", HEADER, mixed)
        for station in STATIONS if split == "test" else ():
            at_station = [cells for cells in mixed if cells[1] == station]
            write_xlsx(folder / LABEL_FOLDER / f"{station}_only_test_set.xlsx", HEADER, at_station)


def write_xlsx(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A workbook of one sheet whose bytes depend on its cells alone: no clock, no compression."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.title = "Sheet1"
    for cells in (header, *rows):
        sheet.append(list(cells))
    book.properties.creator = "g2d-pipeline (simulated)"
    book.properties.created = EPOCH
    buffer = io.BytesIO()
    book.save(buffer)  # stamps the current time into docProps/core.xml and every entry of the archive
    now = book.properties.modified
    stamp, fixed = (f"{t:%Y-%m-%dT%H:%M:%SZ}".encode() for t in (now, EPOCH))
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist(), key=lambda n: (n != "[Content_Types].xml", n)):
            content = source.read(name)
            if name == "docProps/core.xml":
                content = content.replace(stamp, fixed)
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system, info.external_attr = 3, 0o600 << 16
            target.writestr(info, content)


def draw_patch(wetness: float, hue: Sequence[float], rng: np.random.Generator) -> Image.Image:
    """Soil, 60 to 400 pixels a side: brown that darkens with `wetness`, clods, grain, one shadow."""
    width, height = (int(n) for n in np.exp(rng.uniform(np.log(60), np.log(400), 2)))
    tone = DRY + (WET - DRY) * np.clip(wetness + rng.normal(0, 0.08), 0, 1)
    clods = _smooth(rng, height, width, cells=9) * 0.16 + _smooth(rng, height, width, cells=28) * 0.10
    light = 1 + clods + rng.normal(0, 0.035, (height, width))
    light *= 1 - 0.45 * rng.uniform() * (_ramp(rng, height, width) > rng.uniform(0.55, 1.0))
    pixels = tone * np.asarray(hue) * light[..., None] * rng.normal(1, 0.04)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def _rows(split: Split, count: int, rng: np.random.Generator) -> tuple[list[float], list[tuple[Any, ...]]]:
    """What each image shows, in [0, 1], and the cells of its row."""
    wetness: list[float] = []
    lines: list[tuple[Any, ...]] = []
    for station, n in zip(STATIONS, _shares(count), strict=True):
        for k, w in enumerate(rng.beta(1.6, 1.6, n)):
            when = EPOCH + datetime.timedelta(hours=int(rng.integers(0, 550)) * 24 + int(rng.integers(8, 18)))
            vwc = round(float(np.clip(0.08 + 0.37 * w + rng.normal(0, 0.008), 0.08, 0.45)), 4)
            weather: list[float | None] = [*_weather(w, rng)]
            for i, column in enumerate(WEATHER):
                blank = rng.uniform() < BLANKS or (column, station) == (BLANK_COLUMN, BLANK_STATION)
                if blank and lines:  # the first row keeps every column filled somewhere in train
                    weather[i] = None
            image = f"{station}_{split}_{k:04d}_{when:%Y%m%d%H}.jpg"
            lines.append((f"{when:%Y-%m-%d %H:%M}", station, image, vwc, *weather))
            wetness.append(float(w))
    return wetness, lines


def _weather(wetness: float, rng: np.random.Generator) -> list[float]:
    """The eight columns in their usual ranges; only humidity and rain know a little of the soil's water."""
    wet = wetness - 0.5
    humidity = np.clip(0.58 + 0.42 * wet + rng.normal(0, 0.14), 0.1, 1.0)
    rain = rng.exponential(3.0) + 4 * wetness if rng.uniform() < 0.05 + 0.45 * wetness else 0.0
    values = [
        np.clip(18 + rng.normal(0, 9), -10, 40),  # °C
        humidity,  # fraction
        min(rain, 40.0),  # mm
        1100 * rng.beta(2, 2.5),  # W/m²
        np.clip(rng.gamma(2.2, 1.8), 0, 15),  # m/s
        np.clip(97.5 + rng.normal(0, 0.8), 95, 100),  # kPa
        np.clip(rng.normal(0, 1), -3, 3),  # degrees
        np.clip(rng.normal(0, 1), -3, 3),
    ]
    return [round(float(v), 3) for v in values]


def _shares(count: int) -> list[int]:
    """`count` rows shared among the stations like the published test set (largest remainders)."""
    exact = [count * share / sum(SHARES) for share in SHARES]
    whole = [int(e) for e in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: count - sum(whole)]:
        whole[i] += 1
    return whole


def _smooth(rng: np.random.Generator, height: int, width: int, cells: int) -> Pixels:
    """Smooth noise [height, width] in about [-1, 1]: `cells` × `cells` values, enlarged."""
    small = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float64)


def _ramp(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A ramp [height, width] from 0 to 1 in a random direction."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = x * np.cos(angle) + y * np.sin(angle)
    return np.asarray((ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-9))
