"""Where a run computes: processes for independent work, devices for one training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from g2d_pipeline.config.base import Strict

if TYPE_CHECKING:
    from g2d_pipeline.config.training import TrainingSettings

Address = Annotated[str, Field(pattern=r"^\S+$")]


class ComputeSettings(Strict):
    """Never part of a fingerprint; what a training ran on is recorded in its card.

    Independent work (chunks of features, teachers, students, cells of a study): `backend`, the engine that
    runs it; `workers`, how many tasks at once (auto: as many as cores, memory or devices allow, where that is
    faster); `address`, of a running Dask or Ray scheduler (None: one on this machine); `cells_per_gpu`,
    trainings that share a device; `retries`, how often a task whose worker was lost is handed out again, the
    last time alone.

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
        """How many devices train together at least, as far as the settings tell."""
        return self.num_nodes * (1 if self.devices == "auto" else self.devices)

    @model_validator(mode="after")
    def _address_is_of_a_cluster(self) -> Self:
        if self.address is not None and self.backend == "loky":
            raise ValueError("address is of a Dask or Ray scheduler: say backend: dask or backend: ray")
        return self

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
                raise ValueError(
                    f"{key} = {getattr(t, key)} {why}, which compute.strategy = fsdp shards. "
                    f"Allowed: {allowed}; or compute.strategy=ddp"
                )
