"""Shapley values: what each modality contributes to what all of them reach together (Shapley 1953)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import TypeVar

import torch
from torch import Tensor

V = TypeVar("V", float, Tensor)
Coalition = frozenset[str]


def coalitions(modalities: Sequence[str]) -> list[Coalition]:
    """All 2^k subsets, the smaller ones first: from none to all."""
    return [frozenset(some) for size in range(len(modalities) + 1) for some in combinations(modalities, size)]


def shapley(modalities: Sequence[str], value: Callable[[Coalition], V]) -> dict[str, V]:
    """φ^m = Σ_{S ∌ m} |S|! (k − |S| − 1)! / k! · (v(S ∪ {m}) − v(S)); they sum to v(all) − v(∅).

    `value` is called once for each of the 2^k subsets; it gives numbers, or tensors of one shape."""
    k = len(modalities)
    values = {some: value(some) for some in coalitions(modalities)}

    def contribution(m: str) -> V:
        parts = [
            factorial(len(some)) * factorial(k - len(some) - 1) / factorial(k) * (values[some | {m}] - before)
            for some, before in values.items()
            if m not in some
        ]
        return sum(parts[1:], parts[0])

    return {m: contribution(m) for m in modalities}


def mask_others(features: Mapping[str, Tensor], kept: Coalition) -> dict[str, Tensor]:
    """The features `[B, D_m]`, with zeros in place of the modalities that are not in `kept`."""
    return {m: feature if m in kept else torch.zeros_like(feature) for m, feature in features.items()}
