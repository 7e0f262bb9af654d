"""A dataset file, and the top of every run: which data, method and seeds, on what machine."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from g2d_pipeline.config.base import Fraction, Names, Seeds, Strict, Task, split_slashes
from g2d_pipeline.config.layouts import LayoutSettings, TargetSettings
from g2d_pipeline.config.modalities import ModalitySettings
from g2d_pipeline.config.models import FusionSettings, Late
from g2d_pipeline.config.retrain import RetrainSettings
from g2d_pipeline.config.training import TrainingSettings

SECRET = re.compile(r"secret|token|passw|(^|_)key(_id)?$", re.IGNORECASE)
REMEDY = (
    "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or name a profile "
    "(storage.options.profile)"
)
Address = Annotated[str, Field(pattern=r"^\S+$")]


class ComputeSettings(Strict):
    """Never part of a fingerprint; what a training ran on is recorded in its card.

    Independent tasks (chunks of features, teachers, students, cells of a study): `backend`, their engine;
    `workers`, how many at once (auto: as many as cores, memory or devices allow, where that is faster);
    `address`, of a running Dask or Ray scheduler (None: one on this machine); `cells_per_gpu`, trainings that
    share a device; `retries` of a task whose worker was lost, the last time alone.

    One training: `devices`, processes on each of `num_nodes` machines, a device each (auto: all); `strategy`,
    whole models that sum gradients (`ddp`) or encoders in shards (`fsdp`); `rendezvous`, host:port where
    nodes meet (None: this machine, or what SLURM says); `max_restarts` after a process was lost. `timeout`:
    seconds until an unreachable scheduler, node or process is given up."""

    backend: Literal["loky", "dask", "ray"] = "loky"
    workers: PositiveInt | Literal["auto"] = "auto"
    address: Address | None = None
    cells_per_gpu: PositiveInt = 1
    retries: NonNegativeInt = 2
    devices: PositiveInt | Literal["auto"] = 1
    num_nodes: PositiveInt = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:]+:\d+$")] | None = None
    max_restarts: NonNegativeInt = 2
    timeout: PositiveFloat = 120.0

    @property
    def together(self) -> int:
        """The least number of devices that train together, by the settings alone."""
        return self.num_nodes * (1 if self.devices == "auto" else self.devices)

    def _problems(self) -> Iterator[str]:
        if self.address is not None and self.backend == "loky":
            yield "address is of a Dask or Ray scheduler: say backend: dask or backend: ray"

    def check_training(self, training: TrainingSettings) -> None:
        """Raise ValueError for a setting that works on whole models only, where `strategy` shards them."""
        if self.strategy != "fsdp":
            return
        t = training
        for key, refused, why, allowed in (
            ("ema", t.ema is not None, "keeps a whole copy of the weights", "null"),
            ("batch_size", t.batch_size == "auto", "is measured on whole models", "a number"),
            ("precision", t.precision == "fp16", "scales by whole gradients", "fp32, tf32, bf16, auto"),
            ("compile", t.compile, "compiles whole encoders", "false"),
        ):
            if refused:
                fault = f"{key} = {getattr(t, key)} {why}, which compute.strategy = fsdp shards"
                raise ValueError(f"{fault}. Allowed: {allowed}; or compute.strategy=ddp")


class StorageSettings(Strict):
    """Never part of a fingerprint: none of it changes a number, but a `cache_gb` that is smaller than the
    feature store that is trained from: then `model.json` says by which windows it is shuffled.

    `shard_rows`: samples in one file of a modality of files in a feature store (auto: a gigabyte); more are
    written as `<modality>-00000-of-00004.npy`, … `artefacts`: a URL where finished artefacts (manifests,
    feature stores, models, reports) are uploaded, and looked up before they are made; None: they stay in the
    project. Of raw folders and artefacts behind a URL (`s3://…`): `options` of their file system
    (`endpoint_url`, `profile`, `anon`, …), never a secret; `cache_folder` of raw files (None: `data/.cache`);
    `cache_gb`: kept of each raw folder and feature store, those used last."""

    shard_rows: PositiveInt | Literal["auto"] = "auto"
    artefacts: Annotated[str, Field(pattern=r"^[a-z0-9]+://\S+$")] | None = None
    options: dict[str, Any] = {}
    cache_folder: str | None = None
    cache_gb: PositiveFloat = 50.0

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, value: Any) -> Any:
        refuse_secrets(value, "storage")
        return value


def refuse_secrets(value: Any, path: str) -> None:
    """Raise an error, without the value, where a key of settings names a secret or an address has one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if SECRET.search(str(key)):
                raise PydanticCustomError("secret", f"{path}.{key} would put a secret into a file: {REMEDY}")
            refuse_secrets(inner, f"{path}.{key}")
    elif isinstance(value, str) and re.search(r"://[^/]*@", value):
        raise PydanticCustomError("secret", f"{path} has a user or a secret before its @: {REMEDY}")


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
