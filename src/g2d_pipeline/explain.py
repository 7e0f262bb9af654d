"""Validation errors as messages: the file, the key, the value, what is allowed, the nearest key."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from g2d_pipeline.config import DatasetSettings
from g2d_pipeline.errors import ConfigError, did_you_mean

KeyPath = tuple[str, ...]
COMMAND_LINE = "--params"
EXPECTED = {"string": "text", "int": "a whole number", "float": "a number"}  # by pydantic's error type
EXPECTED["list"] = "a list, such as [1, 2], or 1/2 in --params"
BESIDE = ("smp", "methods", "teacher", "sample")  # sections of a data set beside its settings
TAGS = ("name", "kind", "layout")  # keys that say which of several settings classes a section is


@dataclass(frozen=True)
class Origins:
    """Where each key was written: (file, path of the key) pairs, the ones that win last."""

    entries: list[tuple[str, KeyPath]] = field(default_factory=list)

    def find(self, path: KeyPath) -> str:
        """The file that set `path`, or the nearest section above it."""
        files = {key: file for file, key in self.entries}
        return next((files[path[:n]] for n in range(len(path), 0, -1) if path[:n] in files), "parameters")

    def mistake(self, path: KeyPath, message: str) -> ConfigError:
        """The error for what is wrong with `path`, with the file that set it."""
        return ConfigError(f"{self.find(path)}: {message}")

    def note(self, *path: str) -> None:
        """Note that `path` was set on the command line."""
        self.entries.append((COMMAND_LINE, path))


@dataclass(frozen=True)
class Key:
    """A key that settings have or may have.

    `is_field`: of the section's settings class; `exists`: false below a section that is null, such as
    `augment`; `choices`: of a tag, the classes that it chooses from; `siblings`: the tags of a section that
    is created for this key."""

    path: KeyPath
    is_field: bool = False
    exists: bool = True
    choices: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    siblings: Mapping[str, Any] = field(default_factory=dict)


def list_keys(annotation: Any, value: Any, above: KeyPath = (), exists: bool = True) -> Iterator[Key]:
    """Every key at and below `above`: what is written, valid or not, and the fields of settings classes."""
    tree = value if isinstance(value, Mapping) else {}
    is_dict = get_origin(annotation) is dict
    models = [] if is_dict else _models(annotation)
    tag = next((t for t in TAGS if len(models) > 1 and t in models[0].model_fields), None)
    by_tag = {m.model_fields[tag].default: m for m in models} if tag else {}
    name = tree.get(tag, by_tag)
    plug_in = by_tag.get("") if isinstance(name, str) else None  # the class of all other names
    owner = models[0] if len(models) == 1 else by_tag.get(str(name), plug_in)
    fields = owner.model_fields if owner is not None else {}
    siblings = {t: fields[t].default for t in TAGS if t in fields}
    for name in dict.fromkeys([*fields, *([tag] if tag and owner is None else ()), *tree]):
        yield Key((*above, name), name in fields, exists, by_tag if name == tag else {}, siblings)
        below = tree[name] if name in tree else fields[name].default if name in fields else None
        inner = fields[name].annotation if name in fields else get_args(annotation)[1] if is_dict else None
        below = below.model_dump() if isinstance(below, BaseModel) else below
        yield from list_keys(inner, below, (*above, name), exists and below is not None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that an annotation names, through unions, Annotated and None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def checked(annotation: Any, tree: Any, above: KeyPath, origins: Origins, task: str | None = None) -> Any:
    """`tree`, which stands at the key `above`, validated. Raises ConfigError with a line for each mistake.

    `task`: of the dataset, for settings that depend on it."""
    try:
        return TypeAdapter(annotation).validate_python(tree, context={"task": task})
    except ValidationError as error:
        lines = []
        for item in error.errors():
            path = _without_tags(item, tree)
            message = _explain(item, ".".join(path or above), path, annotation, tree)
            lines.append(f"{origins.find((*above, *path))}: {message}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def _without_tags(item: Any, tree: Any) -> KeyPath:
    """The key of a mistake: pydantic's `loc` without the names of the classes that it tried."""
    path: list[str] = []
    is_tag = False
    for i, part in enumerate(item["loc"], 1):
        missing = item["type"] == "missing" and i == len(item["loc"])
        tags = [tree.get(t) for t in TAGS] if isinstance(tree, Mapping) and not is_tag else []
        keys = tree if isinstance(tree, Mapping) else range(len(tree)) if isinstance(tree, list) else ()
        inside = part in keys
        is_tag = not missing and (part in tags or not (inside or isinstance(part, int)))
        if not is_tag:
            path.append(str(part))
            tree = tree[part] if inside else None
    return tuple(path)


def _explain(item: Any, key: str, path: KeyPath, annotation: Any, tree: Any) -> str:
    value, context = item["input"], item.get("ctx", {})
    kind, _, fault = item["type"].partition("_")
    match item["type"]:
        case "extra_forbidden":
            keys = (k for k in list_keys(annotation, tree) if k.is_field)
            allowed = [k.path[-1] for k in keys if k.path[:-1] == path[:-1]]
            allowed += BESIDE if annotation is DatasetSettings and len(path) == 1 else ()
            hint = did_you_mean(path[-1], allowed)
            return f"unknown key '{key}' (value {short(value)}).{hint} Allowed: {', '.join(allowed)}"
        case "missing":
            return f"'{key}' is missing"
        case "secret":  # its value is not shown
            return str(item["msg"])
        case "union_tag_not_found" | "union_tag_invalid" if isinstance(value, Mapping):
            tag = context["discriminator"].strip("'()")
            choices = next(k.choices for k in list_keys(annotation, tree) if k.path == (*path, tag))
            name = value.get(tag)
            fault = "is missing" if name is None else f"= {short(name)} is unknown"
            known, other = list(filter(None, choices)), ", or the dotted path of a module" * ("" in choices)
            return f"{key}.{tag} {fault}.{did_you_mean(str(name), known)} Allowed: {', '.join(known)}{other}"
        case "too_short":
            least, length = context["min_length"], context["actual_length"]
            return f"{key} = {short(value)}: it needs {least} values or more, and has {length}"
        case _ if value is None:
            return f"{key} is empty: give it a value (a section: its keys, indented below it), or remove it"
        case "dict_type" | "model_type" | "model_attributes_type" | "union_tag_not_found":
            return f"{key} = {short(value)}: it is a section, not one value: say {key}.<key>=…"
        case "bool_parsing" | "bool_type":
            return f"{key} = {short(value)}: say true or false"
    message, hint = re.sub("(Input|String) should", "it should", item["msg"]), ""
    message = message.removeprefix("Value error, ")
    if kind in EXPECTED and fault in ("type", "parsing", "from_float"):
        message = f"it should be {EXPECTED[kind]}"
    if item["type"] == "literal_error" and isinstance(value, str):
        allowed = [word.strip(" '\"") for word in re.split(",| or ", str(context.get("expected")))]
        hint = did_you_mean(value, allowed)
    return f"{key} = {short(value)}: {message[:1].lower() + message[1:]}{hint and '.' + hint}"


def short(value: Any) -> str:
    """A value for a message, 80 characters at most."""
    if isinstance(value, Mapping) and list(value) == ["name"]:  # a section given as a word
        value = value["name"]
    text = "/".join(map(str, value)) if isinstance(value, list | tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
