"""Where a run computes: processes for independent work, devices for one training."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from g2d_pipeline.config.base import Strict

Address = Annotated[str, Field(pattern=r"^\S+$")]


class ComputeSettings(Strict):
    """Never part of a fingerprint; what a training ran on is recorded in its card.

    Independent work (chunks of features, teachers, students, cells of a study): `backend`, the engine that
    runs it; `workers`, how many tasks at once (auto: as many as cores, memory or devices allow, where that is
    faster); `address`, of a running Dask or Ray scheduler (None: one on this machine); `cells_per_gpu`,
    trainings that share a device; `retries`, how often a task whose worker was lost is handed out again, the
    last time alone.

    One training: `devices`, processes on each of `num_nodes` machines, a device each (auto: all); `strategy`,
    whole models that average gradients (`ddp`) or encoders in shards (`fsdp`); `rendezvous`, host:port where
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

    def _problems(self) -> Iterator[str]:
        if self.address is not None and self.backend == "loky":
            yield "address is of a Dask or Ray scheduler: say backend: dask or backend: ray"
