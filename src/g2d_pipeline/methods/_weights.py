"""Encoders and heads that start as those of the trained unimodal teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import MultimodalModel

REMEDY = """Give the student the teacher's encoder (no teacher_encoder, or the same one), and train teachers \
for it: kedro run --pipeline teachers."""


def copy_weights(model: MultimodalModel, teachers: Mapping[str, Any], method: str) -> None:
    """Write each teacher's encoder, and its head where the student's fusion has one of its own for every
    modality, into the student's of the same modality.

    `teachers`: as of `State`. Raises ConfigError, naming the method, the modality and the first difference,
    where they have other layers, and where only the outputs of a teacher are given."""
    own = model.state_dict()
    copied: dict[str, Tensor] = {}
    for m, outputs in teachers.items():
        if outputs.model is None:
            raise ConfigError(
                f"{method} copies the teacher of {m}, and only its stored outputs are given: "
                "give the trained teacher itself"
            )
        parts = (f"encoders.{m}.", *([f"fusion.heads.{m}."] if model.fusion.heads_of_its_own else []))
        theirs = {n: value for n, value in outputs.model.state_dict().items() if n.startswith(parts)}
        for name in dict.fromkeys([*(n for n in own if n.startswith(parts)), *theirs]):
            shapes = [list(state[name].shape) if name in state else None for state in (own, theirs)]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"{method}: the teacher of {m} has another encoder than the student: {name} is "
                    f"{shapes[1] or 'absent'} in the teacher and {shapes[0] or 'absent'} in the "
                    f"student. {REMEDY}"
                )
        copied |= theirs
    model.load_state_dict(own | copied)
