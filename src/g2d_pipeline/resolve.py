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
from g2d_pipeline.overrides import METHOD_KEYS, Draft, Tree, leaves, merge, name_sections, section
from g2d_pipeline.remote import CACHE, connect, is_remote, local_folder
from g2d_pipeline.sources.layout import find_layout, layout_class

Locate = Callable[[Any, Literal["auto", "raw", "sample"]], tuple[Literal["raw", "sample"], Path]]


def resolve(
    files: Tree, overrides: Tree, locate: Locate, origins: Origins | None = None, project: Path = Path()
) -> Configuration:
    """Merge and validate. `files`: the merged parameter files (top-level run settings, `datasets`,
    `methods`); `overrides`: `--params` as nested dictionaries; `locate(raw, source)`: the source to use and
    its folder (see `sources.locate`). Raises ConfigError."""
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
    path = ("datasets", run.dataset)
    tree: Tree = checked(dict[str, Any], datasets[run.dataset], path, origins)
    name_sections(tree)
    raw = copy.deepcopy(tree.get("raw", {}))
    changes = {key: value for key, value in overrides.items() if key == "raw_dir"}
    changes |= overrides["raw"] if isinstance(overrides.get("raw"), dict) else {}
    for key, _ in leaves(changes):
        origins.note(*path, "raw", *key)
    raw = merge(raw, changes) if isinstance(raw, dict) else raw
    if "raw" not in tree and "layout" not in changes:  # perhaps misspelt
        known = {key: value for key, value in tree.items() if key not in BESIDE}
        checked(config.DatasetSettings, known, path, origins, tree.get("task"))
    settings = checked(config.LayoutSettings, raw, (*path, "raw"), origins)
    if isinstance(settings, config.ExternalLayout):
        with _named_at((*path, "raw", "layout"), origins):
            options_class = layout_class(settings.layout).options_class
        checked(options_class, settings.options, (*path, "raw", "options"), origins)
    _connect(settings.raw_dir, run, project, (*path, "raw", "raw_dir"), origins)
    source, root = locate(settings, run.source)
    simulated = tree.pop("sample", None) or {}
    shrunk = bool(simulated) and source == "sample"
    merge(tree, simulated if shrunk else {})
    name_sections(tree)
    smp, teacher, changes = (tree.pop(key, None) or {} for key in ("smp", "teacher", "methods"))
    trees = {name: _method_tree(name, methods, changes, origins) for name in run.students}
    draft = Draft(run, tree, smp, teacher, trees, origins)
    draft.override(overrides)
    dataset: config.DatasetSettings = checked(config.DatasetSettings, tree, path, origins, tree.get("task"))
    dataset = dataset.model_copy(update={"raw": find_layout(dataset.raw, root).with_folds()})
    _check_run(run, dataset, origins)
    teacher = merge(dataset.training.model_dump(), teacher)
    teacher_training = checked(config.TrainingSettings, teacher, (*path, "teacher"), origins, dataset.task)
    configured = {name: _method(name, draft, dataset) for name in trees}
    if draft.smp_keys and not any(m.smp for m in configured.values()):
        fault = f"belong to SMP, which {', '.join(trees) or 'unimodal'} does not use"
        remedy = "Choose a method with an smp section, such as method=g2d."
        raise ConfigError(f"{COMMAND_LINE}: {'/'.join(draft.smp_keys)} {fault}. {remedy}")
    configuration = Configuration(
        run, dataset, configured, teacher_training, source, root, shrunk,
        draft.notes, origins, project, before,
    )  # fmt: skip
    _check_weights(configuration)
    return configuration


def _connect(
    place: str, run: config.RunSettings, project: Path, path: tuple[str, ...], origins: Origins
) -> None:
    """List a raw folder that is a URL. Raises ConfigError, naming file and key, where that fails."""
    if not is_remote(place) or run.source == "sample":
        return
    storage, folder, keep = run.storage, local_folder(project, place), None
    if storage.cache_folder is not None:
        keep = project / Path(storage.cache_folder).expanduser() / folder.relative_to(project / CACHE)
    try:
        config.refuse_secrets(place, "raw_dir")
        connect(place, folder, storage.options, storage.cache_gb * 1e9, keep)
    except ValueError as error:
        raise origins.mistake(path, f"raw_dir: {error}") from error


def _check_run(run: config.RunSettings, dataset: config.DatasetSettings, origins: Origins) -> None:
    promote = run.retrain.promote.model_dump()
    checked(config.PromoteSettings, promote, ("retrain", "promote"), origins, dataset.task)
    known = dataset.modalities
    for m in (m for m in run.use_modalities if m not in known):
        fault = f"unknown modality {m!r}; {run.dataset} has {', '.join(known)}.{did_you_mean(m, known)}"
        raise origins.mistake(("use_modalities",), f"use_modalities: {fault}")


def check_kinds(configuration: Configuration) -> None:
    """Validate the `options` of external kinds by their classes. Raises ConfigError as `checked` does."""
    origins = configuration.origins
    for modality, s in configuration.dataset.modalities.items():
        if not isinstance(s, config.ExternalFeatures):
            continue
        from g2d_pipeline.features.kinds import kind_class

        path = ("datasets", configuration.run.dataset, "modalities", modality)
        with _named_at((*path, "kind"), origins):
            settings_class = kind_class(s.kind).settings_class
        checked(settings_class, {**s.options, "kind": s.kind}, (*path, "options"), origins)


