"""The settings in which a method is joint training, bit for bit on the CPU: one table of them all.

Each method's own file tests the neighbourhood (that other settings are not joint, other tasks, other
fusions); dlmg is joint training with twice the loss, MLA and ReconBoost are it for k = 1 (see their files).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from g2d_pipeline.training import TeacherOutputs, train_student
from tests.conftest import TINY, make_data, recipe

DEGENERATE: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    # method, parameters, schedule
    ("g2d", {"alpha": 0, "beta": 0}, None),
    ("joint", {}, {"suppression": "partial", "tau": "all"}),  # equal confidences
    ("joint", {}, {"tau": [0, 0, 2]}),  # no phase of one modality
    ("ogm", {"alpha": 0}, None),
    ("ogm", {"alpha": 0, "ge": True}, None),
    ("agm", {"alpha": 0}, None),
    ("pmr", {"alpha": 0, "entropy_weight": 0}, None),
    ("mslr", {"rates": {"a": 1, "b": 1, "c": 1}}, None),
    ("mses", {"weights": {"a": 0, "b": 0, "c": 0}}, None),
    ("mmpareto", {"unimodal_weight": 0, "scale": 1}, None),
    ("mis_me_hybrid", {"weights": {"a": 0, "b": 0, "c": 0}}, None),
    ("gblending", {"weights": {"multi": 1}}, None),
    ("opm", {"q_base": 0}, None),
    ("amco", {"sigma": 1, "unimodal_weight": 0}, None),
    ("cml", {"losses": "whole", "weight": 0}, None),
    ("modality_valuation", {"start_epoch": 1, "level": "modality", "alpha": 0}, None),
    ("relearning", {"reinit_num": 0}, None),
]


@cache
def joint() -> dict[str, torch.Tensor]:
    return trained("joint", {}, None)


def trained(method: str, parameters: dict[str, Any], smp: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    data = make_data(3)
    n = len(data.target)
    teachers = {
        m: TeacherOutputs(torch.zeros(n, 5), torch.zeros(n, 3), torch.full((n,), 0.5))
        for m in data.modalities
    }
    encoders = dict.fromkeys(data.modalities, TINY)
    done = train_student(
        data,
        encoders,
        teachers,
        method=method,
        parameters=parameters,
        smp=smp,
        training=recipe(2),
        progress=False,
    )
    return done.model.state_dict()


@pytest.mark.parametrize(("method", "parameters", "smp"), DEGENERATE)
def test_it_is_joint_training_bit_for_bit(
    method: str, parameters: dict[str, Any], smp: dict[str, Any] | None
) -> None:
    found = trained(method, parameters, smp)
    assert found.keys() == joint().keys()
    assert [name for name, value in joint().items() if not torch.equal(value, found[name])] == []
