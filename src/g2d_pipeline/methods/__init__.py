"""The methods, one file each, by name; files that begin with _ are shared. Nothing is imported early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from g2d_pipeline import plugins

if TYPE_CHECKING:
    from g2d_pipeline.methods.base import Method

METHOD_GROUP = "g2d_pipeline.methods"  # of entry points: methods of other packages, by name


def available() -> list[str]:
    """The names of the methods in this folder."""
    return plugins.files(__name__)


def external() -> list[str]:
    """The names of the methods that other packages register as entry points."""
    return plugins.external(METHOD_GROUP)


def load(algorithm: str) -> type[Method]:
    """The method class of `algorithm`: a file of this folder, an entry point's name, or a dotted path.

    Raises ConfigError for an unknown name (with the nearest one) and a module without just one method."""
    from g2d_pipeline.methods.base import Method

    return plugins.find_class(algorithm, Method, __name__, METHOD_GROUP)


def build(algorithm: str, parameters: dict[str, Any] | None = None) -> Method:
    """The method with its parameters. Raises ConfigError (unknown) or pydantic's ValidationError."""
    method = load(algorithm)
    return method(method.Parameters(**(parameters or {})))
