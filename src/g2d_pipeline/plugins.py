"""Plug-ins: classes by the name of a file of ours, another package's entry point, or a dotted path."""

import importlib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from inspect import isabstract
from types import ModuleType
from typing import Any, TypeVar

from g2d_pipeline.errors import ConfigError, did_you_mean

T = TypeVar("T")


def files(package: str) -> list[str]:
    """The names of a package's modules, except `base` and those that begin with _."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if m.name != "base" and m.name[0] != "_")


def external(group: str) -> list[str]:
    """The names that other packages register as entry points of the group."""
    return sorted({e.name for e in entry_points(group=group)})


def find_class(
    name: str, kind: type[T], package: str, group: str, ours: Iterable[str] | None = None
) -> type[T]:
    """The subclass of `kind` by name: a file of `package`, an entry point of `group` (after our files, since
    reading them takes time), or the dotted path of a class or of a module that defines exactly one.
    `ours`: our names, where not each file has one. Raises ConfigError for an unknown name (with the nearest
    one), a syntax error, and another object."""
    role = group.rpartition(".")[2].removesuffix("s")
    target = _import(name if "." in name else f"{package}.{name}")
    if target is None:
        if (point := next(iter(entry_points(group=group, name=name)), None)) is None:
            known = sorted({*(files(package) if ours is None else ours), *external(group)})
            fault = f"no file of {package}, no entry point, no module or class at that path"
            hint = f"{did_you_mean(name, known)} Known: {', '.join(known)}"
            raise ConfigError(f"There is no {role} {name!r}: {fault}.{hint}")
        target = point.load()
    if isinstance(target, ModuleType):
        classes = [c for c in vars(target).values() if isinstance(c, type) and issubclass(c, kind)]
        defined = [c for c in classes if c.__module__ == target.__name__ and not isabstract(c)]
        if len(defined) != 1:
            count = f"exactly one subclass of {kind.__name__}; it defines {len(defined)}"
            raise ConfigError(f"{target.__name__} must define {count}")
        return defined[0]
    if not (isinstance(target, type) and issubclass(target, kind)):
        raise ConfigError(f"{role} {name!r} is neither a module nor a subclass of {kind.__name__}")
    return target


def _import(path: str) -> Any:
    """The module at a dotted path, or an attribute of the module above; None where there is neither."""
    parent, _, last = path.rpartition(".")
    for module, attribute in ((path, ""), (parent, last)):
        try:
            imported = importlib.import_module(module)
            return getattr(imported, attribute, None) if attribute else imported
        except ModuleNotFoundError as error:
            if error.name != module and not module.startswith(f"{error.name}."):
                raise  # the module exists, and another one that it imports does not
        except SyntaxError as error:
            raise ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    return None
