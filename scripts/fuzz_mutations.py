"""Raw folders for `fuzz_inputs.py`, and what is done to a file of them."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from g2d_pipeline.overrides import merge
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate
from g2d_pipeline.sources.layout import find_layout

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("G2D_SHARED_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
RUN = {"method": "unimodal", "compare": [], "device": "cpu", "progress": False, "workers": 1}
TEXT, TABLES = {".csv", ".tsv", ".txt", ".jsonl"}, {".csv", ".tsv", ".txt", ".jsonl", ".xlsx", ".parquet"}
ODD = [
    "", " ", "NA", "nan", "None", "-", "-9999", "inf", "1e400", "9" * 400, "1,5", "1.234,5", "12 345",
    "1_000", "0x1F", "5%", "−5", "\uff11\uff12", "=1+1", "#REF!", "TRUE", "2024-02-30", "a\nb", 'say "x', "'",
    "\x00", "\ufeff", "\u200b", "e\u0301", "😀", "a" * 70_000, "../../etc/passwd", "/etc/hostname", "<b>",
    "#1", "x#-1", ".",
]  # fmt: skip
FRAGILE = {"11", "17", "18", "19", "20", "21"}  # tables that a library's writer would mend
SUFFIXES = [".csv", ".xlsx", ".parquet", ".npy", ".wav", ".mp3", ".mp4", ".jpg", ".png", ".gz", ""]
BYTES = ["truncated", "flipped", "flipped at the start", "appended", "emptied", "removed", "other content"]
BYTES += ["other suffix"]
LINES = ["encoding", "line ends", "separator"]
COLUMNS = ["shuffled columns", "renamed column", "dropped column"]
ROWS = ["shuffled rows", "repeated rows", "dropped rows", "odd cell"]


# ------------------------------------------------------------------------------------------------ data sets
@dataclass
class Base:
    """A raw folder to mutate. `loose`: one row or file bears on all samples (rows are numbered, recordings
    paired), so that counts alone are compared."""

    name: str
    section: dict[str, Any]
    make: Callable[[Path], object]
    loose: bool = False

    def settings(self, project: Path) -> Any:
        section = merge(copy.deepcopy(self.section), {"raw": {"raw_dir": "raw"}})
        files = RUN | {"dataset": self.name, "datasets": {self.name: section}}
        return resolve(files, {}, lambda r, s: locate(r, s, project), project=project)


def shipped(name: str, make: Callable[[Path], object] | None = None, loose: bool = False, **raw: Any) -> Base:
    """A data set by its shipped YAML and, without `make`, its simulated sample as raw folder."""
    text = (REPOSITORY / f"conf/base/parameters_{name}.yml").read_text("utf-8")
    section = yaml.safe_load(text)["datasets"][name]
    section = merge(merge(section, section.pop("sample", {})), {"raw": raw})

    def simulate(folder: Path) -> None:
        folder.mkdir()
        find_layout(base.settings(folder.parent).dataset.raw, folder).make_sample(folder)

    base = Base(name, section, make or simulate, loose)
    return base


def own(name: str, make: Callable[[Path], object], table: str, **modalities: Any) -> Base:
    raw = {"layout": "table", "table": table, "target": "label", "split": {"val": 0.2, "test": 0.2}}
    section = {"raw": raw, "task": "classification", "modalities": modalities, "max_bad_fraction": 0.3}
    return Base(name, section, make)


def copies(to: Path, *patterns: str) -> Path:
    """Files of the shared data, below `to` as below the first folder of their pattern."""
    for pattern in patterns:
        source, _, rest = pattern.partition("/")
        for path in (DATA / source).glob(rest):
            place = to / path.relative_to(DATA / source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return to


def houses(to: Path) -> None:
    copies(to, "houses/HousesInfo.txt", *(f"houses/images/{row}_frontal.jpg" for row in range(1, 25)))
    table = to / "HousesInfo.txt"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:24]))


def moisture(to: Path) -> None:
    copies(to, "soil_moisture_weather/soil/CAF1*.txt", "soil_moisture_weather/*.csv")
    for path in to.glob("soil/*"):
        head, *lines = path.read_text().splitlines(keepends=True)
        path.write_text(head + "".join([line for line in lines if "\tNA" not in line][:30]))


def cremad_features(to: Path) -> None:
    for path in copies(to, "cremad_features/*.npy").iterdir():
        np.save(path, np.load(path, allow_pickle=False)[:80])


def spoken(to: Path) -> None:
    copies(to / "fsdd", *(f"fsdd/recordings/{d}_theo_{t}.wav" for d in range(10) for t in (0, 5, 10)))
    copies(to / "mnist_t10k", "mnist_t10k/*.gz")


def listed(to: Path) -> list[dict[str, Any]]:
    """Rows of a table of all files in a folder."""
    files = sorted(f.relative_to(to).as_posix() for f in to.rglob("*.*") if f.suffix != ".md")
    return [{"sound": f, "clip": f, "label": "ab"[k % 2], "x": k / 8} for k, f in enumerate(files)]


def speech(to: Path) -> None:
    copies(to, "ravdess_audio/*.wav", "cremad_clips/AudioWAV/*.wav")
    pd.DataFrame(listed(to)).to_excel(to / "metadata.xlsx", index=False)


def clips(to: Path) -> None:
    copies(
        to,
        "grid_clips/[bi]*.mpg",
        "ravdess_av/small/*-01-01-01.mp4",
        "video_samples/[brv]*",
        "video_samples/n*_*",
    )
    (to / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed(to)))


def bases() -> list[Base]:
    hard = []
    for folder in sorted(f for f in (DATA / "hard_inputs").iterdir() if (f / "raw").is_dir()):
        (section,) = yaml.safe_load(next(folder.glob("*.yml")).read_text("utf-8"))["datasets"].values()
        hard.append(Base(folder.name[:2], section, lambda to, f=folder: shutil.copytree(f / "raw", to)))  # type: ignore[misc]
    sound = {"kind": "audio", "sample_rate": 8000, "seconds": 2.0}
    clip = {"kind": "video", "frames": 2, "size": [16], "pick": "even"}
    number = {"kind": "tabular", "columns": ["x"]}
    digits = REPOSITORY / "data/01_raw/av_digits"
    return [
        *hard,
        shipped("houses", houses, loose=True),
        shipped("soil_camera_table", lambda to: copies(to, "soil_camera_table/*.csv")),
        shipped("soil_moisture_weather", moisture),
        shipped("cremad_features", cremad_features, loose=True),
        shipped("spoken_mnist", spoken, loose=True, pairs={"train": 20, "val": 10, "test": 10}),
        shipped("av_digits", lambda to: shutil.copytree(digits, to), loose=True),
        own("speech", speech, "metadata.xlsx", sound=sound, x=number),
        own("clips", clips, "metadata.jsonl", clip=clip, sound=sound, x=number),
        shipped("crema_d", sample_clips=36),
        shipped("vggsound", sample_clips=60),
        shipped("ur_funny", sample_rows={"train": 30, "val": 10, "test": 10}),
        shipped("mis_me", sample_rows={"train": 20, "val": 6, "test": 6}),
        shipped("av_mnist", sample_rows={"train": 40, "val": 10, "test": 10}, val_rows=10),
    ]


# ------------------------------------------------------------------------------------------------ mutations
class Unsuitable(Exception):
    """The mutation means nothing for the file."""


@dataclass
class Change:
    """What was done. `same`: the result must not change; `rows`: how many the table has more; `touched`: how
    many samples may have other values (None: any)."""

    text: str
    same: bool = False
    rows: int = 0
    touched: int | None = None


def change_bytes(path: Path, how: str, rng: random.Random) -> Change:
    content, text = bytearray(path.read_bytes()), ""
    if how == "removed":
        path.unlink()
        return Change(text)
    if how == "other suffix":
        path.rename(new := path.with_suffix(rng.choice([s for s in SUFFIXES if s != path.suffix])))
        return Change(f"now {new.name}")
    if how == "emptied" or not content:
        content.clear()
    elif how == "truncated":
        del content[(at := rng.randrange(len(content))) :]
        text = f"to {at} bytes"
    elif how == "appended":
        content += rng.randbytes(rng.choice([1, 50, 5000]))
    elif how == "other content":
        others = sorted(f for f in path.parent.parent.rglob("*.*") if f.suffix != path.suffix and f.is_file())
        text = rng.choice(others).name if others else "a web page"
        content[:] = rng.choice(others).read_bytes() if others else b"<!DOCTYPE html><p>no"
    else:
        places = [
            rng.randrange(min(len(content), 64) if how == "flipped at the start" else len(content))
            for _ in range(rng.choice([1, 3, 20]))
        ]
        for at in places:
            content[at] ^= 1 << rng.randrange(8)
        text = f"at {places[:3]}"
    path.write_bytes(content)
    return Change(text)


def change_text(path: Path, how: str, rng: random.Random) -> Change:
    text = path.read_bytes().decode("utf-8")
    lines = text.splitlines()
    if how == "encoding":
        to = rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"])
        path.write_bytes(text.encode(to))
    elif '"' in text or not lines:  # line ends and separators may be within cells
        raise Unsuitable
    elif how == "line ends":
        ends = rng.choice([["\r\n"], ["\r"], ["\n\n"], ["\n", "\r\n"]])
        to = repr(ends)
        path.write_bytes("".join(line + rng.choice(ends) for line in lines).encode())
    else:
        old, to = max(",;\t", key=lines[0].count), rng.choice(",;\t|")
        if to in text or path.suffix == ".jsonl":
            raise Unsuitable
        path.write_bytes(text.replace(old, to).encode())
    return Change(to, same=True)


def change_frame(path: Path, how: str, rng: random.Random, header: bool) -> Change:
    """Read the table by pandas, change it, and write it anew."""
    first, old = 0 if header else None, pd.DataFrame()
    if path.suffix == ".parquet":
        old = pd.read_parquet(path, dtype_backend="pyarrow")
    elif path.suffix == ".xlsx":
        old = pd.read_excel(path, dtype=object)
    elif path.suffix == ".jsonl":
        old = pd.read_json(path, lines=True, dtype=False)
    else:
        separator = max(",;\t ", key=path.read_text("utf-8").partition("\n")[0].count)
        old = pd.read_csv(path, sep=separator, header=first, dtype=str, keep_default_na=False)
    frame, change = (columns_changed if how in COLUMNS else rows_changed)(old, how, rng)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, lines=True, orient="records")
    else:
        frame.to_csv(path, sep=separator, header=header, index=False)
    return change


def columns_changed(frame: pd.DataFrame, how: str, rng: random.Random) -> tuple[pd.DataFrame, Change]:
    names = list(frame)
    k = rng.randrange(len(names))
    if how == "renamed column":
        new = rng.choice([str(names[k]).upper(), f" {names[k]} ", "x", names[k - 1]])
        return frame.set_axis([*names[:k], new, *names[k + 1 :]], axis=1), Change(f"{names[k]!r} → {new!r}")
    if how == "dropped column":
        return frame.drop(columns=names[k]), Change(repr(names[k]))
    order = rng.sample(names, len(names))
    return frame[order], Change(f"{order[:6]}", same=True)


def rows_changed(frame: pd.DataFrame, how: str, rng: random.Random) -> tuple[pd.DataFrame, Change]:
    k, column, value = rng.randrange(len(frame)), rng.randrange(frame.shape[1]), rng.choice(ODD)
    some = frame.iloc[k : k + rng.choice([1, 3])]
    where, n = f"{len(some)} from the {k + 1}th", len(some)
    if how == "shuffled rows":
        return frame.sample(frac=1, random_state=k), Change("", touched=0)
    if how == "repeated rows":
        return pd.concat([frame[:k], some, frame[k:]]), Change(where, rows=n, touched=0)
    if how == "dropped rows":
        return frame.drop(some.index), Change(where, rows=-n, touched=n)
    frame = frame.astype(object)
    frame.iat[k, column] = value
    return frame, Change(f"the {k + 1}th of {frame.columns[column]!r}: {value[:20]!r}", touched=1)


def mutate(path: Path, how: str, rng: random.Random, base: Base) -> Change:
    """Change the file; raises Unsuitable."""
    raw = base.section["raw"]
    header = (raw["layout"] == "table" and "names" not in raw) or base.name == "mis_me"
    if how in BYTES:
        return change_bytes(path, how, rng)
    if how in LINES and path.suffix in TEXT:
        return change_text(path, how, rng)
    if how in LINES or path.suffix not in TABLES or base.name in FRAGILE or (how in COLUMNS and not header):
        raise Unsuitable
    return change_frame(path, how, rng, header)
