"""The methods, one file each, found by name. Nothing is imported before it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from g2d_pipeline.plugins import files, find_class, offered

if TYPE_CHECKING:
    from g2d_pipeline.methods.base import Method

METHOD_GROUP = "g2d_pipeline.methods"  # of entry points: methods of other packages, by name


def available() -> list[str]:
    """The names of the methods in this folder; files whose name begins with _ hold what several of them
    share."""
    return files(__name__)


def outside() -> list[str]:
    """The names of the methods that other packages offer as entry points of the group `g2d_pipeline.methods`."""
    return offered(METHOD_GROUP)


def load(algorithm: str) -> type[Method]:
    """The method class of `algorithm`: a file of this folder, an entry point's name, or a dotted path.

    Raises ConfigError for an unknown name (with the nearest one) and for a module without exactly one method.
    """
    from g2d_pipeline.methods.base import Method

    return find_class(algorithm, Method, __name__, METHOD_GROUP)


def build(algorithm: str, parameters: dict[str, Any] | None = None) -> Method:
    """The method with its parameters. Raises ConfigError (unknown algorithm) or pydantic's ValidationError."""
    method = load(algorithm)
    return method(method.Parameters(**(parameters or {})))
