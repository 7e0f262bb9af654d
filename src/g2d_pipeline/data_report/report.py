"""The data report: the content of each split, missing and dropped samples, and suspicious findings.

It is made of the manifest, the feature store and the content hashes of the raw files; nothing is decoded
again. The same data give the same report, a tree of dictionaries, lists, texts and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2d_pipeline.config import SPLITS
from g2d_pipeline.data_report import leakage
from g2d_pipeline.data_report.leakage import FIRST, NAMES, suspected_leaks
from g2d_pipeline.errors import SHOWN, DataError
from g2d_pipeline.features.cells import files_of, is_row
from g2d_pipeline.features.files import Array, Rows
from g2d_pipeline.features.kinds import FileKind, stored_kind
from g2d_pipeline.features.kinds.base import stored_facts
from g2d_pipeline.features.statistics import differing_rows
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.sources.hashing import content_hashes
from g2d_pipeline.sources.manifest import Manifest

OUTLIER = 5.0  # robust z-scores beyond are outliers
GROUPS = ("group", "speaker")  # columns of a manifest that name the person or place of a sample
GRAVE = ("constant in train", "absent classes", "suspected leaks")  # kinds of warnings: see `list_warnings`
QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
BINS = 24


def describe_data(
    manifest: Manifest, store: FeatureStore, root: Path, hashes: Path | None = None
) -> dict[str, Any]:
    """The data report of a manifest, whose paths are relative to `root`, and its feature store.

    `hashes`: the cache of content hashes (`sources.hashing`). Keys: `dataset`, `source`, `task`, `target`,
    `splits`, `histogram` (of a regression), `modalities` (facts, `duplicates`, and of pictures `alike`),
    `duplicates` (samples equal in every modality), `conflicts` (those whose targets differ), `groups`,
    `outliers` (of each modality and the target: values, columns, the ten columns with most), `leaks` (columns
    that predict the target alone), `dropped`, `notes`, `warnings` [{kind, count, text, grave}], `summary` (of
    them, in a line). Lists hold the first ten, beside a count of all. Raises DataError where a raw file has
    gone, or the store is of another manifest."""
    meta, table = manifest.meta, _stored_rows(manifest.table, store)
    split, target = table["split"].to_numpy(object), table["target"].to_numpy()
    sample_ids = table["sample_id"].astype(str).tolist()
    modalities: dict[str, dict[str, Any]] = {}
    codes = []
    for name in store.modalities:
        about, columns = store.meta["modalities"][name], table[meta["columns"][name]]
        kind = stored_kind(about["kind"], about["settings"])
        if isinstance(kind, FileKind):
            facts, code = _describe_files(store, name, kind, columns.iloc[:, 0], split, root, hashes)
        else:
            facts, code = kind.facts(about, columns, split), leakage.row_codes(columns)
        codes.append(code)
        modalities[name] = stored_facts(about) | facts
        modalities[name]["duplicates"] = leakage.find_duplicates(code, split, sample_ids)
        array = store.arrays[name]
        if kind.images and array.dtype == np.uint8:
            modalities[name]["alike"] = leakage.find_similar(array, code, split, sample_ids)
    whole, tabular = leakage.merge_codes(codes), _of_tables(table, store)
    dropped = [*meta["dropped"], *store.meta.get("dropped", [])]
    report: dict[str, Any] = {
        **{key: meta[key] for key in ("dataset", "source", "task")},
        "target": {key: meta["target"].get(key, "") for key in ("name", "unit")},
        "splits": _splits(split, target, meta["class_names"]),
        "modalities": modalities,
        "duplicates": leakage.find_duplicates(whole, split, sample_ids),
        "conflicts": leakage.find_conflicts(whole, target, sample_ids),
        "groups": _groups(table, split),
        "outliers": [
            {"of": name, "columns": len(columns)} | facts
            for name, columns in _numeric(table, store, meta).items()
            if (facts := _worst(_outliers(table, columns, split, sample_ids)))
        ],
        "leaks": suspected_leaks(table, tabular, target, split == "train", len(meta["class_names"])),
        "dropped": {
            "samples": len(dropped),
            "first": dropped[:FIRST],
            "at_featurize": list(store.meta.get("dropped", [])),  # all of them: the manifest has the others
        },
        "notes": [*meta["notes"], *store.meta["notes"]],
    }
    if meta["task"] == "regression":
        report["histogram"] = _histogram(split, target)
    warnings = list_warnings(report)
    return report | {"warnings": warnings, "summary": in_one_line(warnings)}


def list_warnings(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The suspicious findings, in a fixed order: kind, count, text; `grave`: shown in full."""
    return [
        {
            "kind": kind,
            "count": count,
            "text": f"{subject and f'{subject}: '}{text}{'' if kind in GRAVE else f': {count:,}'}",
            "grave": kind in GRAVE,
        }
        for kind, count, text, subject in (*_ordinary(report), *_grave(report))
        if count
    ]


