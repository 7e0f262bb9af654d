"""Encoders in shards (torch's FSDP2): each process keeps a part of every weight, gradient and momentum.

A block's weights are gathered right before it runs and its gradients summed into shards right after its
backward pass. Weights and gradients in shards are DTensors, of the whole shape. The rest of a model, and one
that trains on one device or by `ddp`, has plain tensors, which the functions here leave as they are."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim


def is_sharded(x: Tensor) -> bool:
    return hasattr(x, "full_tensor")  # a DTensor, without importing them (0.4 s)


def local(x: Any) -> Tensor:
    """This process's part; of the same memory."""
    return x.to_local() if is_sharded(x) else x  # type: ignore[no-any-return]


def whole(x: Any) -> Tensor:
    """The whole of it, on all processes, which call this together."""
    return x.full_tensor() if is_sharded(x) else x  # type: ignore[no-any-return]


def shard_like(x: Tensor, other: Any) -> Tensor:
    """x, the same on all processes, in shards as `other` is."""
    if not is_sharded(other) or is_sharded(x):
        return x
    from torch.distributed.tensor import distribute_tensor

    x = x.detach().to(other.device)
    return distribute_tensor(x, other.device_mesh, other.placements, src_data_rank=None)


def gathered(value: Any, keep: bool = True) -> Any:
    """Nested data with whole tensors, on the CPU, in place of shards, one at a time; called on all processes
    together. Those that do not `keep` it have None for them."""
    if isinstance(value, Tensor) and is_sharded(value):
        full = whole(value)
        return full.detach().cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gathered(inner, keep) for key, inner in value.items()}
    return [gathered(inner, keep) for inner in value] if isinstance(value, list) else value


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The norm of each; of shards that of the whole, by one sum over processes."""
    each = list(torch._foreach_norm([local(x) for x in tensors]))
    if sharded := [i for i, x in enumerate(tensors) if is_sharded(x)]:
        squares = torch.stack([each[i] for i in sharded]).square()
        torch.distributed.all_reduce(squares)
        for i, norm in zip(sharded, squares.sqrt().unbind(), strict=True):
            each[i] = norm
    return each


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """torch's `clip_grad_norm_`, over whole tensors and shards alike."""
    parameters = list(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(map(is_sharded, gradients)):
        nn.utils.clip_grad_norm_(parameters, limit)
        return
    norm = torch.linalg.vector_norm(torch.stack(norms(gradients)))
    torch._foreach_mul_([local(g) for g in gradients], (limit / (norm + 1e-6)).clamp_max(1.0))


# ----------------------------------------------------------------------------------------------- the encoders
def shard(encoder: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Put an encoder into shards, in place; of its `blocks` one at a time is whole while it runs.

    From then on it loads whole weights as well as shards, and cannot be copied."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    numbers = {p for p in encoder.parameters() if p.dim() == 0}
    for part in (*blocks, encoder):
        # Without it the outermost part stays whole from a forward pass to the next backward pass.
        module = fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
        # The sum, not the mean: each process has its share of the loss. gloo knows no scaled sum.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    encoder.register_load_state_dict_pre_hook(_shard_loaded)


def _shard_loaded(module: nn.Module, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, p in module.named_parameters():
        if (value := weights.get(prefix + name)) is not None:
            weights[prefix + name] = shard_like(value, p)


def shard_weights(weights: Mapping[str, Tensor] | None, model: nn.Module) -> dict[str, Tensor] | None:
    """Whole weights of a model by name, in shards as its own are."""
    like = model.state_dict()
    return None if weights is None else {name: shard_like(x, like[name]) for name, x in weights.items()}


def without_weights(model: nn.Module) -> Any:
    """A copy of a model whose parameters have no memory (device `meta`)."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
    return copy.deepcopy(model, dict(empty))  # in place of each parameter, its empty one


# ---------------------------------------------------------------------------------------------- the optimizer
class Shards:
    """Parameter groups, and the same for the optimizer: in place of sharded parameters this process's parts,
    as plain parameters in the same memory, so that torch's fused steps work and states are parts as well."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        every = [p for group in groups for p in group["params"]]
        self.whole = [p for p in every if not is_sharded(p)]
        self.parameters: list[nn.Parameter] = every
        self.local = {p: nn.Parameter(local(p.detach())) for p in every if is_sharded(p)}
        self.groups = [
            group | {"params": [self.local.get(p, p) for p in group["params"]]} for group in groups
        ]

    def attach(self, optimizer: optim.Optimizer) -> None:
        """Its `state_dict` has DTensors in place of parts, and it loads whole states as well as these."""
        if self.local:
            optimizer.register_state_dict_post_hook(self._from_local)
            optimizer.register_load_state_dict_pre_hook(self._to_local)

    def hand_over(self) -> None:
        """Give the optimizer the gradients, before its step; the model has none from then on."""
        for p, part in self.local.items():
            part.grad = None if p.grad is None else local(p.grad)
            p.grad = None

    def _from_local(self, optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
        from torch.distributed.tensor import DTensor

        def join(p: Any, x: Tensor) -> Tensor:
            where: Any = p.device_mesh, p.placements
            return DTensor.from_local(x, *where, run_check=False, shape=p.shape, stride=p.stride())

        self._change(state, join)

    def _to_local(self, optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
        self._change(state, lambda p, x: local(shard_like(x, p)))

    def _change(self, state: dict[str, Any], change: Callable[[Any, Tensor], Tensor]) -> None:
        """Change the states of sharded parameters, but for numbers (of steps)."""

        def changed(p: nn.Parameter, values: dict[str, Any]) -> dict[str, Any]:
            return {n: change(p, x) if isinstance(x, Tensor) and x.dim() else x for n, x in values.items()}

        state["state"] = {
            i: changed(p, values) if (p := self.parameters[i]) in self.local else values
            for i, values in state["state"].items()
        }
