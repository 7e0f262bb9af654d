"""The numbers and the teachers' rankings as plain data, for `metrics.json`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from .records import Failure, repeat_columns
from .tables import selection_note

RANKING_COLUMNS = ("seed", "confidence_on", "modality", "confidence")


def plain(value: Any) -> Any:
    """`value` for JSON: NumPy scalars become Python's, NaN and infinities None, keys text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def metrics_summary(
    metrics: pd.DataFrame,
    summary: pd.DataFrame,
    manifest_meta: Mapping[str, Any],
    rankings: pd.DataFrame,
    failures: Sequence[Failure] = (),
    notes: Sequence[str] = (),
    **further: Any,
) -> dict[str, Any]:
    """Every number of a run and over seeds, JSON-able; values as stored (see `metrics.METRICS`), NaN as None.

    Keys: `dataset`, `source`, `task`, `target`, `counts`, `dropped` (how many), `selection` (a note where an
    epoch was not selected on validation, else ""), `runs` (each with `metrics[split][part][metric]`
    and, where there are any, `intervals` of the same form, `[low, high]`),
    `failed` (runs without a model: method, modality, seed, reason), `notes` (see `result_notes`), `summary`
    (rows of `summarise`), `rankings` (seed → `train`/`val` → order and confidences) and
    `ranking_disagreements` (seeds); of several splits `draws` (the counts of each) and every run's `fold`;
    and `further` as they are (of `evaluate`: comparisons, per_class, per_group and verdict)."""
    runs = []
    keys = ["method", "modality", *repeat_columns(metrics), "selection", "selected_epoch"]
    for key, group in metrics.groupby(keys, sort=False):
        run = {**dict(zip(keys, key, strict=True)), "metrics": _nested(group, group["value"])}
        if "low" in group and len(known := group.dropna(subset=["low", "high"])):
            run["intervals"] = _nested(known, zip(known["low"], known["high"], strict=True))
        runs.append(run)
    rows = summary.drop(columns=["dataset", "source"]).to_dict(orient="records")
    result: dict[str, Any] = plain(
        {
            "dataset": manifest_meta["dataset"],
            "source": manifest_meta["source"],
            "task": manifest_meta["task"],
            "target": {"name": manifest_meta.get("target_name"), "unit": manifest_meta.get("target_unit")},
            "counts": manifest_meta.get("counts", {}),
            **({"draws": manifest_meta["draws"]} if manifest_meta.get("draws") else {}),
            "dropped": len(manifest_meta.get("dropped", [])),
            "selection": selection_note(metrics),
            "runs": runs,
            "failed": [{k: v for k, v in asdict(f).items() if k != "fold" or v} for f in failures],
            "notes": notes,
            "summary": rows,
            **further,
            "rankings": ranking_record(rankings),
            "ranking_disagreements": ranking_disagreements(rankings),
        }
    )
    return result


def _nested(rows: pd.DataFrame, values: Iterable[Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """split → part → metric → value."""
    nested: dict[str, dict[str, dict[str, Any]]] = {}
    for split, part, metric, value in zip(rows["split"], rows["part"], rows["metric"], values, strict=True):
        nested.setdefault(split, {}).setdefault(part, {})[metric] = value
    return nested


def ranking_record(rankings: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a seed (of each fold), ascending, the least confident teacher first:
    `{"seed": 0, "train": [{"modality": "audio", "confidence": 0.61}, …], "val": […]}`.

    `rankings` has the columns `RANKING_COLUMNS`, and may have `fold`; `confidence` in [0, 1]. Ties keep the
    order of the rows. Raises ValueError for a missing column, a NaN, or a modality that comes twice."""
    if missing := [name for name in RANKING_COLUMNS if name not in rankings]:
        raise ValueError(f"rankings lack the column {', '.join(missing)}")
    if rankings["confidence"].isna().any():
        raise ValueError("rankings: a confidence is NaN")
    repeat = repeat_columns(rankings)
    if rankings.duplicated([*repeat, "confidence_on", "modality"]).any():
        raise ValueError("rankings: a modality comes twice for the same seed and split")
    records: list[dict[str, Any]] = []
    key: Any
    for key, run in rankings.groupby(repeat):
        records.append(dict(zip(repeat, map(int, key), strict=True)))
        for split, rows in run.groupby("confidence_on", sort=False):
            order = rows.sort_values("confidence", kind="stable")[["modality", "confidence"]]
            records[-1][str(split)] = plain(order.to_dict(orient="records"))
    return records


def ranked_run(record: Mapping[str, Any]) -> int | str:
    """The seed of a row of `ranking_record`, or `fold/seed`."""
    return f"{record['fold']}/{record['seed']}" if "fold" in record else int(record["seed"])


def teacher_orders(rankings: pd.DataFrame) -> dict[int | str, dict[str, list[str]]]:
    """Seed (`fold/seed`) → `"train"`/`"val"` → modalities by ascending confidence; see `ranking_record`."""
    orders: dict[int | str, dict[str, list[str]]] = {}
    for record in ranking_record(rankings):
        splits = [split for split in ("train", "val") if split in record]
        orders[ranked_run(record)] = {s: [teacher["modality"] for teacher in record[s]] for s in splits}
    return orders


def ranking_disagreements(rankings: pd.DataFrame) -> list[int | str]:
    """The seeds (`fold/seed`) whose rankings on train and on val, if there are both, differ; ascending."""
    orders = teacher_orders(rankings)
    return [s for s, order in orders.items() if len(order) == 2 and order["train"] != order["val"]]