def _ordinary(report: Mapping[str, Any]) -> Iterator[tuple[str, int, str, str]]:
    """Findings that may make some numbers too good, or odd: kind, count, sentence and modality."""
    modalities = report["modalities"].items()
    if len(modalities) > 1:
        text = "samples of val and test that equal one of an earlier split in every modality"
        yield "repeated samples", report["duplicates"]["samples"], text, ""
    for name, facts in modalities:
        text = "samples of val and test with the content of one of an earlier split"
        yield "duplicates", facts["duplicates"]["samples"], text, name
        text = "pictures of val and test that nearly equal one of an earlier split"
        yield "near-duplicates", facts.get("alike", {}).get("samples", 0), text, name
    text = "contents that repeat in every modality, but with another target"
    yield "conflicts", report["conflicts"]["contents"], text, ""
    if groups := report["groups"]:
        text = f"of {groups['groups']:,} values those in several splits"
        yield "groups in several splits", groups["crossing"], text, groups["column"]
    for outliers in report["outliers"]:
        affected, first = outliers["affected"], outliers["first"]
        text = f"values more than {OUTLIER:g} robust standard deviations from the median"
        if affected > 1:
            most = ", ".join(f"{column['column']} {column['count']:,}" for column in first[:NAMES])
            more = ", …" if affected > NAMES else ""
            text += f", in {affected:,} of {outliers['columns']:,} columns ({most}{more})"
        yield "outliers", outliers["count"], text, outliers["of"] if affected > 1 else first[0]["column"]
    for name, facts in modalities:
        counts = {note: sum(counted["samples"].values()) for note, counted in facts.get("found", {}).items()}
        yield "blank", counts.get("constant", 0), "samples that are silent or blank", name
        text = "samples with values that are not finite, stored as 0"
        yield "not finite", counts.get("replaced", 0), text, name
    yield "dropped", report["dropped"]["samples"], "samples that were dropped", ""


def _grave(report: Mapping[str, Any]) -> Iterator[tuple[str, int, str, str]]:
    """Findings that may make every number meaningless: kind, count, sentence and modality or split."""
    for name, facts in report["modalities"].items():
        differing = facts.get("constant", {}).get("differing", {})
        columns = _enumerate([f"{column!r} ({rows:,} samples)" for column, rows in differing.items()])
        text = f"constant in train, so 0 for the model everywhere, but val and test differ: {columns}"
        yield "constant in train", len(differing), text, name
    for split, facts in report["splits"].items():
        absent = [repr(name) for name, count in facts.get("classes", {}).items() if not count]
        yield "absent classes", len(absent), f"classes without a sample: {_enumerate(absent)}", split
    leaks = [f"{leak['column']!r} ({leak['measure']} {leak['score']:.3f})" for leak in report["leaks"]]
    text = f"target leakage? Columns that predict the target by themselves: {_enumerate(leaks)}"
    yield "suspected leaks", len(leaks), text, ""


