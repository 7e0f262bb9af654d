"""All that a run is made of, resolved and validated, and the settings of each stage made from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from g2d_pipeline import config
from g2d_pipeline.config.layouts import RawSettings
from g2d_pipeline.errors import did_you_mean
from g2d_pipeline.explain import Origins
from g2d_pipeline.files import start_file
from g2d_pipeline.overrides import Tree

ALIASES = ("champion", "challenger", "previous")  # of registered versions
# Settings of a run that change no result.
NO_RESULT = ("rebuild", "compute", "input", "model", "retrain", "wait", "debug", "storage")


@dataclass(frozen=True)
class MethodConfig:
    """A method: the file that implements it, its parameters (validated by `check_methods`) and schedule.
    `needs_teachers: false` in its file: its students do not depend on teachers."""

    name: str
    algorithm: str
    parameters: Tree
    smp: config.SMPSettings | None
    training: config.TrainingSettings
    fusion: Any  # one of FusionSettings
    needs_teachers: bool = True


@dataclass(frozen=True)
class Configuration:
    """All that a run is made of, resolved and validated (methods' parameters: by `check_methods`).

    `shrunk`: whether the dataset's `sample:` section was applied. `before`: the `files` and `overrides` that
    it was resolved from."""

    run: config.RunSettings
    dataset: config.DatasetSettings
    methods: dict[str, MethodConfig]
    teacher_training: config.TrainingSettings
    source: Literal["raw", "sample"]
    root: Path
    shrunk: bool
    notes: list[str]
    origins: Origins
    project: Path
    before: Tree

    @property
    def parameters(self) -> Tree:
        """`files` and `overrides` that this configuration can be resolved from again: only its data set and
        methods, and nothing that changes no result, such as a registry's address."""
        trees = {
            name: {key: value for key, value in tree.items() if key not in NO_RESULT}
            for name, tree in self.before.items()
        }
        for section, names in (("datasets", [self.run.dataset]), ("methods", self.run.students)):
            defined = trees["files"].get(section) or {}
            trees["files"][section] = {name: defined[name] for name in names if name in defined}
        return trees

    @property
    def encoders(self) -> dict[str, Any]:
        """Modality → the students' encoder, of the modalities that they use."""
        used = self.run.use_modalities or self.dataset.modalities
        return {m: s.encoder for m, s in self.dataset.modalities.items() if m in used}

    @property
    def options(self) -> config.RunOptions:
        shared = set(config.RunOptions.model_fields) & set(config.RunSettings.model_fields)
        return config.RunOptions(**self.run.model_dump(include=shared), project=str(self.project))

    @property
    def weights(self) -> dict[str, Path]:
        """Modality → the absolute path of the file that its encoder starts from, where it names one."""
        return self._files(self.encoders)

    @property
    def teacher_weights(self) -> dict[str, Path]:
        """The same of the teachers' encoders."""
        return self._files({m: s.teacher_encoder or s.encoder for m, s in self.dataset.modalities.items()})

    def _files(self, encoders: dict[str, Any]) -> dict[str, Path]:
        files = {m: getattr(encoder, "weights", None) for m, encoder in encoders.items()}
        return {m: (self.project / Path(file).expanduser()).absolute() for m, file in files.items() if file}

    @property
    def repeats(self) -> dict[str, tuple[int, str, Any]]:
        """Suffix of runs' names → seed, name of the split and its settings; see `RawSettings.repeats`."""
        raw: RawSettings = self.dataset.raw
        return {end: (s, *split) for s in self.run.seeds for end, split in raw.repeats(s).items()}

    def ingest(self) -> config.IngestSettings:
        d, splits = self.dataset, {split: raw for _, split, raw in self.repeats.values()}
        tables = {m: s for m, s in d.modalities.items() if isinstance(s, config.TabularFeatures)}
        return config.IngestSettings(
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

    def featurize(self) -> config.FeaturizeSettings:
        d, not_features = self.dataset, set(config.Modality.model_fields)
        return config.FeaturizeSettings(
            dataset=self.run.dataset,
            modalities={m: s.model_dump(exclude=not_features) for m, s in d.modalities.items()},
            max_bad_fraction=d.may_drop,
            options=self.options,
        )

    def teachers(self) -> config.TeachersSettings:
        runs = {
            f"{m}/{end}": config.TeacherRun(
                modality=m,
                encoder=s.teacher_encoder or s.encoder,
                augment=s.augment,
                training=self.teacher_training,
                **repeat,
            )
            for end, repeat in self._repeats()
            for m, s in self.dataset.modalities.items()
        }
        return config.TeachersSettings(runs=runs, weights=self.teacher_weights, **self._training_stage())

    def distill(self) -> config.DistillSettings:
        runs = {
            f"{name}/{end}": config.StudentRun(
                method=name,
                algorithm=m.algorithm,
                fusion=m.fusion,
                encoders=self.encoders,
                augment={m: self.dataset.modalities[m].augment for m in self.encoders},
                training=m.training,
                parameters=m.parameters,
                smp=m.smp,
                needs_teachers=m.needs_teachers or m.smp is not None,
                **repeat,
            )
            for end, repeat in self._repeats()
            for name, m in self.methods.items()
        }
        beside = {"weights": self.weights, "start": self.start, **self._training_stage()}
        return config.DistillSettings(runs=runs, **beside)

    def _repeats(self) -> Iterator[tuple[str, Tree]]:
        """Suffix of runs' names and settings that all runs with it have."""
        d = self.dataset
        for end, (seed, split, _) in self.repeats.items():
            yield end, {"split": split, "seed": seed, "task": d.task, "target": d.target}

    def _training_stage(self) -> Tree:
        """Settings of both training stages beside their runs, which fix no weights."""
        table = self.dataset.raw if isinstance(self.dataset.raw, config.Table) else None
        return {"dataset": self.run.dataset, "table": table, "options": self.options}

    @property
    def start(self) -> Path | None:
        """The file of the champion's weights that students' encoders start from, where they do (`init_from`);
        it exists once there is a champion."""
        from_champion = self.run.retrain.init_from == "champion"
        return start_file(self.project, self.run.dataset) if from_champion else None

    def evaluate(self) -> config.EvaluateSettings:
        return config.EvaluateSettings(
            dataset=self.run.dataset,
            teachers=list(self.teachers().runs),
            students=list(self.distill().runs),
            splits={end: split for end, (_, split, _) in self.repeats.items()},
            **self.run.evaluate.model_dump(),
            configuration=self.describe(),
            options=self.options,
        )

    def retrain(self) -> config.RetrainRun:
        run, rest = self.run, {"settings": self.run.retrain, "options": self.options}
        return config.RetrainRun(dataset=run.dataset, source=self.source, method=run.method, **rest)

    def check_retrain(self) -> None:
        """Raise ConfigError for several splits (versions are compared on one test split), and for a method
        without students."""
        run = self.run
        if splits := self.ingest().splits:
            fault = f"retrain needs one split of the data, {run.dataset} has {len(splits)}"
            raise self.origins.mistake(("datasets", run.dataset, "raw", "split"), fault)
        if run.method not in self.methods:
            fault = f"method = {run.method!r}: retrain needs a method that trains a student"
            raise self.origins.mistake(("method",), fault)

    def predict(self) -> config.PredictSettings:
        """The model is the first student of `model`, left out of `method`, or the run, the registered version
        (`champion`, `7`) or the folder of this name. Raises ConfigError where there is something to predict,
        and no such model."""
        name, folder = self.run.model or self.run.method, None
        version = name if name.isdigit() or name in ALIASES else None
        runs = [("distill", r) for r in self.distill().runs] + [("teachers", r) for r in self.teachers().runs]
        stage, run = next((r for r in runs if f"{r[1]}/".startswith(f"{name}/")), ("distill", ""))
        if not run and self.run.model and (path := self.project / Path(name).expanduser()).is_dir():
            folder = path
        elif not run and version is None and (self.run.model or self.run.input):
            known = [name for _, name in runs]
            names = f"{', '.join(known)}; a registered version ({', '.join(ALIASES)}, or its number)"
            fault = f"no run of this configuration.{did_you_mean(name, known)} Known: {names}"
            raise self.origins.mistake(("model",), f"model = {name!r}: {fault}; or the folder of a model.")
        of_run: dict[str, Any] = {"input": self.run.input, "wait": self.run.wait, "options": self.options}
        of_run |= {"version": None if run else version, "registry": self.run.retrain.registry}
        return config.PredictSettings(dataset=self.run.dataset, stage=stage, run=run, folder=folder, **of_run)

    def describe(self) -> Tree:
        """The resolved configuration as plain data: saved with every report, enough to rerun."""

        def plain(settings: BaseModel | None) -> Tree | None:
            return settings.model_dump(mode="json") if settings else None

        methods = {
            name: {"algorithm": m.algorithm, **m.parameters}
            | {"fusion": plain(m.fusion), "smp": plain(m.smp), "training": plain(m.training)}
            for name, m in self.methods.items()
        }
        run = self.run.model_dump(mode="json", exclude={*NO_RESULT, *config.RunOptions.model_fields})
        run |= {"source": self.source, "dataset_settings": plain(self.dataset)}
        return run | {"methods": methods, "teacher": plain(self.teacher_training)}
