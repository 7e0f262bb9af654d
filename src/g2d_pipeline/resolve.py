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
    Modality,
    RunOptions,
    RunSettings,
    SMPSettings,
    StudentRun,
    TabularFeatures,
    TeacherRun,
    TeachersSettings,
    TrainingSettings,
)
from g2d_pipeline.config.layouts import RawSettings
from g2d_pipeline.errors import ConfigError, did_you_mean, media_fault
from g2d_pipeline.explain import COMMAND_LINE, Origins, checked, short
from g2d_pipeline.methods import external
from g2d_pipeline.overrides import (
    METHOD_KEYS,
    Draft,
    Tree,
    leaves,
    merge,
    name_sections,
    raw_overrides,
    section,
)
from g2d_pipeline.sources import with_folds


@dataclass(frozen=True)
class MethodConfig:
    """A named method: the file that implements it, its parameters (validated by `check_methods`) and its
    schedule. `needs_teachers: false` in its file: its students do not depend on teachers."""

    name: str
    algorithm: str
    parameters: Tree
    smp: SMPSettings | None
    training: TrainingSettings
    fusion: Any  # one of FusionSettings
    needs_teachers: bool = True


@dataclass(frozen=True)
class Configuration:
    """All that a run is made of, resolved and validated (methods' own parameters: see `check_methods`)."""

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
        shared = set(RunOptions.model_fields) & set(RunSettings.model_fields)
        return RunOptions(**self.run.model_dump(include=shared), project=str(self.project))

    @property
    def weights(self) -> dict[str, Path]:
        """Modality → the absolute path of the file that its encoder starts from, for those that name one."""
        return self._files({m: s.encoder for m, s in self.dataset.modalities.items()})

    @property
    def teacher_weights(self) -> dict[str, Path]:
        """The same of its teacher's encoder."""
        return self._files({m: s.teacher_encoder or s.encoder for m, s in self.dataset.modalities.items()})

    def _files(self, encoders: dict[str, Any]) -> dict[str, Path]:
        files = {m: getattr(encoder, "weights", None) for m, encoder in encoders.items()}
        return {m: (self.project / Path(file).expanduser()).absolute() for m, file in files.items() if file}

    @property
    def repeats(self) -> dict[str, tuple[int, str, Any]]:
        """How runs' names end → seed, name of the split and its settings; see `RawSettings.repeats`."""
        raw: RawSettings = self.dataset.raw
        return {end: (s, *split) for s in self.run.seeds for end, split in raw.repeats(s).items()}

    def ingest(self) -> IngestSettings:
        d, splits = self.dataset, {split: raw for _, split, raw in self.repeats.values()}
        tables = {m: s for m, s in d.modalities.items() if isinstance(s, TabularFeatures)}
        return IngestSettings(
            dataset=self.run.dataset,
            source=self.source,
            task=d.task,
            target=d.target,
            raw=d.raw,
            columns={m: tables[m].all_columns if m in tables else [m] for m in d.modalities},
            kinds={m: s.kind for m, s in d.modalities.items()},
            categorical=[c for s in tables.values() for c in s.categorical],
            dates=[c for s in tables.values() for c in s.dates],
            max_bad_fraction=d.may_drop,
            splits={} if list(splits) == [""] else splits,
            options=self.options,
        )

    def featurize(self) -> FeaturizeSettings:
        d, not_features = self.dataset, set(Modality.model_fields)
        return FeaturizeSettings(
            dataset=self.run.dataset,
            modalities={m: s.model_dump(exclude=not_features) for m, s in d.modalities.items()},
            max_bad_fraction=d.may_drop,
            options=self.options,
        )

    def teachers(self) -> TeachersSettings:
        d = self.dataset
        runs = {
            f"{m}/{end}": TeacherRun(
                modality=m,
                split=split,
                seed=seed,
                task=d.task,
                target=d.target,
                encoder=s.teacher_encoder or s.encoder,
                augment=s.augment,
                training=self.teacher_training,
            )
            for end, (seed, split, _) in self.repeats.items()
            for m, s in d.modalities.items()
        }
        beside: dict[str, Any] = {"weights": self.teacher_weights, "options": self.options}
        return TeachersSettings(dataset=self.run.dataset, runs=runs, **beside)

    def distill(self) -> DistillSettings:
        d = self.dataset
        runs = {
            f"{name}/{end}": StudentRun(
                method=name,
                algorithm=method.algorithm,
                split=split,
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
            for end, (seed, split, _) in self.repeats.items()
            for name, method in self.methods.items()
        }
        beside: dict[str, Any] = {"weights": self.weights, "options": self.options}
        return DistillSettings(dataset=self.run.dataset, runs=runs, **beside)

    def evaluate(self) -> EvaluateSettings:
        return EvaluateSettings(
            dataset=self.run.dataset,
            teachers=list(self.teachers().runs),
            students=list(self.distill().runs),
            splits={end: split for end, (_, split, _) in self.repeats.items()},
            **self.run.evaluate.model_dump(),
            configuration=self.describe(),
            options=self.options,
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
        run = self.run.model_dump(mode="json", exclude={"rebuild", "wait", "debug", *RunOptions.model_fields})
        return run | {
            "source": self.source,
            "dataset_settings": self.dataset.model_dump(mode="json"),
            "methods": methods,
            "teacher": self.teacher_training.model_dump(mode="json"),
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
    datasets, methods = (section(name, files, overrides, origins) for name in ("datasets", "methods"))
    run = _run_settings(files, overrides, origins)
    if run.dataset not in datasets:
        raise origins.mistake(
            ("dataset",),
            f"unknown dataset '{run.dataset}'.{did_you_mean(run.dataset, datasets)} "
            f"Known: {', '.join(sorted(datasets))}. A new one is one file conf/base/parameters_<name>.yml.",
        )
    where = ("datasets", run.dataset)
    tree: Tree = checked(dict[str, Any], datasets[run.dataset], where, origins)
    name_sections(tree)
    raw = copy.deepcopy(tree.get("raw", {}))
    raw = merge(raw, raw_overrides(overrides)) if isinstance(raw, dict) else raw
    source, root = locate(checked(LayoutSettings, raw, (*where, "raw"), origins), run.source)
    simulated = tree.pop("sample", None)
    shrunk = bool(simulated) and source == "sample"
    if shrunk:
        merge(tree, simulated)
    name_sections(tree)
    smp, teacher, changes = (tree.pop(key, None) or {} for key in ("smp", "teacher", "methods"))
    trees = {name: _method_tree(name, methods, changes, origins) for name in run.students}
    draft = Draft(run, tree, smp, teacher, trees, origins)
    draft.override(overrides)
    dataset: DatasetSettings = checked(DatasetSettings, tree, where, origins, tree.get("task"))
    dataset = dataset.model_copy(update={"raw": with_folds(dataset.raw, root)})
    teacher = merge(dataset.training.model_dump(), teacher)
    teacher_training = checked(TrainingSettings, teacher, (*where, "teacher"), origins, dataset.task)
    configured = {name: _method(name, draft, dataset) for name in trees}
    if draft.smp_keys and not any(m.smp for m in configured.values()):
        raise ConfigError(
            f"{COMMAND_LINE}: {'/'.join(draft.smp_keys)} belong to SMP, which "
            f"{', '.join(trees) or 'unimodal'} does not use. "
            "Choose a method with an smp section, such as method=g2d."
        )
    configuration = Configuration(
        run, dataset, configured, teacher_training, source, root, shrunk, draft.notes, origins, project
    )
    _check_weights(configuration)
    return configuration


def check_methods(configuration: Configuration) -> None:
    """Validate each method's own parameters against its class, and whether the method is defined for the data
    set. Imports torch: called when there is work to do. Raises ConfigError as `checked` does."""
    from g2d_pipeline.methods import load
    from g2d_pipeline.methods.base import MethodContext
    from g2d_pipeline.models.encoders import load_encoder

    d, origins = configuration.dataset, configuration.origins
    for modality, s in d.modalities.items():
        for name in {s.encoder.name, (s.teacher_encoder or s.encoder).name}:
            try:
                load_encoder(name)
            except ConfigError as error:
                where = ("datasets", configuration.run.dataset, "modalities", modality, "encoder")
                raise origins.mistake(where, f"modality {modality}: {error}") from error
    for m in configuration.methods.values():
        method = load(m.algorithm)
        parameters = checked(method.Parameters, m.parameters, ("methods", m.name), origins)
        encoders = {modality: s.encoder.name for modality, s in d.modalities.items()}
        try:
            fusion, batches = m.fusion.model_dump(mode="json"), m.training.accumulation
            context = MethodContext(d.task, m.fusion.name, encoders, m.smp is not None, batches, fusion)
            method(parameters).check(context)
        except ValueError as error:
            raise origins.mistake(("method",), f"method = {m.name!r}: {error}") from error
        if method.needs_teachers and not m.needs_teachers:
            words = f"needs_teachers = False: {m.algorithm} distils from teachers; remove the line"
            raise origins.mistake(("methods", m.name, "needs_teachers"), words)


def _run_settings(files: Tree, overrides: Tree, origins: Origins) -> RunSettings:
    """The top level: `seed=3` is short for `seeds=3`; what is no top-level key stays in `overrides`."""
    for tree, file in ((overrides, COMMAND_LINE), (files, "parameters.yml")):
        if "seed" in tree and "seeds" in tree:
            raise ConfigError(f"{file}: give seed or seeds, not both")
        if "seed" in tree:
            tree["seeds"] = [tree.pop("seed")]
    changes = {key: overrides.pop(key) for key in list(overrides) if key in RunSettings.model_fields}
    for path, _ in leaves(changes):
        origins.note(*path)
    run: RunSettings = checked(RunSettings, merge(files, changes), (), origins)
    return run


def _method_tree(name: str, methods: Tree, changes: Tree, origins: Origins) -> Tree:
    """A method's file, or nothing for a plug-in, with what the dataset changes of it."""
    if name not in methods and "." not in name and name not in external():
        raise origins.mistake(
            ("method",),
            f"unknown method '{name}'.{did_you_mean(name, [*methods, 'unimodal'])} "
            f"Known: {', '.join(sorted(methods))}, unimodal. "
            "A new one is one file in methods/ and one conf/base/methods/<name>.yml.",
        )
    section = checked(dict[str, Any], methods.get(name) or {}, ("methods", name), origins)
    return merge(copy.deepcopy(section), changes.get(name) or {})


def _method(name: str, draft: Draft, dataset: DatasetSettings) -> MethodConfig:
    """A method's settings, its fusion and training the dataset's where it has none of its own."""
    origins, path = draft.origins, ("methods", name)
    parameters = dict(draft.methods[name])
    own: dict[str, Any] = {key: parameters.pop(key, None) for key in METHOD_KEYS}
    needs_teachers = True if own["needs_teachers"] is None else own["needs_teachers"]
    fusion = dataset.fusion
    if own["fusion"] is not None:
        fusion = checked(FusionSettings, own["fusion"], (*path, "fusion"), origins)
        if origins.find((*draft.path, "fusion")) == COMMAND_LINE:
            words = f"has a fusion of its own ({fusion.name}); fusion={dataset.fusion.name} is not used"
            draft.notes.append(f"{name}: {words}")
    training = merge(dataset.training.model_dump(), own["training"] or {})
    training = checked(TrainingSettings, training, (*draft.path, "training"), origins, dataset.task)
    needs_teachers = checked(bool, needs_teachers, (*path, "needs_teachers"), origins)
    smp = _smp(name, training.epochs, own["smp"], draft, len(dataset.modalities))
    algorithm = name if own["algorithm"] is None else own["algorithm"]
    return MethodConfig(name, algorithm, parameters, smp, training, fusion, needs_teachers)


def _smp(method: str, epochs: int, own: Any, draft: Draft, modalities: int) -> SMPSettings | None:
    """The schedule of a method whose file has (or whose command line switches on) one, else None."""
    if not isinstance(own, Mapping | None):
        own = checked(bool, own, ("methods", method, "smp"), draft.origins)
    switched_on = draft.smp_switch and method == draft.run.method
    if draft.smp_switch is False or not (own or switched_on):
        return None
    schedule = copy.deepcopy(dict(own)) if isinstance(own, Mapping) else {}
    # A method file that names tau is about tau: the data set's own does not undo it, the command
    # line does.
    ignored = {"tau"} & schedule.keys() - set(draft.smp_keys)
    merge(schedule, {key: value for key, value in draft.smp.items() if key not in ignored})
    smp: SMPSettings = checked(SMPSettings, schedule, (*draft.path, "smp"), draft.origins)
    if modalities < 2:
        raise draft.origins.mistake(
            ("method",),
            f"method = {method!r} needs at least two modalities; {draft.run.dataset} has one. "
            "Say method=unimodal,compare= to train it alone.",
        )
    try:
        phases = smp.phases(modalities, epochs)
    except ValueError as error:
        words = f"smp.tau = {short(smp.tau)} (epochs {epochs}): {error}"
        raise draft.origins.mistake((*draft.path, "smp", "tau"), words) from error
    if not isinstance(smp.tau, str) and sum(smp.tau) != epochs:
        words = f"phases of {'/'.join(map(str, phases))} epochs, the last one filling up the rest"
        draft.notes.append(f"{method}: tau {short(smp.tau)} in {epochs} epochs: {words}")
    return smp


def _check_weights(configuration: Configuration) -> None:
    """Raise ConfigError, naming file and key, where weights to start from are not there."""
    c, lines = configuration, []
    for encoder, files in (("encoder", c.weights), ("teacher_encoder", c.teacher_weights)):
        for m, path in files.items():
            settings = getattr(c.dataset.modalities[m], encoder)
            if settings is not None and (fault := media_fault(path)):
                key = ("modalities", m, encoder, "weights")
                file, value = c.origins.find(("datasets", c.run.dataset, *key)), settings.weights
                words = f"the file {path} {fault}. (A relative path starts at the project's folder.)"
                lines.append(f"{file}: {'.'.join(key)} = {value!r}: {words}")
    if lines:
        raise ConfigError("\n".join(lines))
