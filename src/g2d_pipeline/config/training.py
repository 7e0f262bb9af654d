"""The recipe of a training run: optimizer, learning rate, selection, arithmetic (g2d.md §7), and SMP (§4)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from g2d_pipeline.config.base import BelowOne, Counts, Share, Strict, split_slashes


class SGD(Strict):
    name: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 1e-3
    momentum: BelowOne = 0.9
    weight_decay: NonNegativeFloat = 1e-4


class Adam(Strict):
    name: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0


class AdamW(Strict):
    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-2


OptimizerSettings = Annotated[SGD | Adam | AdamW, Field(discriminator="name")]


class _Schedule(Strict):
    """`warmup`: epochs before the schedule proper in which the learning rate climbs evenly."""

    warmup: NonNegativeInt = 0


class StepSchedule(_Schedule):
    """lr × `gamma` every `every` epochs."""

    name: Literal["step"] = "step"
    every: PositiveInt = 200
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class MultiStepSchedule(_Schedule):
    """lr × `gamma` after each of the epochs `milestones`."""

    name: Literal["multistep"] = "multistep"
    milestones: Counts
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class CosineSchedule(_Schedule):
    """Half a cosine from lr down to `min_lr` over the epochs that the warm-up leaves."""

    name: Literal["cosine"] = "cosine"
    min_lr: NonNegativeFloat = 0.0


class WarmupSchedule(_Schedule):
    """The warm-up alone; then lr stays."""

    name: Literal["warmup"] = "warmup"
    warmup: NonNegativeInt = 5


class PlateauSchedule(_Schedule):
    """lr × `gamma` where the validation task loss has not fallen for `patience` epochs, down to `min_lr`."""

    name: Literal["plateau"] = "plateau"
    patience: NonNegativeInt = 10
    gamma: Share = 0.1
    min_lr: NonNegativeFloat = 0.0


LRSchedule = Annotated[
    StepSchedule | MultiStepSchedule | CosineSchedule | WarmupSchedule | PlateauSchedule,
    Field(discriminator="name"),
]


def parse_batch_size(value: Any) -> Any:
    """A whole number from 2 on, or `auto`."""
    if value == "auto" or (type(value) is int and value >= 2):
        return value
    raise ValueError("a whole number from 2 on (batch norm cannot train on one sample), or the word auto")


class TrainingSettings(Strict):
    """The recipe of one training run, teacher or student (g2d.md §7).

    `batch_size`: samples a batch; `auto` (CUDA): the largest that fits, found by halving. `accumulation`:
    batches whose gradients are averaged for one step. `scale_lr`: learning rates × 1 (`none`), × the number
    of devices that train together (`compute.devices`, each with `batch_size` samples a batch; `linear`) or
    × its square root (`sqrt`). `clip_norm`: the greatest norm of the whole gradient. `ema`: decay of the
    average of the weights that is evaluated and kept instead of the weights. `early_stopping`: patience in
    epochs, counted in the last phase only: no other one is cut. `selection`: `val` keeps the weights of the
    best validation epoch; `last` the last ones; `test` reproduces the published protocol (best epoch on
    *test*), and every number made with it is labelled so. `score_test`: at the `end`, of the kept weights
    alone, or after every `epoch`, for curves (always where test selects). `selection_metric`: of selection
    and early stopping (None: accuracy or RMSE); ties: the lower task loss, then the earlier epoch.
    `select_in`: epochs of the last phase of SMP or of a method with stages (see `Method.phase`), or of all.
    `precision`: of the encoders (fusion and losses are float32; `auto`: bf16 where this machine trains this
    model faster with it, measured; recorded in the model's `precision`). `channels_last`: memory format of
    convolutions. `compile`: encoders through torch.compile. `checkpoint_activations`: encoders compute their
    activations again in the backward pass. `teacher_view`: the teacher of an augmented modality sees the
    `augmented` batch (as published), or its stored outputs on the `clean` samples are used."""

    epochs: PositiveInt = 300
    batch_size: Annotated[int | Literal["auto"], BeforeValidator(parse_batch_size)] = 16
    accumulation: PositiveInt = 1
    scale_lr: Literal["none", "linear", "sqrt"] = Field("none", exclude_if=lambda rule: rule == "none")
    optimizer: OptimizerSettings = SGD()
    lr_schedule: LRSchedule = StepSchedule()
    clip_norm: PositiveFloat | None = None
    ema: Share | None = None
    early_stopping: PositiveInt | None = None
    selection: Literal["val", "last", "test"] = "val"
    score_test: Literal["end", "epoch"] = "end"
    selection_metric: Literal["accuracy", "rmse", "loss"] | None = None
    select_in: Literal["last_phase", "all"] = "last_phase"
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_activations: bool = False
    teacher_view: Literal["augmented", "clean"] = "augmented"

    @property
    def scored(self) -> tuple[str, ...]:
        """The splits that are scored after every epoch."""
        test = self.score_test == "epoch" or self.selection == "test"
        return ("val", "test") if test else ("val",)

    @field_validator("selection_metric")
    @classmethod
    def _is_of_the_task(cls, metric: str | None, info: ValidationInfo) -> str | None:
        """Where the task is known: see `explain.checked`."""
        task = (info.context or {}).get("task")
        allowed = {"classification": ("accuracy", "loss"), "regression": ("rmse", "loss")}.get(str(task))
        if metric is not None and allowed and metric not in allowed:
            raise ValueError(f"a {task} is selected by {' or '.join(allowed)}")
        return metric


def parse_tau(value: Any) -> Any:
    """`half`, `all`, `8/16`, `[8, 16]` or `8` → the word, or a list of non-negative whole numbers."""
    if value in ("half", "all"):
        return value
    parts = [str(part).strip() for part in split_slashes(value)]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ValueError("epochs of each phase: whole numbers from 0 on, such as 8/16; or half, all")
    return [int(part) for part in parts]


class SMPSettings(Strict):
    """Sequential Modality Prioritization (g2d.md §4, §5): who learns when, on top of any method.

    `suppression`: `complete`: one modality's encoder learns alone in each phase (κ = 1, the others 0);
    `partial`: all learn, the more confident ones with κ = 1 − tanh(ratio of confidences). `tau`: epochs of
    each phase, one a modality from the least confident on; the last (all together) may be left out; `half`:
    half of the epochs shared equally by the k − 1 single-modality phases. `partial` modulates in the first
    `tau` epochs: one number, `half`, or `all`. `update` of a suppressed encoder: `skip` (Eq. 8: it does not
    move by one bit) or `zero_grad` (the code). `scope` of κ: the `encoder`, or convolution weights alone
    (`conv_only`, the code)."""

    tau: Annotated[Literal["half", "all"] | list[int], BeforeValidator(parse_tau)] = "half"
    suppression: Literal["complete", "partial"] = "complete"
    ranking: Literal["batch", "epoch", "dataset"] = "batch"
    confidence_on: Literal["train", "val"] = "train"
    update: Literal["skip", "zero_grad"] = "skip"
    scope: Literal["encoder", "conv_only"] = "encoder"
    suppressed_norm: Literal["batch", "frozen"] = "frozen"

    def _problems(self) -> Iterator[str]:
        if self.suppression == "complete" and self.tau == "all":
            yield "tau=all goes with suppression=partial; complete suppression must end: half, or numbers"
        if self.suppression == "partial" and self.scope == "conv_only":
            yield "scope=conv_only goes with suppression=complete"

    def phases(self, modalities: int, epochs: int) -> list[int]:
        """Epochs of each of the k phases (partial: two), the last one filling up to `epochs`.

        Raises ValueError where `tau` has the wrong length, or its single-modality phases exceed `epochs`."""
        if modalities < 2:
            raise ValueError("SMP needs at least two modalities")
        single = modalities - 1 if self.suppression == "complete" else 1
        if self.tau == "all":
            alone = [epochs]
        elif isinstance(self.tau, str):
            each, extra = divmod(epochs // 2, single)
            alone = [each + (i < extra) for i in range(single)]
        else:
            if len(self.tau) not in (single, single + 1):
                need = f"{single + 1} (or {single}: the last is the rest)"
                raise ValueError(f"{len(self.tau)} values; {modalities} modalities need {need}")
            alone = self.tau[:single]
        if (used := sum(alone)) > epochs:
            phases = f"the phases of one modality alone take {used} epochs of {epochs}"
            raise ValueError(f"{phases}: shorten tau or say tau=half")
        return [*alone, epochs - used]
