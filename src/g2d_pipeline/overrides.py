"""`--params`: a key, short or whole, has one place in the dataset's settings, the schedule or a method."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from g2d_pipeline.config import DatasetSettings, RunSettings, SMPSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError, did_you_mean
from g2d_pipeline.explain import COMMAND_LINE, TAGS, Key, KeyPath, Origins, checked, list_keys

Tree = dict[str, Any]
METHOD_KEYS = ("algorithm", "smp", "training", "needs_teachers", "fusion")  # of a method file, no parameters


@dataclass
class Draft:
    """A configuration that is being merged: the dataset's section and the sections beside it."""

    run: RunSettings
    dataset: Tree
    smp: Tree
    teacher: Tree
    methods: dict[str, Tree]  # of this run
    origins: Origins
    smp_switch: bool | None = None  # smp=true|false; true: for the run's method, not for its baselines
    smp_keys: list[str] = field(default_factory=list)  # set on the command line
    notes: list[str] = field(default_factory=list)  # for the user

    @property
    def path(self) -> KeyPath:
        return "datasets", self.run.dataset

    def override(self, overrides: Tree) -> None:
        """Apply the rest of `--params`. Raises ConfigError for unknown and ambiguous keys.

        A dotted key is a path; a short key is looked up in the dataset's settings, the schedule and the
        chosen methods. Tags come first, in any order of typing: another `lr_schedule.name` has other keys
        beside it. `teacher` comes last: it starts from the training settings of all."""
        if not isinstance(overrides.get("teacher", {}), Mapping):
            raise ConfigError(f"{COMMAND_LINE}: teacher is a section; say teacher.<key>=<value>")

        def order(leaf: tuple[KeyPath, Any]) -> tuple[bool, bool, int]:
            tags = [key for key in self._matches(*leaf) if key.choices]
            return leaf[0][0] == "teacher", not tags, len(tags[0].path) if tags else 0

        for path, value in sorted(leaves(overrides), key=order):
            if path == ("teacher",):  # an empty section
                continue
            if path == ("smp",) and not isinstance(value, Mapping):
                self.smp_switch = checked(bool, value, path, Origins([(COMMAND_LINE, path)]))
            elif path[0] == "smp" or (len(path) == 1 and path[0] in SMPSettings.model_fields):
                self.smp[path[-1]] = value
                self.smp_keys.append(path[-1])
                self.origins.note(*self.path, "smp", path[-1])
            elif path[0] == "teacher":
                key, *others = self._matches(path, value) or [Key(path[1:])]
                self._put(self.teacher, Key(path[1:]) if others else key, value, "teacher")
            else:
                self._set(path, value)

    def _set(self, path: KeyPath, value: Any) -> None:
        first = path[0]
        methods = [  # a parameter, or below one that is a section (`rates.audio`)
            name
            for name, tree in self.methods.items()
            if first in tree and first not in METHOD_KEYS
            if len(path) == 1 or isinstance(tree[first], Mapping)
        ]
        matches = [key for key in self._matches(path, value) if key.exists or not methods]
        if len(matches) == 1 and not methods:
            self._put(self.dataset, matches[0], value)
            choices = matches[0].choices
            if choices and value not in choices:  # before the keys beside it are unknown
                checked(DatasetSettings, self.dataset, self.path, self.origins)
        elif methods and not matches:
            for name in methods:
                put(self.methods[name], Key(path), value)
                self.origins.note("methods", name, *path)
        elif matches:
            names = [".".join(key.path) for key in matches]
            names += [f"methods.{name}.{'.'.join(path)}" for name in methods]
            raise ConfigError(
                f"{COMMAND_LINE}: '{'.'.join(path)}' is ambiguous: say one of {', '.join(names)}"
            )
        else:
            run = f"dataset '{self.run.dataset}' and method {', '.join(self.methods) or 'unimodal'}"
            key = f"unknown key '{'.'.join(path)}' (value {value!r})"
            raise ConfigError(f"{COMMAND_LINE}: {key} for {run}.{self._remedy(path)}")

    def _put(self, tree: Tree, key: Key, value: Any, *above: str) -> None:
        """Set a key in `tree`, which is the section `above` of the dataset, and note where it comes from."""
        put(tree, key, value)
        self.origins.note(*self.path, *above, *key.path)
        if key.choices or not key.exists:  # the whole section is the command line's
            self.origins.note(*self.path, *above, *key.path[:-1])

    def _matches(self, path: KeyPath, value: Any) -> list[Key]:
        """The keys that `path` may mean: itself; else the shallowest ones with this end, if possible in
        sections that exist. A word for a section that has a name (`optimizer=adam`) means its name."""
        if path[0] == "teacher":
            training = self.dataset.get("training")
            base = copy.deepcopy(training) if isinstance(training, dict) else {}
            path, keys = path[1:], list(list_keys(TrainingSettings, merge(base, self.teacher)))
        else:
            keys = list(list_keys(DatasetSettings, self.dataset))
        matches = [k for k in keys if k.path == path] or [k for k in keys if k.path[-len(path) :] == path]
        if not matches and len(path) > 1:  # a plug-in takes any option
            sections = [k.path for k in keys if k.path[-1] == "options"]
            matches = [Key((*s, path[-1])) for s in sections if s[1 - len(path) :] == path[:-1]]
        matches = [k for k in matches if k.exists] or matches
        depth = min((len(k.path) for k in matches), default=0)
        matches = [k for k in matches if len(k.path) == depth]
        matched = {k.path for k in matches}
        names = [k for k in keys if k.choices and k.path[-1] == "name" and k.path[:-1] in matched]
        return names if isinstance(value, str) and names else matches

    def _remedy(self, path: KeyPath) -> str:
        """For an unknown key: the name of a section that would have it, its path, or the nearest key."""
        keys, last = list(list_keys(DatasetSettings, self.dataset)), path[-1]
        if len(path) > 1 and any(k.path[-len(path) :] == (*path[:-1], "options") for k in keys):
            return f" Of a plug-in say {'.'.join(path[:-1])}.options.{last}."
        names = [
            f"{'.'.join(key.path)}={tag}"
            for key in keys
            for tag, model in key.choices.items()
            if key.path[-1] == "name" and last in model.model_fields
            if (*key.path[:-1], last)[-len(path) :] == path
        ]
        if names:
            return f" It goes with {' or '.join(names)}."
        whole = (".".join(k.path) for k in keys if k.path[-1] == last and set(path) <= set(k.path))
        if key := next(whole, None):
            return f" Did you mean '{key}'?"
        known = {k.path[-1] for k in keys} | {*SMPSettings.model_fields, *RunSettings.model_fields, "seed"}
        known |= set().union(*self.methods.values()) - {*METHOD_KEYS}
        bare = [name for name, tree in self.methods.items() if not tree]
        listed = f" Parameters of {bare[0]} can be given where a YAML of methods lists them." if bare else ""
        return did_you_mean(last, known) + listed


