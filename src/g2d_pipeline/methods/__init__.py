"""The methods, one file each, found by name. Nothing is imported before it is asked for."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from g2d_pipeline.methods.base import Method

METHOD_GROUP = "g2d_pipeline.methods"  # of entry points: methods of other packages, by name


def available() -> list[str]:
    """The names of the methods in this folder; files whose name begins with _ hold what several of them share."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_"))


def outside() -> list[str]:
    """The names of the methods that other packages offer as entry points of the group `g2d_pipeline.methods`."""
    return sorted({e.name for e in entry_points(group=METHOD_GROUP)})


def load(algorithm: str) -> type[Method]:
    """The method class of `algorithm`: a file of this folder, an entry point's name, or a module's dotted path.

    Raises ConfigError for an unknown name (with the nearest one) and for a module without exactly one method.
    """
    from g2d_pipeline.methods.base import Method

    points = {e.name: e for e in entry_points(group=METHOD_GROUP)}
    by_point = algorithm in points and algorithm not in available()
    module: Any = points[algorithm].load() if by_point else _import(algorithm)
    if isinstance(module, type) and issubclass(module, Method):
        return module
    if not isinstance(module, ModuleType):
        raise ConfigError(f"{algorithm} is neither a module nor a subclass of Method")
    name = module.__name__
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{name} must define exactly one subclass of Method; it defines {len(found)}")
    return found[0]


def _import(algorithm: str) -> ModuleType:
    name = algorithm if "." in algorithm else f"{__name__}.{algorithm}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise
        known = [*available(), *outside()]
        near = difflib.get_close_matches(algorithm, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"There is no method file for algorithm '{algorithm}'.{hint} Known: {known}") from error


def build(algorithm: str, parameters: dict[str, Any] | None = None) -> Method:
    """The method with its parameters. Raises ConfigError (unknown algorithm) or pydantic's ValidationError."""
    method = load(algorithm)
    return method(method.Parameters(**(parameters or {})))
