"""Configuration mistakes in words: the file, the key, the value, what is allowed, the nearest key."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from g2d_pipeline.config import DatasetSettings
from g2d_pipeline.errors import ConfigError, did_you_mean

KeyPath = tuple[str, ...]
COMMAND_LINE = "--params"


@dataclass(frozen=True)
class Origins:
    """Where each key was written: (file, path of the key) pairs, the ones that win last."""

    entries: list[tuple[str, KeyPath]] = field(default_factory=list)

    def find(self, path: KeyPath) -> str:
        """The file that set `path`, or the nearest section above it."""
        for depth in range(len(path), 0, -1):
            for file, at in reversed(self.entries):
                if at == path[:depth]:
                    return file
        return "parameters"

    def given(self, path: KeyPath) -> None:
        """Note that `path` was set on the command line."""
        self.entries.append((COMMAND_LINE, path))


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """` Did you mean x?`, or nothing."""
    return did_you_mean(word, known)


def checked(annotation: Any, tree: Any, where: KeyPath, origins: Origins) -> Any:
    """Validate, or raise ConfigError with a line a mistake: file, key, value, what is allowed, nearest key."""
    try:
        return TypeAdapter(annotation).validate_python(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            path, model = _real_path(item["loc"], tree, annotation)
            file = origins.find((*where, *path))
            lines.append(f"{file}: {_explain(item, '.'.join(path) or '.'.join(where), model)}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def _explain(item: Any, key: str, model: type[BaseModel] | None) -> str:
    allowed = list(model.model_fields) if model is not None else []
    allowed += ["smp", "methods", "teacher", "sample"] if model is DatasetSettings else []
    name = key.rsplit(".", 1)[-1]
    if item["type"] == "extra_forbidden":
        return f"unknown key '{key}' (value {short(item['input'])}).{nearest(name, allowed)} Allowed: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"'{key}' is missing"
    if item["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return f"{key} = {short(item['input'])}: it is a section, not one value: say {key}.<key>=…"
    if item["type"] in ("bool_parsing", "bool_type"):
        return f"{key} = {short(item['input'])}: say true or false"
    message = item["msg"].removeprefix("Value error, ")
    hint = ""
    if item["type"] in ("literal_error", "union_tag_invalid") and isinstance(item["input"], str | dict):
        tag = item["input"] if isinstance(item["input"], str) else str(item.get("ctx", {}).get("tag", ""))
        expected = str(item.get("ctx", {}).get("expected") or item.get("ctx", {}).get("expected_tags") or "")
        hint = nearest(tag, [word.strip(" '\"") for word in expected.replace(" or ", ", ").split(",")])
    return f"{key} = {short(item['input'])}: {message[:1].lower() + message[1:]}{'.' + hint if hint else ''}"


def short(value: Any) -> str:
    if isinstance(value, Mapping) and list(value) == ["name"]:  # a section of which a word was said
        value = value["name"]
    text = "/".join(str(v) for v in value) if isinstance(value, list | tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _real_path(loc: tuple[Any, ...], tree: Any, annotation: Any) -> tuple[KeyPath, type[BaseModel] | None]:
    """pydantic's `loc` without union tags, and the model that the last key belongs to."""
    path: list[str] = []
    model = _model(annotation, None)
    owner = model
    here = tree
    for part in loc:
        if isinstance(part, int):
            path.append(str(part))
            continue
        generics = types.GenericAlias | typing._GenericAlias | types.UnionType  # type: ignore[attr-defined]
        of_union = model is None and isinstance(annotation, generics)
        if of_union and not (isinstance(here, Mapping) and part in here and part not in _tags(annotation)):
            tagged = _model(annotation, str(part))
            if tagged is not None:
                model = owner = tagged
                continue
        if model is not None and part not in model.model_fields and part in _tags(annotation):
            continue
        path.append(str(part))
        owner = model
        field_ = model.model_fields.get(str(part)) if model is not None else None
        annotation = field_.annotation if field_ is not None else _value_type(annotation)
        model = _model(annotation, None)
        here = here.get(part) if isinstance(here, Mapping) else None
    return tuple(path), owner


def _value_type(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[1] if typing.get_origin(annotation) is dict and len(arguments) == 2 else None


def _members(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [m for a in typing.get_args(annotation) for m in _members(a)]
    return [annotation]


def _tag(model: type[BaseModel]) -> str:
    for key in ("name", "kind", "layout"):
        if key in model.model_fields:
            return str(model.model_fields[key].default)
    return model.__name__


def _tags(annotation: Any) -> list[str]:
    return [_tag(m) for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _model(annotation: Any, tag: str | None) -> type[BaseModel] | None:
    models = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    if tag is None:
        return models[0] if len(models) == 1 else None
    return next((m for m in models if tag in (_tag(m), m.__name__)), None)
