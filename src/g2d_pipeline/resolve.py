"""From files and `--params` to one validated configuration; every mistake becomes one readable line.

Precedence: method defaults < dataset file (and its `methods:` section) < `sample:` section where the sample
is used < `--params`. Overrides may be short (`alpha=0.5`, `n_fft=512`) wherever one place only has that key.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from g2d_pipeline import config
from g2d_pipeline.configuration import Configuration, MethodConfig
from g2d_pipeline.errors import ConfigError, did_you_mean, media_fault
from g2d_pipeline.explain import BESIDE, COMMAND_LINE, Origins, checked, short
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
from g2d_pipeline.remote import CACHE, connect, is_remote, local_folder
from g2d_pipeline.sources.layout import find_layout, layout_class

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
    before = copy.deepcopy({"files": files, "overrides": dict(overrides)})
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
    changes = raw_overrides(overrides)
    for path, _ in leaves(changes):
        origins.note(*where, "raw", *path)
    raw = merge(raw, changes) if isinstance(raw, dict) else raw
    if "raw" not in tree and "layout" not in changes:  # perhaps misspelt
        own = {key: value for key, value in tree.items() if key not in BESIDE}
        checked(config.DatasetSettings, own, where, origins, tree.get("task"))
    settings = checked(config.LayoutSettings, raw, (*where, "raw"), origins)
    if isinstance(settings, config.ExternalLayout):
        with _named_at((*where, "raw", "layout"), origins):
            options_class = layout_class(settings.layout).options_class
        checked(options_class, settings.options, (*where, "raw", "options"), origins)
    _connect(settings.raw_dir, run, project, (*where, "raw", "raw_dir"), origins)
    source, root = locate(settings, run.source)
    simulated = tree.pop("sample", None)
    shrunk = bool(simulated) and source == "sample"
    if shrunk:
        merge(tree, simulated)
    name_sections(tree)
    smp, teacher, changes = (tree.pop(key, None) or {} for key in ("smp", "teacher", "methods"))
    trees = {name: _method_tree(name, methods, changes, origins) for name in run.students}
    draft = Draft(run, tree, smp, teacher, trees, origins)
    draft.override(overrides)
    dataset: config.DatasetSettings = checked(config.DatasetSettings, tree, where, origins, tree.get("task"))
    dataset = dataset.model_copy(update={"raw": find_layout(dataset.raw, root).with_folds()})
    _check_run(run, dataset, origins)
    teacher = merge(dataset.training.model_dump(), teacher)
    teacher_training = checked(config.TrainingSettings, teacher, (*where, "teacher"), origins, dataset.task)
    configured = {name: _method(name, draft, dataset) for name in trees}
    if draft.smp_keys and not any(m.smp for m in configured.values()):
        raise ConfigError(
            f"{COMMAND_LINE}: {'/'.join(draft.smp_keys)} belong to SMP, which "
            f"{', '.join(trees) or 'unimodal'} does not use. "
            "Choose a method with an smp section, such as method=g2d."
        )
    configuration = Configuration(
        run, dataset, configured, teacher_training, source, root, shrunk,
        draft.notes, origins, project, before,
    )  # fmt: skip
    _check_weights(configuration)
    return configuration


def _connect(
    place: str, run: config.RunSettings, project: Path, where: tuple[str, ...], origins: Origins
) -> None:
    """List a raw folder that is a URL. Raises ConfigError, naming file and key, where that fails."""
    if not is_remote(place) or run.source == "sample":
        return
    storage = run.storage
    folder = local_folder(project, place)
    keep = None if storage.cache_folder is None else project / Path(storage.cache_folder).expanduser()
    try:
        config.refuse_secrets(place, "raw_dir")
        keep = keep and keep / folder.relative_to(project / CACHE)
        connect(place, folder, storage.options, storage.cache_gb * 1e9, keep)
    except ValueError as error:
        raise origins.mistake(where, f"raw_dir: {error}") from error


def _check_run(run: config.RunSettings, dataset: config.DatasetSettings, origins: Origins) -> None:
    promote = run.retrain.promote.model_dump()
    checked(config.PromoteSettings, promote, ("retrain", "promote"), origins, dataset.task)
    for m in (m for m in run.use_modalities if m not in dataset.modalities):
        words = f"{run.dataset} has {', '.join(dataset.modalities)}.{did_you_mean(m, dataset.modalities)}"
        raise origins.mistake(("use_modalities",), f"use_modalities: unknown modality {m!r}; {words}")


def check_kinds(configuration: Configuration) -> None:
    """Validate the `options` of external kinds by their classes. Raises ConfigError as `checked` does."""
    origins = configuration.origins
    for modality, s in configuration.dataset.modalities.items():
        if not isinstance(s, config.ExternalFeatures):
            continue
        from g2d_pipeline.features.kinds import kind_class

        where = ("datasets", configuration.run.dataset, "modalities", modality)
        with _named_at((*where, "kind"), origins):
            settings_class = kind_class(s.kind).settings_class
        checked(settings_class, {**s.options, "kind": s.kind}, (*where, "options"), origins)


@contextmanager
def _named_at(where: tuple[str, ...], origins: Origins) -> Iterator[None]:
    """Add file and key to a ConfigError about the plug-in that is named at `where`."""
    try:
        yield
    except ConfigError as error:
        raise origins.mistake(where, f"{'.'.join(where[2:])}: {error}") from error


def check_encoders(configuration: Configuration) -> None:
    """Load the class of each encoder. Imports torch: called when there is work to do. Raises ConfigError."""
    from g2d_pipeline.models.encoders import load_encoder

    for modality, s in configuration.dataset.modalities.items():
        for name in {s.encoder.name, (s.teacher_encoder or s.encoder).name}:
            where = ("datasets", configuration.run.dataset, "modalities", modality, "encoder")
            with _named_at(where, configuration.origins):
                load_encoder(name)


def check_methods(configuration: Configuration) -> None:
    """Validate each method's own parameters against its class, and whether the method is defined for the data
    set; load encoders and fusions. Raises ConfigError as `checked` does."""
    from g2d_pipeline.methods import load
    from g2d_pipeline.methods.base import MethodContext
    from g2d_pipeline.models.fusions import load_fusion

    check_encoders(configuration)
    d, origins = configuration.dataset, configuration.origins
    for m in configuration.methods.values():
        method = load(m.algorithm)
        try:
            load_fusion(m.fusion.name)
        except ConfigError as error:
            raise origins.mistake(("datasets", configuration.run.dataset, "fusion"), str(error)) from error
        parameters = checked(method.Parameters, m.parameters, ("methods", m.name), origins)
        encoders = {modality: encoder.name for modality, encoder in configuration.encoders.items()}
        try:
            fusion, batches = m.fusion.model_dump(mode="json"), m.training.accumulation
            compute = configuration.run.compute
            about = (d.task, m.fusion.name, encoders, m.smp is not None, batches, fusion)
            method(parameters).check(MethodContext(*about, compute.together, compute.strategy))
            for training in (m.training, configuration.teacher_training) if compute.together > 1 else ():
                compute.check_training(training)
        except ValueError as error:
            raise origins.mistake(("method",), f"method = {m.name!r}: {error}") from error
        if method.needs_teachers and not m.needs_teachers:
            words = f"needs_teachers = False: {m.algorithm} distils from teachers; remove the line"
            raise origins.mistake(("methods", m.name, "needs_teachers"), words)


def _run_settings(files: Tree, overrides: Tree, origins: Origins) -> config.RunSettings:
    """The top level: `seed=3` is short for `seeds=3`; what is no top-level key stays in `overrides`."""
    for tree, file in ((overrides, COMMAND_LINE), (files, "parameters.yml")):
        if "seed" in tree and "seeds" in tree:
            raise ConfigError(f"{file}: give seed or seeds, not both")
        if "seed" in tree:
            tree["seeds"] = tree.pop("seed")
    changes = {key: overrides.pop(key) for key in list(overrides) if key in config.RunSettings.model_fields}
    for path, _ in leaves(changes):
        origins.note(*path)
    run: config.RunSettings = checked(config.RunSettings, merge(files, changes), (), origins)
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


def _method(name: str, draft: Draft, dataset: config.DatasetSettings) -> MethodConfig:
    """A method's settings, its fusion and training the dataset's where it has none of its own."""
    origins, path = draft.origins, ("methods", name)
    parameters = dict(draft.methods[name])
    own: dict[str, Any] = {key: parameters.pop(key, None) for key in METHOD_KEYS}
    needs_teachers = True if own["needs_teachers"] is None else own["needs_teachers"]
    fusion = dataset.fusion
    if own["fusion"] is not None:
        fusion = checked(config.FusionSettings, own["fusion"], (*path, "fusion"), origins)
        if origins.find((*draft.path, "fusion")) == COMMAND_LINE:
            words = f"has a fusion of its own ({fusion.name}); fusion={dataset.fusion.name} is not used"
            draft.notes.append(f"{name}: {words}")
    training = merge(dataset.training.model_dump(), own["training"] or {})
    training = checked(config.TrainingSettings, training, (*draft.path, "training"), origins, dataset.task)
    needs_teachers = checked(bool, needs_teachers, (*path, "needs_teachers"), origins)
    used = len(set(draft.run.use_modalities)) or len(dataset.modalities)
    smp = _smp(name, training.epochs, own["smp"], draft, used)
    algorithm = name if own["algorithm"] is None else own["algorithm"]
    return MethodConfig(name, algorithm, parameters, smp, training, fusion, needs_teachers)


def _smp(method: str, epochs: int, own: Any, draft: Draft, modalities: int) -> config.SMPSettings | None:
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
    smp: config.SMPSettings = checked(config.SMPSettings, schedule, (*draft.path, "smp"), draft.origins)
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
