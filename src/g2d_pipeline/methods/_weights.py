"""Encoders and heads that start as those of the trained unimodal teachers."""

import torch
from torch import Tensor

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods.base import State
from g2d_pipeline.models.fusions.weighted import WeightedFusion

REMEDY = """Give the student the teacher's encoder (no teacher_encoder, or the same one), and train teachers \
for it: kedro run --pipeline teachers."""


def start_as_teachers(state: State, method: str) -> None:
    """Write each teacher's encoder, and its head where the student's fusion has one of its own for every
    modality, into the student's of the same modality.

    A fusion that weighs its heads (`weighted`) weighs them by `precision_weights`. Raises ConfigError, naming
    the method, the modality and the first difference, where they have other layers, and where only the
    outputs of a teacher are given."""
    model = state.model
    student_state = model.state_dict()
    copied: dict[str, Tensor] = {}
    for m, outputs in state.teachers.items():
        if outputs.model is None:
            raise ConfigError(
                f"{method} copies the teacher of {m}, and only its stored outputs are given: "
                "give the trained teacher itself"
            )
        parts = (f"encoders.{m}.", *([f"fusion.heads.{m}."] if model.fusion.heads_of_its_own else []))
        teacher_state = {n: value for n, value in outputs.model.state_dict().items() if n.startswith(parts)}
        for name in dict.fromkeys([*(n for n in student_state if n.startswith(parts)), *teacher_state]):
            shapes = [
                list(state[name].shape) if name in state else None for state in (student_state, teacher_state)
            ]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"{method}: the teacher of {m} has another encoder than the student: {name} is "
                    f"{shapes[1] or 'absent'} in the teacher and {shapes[0] or 'absent'} in the "
                    f"student. {REMEDY}"
                )
        copied |= teacher_state
    model.load_state_dict(student_state | copied)
    if isinstance(model.fusion, WeightedFusion):
        for m, weight in precision_weights(state).items():
            model.fusion.weights[m].data.fill_(weight)


def precision_weights(state: State) -> dict[str, float]:
    """w_m ∝ 1 / the task loss of teacher m on val (in a regression: its held-out precision), Σ_m w_m = 1."""
    rows = state.rows("val")
    target = state.targets(rows)
    loss = {
        m: float(state.task.loss(teacher.view(rows, target.device).logits.float(), target))
        for m, teacher in state.teachers.items()
    }
    precision = {m: 1.0 / max(value, torch.finfo(torch.float32).tiny) for m, value in loss.items()}
    return {m: value / sum(precision.values()) for m, value in precision.items()}
