"""The methods, one file each, found by name. Nothing is imported before it is asked for."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from g2d_pipeline.methods.base import Method


def available() -> list[str]:
    """The names of the methods in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def load(algorithm: str) -> type[Method]:
    """The method class of `algorithm`: a file of this folder, or the dotted path of a module elsewhere.

    Raises ConfigError for an unknown name (with the nearest one) and for a module without exactly one method.
    """
    from g2d_pipeline.methods.base import Method

    name = algorithm if "." in algorithm else f"{__name__}.{algorithm}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        near = difflib.get_close_matches(algorithm, available(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"There is no method file for algorithm '{algorithm}'.{hint} Known: {available()}") from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{name} must define exactly one subclass of Method; it defines {len(found)}")
    return found[0]


def build(algorithm: str, parameters: dict[str, Any] | None = None) -> Method:
    """The method with its parameters. Raises ConfigError (unknown algorithm) or pydantic's ValidationError."""
    method = load(algorithm)
    return method(method.Parameters(**(parameters or {})))
