"""Retraining: the registry, the gates before training, and the rule by which a challenger is promoted."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationInfo, field_validator

from g2d_pipeline.config.base import Fraction, Share, Strict
from g2d_pipeline.errors import did_you_mean


class RegistrySettings(Strict):
    """MLflow's registry. `uri`: of its records; None: `MLFLOW_TRACKING_URI`, else a SQLite file in
    `data/09_registry`. `artifacts`: of its versions; None: a folder beside that file, or the server's.
    `keep_last`: versions that are kept beside those of an alias; None: all."""

    uri: str | None = None
    artifacts: str | None = None
    keep_last: PositiveInt | None = 10


class Limits(Strict):
    """In [0, 1]: from `warn` on a gate warns, from `stop` on it refuses; None: never."""

    warn: Fraction | None = None
    stop: Fraction | None = None

    def _problems(self) -> Iterator[str]:
        if self.warn is not None and self.stop is not None and self.warn > self.stop:
            yield f"warn = {self.warn:g} is above stop = {self.stop:g}: allowed are warn ≤ stop"


Outcome = Literal["go", "warn", "stop"]


class GateSettings(Strict):
    """Checks before anything is trained (docs/retrain.md). `schema_change`: columns or modalities that the
    champion needs are missing or of another type, another task or unit; `new_columns`: columns or modalities
    that it does not know; `new_classes`, `vanished_classes`. `unreadable`: the share of new files or rows
    that can not be used; `silent`: the share of new samples of a modality that are silent or blank, beyond
    that at training time; `shift`: the distance of new data from the champion's, for each modality and the
    target; `label_noise`: the share of new labels that the champion contradicts with at least `confidence`,
    beyond its share on data it was not trained on. `alpha`: the false-alarm rate of all tests of shift
    together, and of each of the two others; `samples`: the most new rows that are checked."""

    schema_change: Outcome = "stop"
    new_columns: Outcome = "warn"
    new_classes: Outcome = "stop"
    vanished_classes: Outcome = "warn"
    unreadable: Limits = Limits(warn=0.01, stop=0.2)
    silent: Limits = Limits(warn=0.02, stop=0.2)
    shift: Limits = Limits(warn=0.1, stop=0.25)
    label_noise: Limits = Limits(warn=0.05, stop=0.15)
    confidence: Share = 0.9
    alpha: Share = 0.01
    samples: PositiveInt = 2000

    @field_validator("unreadable", "silent", "shift", "label_noise", mode="before")
    @classmethod
    def _a_limit_left_out_stays(cls, value: Any, info: ValidationInfo) -> Any:
        """Who changes `warn` keeps `stop`."""
        default = cls.model_fields[str(info.field_name)].default
        return {**default.model_dump(), **value} if isinstance(value, dict) else value


class Guards(Strict):
    """The greatest loss of a challenger beside the headline metric, refused where it is significant; None:
    not guarded. As a fraction: of accuracies, F1, R² and the like as they are (0.05: 5 points), of RMSE and
    MAE in standard deviations of the targets, of MAPE 0.05 for 5 %.

    `per_modality`: of each modality alone; `missing_modality`: without each modality; `per_group`: in each
    group of 20 samples or more; `calibration`: of the ECE, in a regression of the absolute mean bias in
    standard deviations of the targets; by its value, which is not tested."""

    per_modality: NonNegativeFloat | None = 0.05
    per_group: NonNegativeFloat | None = 0.1
    missing_modality: NonNegativeFloat | None = 0.05
    calibration: NonNegativeFloat | None = 0.05


PROMOTED_BY = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "map", "nll", "brier", "ece"),
    "regression": ("rmse", "r2", "mape", "mae"),
}
UNTESTED = ("map", "ece")  # which the bootstrap does not resample


class PromoteSettings(Strict):
    """A challenger is promoted where its `metric` (None: the task's first headline metric) on the fixed
    evaluation set is better than the champion's by more than `min_improvement` (in the metric's unit,
    accuracies as fractions; below 0: it loses no more than that), by a paired bootstrap `test` at this
    one-sided `confidence`, or by its value alone; and where no guard refuses it."""

    test: Literal["paired_bootstrap", "value"] = "paired_bootstrap"
    metric: str | None = None
    split: Literal["test"] = "test"
    min_improvement: float = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    guard: Guards = Guards()

    @field_validator("metric")
    @classmethod
    def _can_decide(cls, metric: str | None, info: ValidationInfo) -> str | None:
        """Where the task is known, it is of the task: see `explain.checked`."""
        task = (info.context or {}).get("task")
        allowed = [m for kind, names in PROMOTED_BY.items() for m in names if task in (kind, None)]
        if metric is not None and metric not in allowed:
            hint = f"{did_you_mean(metric, allowed)} Allowed: {', '.join(allowed)}"
            raise ValueError(f"no metric{f' of a {task}' if task else ''}.{hint}")
        if metric in UNTESTED and info.data.get("test") != "value":
            raise ValueError("the bootstrap does not resample it: it needs test = value")
        return metric


class RetrainSettings(Strict):
    """`init_from`: what the encoders of the challenger start from."""

    init_from: Literal["scratch", "champion"] = "scratch"
    registry: RegistrySettings = RegistrySettings()
    gates: GateSettings = GateSettings()
    promote: PromoteSettings = PromoteSettings()