def _enumerate(names: Sequence[str]) -> str:
    """The first five, and the number of the others."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def merge_reports(reports: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Split → its report → the first report, with the warnings of all: where their counts differ, the lowest
    and the highest. Of several splits `draws` (name → samples of train, val, test) and a note are added."""
    first = next(iter(reports.values()))
    if len(reports) == 1:
        return first
    by_key: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for warning in (w for report in reports.values() for w in report["warnings"]):
        by_key.setdefault((warning["kind"], warning["text"].partition(": ")[0]), []).append(warning)
    warnings = []
    for same in by_key.values():
        worst = max(same, key=lambda warning: int(warning["count"]))
        low, high = min(w["count"] for w in same) if len(same) == len(reports) else 0, worst["count"]
        text = worst["text"] + (f" ({low:,} to {high:,}, by split)" if low < high else "")
        warnings.append(worst | {"text": text})
    draws = {name: {s: n["samples"] for s, n in report["splits"].items()} for name, report in reports.items()}
    note = f"Of {len(reports)} splits: warnings are of all, tables of the first ({next(iter(reports))})."
    more = {"draws": draws, "warnings": warnings, "summary": in_one_line(warnings)}
    notes = dict.fromkeys(n for report in reports.values() for n in report["notes"])
    return first | more | {"notes": [note, *notes]}


def in_one_line(warnings: Sequence[Mapping[str, Any]]) -> str:
    """The kinds of warnings and their counts, for the end of a run: `3 duplicates, 4 outliers`, or ""."""
    totals: Counter[str] = Counter()
    for warning in warnings:
        totals[warning["kind"]] += warning["count"]
    return ", ".join(f"{count} {kind}" for kind, count in totals.items())


# ----------------------------------------------------------------------------------------------------- pieces
def _stored_rows(table: pd.DataFrame, store: FeatureStore) -> pd.DataFrame:
    """The rows of the manifest that the store has, in its order; DataError where it has others."""
    stored = store.index["sample_id"].astype(str)
    rows = table[table["sample_id"].astype(str).isin(set(stored))].reset_index(drop=True)
    if rows["sample_id"].astype(str).tolist() != stored.tolist():
        remedy = "Run again with --params rebuild=true."
        raise DataError(f"The feature store {store.path} is of another manifest. {remedy}")
    return rows


def _describe_files(
    store: FeatureStore,
    name: str,
    kind: FileKind,
    column: pd.Series[str],
    split: Array,
    root: Path,
    hashes: Path | None,
) -> tuple[dict[str, Any], Rows]:
    """The facts of a modality of files, and a code a sample `[N]` that is equal where the content is."""
    code, distinct = pd.factorize(column.astype(object))
    cells, code = [str(cell) for cell in distinct], code.astype(np.int64)
    whole = (cell for cell in cells if not is_row(cell))
    files = content_hashes((path for cell in whole for path in files_of(cell, root)), hashes)
    about, array = store.meta["modalities"][name], store.arrays[name]
    facts = kind.facts(about, cells, code, split, root, lambda path: files[path][0], array)
    facts["constant"] = {"differing": differing_rows(array, about["normaliser"], split, array.ndim == 3)}
    digests = leakage.cell_digests(cells, root, lambda path: files[path][1])
    return facts, pd.factorize(np.array(digests, object))[0].astype(np.int64)[code]


def _numeric(table: pd.DataFrame, store: FeatureStore, meta: Mapping[str, Any]) -> dict[str, list[str]]:
    """The columns that may have outliers: numbers of each tabular modality, and a regression's target."""
    numbers = set(table.columns[[dtype.kind in "fiu" for dtype in table.dtypes]])
    columns = {
        m: [c for c in about["settings"].get("columns", []) if c in numbers]
        for m, about in store.meta["modalities"].items()
    }
    return columns | ({"target": ["target"]} if meta["task"] == "regression" else {})