def section(name: str, files: Tree, overrides: Tree, origins: Origins) -> Tree:
    """The section `datasets` or `methods` of the files with what `--params` says of it."""
    changes = overrides.pop(name, {})
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{COMMAND_LINE}: {name} is a section; say {name}.<name>.<key>=<value>")
    for path, _ in leaves(changes):
        origins.note(name, *path)
    return merge(files.pop(name, {}), changes)


def name_sections(tree: Tree) -> None:
    """Replace a word for a section by the section, so that options can be given beside it."""
    modalities, raw = tree.get("modalities"), tree.get("raw")
    if isinstance(raw, dict) and raw.get("layout") == "table" and isinstance(raw.get("split"), str):
        raw["split"] = {"column": raw["split"]}
    for section in [tree, *(modalities.values() if isinstance(modalities, dict) else [])]:
        for key in ("fusion", "encoder", "teacher_encoder"):
            if isinstance(section, dict) and isinstance(section.get(key), str):
                section[key] = {"name": section[key]}


def leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    """(path, value) of every value of a tree; an empty section is one."""
    pairs: list[tuple[KeyPath, Any]] = []
    for key, value in tree.items():
        path = (*prefix, key)
        pairs += leaves(value, path) if isinstance(value, Mapping) and value else [(path, value)]
    return pairs


def as_text(value: Any) -> str:
    """A value as it is typed after `--params`: lists with slashes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(map(as_text, value))
    return str(value)


def as_params(tree: Mapping[str, Any]) -> str:
    """What is typed after `--params` for these overrides."""
    pairs = [(".".join(map(str, path)), value) for path, value in leaves(tree)]
    return ",".join(f"{key}={'' if value is None else as_text(value)}" for key, value in pairs)


def put(tree: Tree, key: Key, value: Any) -> None:
    """Set a key in place: another tag empties its section; a new section gets its default's tag."""
    *above, last = key.path
    for name in above:
        if not isinstance(tree.get(name), dict):
            tree[name] = dict(key.siblings) if name == above[-1] else {}
        tree = tree[name]
    if key.choices and tree.get(last, value) != value:
        tree.clear()
    merge(tree, {last: value})


def merge(into: Tree, new: Mapping[str, Any]) -> Tree:
    """Merge `new` over `into`, in place, section by section. A section with another tag replaces."""
    for key, value in new.items():
        old: Any = into.get(key)
        sections = isinstance(old, dict) and isinstance(value, Mapping)
        if sections and all(value.get(tag, old.get(tag)) == old.get(tag, value.get(tag)) for tag in TAGS):
            merge(old, value)
        else:
            into[key] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)
    return into
