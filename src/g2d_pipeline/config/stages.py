"""The settings of each stage: everything that fixes its outputs, and the options of the run beside it."""

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

    `workers`: threads that read ahead. `folder`: where a training keeps its checkpoints (`checkpoints/`, one
    every `checkpoint_minutes` and at the ends of epochs), logs and large arrays; None: nowhere. `project`:
    the project's folder, where relative paths of data start."""

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


class IngestSettings(Strict):
    """`columns`: modality → its columns in the manifest: one path, one text, or the table's values. `kinds`:
    modality → its kind; where it is left out, one column of its own name holds paths. `categorical`, `dates`:
    which of the table's columns are such. `splits`: where there are several: name → `raw` of one of them."""

    dataset: str
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
    options: RunOptions

    @property
    def runs(self) -> dict[str, Self]:
        """Name of a split → the settings of its manifest; where there is one, its name is ""."""
        return {
            name: self.model_copy(update={"raw": raw, "splits": {}}) for name, raw in self.splits.items()
        } or {"": self}


class FeaturizeSettings(Strict):
    dataset: str
    modalities: dict[str, FeatureSettings]
    max_bad_fraction: Fraction = 0.0
    options: RunOptions


class TeacherRun(Strict):
    """One teacher to train: everything that fixes its weights."""

    modality: str
    split: str = ""  # the name of the manifest and feature store that it uses
    seed: NonNegativeInt
    task: Task
    target: TargetSettings
    encoder: EncoderSettings
    augment: AugmentSettings | None = None
    training: TrainingSettings


class StudentRun(Strict):
    """One student to train: everything that fixes its weights, beside its teachers."""

    method: str
    algorithm: str
    split: str = ""
    seed: NonNegativeInt
    task: Task
    target: TargetSettings
    fusion: FusionSettings
    encoders: dict[str, EncoderSettings]
    augment: dict[str, AugmentSettings | None] = {}
    training: TrainingSettings
    parameters: dict[str, Any]
    smp: SMPSettings | None
    needs_teachers: bool


class TeachersSettings(Strict):
    dataset: str
    runs: dict[str, TeacherRun]
    weights: dict[str, Path] = {}  # modality → the absolute path of the file its encoder starts from
    table: Table | None = None  # of a user's: how samples stand in it, for predictions
    options: RunOptions


class DistillSettings(Strict):
    dataset: str
    runs: dict[str, StudentRun]
    weights: dict[str, Path] = {}
    start: Path | None = None  # a model's weights that all encoders start from, once they are there
    table: Table | None = None  # of a user's: how samples stand in it, for predictions
    options: RunOptions


class PredictSettings(Strict):
    """`input`: the table or folder to predict. `stage`, `run`: of the model; `version`: of one that is
    registered, in `registry`; `folder`: of one that is named by its folder ("" is the run then)."""

    dataset: str
    input: str | None = None
    stage: Literal["teachers", "distill"] = "distill"
    run: str = ""
    version: str | None = None
    registry: RegistrySettings = RegistrySettings()
    folder: Path | None = None
    wait: bool = False
    options: RunOptions


class RetrainRun(Strict):
    """`method`: whose students are challengers."""

    dataset: str
    source: Literal["raw", "sample"]
    method: str
    settings: RetrainSettings
    options: RunOptions


class EvaluateSettings(Strict):
    dataset: str
    teachers: list[str]
    students: list[str]
    splits: dict[str, str]  # how runs' names end → the name of their split
    robustness: bool = True
    corrupted_samples: PositiveInt | None = None
    configuration: dict[str, Any]
    options: RunOptions = RunOptions()