def _of_tables(table: pd.DataFrame, store: FeatureStore) -> list[str]:
    """The columns of tabular modalities that hold numbers or categories."""
    settings = [about["settings"] for about in store.meta["modalities"].values()]
    named = [c for section in settings for key in ("columns", "categorical") for c in section.get(key) or []]
    return [c for c in dict.fromkeys(named) if c in table]


def _splits(split: Array, target: Array, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """split → the number of samples, and those of each class or the quantiles of the target."""
    splits: dict[str, dict[str, Any]] = {}
    for name in SPLITS:
        values = target[split == name]
        splits[name] = {"samples": len(values)}
        if class_names:
            counts = np.bincount(values, minlength=len(class_names)).tolist()
            splits[name]["classes"] = dict(zip(map(str, class_names), counts, strict=True))
        else:
            splits[name]["quantiles"] = {q: float(np.quantile(values, at)) for q, at in QUANTILES.items()}
    return splits


def _histogram(split: Array, target: Array) -> dict[str, Any]:
    """`edges` `[bins + 1]` over all targets, and the samples in each bin by split."""
    edges = np.histogram_bin_edges(target, bins=BINS)
    counts = {name: np.histogram(target[split == name], bins=edges)[0].tolist() for name in SPLITS}
    return {"edges": edges.tolist(), "counts": counts}


def _groups(table: pd.DataFrame, split: Array) -> dict[str, Any]:
    """The number of groups and of those in several splits, with the first ten; empty without groups."""
    column = next((c for c in GROUPS if c in table), None)
    if column is None:
        return {}
    known = table[column].notna() & (table[column].astype(str) != "")
    counts = pd.crosstab(table.loc[known, column].astype(str), split[known.to_numpy()])
    crossing = counts[(counts > 0).sum(axis=1) > 1].sort_index()
    rows = crossing.head(FIRST).to_dict(orient="index")
    first = [{"group": group, "splits": {s: n[s] for s in SPLITS if n.get(s)}} for group, n in rows.items()]
    return {"column": column, "groups": len(counts), "crossing": len(crossing), "first": first}


def _worst(outliers: list[dict[str, Any]]) -> dict[str, Any]:
    """The number of columns with outliers and of outliers, with the ten columns that have most."""
    first = sorted(outliers, key=lambda column: -column["count"])[:FIRST]
    count = sum(column["count"] for column in outliers)
    return {"affected": len(outliers), "count": count, "first": first} if outliers else {}


def _outliers(
    table: pd.DataFrame, columns: Sequence[str], split: Array, sample_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Of each column the values whose robust z-score exceeds 5, the furthest first; none of columns of fewer
    than three values in train. z = |x − median| / (1.4826 · MAD), both of train; where the MAD is 0, 1.2533
    times the mean absolute deviation stands in for it (Iglewicz and Hoaglin 1993)."""
    outliers = []
    for column in columns:
        values = table[column].to_numpy(np.float64)
        train = values[(split == "train") & ~np.isnan(values)]
        if len(np.unique(train)) < 3:
            continue
        middle = float(np.median(train))
        off = np.abs(train - middle)
        scale = 1.4826 * float(np.median(off)) or 1.2533 * float(off.mean())
        z = np.abs(values - middle) / scale
        rows = np.flatnonzero(z > OUTLIER)  # a missing value compares as False
        if not len(rows):
            continue
        worst = rows[np.argsort(-z[rows], kind="stable")][:FIRST].tolist()
        named = [(sample_ids[i], split[i], float(values[i]), round(float(z[i]), 1)) for i in worst]
        first = [dict(zip(("sample", "split", "value", "z"), outlier, strict=True)) for outlier in named]
        facts = {"limit": OUTLIER, "median": middle, "scale": scale, "first": first}
        outliers.append({"column": column, "count": len(rows), **facts})
    return outliers
