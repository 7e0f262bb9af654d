"""Settings that are chosen by `name`: one of our classes, or a plug-in of another package."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from g2d_pipeline.config.base import Strict
from g2d_pipeline.errors import did_you_mean


class External(Strict):
    """A plug-in: a file's or an entry point's name, or the dotted path of a module or class.

    `options`: the keyword arguments that its class is called with."""

    name: str = ""
    options: dict[str, Any] = {}


def settings_by_name(union: Any) -> dict[str, Any]:
    """name → settings class of an annotated union whose last member is External, without that one."""
    return {c.model_fields["name"].default: c for c in get_args(get_args(union)[0])[:-1]}


class ByName:
    """Annotates a union of settings classes, the last one External: `name` says which one a section is.

    A word stands for the section `{name: word}`. `group`: of entry points, and the folder of
    `models` with our files; a file without a settings class is a plug-in. `default`: the name where none is
    given. Raises ValueError for a name that is nowhere, with the nearest one."""

    def __init__(self, group: str, default: str | None = None) -> None:
        self.group = group
        self.default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        *own, external = get_args(source)
        known = {str(c.model_fields["name"].default): c for c in own}

        def section(value: Any) -> Any:
            value = {"name": value} if isinstance(value, str) else value
            if not isinstance(value, dict):
                return value
            name, path = value.get("name", self.default), "or the dotted path of a module"
            if not isinstance(name, str):
                raise ValueError(f"its name is missing: one of {', '.join(known)}, {path}")
            if name not in known and "." not in name:
                names = [*dict.fromkeys([*known, *self._files()])]
                names += [] if name in names else [e.name for e in entry_points(group=self.group)]
                if name not in names:
                    allowed = f"allowed are {', '.join(names)}, {path}"
                    hint = did_you_mean(name, names)
                    raise ValueError(f"{allowed}.{hint}" if hint else allowed)
            return value

        def tag(value: Any) -> str:
            name = value.get("name", self.default) if isinstance(value, dict) else getattr(value, "name", "")
            return name if name in known else external.__name__

        classes = {**known, external.__name__: external}
        choices = {name: handler.generate_schema(c) for name, c in classes.items()}
        union = core_schema.tagged_union_schema(choices, tag)
        return core_schema.no_info_before_validator_function(section, union)

    def _files(self) -> list[str]:
        """The names of our files, as `plugins.files` has them: without importing them, or torch."""
        folder = Path(__file__).parents[1] / "models" / self.group.rpartition(".")[2]
        return sorted(f.stem for f in folder.glob("*.py") if f.stem != "base" and f.stem[0] != "_")
