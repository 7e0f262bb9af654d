"""What each modality holds, by split: bytes, seconds, pixels, steps, missing values; nothing is decoded for
it.

Bytes come with the content hashes, seconds and pixels from the headers of files, steps and everything that
decoding found from the feature store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS
from g2d_pipeline.evaluation.data_duplicates import FIRST, files_of
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.features.faults import MediaError

if TYPE_CHECKING:
    import pandas as pd

MOST_HEADERS = 2000  # files of a modality whose headers are read
TOLERANCE = 1e-3  # seconds: a difference below is none

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int64]


def media_facts(
    about: Mapping[str, Any],
    cells: Sequence[str],
    code: Codes,
    split: Array,
    root: Path,
    files: Mapping[Path, tuple[int, str]],
) -> dict[str, Any]:
    """Facts of a modality of files. `about`: what the store's `meta.json` says of it; `code` `[N]`: each
    sample's position in `cells`.

    `splits`: split → samples, distinct cells, and as min, median, max over these cells `bytes` (of a folder
    all its pictures), `seconds`, `width`, `height`, `pictures` (in a folder), and of recordings how many are
    `filled` or `cut` to the settings' seconds; `headers`: how many cells' headers were read, of how many, and
    how many told nothing. Rows of array files have no header and no bytes of their own. `found`: what
    decoding found (`features.finalize`)."""
    kind = str(about["kind"])
    held = [k for k, cell in enumerate(cells) if split_cell(cell)[1] is None]
    bytes_of = {k: float(sum(files[path][0] for path in files_of(cells[k], root))) for k in held}
    asked = held if kind in ("audio", "image", "video") else []
    if len(asked) > MOST_HEADERS:
        asked = [asked[k] for k in np.linspace(0, len(asked) - 1, MOST_HEADERS).astype(int).tolist()]
    told = {k: _header(kind, root / cells[k]) for k in asked}
    splits = {}
    for name in SPLITS:
        own = np.unique(code[split == name]).tolist()
        facts: dict[str, Any] = {"samples": int((split == name).sum()), "distinct": len(own)}
        facts |= spread_of("bytes", [bytes_of[k] for k in own if k in bytes_of])
        for key in ("seconds", "width", "height", "pictures"):
            facts |= spread_of(key, [told[k][key] for k in own if k in told and key in told[k]])
        if kept := about["settings"].get("seconds"):
            lengths = [told[k]["seconds"] for k in own if k in told and "seconds" in told[k]]
            facts["filled"] = sum(s < kept - TOLERANCE for s in lengths)
            facts["cut"] = sum(s > kept + TOLERANCE for s in lengths)
        splits[name] = facts
    result: dict[str, Any] = {
        "kind": kind,
        "stored": _stored(about),
        "splits": splits,
        "found": about.get("found", {}),
    }
    if asked:
        result["headers"] = {
            "read": len(asked),
            "of": len(held),
            "unknown": sum(not of for of in told.values()),
        }
    return result


def sequence_steps(array: Array, split: Array) -> dict[str, Any]:
    """split → min, median, max of the steps that are kept, of stored sequences `[N, F + 1, steps]` with their
    mask."""
    lengths = np.concatenate([array[k : k + 4096, -1].sum(axis=1) for k in range(0, len(array), 4096)])
    return {name: spread_of("steps", lengths[split == name].tolist()) for name in SPLITS}


def text_facts(about: Mapping[str, Any], texts: pd.Series[str], split: Array) -> dict[str, Any]:
    """Facts of a modality of texts: by split the samples, min, median, max of the `characters`, and empty
    texts."""
    lengths = texts.astype(str).str.len().to_numpy()
    splits = {}
    for name in SPLITS:
        own = lengths[split == name]
        splits[name] = {"samples": len(own), "empty": int((own == 0).sum())} | spread_of(
            "characters", own.tolist()
        )
    return {
        "kind": str(about["kind"]),
        "stored": _stored(about),
        "splits": splits,
        "found": about.get("found", {}),
    }


def table_facts(about: Mapping[str, Any], table: pd.DataFrame, split: Array) -> dict[str, Any]:
    """Facts of a tabular modality `[N, columns]`: by split the samples, missing values, and samples with one.

    `missing`: column → split → missing values, of columns that lack some; `constant`: columns constant in
    train."""
    blank = (table.isna() | (table == "")).to_numpy(bool)
    splits = {}
    for name in SPLITS:
        own = blank[split == name]
        splits[name] = {
            "samples": len(own),
            "missing": int(own.sum()),
            "incomplete": int(own.any(axis=1).sum()),
        }
    missing = {
        str(column): {name: int(blank[split == name, f].sum()) for name in SPLITS}
        for f, column in enumerate(table)
        if blank[:, f].any()
    }
    constant = list(about.get("statistics", {}).get("constant", []))
    return {
        "kind": str(about["kind"]),
        "stored": _stored(about),
        "splits": splits,
        "missing": missing,
        "constant": {"columns": len(constant), "first": constant[:FIRST]},
    }


def spread_of(key: str, values: Sequence[float]) -> dict[str, dict[str, float]]:
    """`{key: {min, median, max}}`, rounded to 4 decimals; nothing where there are no values."""
    if not values:
        return {}
    found = {"min": min(values), "median": float(np.median(values)), "max": max(values)}
    return {key: {name: round(float(value), 4) for name, value in found.items()}}


def _stored(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the store keeps of a sample."""
    shape = list(about["shape"])
    return {
        "shape": shape,
        "dtype": about["dtype"],
        "bytes": int(np.prod(shape)) * np.dtype(about["dtype"]).itemsize,
    }


def _header(kind: str, path: Path) -> dict[str, float]:
    """What a file's header tells of seconds, width and height; nothing where it does not tell, or is not
    understood."""
    if path.is_dir():
        files = files_of("", path)
        return {"pictures": float(len(files))} | (_picture(files[0]) if files else {})
    if kind == "image":
        return _picture(path)
    return (_sound(path) or _container(path)) if kind == "audio" else _container(path)


def _sound(path: Path) -> dict[str, float]:
    """Seconds of a recording that soundfile knows; nothing for others."""
    import soundfile

    try:
        of = soundfile.info(path)
    except soundfile.LibsndfileError:
        return {}
    return {"seconds": of.frames / of.samplerate}


def _picture(path: Path) -> dict[str, float]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as of:
            return {"width": float(of.width), "height": float(of.height)}
    except (OSError, UnidentifiedImageError):
        return {}


def _container(path: Path) -> dict[str, float]:
    """Seconds of a film and the size of its pictures (before it is turned upright)."""
    import av

    from g2d_pipeline.features.containers import opened

    told: dict[str, float] = {}
    try:
        with opened(path) as container:
            if container.duration:
                told["seconds"] = container.duration / av.time_base
            for stream in container.streams.video[:1]:
                told |= {"width": float(stream.width), "height": float(stream.height)}
    except MediaError:
        return {}
    return told
