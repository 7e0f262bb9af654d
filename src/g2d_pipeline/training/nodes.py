"""Several machines: the first one runs the pipeline, the others take part in its trainings and save nothing.

All of them run the same command. Which is which, and where they meet, is said by SLURM or Kubernetes; the
first one tells the others what to train through torch's store, which asks nobody who they are: a network of
machines that trust one another, as `torch.distributed` needs anyway."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from g2d_pipeline import __version__
from g2d_pipeline.config import ComputeSettings
from g2d_pipeline.errors import ConfigError, G2DError
from g2d_pipeline.training.checkpoint import from_bytes, to_bytes

RANKS = ("SLURM_NODEID", "JOB_COMPLETION_INDEX", "NODE_RANK")  # variables that number the machines from 0
PIECE = 4 * 2**20  # bytes of a value: torch's store takes 8 MiB
PORTS = 20_000, 10_000  # from where on, and how many: a job's own, by its number


def node_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this machine, from 0. Raises ConfigError where nothing says it."""
    for name in RANKS:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    raise ConfigError(
        f"compute.num_nodes: which of the machines is this? One of {', '.join(RANKS)} must say so (from 0): "
        "start with srun, a Kubernetes Indexed Job, or set NODE_RANK"
    )


def meeting_place(compute: ComputeSettings, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port of the first machine: `compute.rendezvous`, else what SLURM says. Raises ConfigError."""
    if compute.rendezvous is not None:
        host, _, port = compute.rendezvous.rpartition(":")
        return host, int(port)
    host, job = (environment.get(name, "") for name in ("SLURM_LAUNCH_NODE_IPADDR", "SLURM_JOB_ID"))
    if not host or not job.isdigit():
        raise ConfigError(
            f"compute.num_nodes = {compute.num_nodes} needs compute.rendezvous=HOST:PORT, a free port of the "
            "first machine (srun alone says it by itself)"
        )
    return host, PORTS[0] + int(job) % PORTS[1]


class Nodes:
    """This machine among `compute.num_nodes`, all of which have arrived, with the same versions.

    Raises ConfigError where they have not within `compute.timeout` seconds, or their versions differ."""

    def __init__(self, compute: ComputeSettings, environment: Mapping[str, str] = os.environ) -> None:
        self.rank, self.count, self.calls = node_rank(environment), compute.num_nodes, 0
        self.host, self.port = meeting_place(compute, environment)
        self.timeout = timedelta(seconds=compute.timeout)
        where = f"compute.rendezvous = {self.host}:{self.port}"
        if self.rank >= self.count:
            raise ConfigError(f"compute.num_nodes = {self.count}: this machine is number {self.rank}, from 0")
        try:
            self.store = TCPStore(
                self.host, self.port, is_master=self.rank == 0, timeout=self.timeout, wait_for_workers=False
            )
            versions = {"torch": torch.__version__, "g2d-pipeline": __version__}
            self.store.set(f"versions {self.rank}", json.dumps(versions))
            names = [f"versions {rank}" for rank in range(self.count)]
            self.store.wait(names, self.timeout)
            all_versions = [json.loads(self.store.get(name)) for name in names]
        except RuntimeError as error:
            raise ConfigError(
                f"{where}: the {self.count} machines have not all met there within {compute.timeout:g} s "
                f"(compute.timeout). Is the host the first one's, its port free and open? ({_first(error)})"
            ) from None
        spelt = [", ".join(f"{name} {version}" for name, version in v.items()) for v in all_versions]
        for rank, other in enumerate(spelt):
            if other != spelt[0]:
                both = f"machine 0 has {spelt[0]}, machine {rank} has {other}"
                raise ConfigError(f"{where}: versions differ: {both}. Give all machines the same environment")

    def free_port(self) -> int:
        """One of this machine's."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return int(listener.getsockname()[1])

    def call(self, *arguments: Any) -> None:
        """From the first machine: send arguments, plain data, tensors and arrays, to all others."""
        sent = to_bytes({"arguments": arguments})
        pieces = [sent[i : i + PIECE] for i in range(0, len(sent), PIECE)]
        for i, piece in enumerate(pieces):
            self.store.set(f"call {self.calls} {i}", piece)  # type: ignore[arg-type]
        self.store.set(f"call {self.calls}", str(len(pieces)))
        self.calls += 1

    def next_call(self) -> tuple[Any, ...] | None:
        """On the others: the arguments of the next call; None: there is none, the first machine has ended."""
        name = f"call {self.calls}"
        while True:
            try:
                self.store.wait([name], self.timeout)
                break
            except dist.DistNetworkError as error:
                raise G2DError(f"machine 0 ({self.host}) is gone ({_first(error)})") from None
            except dist.DistStoreError:
                continue  # it does something else, and longer
        pieces = [self.store.get(f"{name} {i}") for i in range(int(self.store.get(name)))]
        self.calls += 1
        if not pieces:
            self.store.set(f"ended {self.rank}", "")
            return None
        arguments: tuple[Any, ...] = from_bytes(b"".join(pieces))["arguments"]
        return arguments

    def end(self) -> None:
        """From the first machine: there is nothing more to do."""
        self.store.set(f"call {self.calls}", "0")
        try:
            self.store.wait([f"ended {rank}" for rank in range(1, self.count)], timedelta(seconds=10))
        except RuntimeError:  # one that is gone does not hear it
            return


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
