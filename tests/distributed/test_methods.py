"""Two processes with half a batch each are one with the whole batch; every method holds what it declares."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import ImageAugment, RunOptions
from g2d_pipeline.methods import load
from g2d_pipeline.training.launch import launch
from tests.distributed.together import CNN, PLAIN, USUAL, Case, data_of, teachers_of, train, train_all
from tests.methods.test_every_method import FILES, FUSIONS, SHORTER, refusal, settings_of

TWO = RunOptions(device="cpu", progress=False, compute={"devices": 2, "timeout": 60})
KIND = {(3, "classification"): "classification k=3", (2, "classification"): "classification k=2",
        (2, "regression"): "regression k=2"}  # fmt: skip
SHORT = SHORTER | {"relearning": {"reinit_epoch": 2}}


def cases() -> dict[str, Case]:
    """Every method of the project, for a classification (of three modalities, where it takes so many) and for
    a regression, with the first fusion that it is defined for."""
    found: dict[str, Case] = {}
    for name in FILES:
        if settings_of(name, "late")["method"] == "greedy":  # needs encoders with stages
            found[name] = {"encoder": CNN} | settings_of(name, "late")
        for data, kind in KIND.items():
            fusion = next((f for f in FUSIONS if refusal(name, kind, f) is None), None)
            task = f"{name}, {data[1]}"
            if fusion is not None and task not in found:
                found[task] = {"data": data} | settings_of(name, fusion)
                found[task]["parameters"] |= SHORT.get(name, {})
    return found


CHANGED = ImageAugment(flip=0.5, noise=0.1)
SMP: dict[str, Case] = {
    "complete, by batch": {"smp": {"tau": [2]}},
    "partial": {"smp": {"tau": [2], "suppression": "partial"}},
    "zero_grad": {"smp": {"tau": [2], "update": "zero_grad"}},
    "by epoch": {"smp": {"tau": [1, 1, 2], "ranking": "epoch"}, "data": (3, "classification"), "epochs": 4},
    "by dataset, remembered": {"smp": {"tau": [2], "ranking": "dataset", "suppressed_norm": "frozen"}},
    "augmented": {"smp": {"tau": [2]}, "encoder": CNN, "augment": {"a": CHANGED}},
    "accumulation, clipping, average": {"smp": {"tau": [2]},
                                        "training": {"accumulation": 2, "clip_norm": 0.5, "ema": 0.9}},
    "linear rate": {"training": {"scale_lr": "linear"}},
    "batch norm, dropout": {"smp": {"tau": [2]}, "encoder": USUAL},
}  # fmt: skip


@pytest.fixture(scope="module")
def both() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name → (one process, two processes), all trained in one start."""
    every = cases() | {f"g2d {name}": {"method": "g2d"} | case for name, case in SMP.items()}
    kept: dict[str, dict[str, Trained]] = {}
    for case in every.values():
        if (key := str([case.get(k) for k in ("data", "encoder", "augment")])) not in kept:
            kept[key] = teachers_of(data_of(case), case.get("encoder", PLAIN))
        case["teachers"] = kept[key]
    two = launch(train_all, every, options=TWO, description="tests")
    one = {name: train(case, TWO.updated(compute={}), 1) for name, case in every.items()}
    return {name: (one[name], two[name]) for name in every}


def differences(one: dict[str, Any], two: dict[str, Any]) -> tuple[float, float]:
    """Of the weights and of the history, the greatest one."""
    weights = max(float((w - two["weights"][n]).abs().max()) for n, w in one["weights"].items())
    assert one["history"].keys() == two["history"].keys()
    ours, theirs = (torch.tensor([of["history"][n] for n in one["history"]]) for of in (one, two))
    return weights, float((ours - theirs).abs().max())


@pytest.mark.parametrize("name", cases())
def test_every_method_is_what_it_declares(both: Any, name: str) -> None:
    one, two = both[name]
    weights, history = differences(one, two)
    if load(settings_of(name.partition(",")[0], "late")["method"]).distributed == "exact":
        # mmcosine multiplies cosines, and the rounding of them, by 15.
        assert weights < (1e-5 if name.startswith("mmcosine") else 1e-6)
        assert history < 1e-5
    else:
        assert torch.isfinite(torch.tensor(weights))


@pytest.mark.parametrize("name", [f"g2d {name}" for name in SMP])
def test_all_phases_are_those_of_one_process(both: Any, name: str) -> None:
    weights, history = differences(*both[name])
    if name.endswith(("linear rate", "dropout")):  # other numbers, the same on both processes
        assert 1e-3 < weights < 10
    else:
        assert weights < 1e-6, (weights, history)
