"""The numbers as plain data, for `metrics.json` and whatever watches it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from .rankings import ranking_disagreements, teacher_orders
from .tables import selection_note


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
    metrics: pd.DataFrame, summary: pd.DataFrame, manifest_meta: Mapping[str, Any], rankings: pd.DataFrame
) -> dict[str, Any]:
    """Every number of a run and over seeds, JSON-able; values as stored (see `metrics.METRICS`), NaN as None.

    Keys: `dataset`, `source`, `task`, `target`, `counts`, `dropped` (how many), `selection` (a note where an
    epoch was not selected on validation, else ""), `runs` (each with `metrics[split][part][metric]`),
    `summary` (rows of `summarise`), `rankings` (seed → `train`/`val` → order and confidences) and
    `ranking_disagreements` (seeds)."""
    runs = []
    keys = ["method", "modality", "seed", "selection", "selected_epoch"]
    for key, group in metrics.groupby(keys, sort=False):
        values: dict[str, dict[str, dict[str, Any]]] = {}
        for row in group.itertuples(index=False):
            values.setdefault(str(row.split), {}).setdefault(str(row.part), {})[str(row.metric)] = row.value
        runs.append({**dict(zip(keys, key, strict=True)), "metrics": values})
    rows = summary.drop(columns=["dataset", "source"]).to_dict(orient="records")
    result: dict[str, Any] = plain(
        {
            "dataset": manifest_meta["dataset"],
            "source": manifest_meta["source"],
            "task": manifest_meta["task"],
            "target": {"name": manifest_meta.get("target_name"), "unit": manifest_meta.get("target_unit")},
            "counts": manifest_meta.get("counts", {}),
            "dropped": len(manifest_meta.get("dropped", [])),
            "selection": selection_note(metrics),
            "runs": runs,
            "summary": rows,
            "rankings": ranking_record(rankings),
            "ranking_disagreements": ranking_disagreements(rankings),
        }
    )
    return result


def ranking_record(rankings: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a seed: `{"seed": 0, "train": [{"modality": "audio", "confidence": 0.61}, …], "val": […]}`,
    ascending."""
    records: list[dict[str, Any]] = []
    for seed, orders in teacher_orders(rankings).items():
        record: dict[str, Any] = {"seed": seed}
        for split, order in orders.items():
            own = rankings[(rankings["seed"] == seed) & (rankings["confidence_on"] == split)]
            confidence = own.set_index("modality")["confidence"]
            record[split] = [{"modality": str(m), "confidence": float(confidence[m])} for m in order]
        records.append(record)
    return records
