"""A dataset file, and the top of every run."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveInt, field_validator

from g2d_pipeline.config.base import Fraction, Names, Seeds, Strict, Task, split_slashes
from g2d_pipeline.config.compute import ComputeSettings, StorageSettings
from g2d_pipeline.config.layouts import LayoutSettings, TargetSettings
from g2d_pipeline.config.modalities import ModalitySettings
from g2d_pipeline.config.models import FusionSettings, Late
from g2d_pipeline.config.retrain import RetrainSettings
from g2d_pipeline.config.training import TrainingSettings


class DatasetSettings(Strict):
    """One `parameters_<dataset>.yml`: where the raw data are, what each modality is, how it is trained."""

    raw: LayoutSettings
    task: Task
    target: TargetSettings = TargetSettings()
    modalities: dict[str, ModalitySettings] = Field(min_length=1)
    fusion: FusionSettings = Late()
    training: TrainingSettings = TrainingSettings()
    max_bad_fraction: Fraction = 0.0  # of the samples that reach a stage, ingest or featurize
    on_bad: Literal["error", "drop"] | None = None  # None: drop where max_bad_fraction allows any

    def _problems(self) -> Iterator[str]:
        if self.on_bad == "drop" and not self.max_bad_fraction:
            yield "on_bad = drop needs max_bad_fraction: the greatest share of samples that may be dropped"

    @property
    def may_drop(self) -> float:
        """The greatest share of bad samples that are dropped; more end the run. 0: any ends it."""
        return 0.0 if self.on_bad == "error" else self.max_bad_fraction

    @field_validator("modalities")
    @classmethod
    def _names_are_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "multi":
                allowed = "lower-case letters, digits and _ only, and not 'multi'"
                raise ValueError(f"modality name {name!r}: {allowed}")
        return value


class EvaluateOptions(Strict):
    """`robustness`: whether every model runs again on test samples with missing and corrupted modalities;
    `corrupted_samples`: on how many of them at most (null: all) modalities are corrupted."""

    robustness: bool = True
    corrupted_samples: PositiveInt | None = 2000


class RunSettings(Strict):
    """The top of `parameters.yml`: which dataset, which method, how many seeds, on what machine."""

    dataset: str
    method: str = "g2d"
    compare: Names = ["joint"]
    use_modalities: Names = []  # those of the students; none named: all
    seeds: Seeds = [0, 1, 2]
    source: Literal["auto", "raw", "sample"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    workers: PositiveInt = 2
    compute: ComputeSettings = ComputeSettings()
    storage: StorageSettings = StorageSettings()
    progress: Literal["auto"] | bool = "auto"
    checkpoint_minutes: NonNegativeFloat = 10.0
    log: Annotated[list[Literal["csv", "tensorboard"]], BeforeValidator(split_slashes)] = []
    evaluate: EvaluateOptions = EvaluateOptions()
    retrain: RetrainSettings = RetrainSettings()
    rebuild: bool = False
    input: str | None = None  # of the pipeline predict: a table or a folder
    model: str | None = None  # that predicts: a run's name, or the folder of a model
    wait: bool = False  # for another run that is making the same artefact
    code: Literal["check", "ignore"] = "check"  # ignore: what other versions of the code made stays fresh
    debug: bool = False

    @property
    def students(self) -> list[str]:
        """The methods that train a student (`unimodal` trains none), baselines first, without repetition."""
        return [m for m in dict.fromkeys([*self.compare, self.method]) if m != "unimodal"]
