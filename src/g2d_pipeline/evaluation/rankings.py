"""Who is the weaker teacher? The ranking on training and on validation data, and where the two disagree."""

from __future__ import annotations

import pandas as pd

RANKING_COLUMNS = ("seed", "confidence_on", "modality", "confidence")


def teacher_orders(rankings: pd.DataFrame) -> dict[int, dict[str, list[str]]]:
    """Seed → `"train"`/`"val"` → modalities by ascending confidence, the least confident first.

    `rankings` has the columns `RANKING_COLUMNS`, `confidence` in [0, 1]. Ties keep the order of the rows.
    Raises ValueError for a missing column, a NaN confidence, or a modality that comes twice.
    """
    if missing := [name for name in RANKING_COLUMNS if name not in rankings]:
        raise ValueError(f"rankings lack the column {', '.join(missing)}")
    if rankings["confidence"].isna().any():
        raise ValueError("rankings: a confidence is NaN")
    if rankings.duplicated(["seed", "confidence_on", "modality"]).any():
        raise ValueError("rankings: a modality comes twice for the same seed and split")
    orders: dict[int, dict[str, list[str]]] = {}
    for seed, split in rankings[["seed", "confidence_on"]].drop_duplicates().itertuples(index=False):
        rows = rankings[(rankings["seed"] == seed) & (rankings["confidence_on"] == split)]
        orders.setdefault(int(seed), {})[str(split)] = list(
            rows.sort_values("confidence", kind="stable")["modality"]
        )
    return dict(sorted(orders.items()))


def ranking_disagreements(rankings: pd.DataFrame) -> list[int]:
    """The seeds whose ranking on train differs from the one on val, ascending; a seed with one ranking never
    does."""
    return [
        seed
        for seed, order in teacher_orders(rankings).items()
        if "train" in order and "val" in order and order["train"] != order["val"]
    ]
