"""The kinds of modality: one file each, kind_class by name (`settings.kind`), entry point or dotted path."""

from functools import cache
from typing import cast

from g2d_pipeline.config import KIND_GROUP, ExternalFeatures
from g2d_pipeline.config.base import Strict
from g2d_pipeline.features.kinds.base import ArraySpec, ColumnKind, FileKind, Findings, Kind
from g2d_pipeline.plugins import find_class

__all__ = ["ArraySpec", "ColumnKind", "FileKind", "Findings", "Kind", "kind_class", "kind_of", "stored_kind"]


def kind_of(settings: Strict) -> FileKind | ColumnKind:
    """The kind of a modality with these feature settings. Raises ConfigError where there is no such kind."""
    if isinstance(settings, ExternalFeatures):
        return stored_kind(settings.kind, settings.options)
    return kind_class(str(settings.kind))(settings)  # type: ignore[attr-defined]


def stored_kind(kind: str, settings: dict[str, object]) -> FileKind | ColumnKind:
    """The kind of a stored modality, from `kind` and `settings` of its entry in `meta.json`."""
    cls = kind_class(kind)
    return cls(cls.settings_class.model_validate({**settings, "kind": kind}))


@cache
def kind_class(name: str) -> type[FileKind] | type[ColumnKind]:
    """By its name: a file of this folder, an entry point or a dotted path. Raises ConfigError as above."""
    return cast("type[FileKind] | type[ColumnKind]", find_class(name, Kind, __name__, KIND_GROUP))
