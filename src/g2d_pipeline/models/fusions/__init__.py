"""Fusion modules: the features of all modalities → logits `[B, C]` (paper A.3). A new one is one file.

A file defines one subclass of `Fusion`, called with (widths, outputs, **options). Every fusion defines
`unimodal_logits(features, m)`: what the model says from modality m alone. Analyses and half of the methods need it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter

from g2d_pipeline.config import FUSION_GROUP, FusionSettings, Outside, Strict
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.fusions.base import Fusion

__all__ = ["Fusion", "build_fusion", "load_fusion"]


def load_fusion(name: str) -> type[Fusion]:
    """The class of a fusion: a file of this folder, an entry point's name, or the dotted path of a module or class.

    Raises ConfigError for a name that leads nowhere and for a module without exactly one fusion.
    """
    outside = {e.name: e for e in entry_points(group=FUSION_GROUP)}
    path = name if "." in name else f"{__name__}.{name}"
    found: Any = outside[name].load() if name in outside else _import(path)
    if isinstance(found, ModuleType):
        own = [
            value
            for value in vars(found).values()
            if isinstance(value, type) and issubclass(value, Fusion) and value.__module__ == found.__name__
        ]
        if len(own) != 1:
            raise ConfigError(f"{found.__name__} must define exactly one subclass of Fusion; it defines {len(own)}")
        return own[0]
    if not (isinstance(found, type) and issubclass(found, Fusion)):
        raise ConfigError(f"fusion {name!r} is no subclass of g2d_pipeline.models.Fusion")
    return found


def _import(path: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        above, _, last = path.rpartition(".")
        if error.name not in (path, above):
            raise
        try:
            return getattr(importlib.import_module(above), last)
        except (ModuleNotFoundError, AttributeError):
            raise ConfigError(f"fusion {path!r}: there is no such module or class") from error


def build_fusion(settings: str | dict[str, Any] | Strict, widths: dict[str, int], outputs: int) -> Fusion:
    """The fusion of `settings` (a name, or a section with `name`) over features of the given widths, initialised.

    Raises ConfigError where the settings are wrong or do not fit the modalities.
    """
    from g2d_pipeline.models.encoders import initialise

    of: Any = TypeAdapter(FusionSettings).validate_python(settings)
    options = of.model_dump(exclude={"name", "options"}) | (of.options if isinstance(of, Outside) else {})
    for key in ("condition", "gate"):
        if options.get(key) is not None and options[key] not in widths:
            raise ConfigError(
                f"fusion.{key} = {options[key]!r}: there is no such modality. Allowed: {', '.join(widths)}"
            )
    if len(widths) < 2 and of.name in ("film", "bi_gated", "cross_attention"):
        raise ConfigError(f"fusion {of.name} needs at least two modalities. With one, use late.")
    try:
        return initialise(load_fusion(of.name)(widths, outputs, **options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fusion {of.name}: {error}") from error
