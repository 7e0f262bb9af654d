"""MIS-ME's objectives: the hybrid loss, concatenation of unequal widths, two learnt weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion
from g2d_pipeline.training import Data, train_student
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(data: Data, encoders: dict[str, Any] | None = None, **settings: Any) -> Trained:
    settings = {"training": recipe(2), "progress": False, **settings}
    return train_student(data, encoders or dict.fromkeys(data.modalities, TINY), {}, **settings)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_the_loss_is_the_weighted_sum_of_all_predictions_losses(k: int, task: str, fusion: str) -> None:
    rng = np.random.default_rng(k)
    names, outputs = "abc"[:k], TASKS[task].outputs
    weights = dict(zip(("multi", *names), (0.3, 0.5, 2.0, 3.0), strict=False))
    method = build("mis_me_hybrid", {"weights": weights})
    encoders = {m: Encoder(nn.Identity(), 4) for m in names}
    model = MultimodalModel(encoders, build_fusion(fusion, dict.fromkeys(names, 4), outputs))
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1)  # type: ignore[arg-type]
    method.on_fit_start(state)
    model.double(), method.heads.double()  # type: ignore[attr-defined]
    f = {m: rng.normal(size=(5, 4)) for m in names}
    l_s = rng.normal(size=(5, outputs))
    y = rng.integers(0, 3, 5) if task == "classification" else rng.normal(size=5)
    output = Output({m: torch.tensor(x) for m, x in f.items()}, torch.tensor(l_s))
    terms = method.loss(output, Batch(torch.arange(5), {}, torch.tensor(y)), state)

    heads = model.fusion.heads if fusion == "late" else method.heads.heads  # type: ignore[attr-defined]
    logits = {"multi": l_s} | {
        m: f[m] @ heads[m].weight.detach().numpy().T + heads[m].bias.detach().numpy()  # type: ignore[operator, union-attr]
        for m in names
    }
    for part, term in zip(logits, terms.values(), strict=True):
        if task == "classification":
            of = logits[part]
            loss = (np.log(np.exp(of).sum(1)) - of[np.arange(5), y]).mean()
        else:
            loss = ((logits[part][:, 0] - y) ** 2).mean()
        assert float(term.detach()) == pytest.approx(weights[part] * loss, rel=1e-12)
    assert list(terms) == ["task", *[f"task_{m}" for m in names]]


def test_concatenation_of_unequal_widths_and_two_weights_train_on_both_tasks() -> None:
    """As its YAML files say; the image's feature is wide, the table's narrow."""
    for name in ("mis_me_concat", "mis_me_two_weights", "mis_me_hybrid"):
        own = configure(dataset="mis_me", method=name).methods[name]
        for task in TASKS:
            data = make_data(2, task)
            encoders = {"a": MLP(widths=[8, 24], dropout=[]), "b": MLP(widths=[8, 3], dropout=[])}
            settings = {"method": own.algorithm, "parameters": own.parameters, "fusion": own.fusion}
            found = student(data, encoders, training=recipe(5), **settings)
            assert found.history["loss/task"].iloc[-1] < found.history["loss/task"].iloc[0]
            if name == "mis_me_two_weights":
                learnt = [float(w.detach()) for w in found.model.fusion.weights.values()]  # type: ignore[union-attr, operator]
                assert all(w != 1.0 for w in learnt)
            else:
                assert found.model.fusion.head.in_features == 27  # type: ignore[union-attr]
