"""`--params` where it belongs: a key, short or whole, finds its one place in the settings, the schedule or a
method."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from g2d_pipeline.config import DatasetSettings, RunSettings, SMPSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.explain import COMMAND_LINE, KeyPath, Origins, checked, nearest

Tree = dict[str, Any]
# Keys of a method file that are no parameters of the method.
METHOD_KEYS = ("algorithm", "smp", "training", "needs_teachers", "fusion")
TAGS = ("name", "kind", "layout")  # keys that say which of several settings classes a section is


@dataclass
class Sections:
    """The sections beside the dataset's own settings: the schedule and what teachers are trained by."""

    smp: Tree
    teacher: Tree
    off: bool = False  # smp=false
    on: str = ""  # smp=true: on the method of the run, whose baselines stay what they are
    asked: list[str] = field(default_factory=list)  # smp keys given on the command line


def override(
    overrides: Tree,
    tree: Tree,
    sections: Sections,
    chosen: dict[str, Tree],
    run: RunSettings,
    origins: Origins,
) -> None:
    """Apply what is left of `--params` where it belongs, in place.

    A dotted key is a path; a short key is looked for in the dataset's settings, the schedule and the chosen
    methods. Tags come first, whatever the order of typing: another `lr_schedule.name` has other keys beside
    it. `teacher` comes last: it starts from what all are trained by."""
    dataset, method = run.dataset, run.method
    where = ("datasets", dataset)
    if not isinstance(overrides.get("teacher", {}), Mapping):
        raise ConfigError(f"{COMMAND_LINE}: teacher is a section; say teacher.<key>=<value>")

    def meant(path: KeyPath, value: Any) -> list[Key]:
        if path[0] != "teacher":
            return _meant(path, value, list(_keys(DatasetSettings, tree)))
        base = tree.get("training")
        merged = merge(copy.deepcopy(base) if isinstance(base, dict) else {}, sections.teacher)
        return _meant(path[1:], value, list(_keys(TrainingSettings, merged)))

    def order(leaf: tuple[KeyPath, Any]) -> tuple[bool, bool, int]:
        tags = [place for place in meant(*leaf) if place.choices]
        return leaf[0][0] == "teacher", not tags, len(tags[0].path) if tags else 0

    for path, value in sorted(((p, v) for p, v in leaves(overrides) if p != ("teacher",)), key=order):
        key = path[-1]
        in_methods = [name for name, of in chosen.items() if _belongs(path, of)]
        places = [place for place in meant(path, value) if place.there or not in_methods]
        is_tag = len(places) == 1 and bool(places[0].choices)
        if path == ("smp",) and not isinstance(value, Mapping):
            wanted = checked(bool, value, ("smp",), Origins([(COMMAND_LINE, ("smp",))]))
            sections.off, sections.on = not wanted, method if wanted else ""
        elif path[0] == "smp" or (len(path) == 1 and key in SMPSettings.model_fields):
            sections.smp[key] = value
            sections.asked.append(key)
            origins.given((*where, "smp", key))
        elif path[0] == "teacher":
            if len(places) == 1:
                path = ("teacher", *places[0].path)
                _put(sections.teacher, places[0], value)
            else:
                merge(sections.teacher, _nested(path[1:], value))
            origins.given((*where, *path))
            if is_tag:
                origins.given((*where, *path[:-1]))
        elif in_methods and not places:
            for name in in_methods:
                merge(chosen[name], _nested(path, value))
                origins.given(("methods", name, *path))
        elif len(places) == 1 and not in_methods:
            _put(tree, places[0], value)
            origins.given((*where, *places[0].path))
            if is_tag or not places[0].there:  # the whole section is the command line's
                origins.given((*where, *places[0].path[:-1]))
            if is_tag and value not in list(
                places[0].choices
            ):  # told now: the keys beside it would be called unknown
                checked(DatasetSettings, tree, where, origins)
        elif places or in_methods:
            names = [".".join(p.path) for p in places] + [
                f"methods.{name}.{'.'.join(path)}" for name in in_methods
            ]
            raise ConfigError(
                f"{COMMAND_LINE}: '{'.'.join(path)}' is ambiguous: say one of {', '.join(names)}"
            )
        else:
            known = set(SMPSettings.model_fields) | set(RunSettings.model_fields) | {"seed"}
            known |= {k for of in chosen.values() for k in of} - set(METHOD_KEYS)
            raise ConfigError(
                f"{COMMAND_LINE}: unknown key '{'.'.join(path)}' (value {value!r}) for dataset '{dataset}' and method "
                f"{', '.join(chosen) or 'unimodal'}.{_remedy(path, list(_keys(DatasetSettings, tree)), known)}"
            )


