"""CPU seconds of an epoch on one thread, ours ÷ the published way (reference.py), paired in one run.

Made-up data in the published shapes, the recipes' encoders, one batch of 16; no decoding, no
validation. Rounds
take turns: the reference, ours with each modality learning alone. The reference runs in PyTorch's default
memory format, ours with the channels innermost, as each does without being told; encoders that rest are
normalised as shipped (`suppressed_norm: batch`, of MIS-ME `frozen`: there their features are remembered). The
whole recipe, with teachers, augmentation and evaluation, is in recipe.py."""

from __future__ import annotations

import time
from typing import Any

import torch
from common import RECIPES, Recipe, made_up, ours, reference, spread_of, write_result

from g2d_pipeline.training import Data

ROUNDS = 3
BATCH = 16


def measure(recipe: Recipe, data: Data, rounds: int) -> list[dict[str, Any]]:
    """A row for each modality that learns alone."""
    found: dict[str, list[dict[str, float]]] = {m: [] for m in recipe.modalities}
    for _ in range(rounds):
        theirs = reference(recipe, data, BATCH, time.process_time)
        for alone in recipe.modalities:
            costs = ours(recipe, data, alone, recipe.norm, BATCH, time.process_time)
            of = {"phase": costs.phase, "joint": costs.joint, "whole": costs.mean()}
            found[alone].append({what: seconds / theirs for what, seconds in of.items()})
    return [
        {"recipe": recipe.name, "learns_alone": alone, "published_order": alone == recipe.prioritised}
        | {what: spread_of([round_[what] for round_ in ratios]) for what in ("phase", "joint", "whole")}
        for alone, ratios in found.items()
    ]


def main() -> None:
    torch.set_num_threads(1)  # CPU seconds of one thread: steady where the machine is shared
    began = time.monotonic()
    rows = []
    print(
        f"{'recipe':9} {'learns alone':13} {'phase':18} {'joint':18} whole; ours ÷ reference, median "
        "(lowest–highest)"
    )
    for recipe in RECIPES:
        for row in measure(recipe, made_up(recipe, BATCH), ROUNDS):
            star = "*" if row["published_order"] else " "
            text = [
                "{median:.2f} ({lowest:.2f}–{highest:.2f})".format(**row[w])
                for w in ("phase", "joint", "whole")
            ]
            print(
                f"{row['recipe']:9} {row['learns_alone'] + star:13} {text[0]:18} {text[1]:18} {text[2]}",
                flush=True,
            )
            rows.append(row)
    print(f"* the published ranking prioritises it. {time.monotonic() - began:.0f} s")
    write_result("epoch_seconds", rows, rounds=ROUNDS, samples=BATCH, batch_size=BATCH)


if __name__ == "__main__":
    main()
