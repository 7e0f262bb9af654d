"""A study as its file declares it (conf/<environment>/studies/<name>.yml), and the grid that follows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from g2d_pipeline.config.base import split_slashes
from g2d_pipeline.config.studies import REFUSED, SHORT, AdviseSettings, Options, StudySettings
from g2d_pipeline.errors import ConfigError, did_you_mean
from g2d_pipeline.explain import COMMAND_LINE, Origins, checked
from g2d_pipeline.overrides import Tree, as_text, leaves, merge


@dataclass(frozen=True)
class Point:
    """A point of the grid: `options` as they are shown (key → value), `params` as `kedro run` takes them."""

    dataset: str
    methods: tuple[str, ...]
    options: Options
    params: Tree

    @property
    def label(self) -> str:
        """`fusion=film, alpha/beta=0/1`; empty where nothing varies."""
        return ", ".join(f"{key}={as_text(value)}" for key, value in self.options.items())

    def __str__(self) -> str:
        return f"{self.dataset}{self.label and f' ({self.label})'}"


Files = Mapping[str, list[tuple[str, bytes]]]
"""Name of a study → its files as (displayed name, content), those that win last."""
Parse = Callable[[str, bytes], Tree]


def read_study(
    name: str, files: Files, parse: Parse, changes: Tree
) -> tuple[StudySettings | AdviseSettings, Origins]:
    """The validated study `name` (one with `minutes` is a race), and where its keys were written.
    `parse(file, content)`: a YAML's content; `changes`: what `--params` says beside it: keys of the study,
    and options of all cells.

    Raises ConfigError with file, key, value and what is allowed."""
    origins = Origins()
    tree = _tree(name, files, parse, origins, ())
    settings = AdviseSettings if "minutes" in tree else StudySettings
    for key, value in changes.items():
        long = key if key in settings.model_fields else SHORT.get(key, key)
        if long in REFUSED:
            raise ConfigError(f"{COMMAND_LINE}: {key} does not go with study={name}: {REFUSED[long]}")
        if long in settings.model_fields:
            tree[long] = merge(dict(tree.get(long) or {}), value) if isinstance(value, Mapping) else value
            origins.note("studies", name, long)
        else:
            tree["options"] = {**(tree.get("options") or {}), key: value}
            origins.note("studies", name, "options", key)
    if settings is AdviseSettings and "dataset" not in tree:
        message = f"'dataset' is missing: say --params study={name},dataset=<name>"
        raise origins.mistake(("studies", name), message)
    return checked(settings, tree, ("studies", name), origins), origins


def _tree(name: str, files: Files, parse: Parse, origins: Origins, above: tuple[str, ...]) -> Tree:
    """What the files say of a study, over what they say of the one that it is `like`."""
    if name not in files:
        file = f"{origins.find(('studies', above[-1], 'like'))}: like = {name!r}" if above else COMMAND_LINE
        raise ConfigError(
            f"{file}: unknown study '{name}'.{did_you_mean(name, files)} Known: {', '.join(sorted(files))}. "
            "A new one is one file conf/base/studies/<name>.yml."
        )
    tree: Tree = {}
    for file, content in files[name]:
        section = parse(file, content).get("studies")
        if not isinstance(section, Mapping) or not isinstance(section.get(name), Mapping):
            raise ConfigError(
                f"{file}: it should begin with the line 'studies:' and, indented below it, '{name}:' with "
                "datasets, methods, … below that"
            )
        for path, _ in leaves(section[name]):
            prefixes = (("studies", name, *path[:depth]) for depth in range(len(path) + 1))
            origins.entries.extend((file, prefix) for prefix in prefixes)
        merge(tree, section[name])
    if (like := tree.get("like")) is None:
        return tree
    if like in (name, *above):
        raise origins.mistake(("studies", name, "like"), f"like = {like!r}: they are like one another")
    base = _tree(str(like), files, parse, origins, (*above, name))
    written = [(file, path) for file, path in origins.entries if path[:2] == ("studies", like)]
    for file, path in reversed(written):
        origins.entries.insert(0, (file, ("studies", name, *path[2:])))
    vary = {"vary": tree["vary"]} if "vary" in tree else {}  # another grid replaces, it does not add
    return merge(base, tree) | vary


def points(study: StudySettings) -> Iterator[Point]:
    """Every point of the grid, data sets first, then the options in their order.

    `smp=true` is an option of one method (see `resolve`), so that each has a point of its own then."""
    for dataset in study.datasets:
        for values in product(*study.vary.values()):
            options = dict(zip(study.vary, values, strict=True))
            flat: Options = {}
            for key, value in options.items():
                keys = key.split("/")
                flat |= dict(zip(keys, split_slashes(value) if len(keys) > 1 else [value], strict=True))
            fixed = merge(nested(study.options), nested(study.of_dataset.get(dataset, {})))
            params = merge(fixed, nested(flat))
            apart = not isinstance(params.get("smp", {}), Mapping)
            for methods in [(m,) for m in study.methods] if apart else [tuple(study.methods)]:
                yield Point(dataset, methods, options, params | run_params(study, dataset, methods))


def run_params(study: StudySettings | AdviseSettings, dataset: str, methods: Sequence[str]) -> Tree:
    """The parameters of the runs of these methods: without progress, waiting for locks."""
    run: Tree = {"dataset": dataset, "method": methods[-1], "compare": list(methods[:-1])}
    run |= {"seeds": list(study.seeds), "compute": study.compute.model_dump(mode="json", exclude_unset=True)}
    return run | {"progress": False, "workers": 1, "wait": True}


def nested(options: Mapping[str, Any]) -> Tree:
    """`{"a.b": 1}` → `{"a": {"b": 1}}`, as `--params` are read."""
    tree: Tree = {}
    for key, value in options.items():
        section: Any = nested(value) if isinstance(value, Mapping) else value
        for name in reversed(key.split(".")):
            section = {name: section}
        merge(tree, section)
    return tree
