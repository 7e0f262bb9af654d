"""From files and `--params` to one validated configuration; every mistake becomes one readable line.

Precedence: method defaults < dataset file (and its `methods:` section) < `sample:` section where the sample
is used < `--params`. Overrides may be short (`alpha=0.5`, `n_fft=512`) wherever one place only has that key.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from g2d_pipeline.config import (
    DatasetSettings,
    DistillSettings,
    EvaluateSettings,
    FeaturizeSettings,
    FusionSettings,
    IngestSettings,
    LayoutSettings,
    RunOptions,
    RunSettings,
    SMPSettings,
    StudentRun,
    TabularModality,
    TeacherRun,
    TeachersSettings,
    TrainingSettings,
)
from g2d_pipeline.errors import ConfigError, media_fault
from g2d_pipeline.explain import COMMAND_LINE, KeyPath, Origins, checked, nearest, short
from g2d_pipeline.methods import external
from g2d_pipeline.overrides import Sections, Tree, leaves, merge, override


@dataclass(frozen=True)
class MethodConfig:
    """A named method: the file that implements it, its parameters (validated by `check_methods`) and its
    schedule."""

    name: str
    algorithm: str
    parameters: Tree
    smp: SMPSettings | None
    training: TrainingSettings
    fusion: Any  # one of FusionSettings
    needs_teachers: bool = (
        True  # `needs_teachers: false` in a method file: its students do not depend on teachers
    )


@dataclass(frozen=True)
class Configuration:
    """Everything that a run is made of, resolved and validated (methods' own parameters: see
    `check_methods`)."""

    run: RunSettings
    dataset: DatasetSettings
    methods: dict[str, MethodConfig]
    teacher_training: TrainingSettings
    source: Literal["raw", "sample"]
    root: Path
    shrunk: bool  # the dataset's `sample:` section was applied
    notes: list[str]
    origins: Origins
    project: Path

    @property
    def options(self) -> RunOptions:
        run = self.run
        shared = ("device", "progress", "workers", "checkpoint_minutes", "log")
        return RunOptions(**{key: getattr(run, key) for key in shared}, project=str(self.project))

    @property
    def weights(self) -> dict[str, Path]:
        """Modality → the file that its encoder starts from, for those that name one."""
        files = {m: getattr(s.encoder, "weights", None) for m, s in self.dataset.modalities.items()}
        return {m: (self.project / Path(file).expanduser()).absolute() for m, file in files.items() if file}

    def ingest(self) -> IngestSettings:
        d = self.dataset
        tables = [s for s in d.modalities.values() if isinstance(s, TabularModality)]
        columns = {
            m: s.all_columns if isinstance(s, TabularModality) else [m] for m, s in d.modalities.items()
        }
        return IngestSettings(
            dataset=self.run.dataset,
            source=self.source,
            task=d.task,
            target=d.target,
            raw=d.raw,
            columns=columns,
            kinds={m: s.kind for m, s in d.modalities.items()},
            categorical=[c for s in tables for c in s.categorical],
            dates=[c for s in tables for c in s.dates],
            max_bad_fraction=d.may_drop,
            options=self.options,
        )

    def featurize(self) -> FeaturizeSettings:
        features = {
            m: s.model_dump(exclude={"encoder", "teacher_encoder", "augment"})
            for m, s in self.dataset.modalities.items()
        }
        return FeaturizeSettings(
            dataset=self.run.dataset,
            modalities=features,
            max_bad_fraction=self.dataset.may_drop,
            options=self.options,
        )

    def teachers(self) -> TeachersSettings:
        d = self.dataset
        runs = {
            f"{m}/seed{seed}": TeacherRun(
                modality=m,
                seed=seed,
                task=d.task,
                target=d.target,
                encoder=settings.teacher_encoder or settings.encoder,
                augment=settings.augment,
                training=self.teacher_training,
            )
            for seed in self.run.seeds
            for m, settings in d.modalities.items()
        }
        return TeachersSettings(
            dataset=self.run.dataset, runs=runs, weights=self.weights, options=self.options
        )

    def distill(self) -> DistillSettings:
        d = self.dataset
        runs = {
            f"{name}/seed{seed}": StudentRun(
                method=name,
                algorithm=method.algorithm,
                seed=seed,
                task=d.task,
                target=d.target,
                fusion=method.fusion,
                encoders={m: s.encoder for m, s in d.modalities.items()},
                augment={m: s.augment for m, s in d.modalities.items()},
                training=method.training,
                parameters=method.parameters,
                smp=method.smp,
                needs_teachers=method.needs_teachers or method.smp is not None,
            )
            for seed in self.run.seeds
            for name, method in self.methods.items()
        }
        return DistillSettings(
            dataset=self.run.dataset, runs=runs, weights=self.weights, options=self.options
        )

    def evaluate(self) -> EvaluateSettings:
        return EvaluateSettings(
            dataset=self.run.dataset,
            teachers=list(self.teachers().runs),
            students=list(self.distill().runs),
            configuration=self.describe(),
        )

    def describe(self) -> Tree:
        """The resolved configuration as plain data: saved with every report, enough to rerun."""
        methods = {
            name: {
                "algorithm": m.algorithm,
                **m.parameters,
                "fusion": m.fusion.model_dump(mode="json"),
                "smp": m.smp.model_dump(mode="json") if m.smp else None,
                "training": m.training.model_dump(mode="json"),
            }
            for name, m in self.methods.items()
        }
        run = self.run.model_dump(mode="json", exclude={"rebuild", "debug", *set(RunOptions.model_fields)})
        dataset = self.dataset.model_dump(mode="json")
        teacher = self.teacher_training.model_dump(mode="json")
        return run | {
            "source": self.source,
            "dataset_settings": dataset,
            "methods": methods,
            "teacher": teacher,
        }


Wanted = Literal["auto", "raw", "sample"]
Locate = Callable[[Any, Wanted], tuple[Literal["raw", "sample"], Path]]


def resolve(
    files: Tree, overrides: Tree, locate: Locate, origins: Origins | None = None, project: Path = Path()
) -> Configuration:
    """Merge, validate, explain.

    `files`: the merged parameter files (top-level run settings, `datasets`, `methods`); `overrides`:
    `--params` as nested dictionaries; `locate(raw, source)`: which source is used and where it lies (see
    `sources.locate`). Raises ConfigError."""
    origins = Origins(list(origins.entries) if origins else [])
    files, overrides = copy.deepcopy(files), dict(overrides)
    datasets, methods = files.pop("datasets", {}), files.pop("methods", {})
    for name, section in (("datasets", datasets), ("methods", methods)):
        given = overrides.pop(name, {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"{COMMAND_LINE}: {name} is a section; say {name}.<name>.<key>=<value>")
        merge(section, given)
        for path, _ in leaves(given):
            origins.given((name, *path))
    run = _run_settings(files, overrides, origins)
    if run.dataset not in datasets:
        raise ConfigError(
            f"{origins.find(('dataset',))}: unknown dataset '{run.dataset}'.{nearest(run.dataset, datasets)} "
            f"Known: {', '.join(sorted(datasets))}. A new one is one file conf/base/parameters_<name>.yml."
        )

    where = ("datasets", run.dataset)
    tree: Tree = copy.deepcopy(dict(datasets[run.dataset]))
    given_raw = merge(
        copy.deepcopy(dict(tree.get("raw", {}))), _of_raw(overrides)
    )  # it decides: raw data or sample
    raw = checked(LayoutSettings, given_raw, (*where, "raw"), origins)
    source, root = locate(raw, run.source)
    sample = tree.pop("sample", None)
    shrunk = bool(sample) and source == "sample"
    if shrunk:
        merge(tree, sample)
    if isinstance(
        tree.get("fusion"), str
    ):  # a word for a section, so that its options can be given beside it
        tree["fusion"] = {"name": tree["fusion"]}
    sections = Sections(tree.pop("smp", None) or {}, tree.pop("teacher", None) or {})
    in_dataset = tree.pop("methods", None) or {}
    chosen = {name: _method_tree(name, methods, in_dataset, origins) for name in run.students}
    override(overrides, tree, sections, chosen, run, origins)

    dataset = checked(DatasetSettings, tree, where, origins)
    base = dataset.training.model_dump()
    teacher = checked(
        TrainingSettings, merge(copy.deepcopy(base), sections.teacher), (*where, "teacher"), origins
    )
    notes: list[str] = []
    built = {
        name: _method(name, of, base, sections, dataset, where, origins, notes) for name, of in chosen.items()
    }
    if sections.asked and not any(m.smp for m in built.values()):
        raise ConfigError(
            f"{COMMAND_LINE}: {'/'.join(sections.asked)} belong to SMP, which {', '.join(built) or 'unimodal'} does "
            "not use. Choose a method with an smp section, such as method=g2d."
        )
    configuration = Configuration(run, dataset, built, teacher, source, root, shrunk, notes, origins, project)
    _check_weights(configuration, where)
    return configuration


def check_methods(configuration: Configuration) -> None:
    """Validate each method's own parameters against its class, and whether the method is defined for the data
    set.

    Imports torch: called when there is work to do. Raises ConfigError naming the file, the key, the value and
    what is allowed."""
    from g2d_pipeline.methods import load
    from g2d_pipeline.methods.base import MethodContext

    d = configuration.dataset
    for m in configuration.methods.values():
        method = load(m.algorithm)
        parameters = checked(method.Parameters, m.parameters, ("methods", m.name), configuration.origins)
        encoders = {modality: s.encoder.name for modality, s in d.modalities.items()}
        try:
            of_fusion, batches = m.fusion.model_dump(mode="json"), m.training.accumulation
            method(parameters).check(
                MethodContext(d.task, m.fusion.name, encoders, m.smp is not None, batches, of_fusion)
            )
        except ValueError as error:
            raise ConfigError(
                f"{configuration.origins.find(('method',))}: method = {m.name!r}: {error}"
            ) from error
        if method.needs_teachers and not m.needs_teachers:
            file = configuration.origins.find(("methods", m.name, "needs_teachers"))
            raise ConfigError(
                f"{file}: needs_teachers = False: {m.algorithm} distils from teachers; remove the line"
            )


# ----------------------------------------------------------------------------------------------------- pieces
def _of_raw(overrides: Tree) -> Tree:
    """What `--params` says of the raw folder: `raw_dir=…` or `raw.<key>=…`."""
    of = overrides.get("raw")
    return ({"raw_dir": overrides["raw_dir"]} if "raw_dir" in overrides else {}) | (
        of if isinstance(of, dict) else {}
    )


def _run_settings(files: Tree, overrides: Tree, origins: Origins) -> RunSettings:
    """The top level: `seed=3` is short for `seeds=3`; what is no top-level key stays in `overrides`."""
    for of, what in ((overrides, COMMAND_LINE), (files, "parameters.yml")):
        if "seed" in of and "seeds" in of:
            raise ConfigError(f"{what}: give seed or seeds, not both")
        if "seed" in of:
            of["seeds"] = [of.pop("seed")]
    given = {key: overrides.pop(key) for key in list(overrides) if key in RunSettings.model_fields}
    for key in given:
        origins.given((key,))
    run: RunSettings = checked(RunSettings, files | given, (), origins)
    return run


def _method_tree(name: str, methods: Tree, in_dataset: Tree, origins: Origins) -> Tree:
    if name not in methods and (
        "." in name or name in external()
    ):  # of another package, with its own defaults
        return merge({}, in_dataset.get(name) or {})
    if name not in methods:
        raise ConfigError(
            f"{origins.find(('method',))}: unknown method '{name}'.{nearest(name, [*methods, 'unimodal'])} "
            f"Known: {', '.join(sorted(methods))}, unimodal. "
            "A new one is one file in methods/ and one conf/base/methods/<name>.yml."
        )
    return merge(copy.deepcopy(dict(methods[name] or {})), in_dataset.get(name) or {})


def _method(
    name: str,
    of: Tree,
    base: Tree,
    sections: Sections,
    dataset: DatasetSettings,
    where: KeyPath,
    origins: Origins,
    notes: list[str],
) -> MethodConfig:
    of = dict(of)
    algorithm, own = of.pop("algorithm", name), of.pop("smp", None)
    needs = checked(bool, of.pop("needs_teachers", True), ("methods", name, "needs_teachers"), origins)
    if own is not None and not isinstance(own, Mapping):
        own = checked(bool, own, ("methods", name, "smp"), origins)
    merged = merge(copy.deepcopy(base), of.pop("training", None) or {})
    training = checked(TrainingSettings, merged, (*where, "training"), origins)
    fusion = dataset.fusion
    if (wanted := of.pop("fusion", None)) is not None:
        fusion = checked(FusionSettings, wanted, ("methods", name, "fusion"), origins)
        if origins.find((*where, "fusion")) == COMMAND_LINE:
            notes.append(
                f"{name}: has a fusion of its own ({fusion.name}); fusion={dataset.fusion.name} is not used"
            )
    if sections.off or (not own and sections.on != name):
        return MethodConfig(name, algorithm, of, None, training, fusion, needs)
    schedule = copy.deepcopy(dict(own)) if isinstance(own, Mapping) else {}
    # A method file that names tau is about tau (g2d_auto): the data set's own does not undo it, the command
    # line does.
    given = {
        k: v for k, v in sections.smp.items() if k in sections.asked or k != "tau" or "tau" not in schedule
    }
    merged = merge(schedule, given)
    smp: SMPSettings = checked(SMPSettings, merged, (*where, "smp"), origins)
    try:
        phases = smp.phases(len(dataset.modalities), training.epochs)
    except ValueError as error:
        file = origins.find((*where, "smp", "tau"))
        raise ConfigError(
            f"{file}: smp.tau = {short(smp.tau)} (epochs {training.epochs}): {error}"
        ) from error
    if not isinstance(smp.tau, str) and sum(smp.tau) != training.epochs:
        notes.append(
            f"{name}: tau {short(smp.tau)} in {training.epochs} epochs: phases of {'/'.join(map(str, phases))} epochs, "
            "the last one filling up the rest"
        )
    return MethodConfig(name, algorithm, of, smp, training, fusion, needs)


def _check_weights(configuration: Configuration, where: KeyPath) -> None:
    """Raise ConfigError, naming file and key, where weights to start from are not there: now, not after
    ingest."""
    lines = []
    for m, path in configuration.weights.items():
        if fault := media_fault(path):
            key = ("modalities", m, "encoder", "weights")
            given = getattr(configuration.dataset.modalities[m].encoder, "weights", None)
            told = f"{configuration.origins.find((*where, *key))}: {'.'.join(key)} = {given!r}: the file {path} {fault}"
            lines.append(f"{told}. (A relative path starts at the project's folder.)")
    if lines:
        raise ConfigError("\n".join(lines))
