"""Separate random streams: drawing more from one does not change another."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream(seed: int, name: str) -> int:
    """The seed of a stream: `model`, `method`, `dropout` (other streams: `epoch_rows`, `augment`)."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0])


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Run with torch's generators seeded for this stream, and with deterministic kernels; both are restored.

    torch would also fill every new tensor with NaN then, to show reads of uninitialised memory: an eighth of
    the time of a small model's epoch (docs/performance.md), and no number changes without it."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    was_filling = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(stream(seed, name))
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic)
            memory.fill_uninitialized_memory = was_filling


class TorchGenerators:
    """The states of torch's own generators (dropout draws from them), for checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