@contextmanager
def _named_at(path: tuple[str, ...], origins: Origins) -> Iterator[None]:
    """Add file and key to a ConfigError about the plug-in that is named at `path`."""
    try:
        yield
    except ConfigError as error:
        raise origins.mistake(path, f"{'.'.join(path[2:])}: {error}") from error


def check_encoders(configuration: Configuration) -> None:
    """Load the class of each encoder. Imports torch: called when there is work to do. Raises ConfigError."""
    from g2d_pipeline.models.encoders import load_encoder

    for modality, s in configuration.dataset.modalities.items():
        for name in {s.encoder.name, (s.teacher_encoder or s.encoder).name}:
            path = ("datasets", configuration.run.dataset, "modalities", modality, "encoder")
            with _named_at(path, configuration.origins):
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
            fault = f"needs_teachers = False: {m.algorithm} distils from teachers; remove the line"
            raise origins.mistake(("methods", m.name, "needs_teachers"), fault)


def _run_settings(files: Tree, overrides: Tree, origins: Origins) -> config.RunSettings:
    """The top level: `seed=3` is short for `seeds=3`; other than top-level keys stay in `overrides`."""
    for tree, file in ((overrides, COMMAND_LINE), (files, "parameters.yml")):
        if {"seed", "seeds"} <= tree.keys():
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
        hint = f"{did_you_mean(name, [*methods, 'unimodal'])} Known: {', '.join(sorted(methods))}, unimodal"
        remedy = "A new one is one file in methods/ and one conf/base/methods/<name>.yml."
        raise origins.mistake(("method",), f"unknown method '{name}'.{hint}. {remedy}")
    tree = checked(dict[str, Any], methods.get(name) or {}, ("methods", name), origins)
    return merge(copy.deepcopy(tree), changes.get(name) or {})


def _method(name: str, draft: Draft, dataset: config.DatasetSettings) -> MethodConfig:
    """A method's settings; its fusion and training are the dataset's where its file has none."""
    origins, path = draft.origins, ("methods", name)
    parameters = dict(draft.methods[name])
    algorithm, smp, training, needs_teachers, fusion = (parameters.pop(key, None) for key in METHOD_KEYS)
    if fusion is None:
        fusion = dataset.fusion
    else:
        fusion = checked(config.FusionSettings, fusion, (*path, "fusion"), origins)
        if origins.find((*draft.path, "fusion")) == COMMAND_LINE:
            note = f"has a fusion of its own ({fusion.name}); fusion={dataset.fusion.name} is not used"
            draft.notes.append(f"{name}: {note}")
    training = merge(dataset.training.model_dump(), training or {})
    training = checked(config.TrainingSettings, training, (*draft.path, "training"), origins, dataset.task)
    needs_teachers = True if needs_teachers is None else needs_teachers
    needs_teachers = checked(bool, needs_teachers, (*path, "needs_teachers"), origins)
    used = len(set(draft.run.use_modalities)) or len(dataset.modalities)
    smp = _smp(name, training.epochs, smp, draft, used)
    algorithm = name if algorithm is None else algorithm
    return MethodConfig(name, algorithm, parameters, smp, training, fusion, needs_teachers)


def _smp(method: str, epochs: int, section: Any, draft: Draft, modalities: int) -> config.SMPSettings | None:
    """The schedule of a method whose file has (or whose command line switches on) one, else None."""
    if not isinstance(section, Mapping | None):
        section = checked(bool, section, ("methods", method, "smp"), draft.origins)
    switched_on = draft.smp_switch and method == draft.run.method
    if draft.smp_switch is False or not (section or switched_on):
        return None
    schedule = copy.deepcopy(dict(section)) if isinstance(section, Mapping) else {}
    # The tau of a method file goes before that of the data set, and that of the command line before both.
    ignored = {"tau"} & schedule.keys() - set(draft.smp_keys)
    merge(schedule, {key: value for key, value in draft.smp.items() if key not in ignored})
    smp: config.SMPSettings = checked(config.SMPSettings, schedule, (*draft.path, "smp"), draft.origins)
    if modalities < 2:
        fault = f"method = {method!r} needs at least two modalities; {draft.run.dataset} has one"
        remedy = "Say method=unimodal,compare= to train it alone."
        raise draft.origins.mistake(("method",), f"{fault}. {remedy}")
    try:
        phases = smp.phases(modalities, epochs)
    except ValueError as error:
        fault = f"smp.tau = {short(smp.tau)} (epochs {epochs}): {error}"
        raise draft.origins.mistake((*draft.path, "smp", "tau"), fault) from error
    if not isinstance(smp.tau, str) and sum(smp.tau) != epochs:
        note = f"phases of {'/'.join(map(str, phases))} epochs, the last one filling up the rest"
        draft.notes.append(f"{method}: tau {short(smp.tau)} in {epochs} epochs: {note}")
    return smp


def _check_weights(configuration: Configuration) -> None:
    """Raise ConfigError, naming file and key, where weights to start from are not there."""
    c, lines = configuration, []
    for encoder, files in (("encoder", c.weights), ("teacher_encoder", c.teacher_weights)):
        for m, path in files.items():
            settings = getattr(c.dataset.modalities[m], encoder)
            if settings is not None and (fault := media_fault(path)):
                key = ("modalities", m, encoder, "weights")
                fault = f"the file {path} {fault}. (A relative path starts at the project's folder.)"
                file = c.origins.find(("datasets", c.run.dataset, *key))
                lines.append(f"{file}: {'.'.join(key)} = {settings.weights!r}: {fault}")
    if lines:
        raise ConfigError("\n".join(lines))
