"""ReconBoost: stages in turn, what the ensemble says already, rectification (rivals.md, reconboost)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from g2d_pipeline.methods import build as build_method
from g2d_pipeline.methods.reconboost import agreement, consolidation, explained, stage_of
from g2d_pipeline.models import Encoder, MultimodalModel, build_fusion
from g2d_pipeline.training import Data, fit, train_student
from tests.conftest import TINY, make_data, recipe
from tests.methods.tiny import softmax
from tests.test_resolve import configure

SHARED = {"name": "shared", "combine": "sum", "hidden": [4]}
SHORT = {"stage_epochs": 1, "rectification_epochs": 1}
UNIMODAL = {"agreement_weight": 1, "reconcilement_weight": 0, "consolidation_weight": 0, "reduction": "sum"}


def small_model(data: Data, fusion: dict[str, Any] | str = SHARED) -> MultimodalModel:
    """Encoders with batch norm: buffers would tell if one ran in training mode."""
    torch.manual_seed(0)
    trunks = {m: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)) for m in data.modalities}
    fused = build_fusion(fusion, dict.fromkeys(data.modalities, 5), data.task.outputs)
    return MultimodalModel({m: Encoder(trunk, 5) for m, trunk in trunks.items()}, fused)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_terms_equal_their_formulas_and_where_gradients_go() -> None:
    rng = np.random.default_rng(0)
    u, phi, previous, y = (
        rng.normal(size=(9, 4)),
        2 * rng.normal(size=(9, 4)),
        rng.normal(size=(9, 4)),
        np.arange(9) % 4,
    )
    one_hot, log_p = np.eye(4)[y], np.log(softmax(u))
    own, ensemble, before, target = (torch.tensor(a) for a in (u, phi, previous, y))
    for of in (own, ensemble, before):
        of.requires_grad_()
    for reduction, factor in (("sum", 1.0), ("mean", 0.25)):
        found = agreement(own, target, reduction)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(-factor * (one_hot * log_p).sum() / 9)
        gain = explained(own, ensemble, target, reduction)  # type: ignore[arg-type]
        assert gain.item() == pytest.approx(factor * (one_hot * softmax(phi) * log_p).sum() / 9)
    distance = consolidation(own, before)
    assert distance.item() == pytest.approx(((softmax(u) - softmax(previous)) ** 2).mean())
    (gain + distance).backward()
    assert own.grad is not None
    assert ensemble.grad is None
    assert before.grad is None
    as_published = consolidation(own, before, gradient=False)
    assert as_published.item() == distance.item()
    assert not as_published.requires_grad


def test_stages_and_rectifications_follow_each_other() -> None:
    assert [stage_of(epoch, 2, 1) for epoch in range(1, 8)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
    ]
    assert [stage_of(epoch, 1, 0) for epoch in (1, 2, 3)] == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("k", [2, 3])
def test_two_rounds_equal_the_equations_in_float64(k: int, task: str) -> None:
    """Linear encoders, `sum` fusion, SGD with fresh momentum in each stage and rectification."""
    data = make_data(k, task)
    torch.manual_seed(0)
    encoders = {m: Encoder(nn.Sequential(nn.Linear(6, 5)), 5) for m in data.modalities}
    model = MultimodalModel(
        encoders, build_fusion("sum", dict.fromkeys(data.modalities, 5), data.task.outputs)
    )
    w = {name: v.detach().double().clone().requires_grad_() for name, v in model.state_dict().items()}
    epochs = 2 * k + 2
    method = build_method("reconboost", SHORT)
    training = recipe(epochs, weight_decay=0)
    fitted = fit(model, data, method, training=training, progress=False)
    target = data.task.encode(torch.as_tensor(np.asarray(data.target)))
    for epoch in range(1, epochs + 1):
        stage, rectifies = (epoch - 1) // 2, epoch % 2 == 0
        m, before = (data.modalities[(stage + shift) % k] for shift in (0, -1))
        velocity: dict[str, torch.Tensor] = {}
        order = np.random.default_rng([0, 1, epoch]).permutation(data.rows["train"])
        for rows in np.split(order, 4):
            u, y = {}, target[rows]
            for n in data.modalities:
                x = torch.tensor(np.asarray(data.arrays[n])[rows], dtype=torch.float64)
                f = x @ w[f"encoders.{n}.trunk.0.weight"].T + w[f"encoders.{n}.trunk.0.bias"]
                u[n] = f @ w[f"fusion.heads.{n}.weight"].T + w[f"fusion.heads.{n}.bias"]
            phi = sum(v for n, v in u.items() if n != m).detach()  # type: ignore[union-attr]
            total = u[m] + phi if not rectifies else sum(u.values())
            if task == "regression":
                loss = (torch.sigmoid(total[:, 0]) - y.double()).square().mean()
            elif rectifies:
                loss = -torch.log_softmax(total, 1)[torch.arange(16), y].mean()
            else:
                of_y = nn.functional.one_hot(y, 3) * torch.log_softmax(u[m], 1)
                loss = (-5 * of_y + torch.softmax(phi, 1) * of_y).mean(dim=1).mean()
                if stage:
                    apart = torch.softmax(u[m], 1) - torch.softmax(u[before], 1).detach()
                    loss = loss + 0.5 * apart.square().mean()
            learning = [name for name in w if rectifies or f".{m}." in name]
            gradients = torch.autograd.grad(loss, [w[name] for name in learning])
            with torch.no_grad():
                for name, gradient in zip(learning, gradients, strict=True):
                    velocity[name] = 0.9 * velocity.get(name, 0.0) + gradient
                    w[name] -= 0.05 * velocity[name]
    for name, value in fitted.model.state_dict().items():
        np.testing.assert_allclose(
            value.numpy(), w[name].detach().numpy(), rtol=1e-3, atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("fusion", ["shared", "sum"])
@pytest.mark.parametrize("k", [2, 3])
def test_only_the_learner_moves_in_its_stage_and_all_in_rectification(k: int, fusion: str) -> None:
    data = make_data(k)
    method: Any = build_method("reconboost", SHORT)
    seen: list[dict[str, torch.Tensor]] = []
    start = method.on_epoch_start

    def remember(state: Any) -> None:
        seen.append(weights(state.model))

    def at_start(state: Any) -> None:
        remember(state)
        start(state)

    method.on_epoch_start, method.on_epoch_end = at_start, remember
    fitted = fit(
        small_model(data, SHARED if fusion == "shared" else "sum"),
        data,
        method,
        training=recipe(2 * k),
        progress=False,
    )
    for epoch in range(2 * k):
        before, after = seen[2 * epoch], seen[2 * epoch + 1]
        learner = data.modalities[epoch // 2]
        for m in data.modalities:
            names = [n for n in before if n.startswith(f"encoders.{m}.")]
            moved = [n for n in names if not torch.equal(before[n], after[n])]
            assert moved == (names if epoch % 2 or m == learner else []), (epoch, m)
        heads = [n for n in before if n.startswith("fusion.") and not torch.equal(before[n], after[n])]
        own = [
            n
            for n in before
            if n.startswith("fusion.") and (fusion == "shared" or epoch % 2 or f".{learner}." in n)
        ]
        assert heads == own
        together = "+".join(data.modalities)
        assert fitted.history["learning"][epoch] == (together if epoch % 2 else learner)


def test_a_stage_without_the_others_is_unimodal_training_bit_for_bit() -> None:
    data, alone = make_data(), make_data().only("a")
    method = build_method("reconboost", UNIMODAL)
    model, single = small_model(data), small_model(alone)
    single.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("encoders.b.")})
    fitted = fit(model, data, method, training=recipe(4), progress=False)  # the first stage: 4 epochs
    unimodal = fit(single, alone, build_method("unimodal"), training=recipe(4), progress=False)
    found = fitted.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in unimodal.model.state_dict().items())
    assert set(fitted.history.filter(like="loss/")) == {"loss/agreement", "loss/total"}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_with_one_modality_it_is_joint_training_bit_for_bit(task: str) -> None:
    data = make_data(1, task)
    run: Any = {"training": recipe(2), "progress": False, "fusion": SHARED}
    joint = train_student(data, {"a": TINY}, {}, method="joint", **run).model.state_dict()
    ours = train_student(
        data, {"a": TINY}, {}, method="reconboost", parameters=UNIMODAL, **run
    ).model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in joint.items())


def test_the_codes_consolidation_changes_nothing_and_ours_does() -> None:
    data = make_data()

    def train(**parameters: Any) -> dict[str, torch.Tensor]:
        method = build_method("reconboost", {**SHORT, "rectification_epochs": 0, **parameters})
        return fit(small_model(data), data, method, training=recipe(2), progress=False).model.state_dict()

    without, code, ours = train(consolidation_weight=0), train(consolidation_gradient=False), train()
    assert all(torch.equal(value, code[name]) for name, value in without.items())
    assert not torch.equal(without["encoders.b.trunk.0.weight"], ours["encoders.b.trunk.0.weight"])


def test_weights_without_a_lower_bound_of_the_loss_are_refused_and_few_epochs_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValidationError, match="reconcilement_weight = 6 exceeds agreement_weight = 5"):
        build_method("reconboost", {"reconcilement_weight": 6})
    assert configure(dataset="av_digits", method="reconboost").methods["reconboost"].fusion.hidden == [256]
    data = make_data()
    fit(small_model(data), data, build_method("reconboost"), training=recipe(1), progress=False)
    assert "a stage of each of the 2 modalities takes 12 epochs, not 1: say epochs=12" in caplog.text
