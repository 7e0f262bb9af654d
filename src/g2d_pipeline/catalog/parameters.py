"""The parameter files of a run: each is read once and merged; errors have file, line and remedy."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.constructor import ConstructorError

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.explain import KeyPath, Origins, short

logger = logging.getLogger(__name__)

Tree = dict[str, Any]
SECTIONS = ("datasets", "methods")  # sections of which a run needs only some parts
MERGE = "tag:yaml.org,2002:merge"
REMEDIES = {
    "mapping values are not allowed": "a ':' too many: put the value in quotes, or mend the indentation",
    "could not find expected ':'": "a ':' is missing after a key (key: value)",
    "unexpected end of stream": "a quotation mark is not closed",
    "did not find expected ',' or": "a bracket is not closed, or a comma is missing",
    "while parsing a block": "the indentation does not fit the lines above",
    "cannot start any token": "a value that starts with a special character: put it in quotes",
}  # by a part of the parser's message


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it: 1e-3 is a number, dates stay text. (With libyaml, ten times as fast.)"""


Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in Loader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def merge_files(environments: Sequence[Mapping[str, bytes]], overrides: Tree) -> tuple[Tree, Origins]:
    """The merged parameters, with interpolations resolved in the parts that this run uses, and the file of
    each key.

    `environments`: file → content per environment, those that win last; `overrides`: `--params`. Unreadable
    files are left out with a warning. Raises ConfigError for those that this run needs, for a key that two
    files of an environment set, and for interpolations that cannot be resolved."""
    merged: Tree = {name: {} for name in SECTIONS}
    origins, broken, twice = Origins(), {}, {}
    for files in environments:
        writers: dict[KeyPath, str] = {}
        for name, content in files.items():
            try:
                tree = parse_yaml(name, content)
            except ConfigError as mistake:
                broken[name] = mistake, content.decode(errors="replace")
                continue
            for path, is_leaf in _key_paths(tree):
                origins.entries.append((name, path))
                if is_leaf and writers.setdefault(path, name) != name:
                    twice[path] = f"{writers[path]} and {name} both set {'.'.join(path)}: keep one of them"
            _merge(merged, {key: tree[key] or {} if key in SECTIONS else tree[key] for key in tree})
    dataset, *methods = _names_of_run(merged, overrides)
    for name, (error, text) in broken.items():
        if _is_needed(name, text, dataset, methods):
            raise error
        logger.warning("%s. The file is left out: this run does not need it.", error)
    used: list[KeyPath] = [(key,) for key in merged if key not in SECTIONS]
    used += [("datasets", dataset), *(("methods", name) for name in methods)]
    for path, message in twice.items():
        if path[:1] in used or path[:2] in used:
            raise ConfigError(message)
    _check_dataset_file(environments, merged, dataset)
    return _interpolated(merged, used, origins), origins


def parse_yaml(name: str, content: bytes) -> Tree:
    """A file's content. Raises ConfigError with the line and the remedy."""
    loader = None
    try:
        loader = Loader(content)
        node = loader.get_single_node()
        _check_nodes(node)
        tree = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(_explain(name, content, error)) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{name}: it should hold keys with sections (datasets: …), not {short(tree)}")
    return tree or {}


def _check_nodes(node: yaml.Node | None, above: tuple[yaml.Node, ...] = ()) -> None:
    """Raise YAMLError for a key that is twice in a section, and for a section inside itself."""
    if node in above:
        problem = "a section is inside itself"
        raise ConstructorError(problem=problem, problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            if key.tag != MERGE and name in seen:
                problem = f"the key '{name}' stands in line {seen[name]}, too: remove one of them"
                raise ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen[name] = key.start_mark.line + 1
            _check_nodes(value, (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_nodes(value, (*above, node))


def _explain(name: str, content: bytes, error: yaml.YAMLError) -> str:
    """The error of a file in one line."""
    mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
    if mark is None:  # no text at all
        line = content[: getattr(error, "position", 0)].count(b"\n") + 1
        return f"{name}, line {line}: no UTF-8 text ({getattr(error, 'reason', problem)}): save it as UTF-8"
    lines = content.decode(errors="replace").splitlines()
    number = min(mark.line, len(lines) - 1)
    text = lines[number] if lines else ""
    if conflict := next((i for i, each in enumerate(lines) if each.startswith("<<<<<<< ")), None):
        return f"{name}, line {conflict + 1}: a conflict of git is not resolved"
    problem += f", {context}" if (context := getattr(error, "context", None)) else ""
    problem = next((remedy for part, remedy in REMEDIES.items() if part in problem), problem)
    if "\t" in text[: len(text) - len(text.lstrip())]:
        problem = "a tab in the indentation: replace it by blanks"
    return f"{name}, line {number + 1} ({short(text.strip())}): {problem}"


def _key_paths(tree: Any, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, bool]]:
    """(path, whether it is a leaf) of every key of a tree."""
    for key, value in tree.items():
        path = (*prefix, str(key))
        yield path, not isinstance(value, dict)
        if isinstance(value, dict):
            yield from _key_paths(value, path)


def _merge(into: Tree, new: Tree) -> None:
    """Merge section by section, in place; unlike `overrides.merge`, tags do not matter."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _names_of_run(merged: Tree, overrides: Tree) -> list[str]:
    """The data set of this run, and the possible names of its methods."""
    settings = merged | overrides
    dataset, method, compare = (str(settings.get(key, "")) for key in ("dataset", "method", "compare"))
    return [dataset, *dict.fromkeys(re.findall(r"[\w.-]+", f"{method} {compare}"))]


def _is_needed(name: str, text: str, dataset: str, methods: list[str]) -> bool:
    """Whether this run may use a broken file: by the file's name, its sections, or a mention."""
    stem = PurePath(name).stem
    sections = set(re.findall(r"""^["']?([^\s#:"']+)["']?\s*:""", text, re.MULTILINE))
    names = [dataset] * (sections != {"methods"}) + methods * (sections != {"datasets"})
    return (
        stem == "parameters"
        or bool(sections - set(SECTIONS))
        or any(stem in (n, f"parameters_{n}") for n in (dataset, *methods))
        or any(re.search(rf"(?<![\w.-]){re.escape(n)}(?![\w.-])", text) for n in names if n)
    )


def _check_dataset_file(environments: Sequence[Mapping[str, bytes]], merged: Tree, dataset: str) -> None:
    """Raise ConfigError where the run's data set has a file without its section."""
    for name in (name for files in environments for name in files):
        if PurePath(name).stem == f"parameters_{dataset}" and dataset not in merged["datasets"]:
            raise ConfigError(
                f"{name}: it has no data set '{dataset}'. It should begin with the line 'datasets:' and, "
                f"indented below it, '{dataset}:' with raw, task and modalities below that."
            )


def _interpolated(merged: Tree, used: Sequence[KeyPath], origins: Origins) -> Tree:
    """`merged` with `${…}` resolved in the parts `used`. Raises ConfigError where that fails."""
    config: Any = None
    for *above, key in used:
        tree = merged[above[0]] if above else merged
        if "${" not in str(tree.get(key)):
            continue
        config = OmegaConf.create(merged) if config is None else config
        try:
            value = config[above[0]][key] if above else config[key]
            tree[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            full = str(getattr(error, "full_key", "") or ".".join((*above, key)))
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{origins.find(tuple(full.split('.')))}: {full}: {reason}") from error
    return merged
