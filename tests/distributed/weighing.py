"""Joint training that counts what its process holds."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from g2d_pipeline.methods.base import Method, State
from g2d_pipeline.models.sharding import local


class Weighing(Method):
    """`held`: how many numbers the encoders' weights, the optimizer's states and the encoders' gradients of
    the last step have in this process (`own`), and in `all`."""

    distributed = "exact"

    def after_backward(self, state: State) -> None:
        gradients = [local(p.grad) for p in state.model.encoders.parameters() if p.grad is not None]
        self.gradients = sum(g.numel() for g in gradients)

    def on_epoch_end(self, state: State) -> None:
        weights = sum(local(p).numel() for p in state.model.encoders.parameters())
        states = chain.from_iterable(of.values() for of in state.optimizer.state.values())
        momenta = sum(x.numel() for x in states if isinstance(x, Tensor) and x.dim())
        own = torch.tensor([weights, momenta, self.gradients])
        self.held = {"own": own.tolist(), "all": state.sum(own).tolist()}
