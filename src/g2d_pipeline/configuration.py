"""All that a run is made of, resolved and validated, and the settings of each stage made from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    """A named method: the file that implements it, its parameters (validated by `check_methods`) and its
    schedule. `needs_teachers: false` in its file: its students do not depend on teachers."""

    name: str
    algorithm: str
    parameters: Tree
    smp: config.SMPSettings | None
    training: config.TrainingSettings
    fusion: Any  # one of FusionSettings
    needs_teachers: bool = True


@dataclass(frozen=True)
class Configuration:
    """All that a run is made of, resolved and validated (methods' own parameters: see `check_methods`)."""

    run: config.RunSettings
    dataset: config.DatasetSettings
    methods: dict[str, MethodConfig]
    teacher_training: config.TrainingSettings
    source: Literal["raw", "sample"]
    root: Path
    shrunk: bool  # the dataset's `sample:` section was applied
    notes: list[str]
    origins: Origins
    project: Path
    before: Tree  # what it was resolved from: `files` and `overrides`

    @property
    def parameters(self) -> Tree:
        """What this configuration can be resolved from again: of `files`, what belongs to its data set and
        methods, and `overrides`; without what changes no result, such as a registry's address."""
        files, overrides = (
            {key: value for key, value in self.before[name].items() if key not in NO_RESULT}
            for name in ("files", "overrides")
        )
        for section, names in (("datasets", [self.run.dataset]), ("methods", self.run.students)):
            own = files.get(section) or {}
            files[section] = {name: own[name] for name in names if name in own}
        return {"files": files, "overrides": overrides}

    @property
    def encoders(self) -> dict[str, Any]:
        """Modality → the encoder of the students, of those that they use."""
        used = self.run.use_modalities
        return {m: s.encoder for m, s in self.dataset.modalities.items() if not used or m in used}

    @property
    def options(self) -> config.RunOptions:
        shared = set(config.RunOptions.model_fields) & set(config.RunSettings.model_fields)
        return config.RunOptions(**self.run.model_dump(include=shared), project=str(self.project))

    @property
    def weights(self) -> dict[str, Path]:
        """Modality → the absolute path of the file that its encoder starts from, for those that name one."""
        return self._files(self.encoders)

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
        d = self.dataset
        runs = {
            f"{m}/{end}": config.TeacherRun(
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
        beside: dict[str, Any] = {"weights": self.teacher_weights, **self._beside}
        return config.TeachersSettings(dataset=self.run.dataset, runs=runs, **beside)

    def distill(self) -> config.DistillSettings:
        d = self.dataset
        runs = {
            f"{name}/{end}": config.StudentRun(
                method=name,
                algorithm=method.algorithm,
                split=split,
                seed=seed,
                task=d.task,
                target=d.target,
                fusion=method.fusion,
                encoders=self.encoders,
                augment={m: d.modalities[m].augment for m in self.encoders},
                training=method.training,
                parameters=method.parameters,
                smp=method.smp,
                needs_teachers=method.needs_teachers or method.smp is not None,
            )
            for end, (seed, split, _) in self.repeats.items()
            for name, method in self.methods.items()
        }
        beside: dict[str, Any] = {"weights": self.weights, "start": self.start, **self._beside}
        return config.DistillSettings(dataset=self.run.dataset, runs=runs, **beside)

    @property
    def start(self) -> Path | None:
        """The file of the champion's weights that students' encoders start from, where they do (`init_from`);
        it is there once there is a champion."""
        from_champion = self.run.retrain.init_from == "champion"
        return start_file(self.project, self.run.dataset) if from_champion else None

    @property
    def _beside(self) -> Tree:
        """What training stages are given beside their runs, and fixes no weights."""
        return {
            "table": self.dataset.raw if isinstance(self.dataset.raw, config.Table) else None,
            "options": self.options,
        }

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
        own: dict[str, Any] = {"dataset": self.run.dataset, "source": self.source, "method": self.run.method}
        return config.RetrainRun(**own, settings=self.run.retrain, options=self.options)

    def check_retrain(self) -> None:
        """Raise ConfigError where there are several splits: versions are compared on one test split; and
        without a student."""
        if splits := self.ingest().splits:
            words = f"retrain needs one split of the data, {self.run.dataset} has {len(splits)}"
            raise self.origins.mistake(("datasets", self.run.dataset, "raw", "split"), words)
        if self.run.method not in self.methods:
            words = f"method = {self.run.method!r}: retrain needs a method that trains a student"
            raise self.origins.mistake(("method",), words)

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
            raise self.origins.mistake(
                ("model",),
                f"model = {name!r}: no run of this configuration.{did_you_mean(name, known)} Known: "
                f"{', '.join(known)}; a registered version ({', '.join(ALIASES)}, or its number); or the "
                "folder of a model.",
            )
        of_run: dict[str, Any] = {"input": self.run.input, "wait": self.run.wait, "options": self.options}
        of_run |= {"version": None if run else version, "registry": self.run.retrain.registry}
        return config.PredictSettings(dataset=self.run.dataset, stage=stage, run=run, folder=folder, **of_run)

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
        run = self.run.model_dump(mode="json", exclude={*NO_RESULT, *config.RunOptions.model_fields})
        return run | {
            "source": self.source,
            "dataset_settings": self.dataset.model_dump(mode="json"),
            "methods": methods,
            "teacher": self.teacher_training.model_dump(mode="json"),
        }
