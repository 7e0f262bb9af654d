"""The configuration loader: Kedro's, with parameters resolved by `resolve.py` and fingerprints for catalog
paths.

`loader["parameters"]` is what the nodes are given: one section a stage. The catalog's entries use the
resolvers `${dataset:}`, `${rebuild:}` and `${plan:}` (which artefact each stage has, and whether it is
fresh). All of it is worked out once, on first use, with hooks or without (`kedro viz`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from g2d_pipeline.code import CodeGraph
from g2d_pipeline.errors import DataError
from g2d_pipeline.explain import KeyPath, Origins
from g2d_pipeline.resolve import Configuration, resolve
from g2d_pipeline.sources import locate, signature
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.stages import PACKAGE, Plan

os.environ.setdefault("OMEGACONF_MAX_YAML_EXPANDED_NODES", "1000000")  # a list may name 10,000 columns
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one, reads ten times as fast


class ProjectConfigLoader(OmegaConfigLoader):
    """See the module. `project` is the project's folder, where relative paths start."""

    def __init__(self, conf_source: str | Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(conf_source, *args, **kwargs)
        self.project = Path(conf_source).resolve().parent
        resolvers: dict[str, Callable[..., Any]] = {
            "oc.env": lambda name, default=None: os.environ.get(name, default),
            "dataset": lambda: self.configuration.run.dataset,
            "rebuild": lambda: self.configuration.run.rebuild,
            "plan": lambda: self.plan,
        }
        for name, resolver in resolvers.items():
            OmegaConf.register_resolver(name, resolver, replace=True)

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key == "parameters" and key not in self:
            c = self.configuration
            sections = (c.ingest, c.featurize, c.teachers, c.distill, c.evaluate)
            return {section.__name__: section().model_dump(mode="json") for section in sections}
        if key == "catalog":
            _ = self.plan  # now: the entries ask for it, and omegaconf wraps what goes wrong
        entries = super().__getitem__(key)
        if key == "catalog":
            paths = {
                e["stage"]: e.get("path") or Path(e["filepath"]).parent
                for e in entries.values()
                if "stage" in e
            }
            self.plan.folders = {stage: str(self.project / path) for stage, path in paths.items()}
        return entries

    @cached_property
    def configuration(self) -> Configuration:
        """The resolved and validated configuration. Raises ConfigError or DataError (no raw data)."""
        given, self.runtime_params = self.runtime_params or {}, {}
        try:
            files = super().__getitem__("parameters")
        finally:
            self.runtime_params = given
        where = self.project
        return resolve(files, given, lambda raw, wanted: locate(raw, wanted, where), self._origins(), where)

    @cached_property
    def plan(self) -> Plan:
        """The stage cards. A simulated sample that has not been made yet counts as such (see `hooks`)."""
        c = self.configuration
        cache = cache_file(self.project, c.run.dataset)
        try:
            raw = signature(c.dataset.raw, c.source, c.root, cache, c.ingest())
        except DataError:
            if c.source == "raw" or c.root.exists():
                raise
            raw = "not made yet"
        graph = CodeGraph(PACKAGE, cache.parent.parent / "code_graph.json")
        return Plan(c, raw, graph)

    def _origins(self) -> Origins:
        """Which file wrote which key, for messages. Files of the run's environment win."""
        origins = Origins()
        for environment in dict.fromkeys([self.base_env, self.env or self.default_run_env]):
            folder = Path(self.conf_source) / environment
            for pattern in self.config_patterns["parameters"]:
                for file in sorted(folder.glob(pattern)):
                    if file.suffix in (".yml", ".yaml"):
                        name = str(Path(Path(self.conf_source).name) / file.relative_to(self.conf_source))
                        tree = yaml.load(file.read_bytes(), Loader=YAML)
                        origins.entries.extend((name, path) for path in _key_paths(tree))
        return origins


def _key_paths(tree: Any, prefix: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*prefix, str(key))
            yield from _key_paths(value, (*prefix, str(key)))
