"""The settings of each stage: what fixes its outputs, and the options of the run beside it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from g2d_pipeline.config.base import Fraction, Strict, Task
from g2d_pipeline.config.layouts import LayoutSettings, Table, TargetSettings
from g2d_pipeline.config.modalities import AugmentSettings, FeatureSettings
from g2d_pipeline.config.models import EncoderSettings, FusionSettings
from g2d_pipeline.config.retrain import RegistrySettings, RetrainSettings
from g2d_pipeline.config.run import ComputeSettings, StorageSettings
from g2d_pipeline.config.training import SMPSettings, TrainingSettings


class RunOptions(Strict):
    """Where and how to run: never part of a fingerprint.

    `workers`: threads that read ahead. `folder`: of a training's checkpoints (`checkpoints/`, one every
    `checkpoint_minutes` and at the ends of epochs), logs and large arrays; None: nothing is kept. `project`:
    the folder where relative paths of data start."""

    device: str = "auto"
    progress: Literal["auto"] | bool = "auto"
    workers: NonNegativeInt = 2
    checkpoint_minutes: NonNegativeFloat = 10.0
    compute: ComputeSettings = ComputeSettings()
    storage: StorageSettings = StorageSettings()
    log: list[Literal["csv", "tensorboard"]] = []
    folder: Path | None = None
    project: str = "."

    def updated(self, **changes: Any) -> Self:
        """A validated copy with these fields changed. Raises ValidationError for unknown ones."""
        return type(self)(**(self.model_dump() | changes))


class _Stage(Strict):
    dataset: str
    options: RunOptions


class IngestSettings(_Stage):
    """`columns`: modality → its columns in the manifest: one path, one text, or the table's values. `kinds`:
    modality → its kind (left out: one column of the modality's name holds paths). `categorical`, `dates`:
    which of the table's columns are such. `splits`: of several splits: name → its `raw`."""

    source: Literal["raw", "sample"]
    task: Task
    target: TargetSettings
    raw: LayoutSettings
    columns: dict[str, list[str]]
    kinds: dict[str, str] = {}
    categorical: list[str] = []
    dates: list[str] = []
    max_bad_fraction: Fraction
    splits: dict[str, LayoutSettings] = {}

    @property
    def runs(self) -> dict[str, Self]:
        """Name of a split → the settings of its manifest; a single one has the name ""."""
        return {
            name: self.model_copy(update={"raw": raw, "splits": {}}) for name, raw in self.splits.items()
        } or {"": self}


class FeaturizeSettings(_Stage):
    modalities: dict[str, FeatureSettings]
    max_bad_fraction: Fraction = 0.0


class _Training(Strict):
    split: str = ""  # the name of the manifest and feature store
    seed: NonNegativeInt
    task: Task
    target: TargetSettings
    training: TrainingSettings


class TeacherRun(_Training):
    """One teacher to train: everything that fixes its weights."""

    modality: str
    encoder: EncoderSettings
    augment: AugmentSettings | None = None

    @property
    def encoders(self) -> dict[str, Any]:
        return {self.modality: self.encoder}


class StudentRun(_Training):
    """One student to train: everything that fixes its weights, beside its teachers."""

    method: str
    algorithm: str
    fusion: FusionSettings
    encoders: dict[str, EncoderSettings]
    augment: dict[str, AugmentSettings | None] = {}
    parameters: dict[str, Any]
    smp: SMPSettings | None
    needs_teachers: bool


class TeachersSettings(_Stage):
    runs: dict[str, TeacherRun]
    weights: dict[str, Path] = {}  # modality → the absolute path of the file its encoder starts from
    table: Table | None = None  # of a user's: the format of its samples, for predictions


class DistillSettings(_Stage):
    runs: dict[str, StudentRun]
    weights: dict[str, Path] = {}
    start: Path | None = None  # a model's weights that all encoders start from, once the file exists
    table: Table | None = None


class PredictSettings(_Stage):
    """`input`: the table or folder to predict. The model: `stage` and `run`; or a `version` in `registry`; or
    a `folder` (`run` is "" then)."""

    input: str | None = None
    stage: Literal["teachers", "distill"] = "distill"
    run: str = ""
    version: str | None = None
    registry: RegistrySettings = RegistrySettings()
    folder: Path | None = None
    wait: bool = False


class RetrainRun(_Stage):
    """`method`: whose students are challengers."""

    source: Literal["raw", "sample"]
    method: str
    settings: RetrainSettings


class EvaluateSettings(_Stage):
    teachers: list[str]
    students: list[str]
    splits: dict[str, str]  # suffix of runs' names → the name of their split
    robustness: bool = True
    corrupted_samples: PositiveInt | None = None
    configuration: dict[str, Any]
    options: RunOptions = RunOptions()
