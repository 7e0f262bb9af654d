"""What each stage is told to do: everything that fixes its outputs, and the machine beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from g2d_pipeline.config.augment import AugmentSettings
from g2d_pipeline.config.base import Fraction, Strict, Task
from g2d_pipeline.config.encoders import EncoderSettings
from g2d_pipeline.config.features import FeatureSettings
from g2d_pipeline.config.fusion import FusionSettings
from g2d_pipeline.config.layouts import LayoutSettings, TargetSettings
from g2d_pipeline.config.smp import SMPSettings
from g2d_pipeline.config.training import TrainingSettings


class RunOptions(Strict):
    """Where and how to run: never part of a fingerprint."""

    device: str
    progress: Literal["auto"] | bool
    workers: PositiveInt = 2
    checkpoint_minutes: NonNegativeFloat = 10.0
    log: list[Literal["csv", "tensorboard"]] = []
    project: str = "."  # the project's folder, where relative paths start


class IngestSettings(Strict):
    dataset: str
    source: Literal["raw", "sample"]
    task: Task
    target: TargetSettings
    raw: LayoutSettings
    columns: dict[
        str, list[str]
    ]  # modality → its columns in the manifest: one path, one text, or the table's values
    kinds: dict[
        str, str
    ] = {}  # modality → its kind; where it is left out, one column of its own name holds paths
    categorical: list[str] = []  # which of the table's columns are categories
    dates: list[str] = []
    max_bad_fraction: Fraction
    machine: RunOptions


class FeaturizeSettings(Strict):
    dataset: str
    modalities: dict[str, FeatureSettings]
    max_bad_fraction: Fraction = 0.0
    machine: RunOptions


class TeacherRun(Strict):
    """One teacher to train: everything that fixes its weights."""

    modality: str
    seed: NonNegativeInt
    task: Task
    target: TargetSettings
    encoder: EncoderSettings
    augment: AugmentSettings | None = None
    training: TrainingSettings


class StudentRun(Strict):
    """One student to train: everything that fixes its weights, given its teachers."""

    method: str
    algorithm: str
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
    cells: dict[str, TeacherRun]
    machine: RunOptions


class DistillSettings(Strict):
    dataset: str
    cells: dict[str, StudentRun]
    machine: RunOptions


class EvaluateSettings(Strict):
    dataset: str
    teachers: list[str]
    students: list[str]
    configuration: dict[str, Any]
