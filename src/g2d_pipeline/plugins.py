"""Classes found by name: a file of one of our folders, another package's entry point, or a dotted path."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, TypeVar

from g2d_pipeline.errors import ConfigError

T = TypeVar("T")


def files(package: str) -> list[str]:
    """The names that the files of a folder give; `base` and what begins with _ is what several of them share."""
    path = importlib.import_module(package).__path__
    return sorted(
        m.name for m in pkgutil.iter_modules(path) if m.name != "base" and not m.name.startswith("_")
    )


def offered(group: str) -> list[str]:
    """The names that other packages offer as entry points of the group."""
    return sorted({e.name for e in entry_points(group=group)})


def find_class(name: str, kind: type[T], package: str, group: str) -> type[T]:
    """The subclass of `kind` called `name`: of a file of `package`, an entry point of `group`, or at a dotted
    path.

    A path leads to a class, or to a module that defines exactly one. Our own files go before entry points.
    Raises ConfigError for a name that leads nowhere (with the nearest one) and for what is, or defines, no
    such class."""
    what = kind.__name__.lower()
    found = _import(name if "." in name else f"{package}.{name}")
    if (
        found is None
    ):  # reading the entry points of all that is installed takes its time: only where it must be
        if (point := next(iter(entry_points(group=group, name=name)), None)) is None:
            known = [*files(package), *offered(group)]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"There is no {what} {name!r}: no file of {package}, no entry point, no module or class at that "
                f"path.{hint} Known: {', '.join(known)}"
            )
        found = point.load()
    if isinstance(found, ModuleType):
        own = [
            value
            for value in vars(found).values()
            if isinstance(value, type) and issubclass(value, kind) and value.__module__ == found.__name__
        ]
        if len(own) != 1:
            raise ConfigError(
                f"{found.__name__} must define exactly one subclass of {kind.__name__}; it defines {len(own)}"
            )
        return own[0]
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(f"{what} {name!r} is neither a module nor a subclass of {kind.__name__}")
    return found


def _import(path: str) -> Any:
    """The module at a dotted path, or what a module calls by its last part; None where there is neither."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path and not path.startswith(f"{error.name}."):
            raise  # the module is there, and misses another one
    above, _, last = path.rpartition(".")
    try:
        return getattr(importlib.import_module(above), last, None)
    except ModuleNotFoundError as error:
        if error.name != above and not above.startswith(f"{error.name}."):
            raise
        return None