def _belongs(path: KeyPath, of: Tree) -> bool:
    """Whether a key is a method's parameter: one of its own, or below one that is a section (`rates.audio`)."""
    section = len(path) == 1 or isinstance(of.get(path[0]), Mapping)
    return path[0] in of and path[0] not in METHOD_KEYS and section


def leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    found: list[tuple[KeyPath, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found += leaves(value, (*prefix, key))
        else:
            found.append(((*prefix, key), value))
    return found


@dataclass(frozen=True)
class Key:
    """A key that settings have or may have.

    `owner`: the settings class that it is a field of, if any; `there`: false below a section that is null,
    such as `augment`; `choices`: of a tag, the classes that it chooses from, by their tags; else empty."""

    path: KeyPath
    owner: type[BaseModel] | None = None
    there: bool = True
    choices: Mapping[str, type[BaseModel]] = field(default_factory=dict)


def _keys(annotation: Any, value: Any, above: KeyPath = (), there: bool = True) -> Iterator[Key]:
    """Every key at and below `above`: what is written, valid or not, and the fields of the settings' classes."""
    tree = value if isinstance(value, Mapping) else {}
    is_dict = get_origin(annotation) is dict
    models = [] if is_dict else _models(annotation)
    by_tag = {m.model_fields[t].default: m for m in models for t in TAGS if t in m.model_fields}
    tag = next((t for t in TAGS if len(models) > 1 and t in models[0].model_fields), None)
    owner = (
        models[0]
        if len(models) == 1
        else next((m for t, m in by_tag.items() if tag and tree.get(tag) == t), None)
    )
    fields = owner.model_fields if owner is not None else {}
    for name in dict.fromkeys([*fields, *tree]):
        yield Key((*above, name), owner, there, by_tag if name == tag else {})
        below = tree[name] if name in tree else fields[name].default
        inner = fields[name].annotation if name in fields else get_args(annotation)[1] if is_dict else None
        below = below.model_dump() if isinstance(below, BaseModel) else below
        yield from _keys(inner, below, (*above, name), there and below is not None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that an annotation names, through unions, Annotated and None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _meant(path: KeyPath, value: Any, keys: list[Key]) -> list[Key]:
    """The keys that `path` may mean: itself; else the shallowest that end so, in sections that are there if
    possible.

    A word for a section that has a name (`optimizer=adam`) means its name.
    """
    found = [k for k in keys if k.path == path] or [k for k in keys if k.path[-len(path) :] == path]
    found = [k for k in found if k.there] or found
    depth = min((len(k.path) for k in found), default=0)
    found = [k for k in found if len(k.path) == depth]
    sections = {k.path for k in found}
    names = [k for k in keys if k.choices and k.path[-1] == "name" and k.path[:-1] in sections]
    return names if isinstance(value, str) and names else found


def _put(tree: Tree, key: Key, value: Any) -> None:
    """Set a key in place: another tag empties its section; a section that was not written gets its default's
    tag."""
    *above, last = key.path
    for name in above:
        if not isinstance(tree.get(name), dict):
            fields = key.owner.model_fields if key.owner is not None and name == above[-1] else {}
            tree[name] = {t: fields[t].default for t in TAGS if t in fields}
        tree = tree[name]
    if key.choices and tree.get(last, value) != value:
        tree.clear()
    merge(tree, {last: value})


def _remedy(path: KeyPath, keys: list[Key], others: set[str]) -> str:
    """For an unknown key: the name of a section that would have it, its whole path, or the nearest key."""
    wanted = [
        f"{'.'.join(k.path)}={tag}"
        for k in keys
        for tag, model in k.choices.items()
        if k.path[-1] == "name"
        and path[-1] in model.model_fields
        and (*k.path[:-1], path[-1])[-len(path) :] == path
    ]
    if wanted:
        return f" It goes with {' or '.join(wanted)}."
    whole = [".".join(k.path) for k in keys if k.path[-1] == path[-1] and set(path) <= set(k.path)]
    return f" Did you mean '{whole[0]}'?" if whole else nearest(path[-1], {k.path[-1] for k in keys} | others)


def _nested(path: KeyPath, value: Any) -> Tree:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def merge(into: Tree, new: Mapping[str, Any]) -> Tree:
    """Merge `new` over `into`, in place, section by section. A section with another name, kind or layout
    replaces."""
    for key, value in new.items():
        old = into.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict):
            if any(tag in value and value[tag] != old.get(tag, value[tag]) for tag in TAGS):
                into[key] = copy.deepcopy(dict(value))
            else:
                merge(old, value)
        else:
            into[key] = copy.deepcopy(value)
    return into
