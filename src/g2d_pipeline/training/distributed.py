"""The process group of a data-parallel training: slices of a batch, all-reduce, gather, broadcast.

Data parallel in the plain sense: every process has the whole model, computes the gradients of its share of a
batch, and they are summed right before the step. torch's DistributedDataParallel would overlap that with the
backward pass, but knows one of each a step; methods have several, change who learns from batch to batch, and
see gradients before they are stepped (docs/scaling.md)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.modules.batchnorm import _BatchNorm

from g2d_pipeline.training.checkpoint import from_bytes, to_bytes
from g2d_pipeline.training.streams import stream

Value = TypeVar("Value")
LARGE = 2**14  # numbers of a tensor from which on a collective of its own costs less than two copies


class LostProcess(Exception):
    """Another process of the training is gone, or does not answer: its own error is the one to look at."""


@contextmanager
def _others() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # of gloo and NCCL: a peer that closed its sockets, a timeout
        raise LostProcess(str(error)) from error


def check_peer(error: Exception) -> None:
    """Raise LostProcess where an error comes from a collective inside of torch (`models/sharding.py`)."""
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        raise LostProcess(str(error)) from error


class Group:
    """This process (`rank` of `world`) in torch's process group; without one, methods return their input."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.is_first = self.rank == 0
        self._versions: dict[int, int] = {}  # of buffers' witnesses, when they were last averaged
        self._local_rng: dict[str, Any] | None = None  # states of this process's own generators

    def broadcast_model(self, model: nn.Module) -> None:
        """Load the first process's weights; on CUDA batch norm normalises over all processes."""
        if self.world == 1:
            return
        with torch.no_grad(), _others():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    dist.broadcast(tensor, 0)
        if next(model.parameters()).is_cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def part(self, count: int) -> slice:
        """This process's share of `count` samples: contiguous, the first shares one longer."""
        least, more = divmod(count, self.world)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def sum(self, x: Tensor) -> Tensor:
        """All-reduce: the sum over all processes."""
        return self._reduce(x.detach().clone(), dist.ReduceOp.SUM) if self.world > 1 else x

    def min(self, x: int) -> int:
        """All-reduce: the minimum over all processes."""
        return int(self._reduce(torch.tensor(x), dist.ReduceOp.MIN)) if self.world > 1 else x

    def _reduce(self, x: Tensor, operation: Any) -> Tensor:
        with _others():
            dist.all_reduce(x, operation)
        return x

    def gather(self, own: Tensor, count: int) -> Tensor:
        """`[count, …]` from each process's rows `own` `[n, …]` of it, as `part` shares them out."""
        if self.world == 1:
            return own
        whole = own.new_zeros((count, *own.shape[1:]))
        whole[self.part(count)] = own
        return self.sum(whole)

    def agree(self, value: Value) -> Value:
        """Broadcast the first process's value (plain data and small tensors)."""
        if self.world == 1:
            return value
        sent = torch.frombuffer(bytearray(to_bytes({"value": value})), dtype=torch.uint8)
        size = torch.tensor(len(sent))
        with _others():
            dist.broadcast(size, 0)
            if not self.is_first:
                sent = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(sent, 0)
        agreed: Value = from_bytes(sent.numpy().tobytes())["value"]
        return agreed

    def sum_gradients(
        self, parameters: Iterable[nn.Parameter], buffers: Sequence[tuple[Tensor, Tensor]], share: float
    ) -> None:
        """Sum the gradients of parameters, large ones in place, the others as one; average the buffers of
        `running_statistics` that have been written to since the last time, by each process's `share` of the
        batch. All have gradients of the same parameters: who learns is decided for all of them together."""
        if self.world == 1:
            return
        moved = [b for b, witness in buffers if witness._version != self._versions.get(id(b))]
        for b in moved:
            b.mul_(share)
        parts: list[Tensor] = []
        small: dict[Any, list[Tensor]] = defaultdict(list)
        for x in [*(p.grad for p in parameters if p.grad is not None), *moved]:
            if x.numel() >= LARGE and _is_dense(x):
                parts.append(x.as_strided((x.numel(),), (1,)))  # in the order of memory, the same on all
            else:
                small[x.dtype, x.device].append(x)
        flat = [_flatten_dense_tensors([x.contiguous() for x in group]) for group in small.values()]
        with _others():
            for work in [dist.all_reduce(part, async_op=True) for part in [*parts, *flat]]:
                work.wait()
        for group, summed in zip(small.values(), flat, strict=True):
            torch._foreach_copy_(group, _unflatten_dense_tensors(summed, group))
        self.remember(buffers)

    def remember(self, buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Note that the buffers are the same on all processes."""
        self._versions = {id(b): witness._version for b, witness in buffers}

    @contextmanager
    def local_rng(self) -> Iterator[None]:
        """Inside, torch's generators have this process's own state (dropout); outside, the state that all
        processes share, so that methods draw the same numbers."""
        if self._local_rng is None:
            yield
            return
        shared = _generators()
        _set_generators(self._local_rng)
        try:
            yield
        finally:
            self._local_rng = _generators()
            _set_generators(shared)

    def start_batch(self, seed: int, epoch: int, batch: int) -> None:
        """Seed this process's own generators from seed, rank, epoch and batch: no state to checkpoint."""
        if self.world > 1:
            self._local_rng = _generators()
            with self.local_rng():
                torch.manual_seed(stream(seed, f"dropout {self.rank} {epoch} {batch}"))


def _generators() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])


def _is_dense(x: Tensor) -> bool:
    """Whether x fills its memory without gaps, in row order or channels_last."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def running_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The buffers that may be means over batches, each with the tensor whose version (torch counts writes)
    tells of a change: of batch norm, whose kernels write uncounted, the number of its batches."""
    pairs = []
    for part in model.modules():
        count = part.num_batches_tracked if isinstance(part, _BatchNorm) else None
        buffers = (b for b in part.buffers(recurse=False) if b.is_floating_point())
        pairs += [(b, b if count is None else count) for b in buffers]
    return pairs


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in model.modules())
