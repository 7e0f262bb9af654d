"""The settings in which a method is joint training, bit for bit on the CPU, and neighbours that are not.

dlmg is joint training with twice the loss, MLA and ReconBoost are it for k = 1, MMCosine is it with its
fusion, and greedy while nobody is held: see their files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from g2d_pipeline.methods import load
from g2d_pipeline.training import Data, TeacherOutputs, train_student
from tests.conftest import TINY, make_data, recipe

Parameters = dict[str, Any]
CASES = {
    "k = 3": (3, "classification", "late"),
    "k = 2": (2, "classification", "late"),
    "regression": (2, "regression", "late"),
    "concat": (2, "classification", "concat"),
}
IN_TURNS = [("k = 3", "regression"), ("k = 2", "concat")]


def each(value: float) -> Callable[[tuple[str, ...]], dict[str, float]]:
    """A parameter that is given for every modality."""
    return lambda modalities: dict.fromkeys(modalities, value)


JOINT: list[tuple[str, Parameters]] = [
    ("g2d", {"alpha": 0, "beta": 0}),
    ("ogm", {"alpha": 0}),
    ("ogm", {"alpha": 0, "ge": True}),
    ("ogm", {"alpha": 0.5, "ge": True, "start_epoch": 3}),
    ("agm", {"alpha": 0, "clip": 1e-6}),
    ("agm", {"start_epoch": 3}),
    ("pmr", {"alpha": 0, "entropy_weight": 0}),
    ("pmr", {"start_epoch": 3}),
    ("mslr", {}),
    ("mslr", {"rates": each(1), "strategy": "smooth"}),
    ("mslr", {"strategy": "dynamic", "window": 1}),
    ("mses", {"weights": each(0)}),
    ("mmpareto", {"unimodal_weight": 0, "scale": 1}),
    ("mis_me_hybrid", {"weights": each(0)}),
    ("gblending", {"weights": {"multi": 3}}),
    ("opm", {"q_base": 0}),
    ("opm", {"p_exe": 0}),
    ("opm", {"start_epoch": 3}),
    ("amco", {"sigma": 1, "unimodal_weight": 0}),
    ("amco", {"greatest_share": 0, "unimodal_weight": 0}),
    ("amco", {"start_epoch": 3}),
    ("cml", {"losses": "whole", "weight": 0}),
    ("cml", {"start_epoch": 3}),
    ("mbsd", {"unimodal_weight": 0, "distill_weight": 0}),
    ("mbsd", {"start_epoch": 3}),
    ("modality_valuation", {"start_epoch": 3}),
    ("modality_valuation", {"start_epoch": 1, "level": "modality", "alpha": 0}),
    ("relearning", {"reinit_num": 0}),
]


def named(value: Any) -> str | None:
    """An id of parameters that is the same in all processes."""
    return (
        "-".join(f"{key}={'each' if callable(v) else v}" for key, v in value.items())
        if isinstance(value, dict)
        else None
    )


OTHER: list[tuple[str, Parameters]] = [
    ("g2d", {"alpha": 1, "beta": 0}),
    ("g2d", {"alpha": 0, "beta": 1}),
    ("ogm", {"alpha": 0.5}),
    ("ogm", {"alpha": 0, "ge": True, "noise": "always"}),
    ("ogm", {"alpha": 0.5, "end_epoch": 1}),
    ("agm", {"where": "response"}),
    ("agm", {"where": "encoder"}),
    ("pmr", {"alpha": 0}),
    ("pmr", {"entropy_epochs": 0}),
    ("mslr", {"rates": {"b": 1.01}}),
    ("mses", {"weights": lambda modalities: dict.fromkeys(modalities, 0) | {"a": 1}}),
    ("mmpareto", {}),
    ("mis_me_hybrid", {}),
    ("gblending", {"weights": {"multi": 1, "a": 1}}),
    ("opm", {}),
    ("amco", {"sigma": 1}),
    ("amco", {"sigma": 0.2, "unimodal_weight": 0}),
    ("cml", {}),
    ("mbsd", {}),
    ("modality_valuation", {"start_epoch": 1, "level": "sample"}),
]
SCHEDULES: list[dict[str, Any]] = [
    {"suppression": "partial", "tau": "all"},  # equal confidences
    {"tau": [0, 0, 2]},  # no phase of one modality
]


@cache
def data_of(case: str) -> Data:
    return make_data(*CASES[case][:2], n=48)


def trained(
    case: str, method: str, parameters: Parameters, smp: dict[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    data, n = data_of(case), len(data_of(case).target)
    teacher = TeacherOutputs(torch.zeros(n, 5), torch.zeros(n, data.task.outputs), torch.full((n,), 0.5))
    own = {key: value(data.modalities) if callable(value) else value for key, value in parameters.items()}
    done = train_student(
        data, dict.fromkeys(data.modalities, TINY), dict.fromkeys(data.modalities, teacher), method=method,
        parameters=own, smp=smp, fusion=CASES[case][2], training=recipe(2), progress=False,
    )  # fmt: skip
    return done.model.state_dict()


@cache
def joint(case: str) -> dict[str, torch.Tensor]:
    return trained(case, "joint", {})


def changed(case: str, found: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that differ from joint training's; what is beside the model is left behind."""
    assert found.keys() == joint(case).keys()
    return [name for name, value in joint(case).items() if not torch.equal(value, found[name])]


@pytest.mark.parametrize(("method", "parameters"), JOINT, ids=named)
def test_it_is_joint_training_bit_for_bit(method: str, parameters: Parameters) -> None:
    for case in IN_TURNS[JOINT.index((method, parameters)) % 2]:
        if case == "concat" and load(method).fusions is not None:
            continue
        assert changed(case, trained(case, method, parameters)) == [], case


@pytest.mark.parametrize(("method", "parameters"), OTHER, ids=named)
def test_its_neighbours_are_not(method: str, parameters: Parameters) -> None:
    case = ("k = 2", "regression")[OTHER.index((method, parameters)) % 2]
    assert changed(case, trained(case, method, parameters)) != []


@pytest.mark.parametrize("smp", SCHEDULES, ids=named)
def test_schedules_that_hold_nobody_back_are_joint_training(smp: dict[str, Any]) -> None:
    assert changed("k = 3", trained("k = 3", "joint", {}, smp)) == []
