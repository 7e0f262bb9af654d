"""Parameters that are given modality by modality (`weights: {audio: 1}`): a name that does not exist is
refused."""

from __future__ import annotations

from collections.abc import Mapping

from g2d_pipeline.explain import nearest
from g2d_pipeline.methods.base import MethodContext


def check_modalities(
    key: str, values: Mapping[str, float], context: MethodContext, also: tuple[str, ...] = ()
) -> None:
    """Raise ValueError with key, value and what is allowed, where a name is neither a modality nor in
    `also`."""
    known = (*also, *context.modalities)
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                f"{key}.{name} = {value:g}: there is no modality '{name}'.{nearest(name, known)} "
                f"Allowed: {', '.join(known)}"
            )
