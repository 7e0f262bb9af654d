"""Kedro's configuration loader, with parameters resolved by `resolve.py` and fingerprints for catalog paths.

`loader["parameters"]` has a section per stage, for the nodes. The catalog's entries use the resolvers
`${dataset:}`, `${rebuild:}` and `${plan:}`. Everything is computed once, on first use, with hooks or without
(`kedro viz`)."""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.io import AbstractDataset, DataCatalog, MemoryDataset
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from g2d_pipeline.catalog.parameters import merge_files
from g2d_pipeline.code import CodeGraph
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError, DataError, did_you_mean
from g2d_pipeline.explain import Origins
from g2d_pipeline.mirror import Mirror
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate, signature
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.stages import PACKAGE, Plan

os.environ.setdefault("OMEGACONF_MAX_YAML_EXPANDED_NODES", "1000000")  # a list may name 10,000 columns


class Catalog(DataCatalog):
    """Kedro's catalog, without the check of each parameter for being a table: it imports pandas, and looks
    for ibis each time."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key.startswith(("params:", "parameters")) and not isinstance(value, AbstractDataset):
            value = MemoryDataset(value, copy_mode="deepcopy")
        super().__setitem__(key, value)


class ProjectConfigLoader(OmegaConfigLoader):
    """See the module. `project` is the project's folder, where relative paths start."""

    def __init__(self, conf_source: str | Path, env: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(conf_source, env, *args, **kwargs)
        self.project = Path(conf_source).resolve().parent
        resolvers: dict[str, Callable[..., Any]] = {
            "oc.env": lambda name, default=None: os.environ.get(name, default),
            "dataset": lambda: self.configuration.run.dataset,
            "rebuild": lambda: self.configuration.run.rebuild,
            "plan": lambda: self.plan,
        }
        for name, resolver in resolvers.items():
            OmegaConf.register_resolver(name, resolver, replace=True)
        if env is None and not self._fs.isdir(self._get_conf_env_path(self.default_run_env)):
            self.default_run_env = self.base_env  # conf/local may be absent

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key == "parameters" and key not in self:
            c = self.configuration
            sections = (c.ingest, c.featurize, c.teachers, c.distill, c.evaluate, c.predict, c.retrain)
            return {section.__name__: section().model_dump(mode="json") for section in sections}
        if key == "catalog":
            _ = self.plan  # before the entries resolve it, where omegaconf would wrap its errors
        try:
            entries = super().__getitem__(key)
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
            folder = Path(str(self.conf_source)).name
            raise ConfigError(f"{key} files in {folder}: {' '.join(str(error).split())}") from error
        if key == "catalog":
            for e in entries.values():
                if "stage" in e:
                    path = self.project / (e.get("path") or Path(e["filepath"]).parent)
                    self.plan.folders[e["stage"]] = str(path)
        return entries

    @cached_property
    def configuration(self) -> Configuration:
        """The resolved and validated configuration. Raises ConfigError or DataError (no raw data)."""
        project, overrides = self.project, self.runtime_params or {}
        files, origins = self._merged
        return resolve(files, overrides, lambda raw, wanted: locate(raw, wanted, project), origins, project)

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
        s, mirror = c.run.storage, None
        if s.artefacts is not None:
            mirror = Mirror(s.artefacts.rstrip("/"), self.project / "data", s.options, s.cache_gb * 1e9)
        return Plan(c, raw, graph, mirror=mirror)

    @cached_property
    def _merged(self) -> tuple[dict[str, Any], Origins]:
        return merge_files([self._files(name) for name in self._environments], self.runtime_params or {})

    @property
    def methods(self) -> list[str]:
        """The names of all methods that have a file."""
        return sorted(self._merged[0]["methods"])

    @property
    def datasets(self) -> list[str]:
        """The names of all data sets that have a file."""
        return sorted(self._merged[0]["datasets"])

    def files(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """(displayed name, content) of the files of a kind (see `config_patterns`), those that win last."""
        for environment in self._environments:
            yield from self._files(environment, kind).items()

    @property
    def default_dataset(self) -> str:
        """The data set of parameters.yml."""
        return str(self._merged[0].get("dataset"))

    @property
    def _environments(self) -> list[str]:
        return list(dict.fromkeys([self.base_env, self.env or self.default_run_env]))

    def studies(self) -> dict[str, list[tuple[str, bytes]]]:
        """Name of a study → its files as (displayed name, content), those that win last."""
        files: dict[str, list[tuple[str, bytes]]] = {}
        for name, content in self.files("studies"):
            files.setdefault(Path(name).stem, []).append((name, content))
        return files

    def _files(self, environment: str, kind: str = "parameters") -> dict[str, bytes]:
        """Displayed name → content of the files of `kind` (see `config_patterns`) in an environment. Raises
        ConfigError for an unknown environment."""
        folder = self._get_conf_env_path(environment)
        root = str(Path(folder).parent)
        if not self._fs.isdir(root):
            raise ConfigError(
                f"There is no folder of settings {root}. Run in the project's folder, or say --conf-source "
                "with the folder, or with the conf-….tar.gz that `kedro package` makes."
            )
        if not self._fs.isdir(folder):
            names = sorted(Path(f).name for f in self._fs.ls(root, detail=False) if self._fs.isdir(f))
            raise ConfigError(
                f"--env {environment}: there is no folder {folder}.{did_you_mean(environment, names)} "
                f"Known: {', '.join(names)}."
            )
        matches = {f for p in self.config_patterns[kind] for f in self._fs.glob(f"{folder}/{p}")}
        files = (Path(f) for f in sorted(matches) if Path(f).suffix in (".yml", ".yaml", ".json"))
        titles = {f: str(Path(root).name / f.relative_to(root)) for f in files if not f.name.startswith(".")}
        return {name: self._fs.cat_file(file.as_posix()) for file, name in titles.items()}
