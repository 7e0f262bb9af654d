"""Fusion modules: the features of all modalities → logits `[B, C]` (paper A.3). A new one is one file.

A file defines one subclass of `Fusion`, called with (widths, outputs, **options). Every fusion defines
`unimodal_logits(features, m)`: what the model says from m alone. Analyses and half of the methods need it."""

from typing import Any

from pydantic import TypeAdapter

from g2d_pipeline.config import FUSION_GROUP, FusionSettings, Strict
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.encoders.base import initialise
from g2d_pipeline.models.fusions.base import Fusion
from g2d_pipeline.plugins import find_class


def load_fusion(name: str) -> type[Fusion]:
    """The class of a fusion: a file of this folder, an entry point's name, or the dotted path of a module or
    class. Raises ConfigError for a name that leads nowhere and for a module without exactly one fusion."""
    return find_class(name, Fusion, __name__, FUSION_GROUP)


def build_fusion(settings: str | dict[str, Any] | Strict, widths: dict[str, int], outputs: int) -> Fusion:
    """The fusion of `settings` (a name, or a section with `name`) over features of the given widths,
    initialised. Raises ConfigError where the settings are wrong or do not fit the modalities."""
    chosen: Any = TypeAdapter(FusionSettings).validate_python(settings)
    options = chosen.model_dump(exclude={"name"})
    options |= options.pop("options", {})  # those of another package's fusion
    cls = load_fusion(chosen.name)
    for key in cls.modality_options:
        if options.get(key) is not None and options[key] not in widths:
            raise ConfigError(
                f"fusion.{key} = {options[key]!r}: there is no such modality. Allowed: {', '.join(widths)}"
            )
    if len(widths) < cls.min_modalities:
        raise ConfigError(f"fusion {chosen.name} needs at least two modalities. With one, use late.")
    try:
        return initialise(cls(widths, outputs, **options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fusion {chosen.name}: {error}") from error
