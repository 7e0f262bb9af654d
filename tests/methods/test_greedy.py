"""Greedy learners: the exchange between encoders against numpy, conditional speeds, windows, and what is
kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP, ResNet18
from g2d_pipeline.errors import ConfigError, InterruptedRun
from g2d_pipeline.methods import build
from g2d_pipeline.methods.greedy import bypasses, conditional_speed, leader, relative_gradient
from g2d_pipeline.models import MultimodalModel, build_encoder, build_fusion
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.exchange import MMTM, Exchange
from g2d_pipeline.training import Data, fit, train_student
from g2d_pipeline.training.streams import seeded
from tests.conftest import CNN, recipe
from tests.methods.test_every_method import interrupt_in_batch
from tests.methods.tiny import same

OFF = {"alpha": 1e9, "losses": "whole"}  # nobody is ever held, one loss


def pictures(k: int = 2, task: str = "classification", n: int = 48) -> Data:
    """Small pictures whose brightness tells the class, of the first modality most clearly."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, n)
    inputs = {
        name: (rng.normal(size=(n, 1, 8, 8)) + (label * 1.5 / (i + 1))[:, None, None, None]).astype(
            np.float32
        )
        for i, name in enumerate("abc"[:k])
    }
    split = np.array(["train"] * (n * 2 // 3) + ["val"] * (n // 6) + ["test"] * (n - n * 2 // 3 - n // 6))
    return Data.from_arrays(
        inputs, label if task == "classification" else 0.1 + 0.1 * label, split, task=task
    )


def student(data: Data, **settings: Any) -> Trained:
    settings = {"method": "greedy", "training": recipe(2, batch_size=8), "progress": False, **settings}
    return train_student(data, dict.fromkeys(data.modalities, CNN), {}, **settings)


# ----------------------------------------------------------------------------------------------- the exchange
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(("held", "replaced"), [("", "signal"), ("b", "signal"), ("b", "gate")])
def test_gates_are_the_equation_and_a_held_branch_is_told_means(k: int, held: str, replaced: str) -> None:
    channels = dict(zip("abc", (4, 6, 3), strict=False)) if k == 3 else {"a": 4, "b": 6}
    torch.manual_seed(0)
    module = MMTM(channels).double()
    s = {m: torch.randn(5, c, dtype=torch.float64) for m, c in channels.items()}
    before = {m: torch.randn(5, c, dtype=torch.float64) for m, c in channels.items()}
    module(before)  # a batch in training
    found = module.eval()(s, held, replaced)

    w = {n: p.detach().numpy() for n, p in module.named_parameters()}

    def gate(m: str, signals: dict[str, Any]) -> Any:
        z = np.maximum(sum(x @ w[f"squeeze.{n}.weight"].T for n, x in signals.items()) + w["bias"], 0)
        return 1 / (1 + np.exp(-(z @ w[f"excite.{m}.weight"].T + w[f"excite.{m}.bias"])))

    now, then = ({m: x.numpy() for m, x in of.items()} for of in (s, before))
    for m in channels:
        wanted = gate(m, now)
        if m == held and replaced == "signal":
            wanted = gate(m, {n: x if n == m else then[n].astype(np.float32).mean(0) for n, x in now.items()})
        elif m == held:
            wanted = np.tile(gate(m, then).mean(0), (5, 1))
        np.testing.assert_allclose(found[m].detach().numpy(), wanted, rtol=1e-6)
    assert w["bias"].shape == (2 * sum(channels.values()) // 4,)


def test_the_means_are_those_of_all_training_batches_and_evaluation_leaves_them() -> None:
    module = MMTM({"a": 2, "b": 3})
    batches = [{"a": torch.randn(4, 2), "b": torch.randn(4, 3)} for _ in range(3)]
    gates = [module(s) for s in batches]
    for m in "ab":
        torch.testing.assert_close(module.means[m].signal, torch.cat([s[m] for s in batches]).mean(0))  # type: ignore[index, union-attr]
        torch.testing.assert_close(module.means[m].gate, torch.cat([g[m] for g in gates]).mean(0).detach())  # type: ignore[index, union-attr]
    before = {n: b.clone() for n, b in module.named_buffers()}
    module.eval()(batches[0])
    assert all(torch.equal(b, before[n]) for n, b in module.named_buffers())


@pytest.mark.parametrize(
    ("kinds", "stages"), [(("cnn", "cnn"), 2), (("resnet", "cnn"), 2), (("resnet", "resnet"), 3)]
)
def test_with_open_gates_the_encoders_give_what_they_give_alone(kinds: tuple[str, str], stages: int) -> None:
    """Gates of 1: pictures and clips, stages of different encoders matched from the end."""
    settings = {"cnn": CNN, "resnet": ResNet18()}
    torch.manual_seed(0)
    encoders = {
        "a": build_encoder(settings[kinds[0]], (1, 16, 16)),
        "b": build_encoder(settings[kinds[1]], (3, 2, 16, 16)),
    }
    exchange = Exchange(encoders)
    assert len(exchange.stages) == stages
    for stage in exchange.stages:
        for layer in stage.excite.values():  # type: ignore[operator, union-attr]
            nn.init.constant_(layer.bias, 100.0)
    model = MultimodalModel(
        encoders, build_fusion("late", {m: e.width for m, e in encoders.items()}, 2), exchange
    ).eval()
    x = {"a": torch.randn(3, 1, 16, 16), "b": torch.randn(3, 3, 2, 16, 16)}
    with torch.no_grad():
        features = model(x).features
        for m, encoder in encoders.items():
            torch.testing.assert_close(features[m], encoder(x[m]), rtol=1e-5, atol=1e-5)
            assert not torch.equal(model(x | {m: x[m].flip(0)}).features[m], features[m])
        for layer in exchange.stages[-1].excite.values():  # type: ignore[operator, union-attr]
            nn.init.zeros_(layer.bias)
        nn.init.ones_(exchange.stages[-1].bias)  # type: ignore[arg-type]
        told = model(x).features["a"]
        assert not torch.allclose(told, model(x | {"b": x["b"] + 1}).features["a"])  # what b sees reaches a
    with pytest.raises(ValueError, match="none can rest or be suppressed"):
        model(x, suppressed=["a"])


def test_encoders_without_stages_are_refused_by_name() -> None:
    vector, picture = build_encoder(MLP(), (8,)), build_encoder(CNN, (1, 8, 8))
    with pytest.raises(
        ConfigError, match=r"encoder of b has no stages with maps\. Encoders that have: small_cnn, resne"
    ):
        Exchange({"a": picture, "b": vector})


# ------------------------------------------------------------------------------------------------- the method
@pytest.mark.parametrize("k", [2, 3])
def test_speeds_are_the_ratio_of_summed_relative_gradients(k: int) -> None:
    """Against numpy, over two steps; the method's own sums in between."""
    data, method = pictures(k), build("greedy", {"alpha": 1e9})
    architecture = student(data, training=recipe(1, batch_size=8)).info["architecture"]
    with seeded(0, "model"):
        model = build_model(architecture)
    wanted: dict[str, list[float]] = {m: [0.0, 0.0] for m in data.modalities}
    original = method.after_backward

    def watch(state: Any) -> None:
        exchange = [(n, p) for n, p in state.model.named_parameters() if n.startswith("exchange.")]
        for m in data.modalities:
            own = [p for n, p in exchange if f"excite.{m}." in n or "excite" not in n]
            for at, of in enumerate((own, list(state.model.encoders[m].parameters()))):
                g = sum((p.grad.double().numpy() ** 2).sum() for p in of)
                wanted[m][at] += g / sum((p.detach().double().numpy() ** 2).sum() for p in of)
        original(state)

    method.after_backward = watch  # type: ignore[method-assign]
    fit(model, data, method, training=recipe(1, batch_size=16), progress=False)
    for m in data.modalities:
        assert method.bypass[m] == pytest.approx(wanted[m][0], rel=1e-5)  # type: ignore[attr-defined]
        assert method.main[m] == pytest.approx(wanted[m][1], rel=1e-5)  # type: ignore[attr-defined]
    assert conditional_speed(*wanted["a"]) == pytest.approx(np.log10(wanted["a"][0] / wanted["a"][1]))


def test_the_leader_is_the_fastest_branch_where_it_is_ahead_by_more_than_alpha() -> None:
    assert leader({"a": 1.0, "b": 0.5}, 0.4) == "a"
    assert leader({"a": 0.5, "b": 1.0}, 0.4) == "b"
    assert leader({"a": 1.0, "b": 0.5}, 0.5) == ""
    assert leader({"a": 1.0, "b": 1.0}, 0.0) == ""
    assert leader({"a": 0.1, "b": 0.3, "c": 0.2}, 0.15) == "b"
    assert conditional_speed(100.0, 1.0) == 2
    assert relative_gradient([nn.Parameter(torch.ones(2))]) == 0


def test_the_leader_is_held_for_a_window_of_steps_and_then_speeds_count_again() -> None:
    data = pictures()
    method = build("greedy", {"alpha": 0, "window": 3, "start_epoch": 2})
    with seeded(0, "model"):
        model = build_model(student(data, training=recipe(1)).info["architecture"])
    held: list[str] = []
    sums: list[float] = []
    original = method.after_backward

    def watch(state: Any) -> None:
        original(state)
        sums.append(sum(method.bypass.values()))  # type: ignore[attr-defined]

    method.after_backward = watch  # type: ignore[method-assign]
    model.exchange.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda exchange, _: held.append(exchange.held) if exchange.training else None
    )
    fit(model, data, method, training=recipe(4, batch_size=8), progress=False)
    assert [bool(h) for h in held] == [False] * 5 + [
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert [b > a for a, b in pairwise(sums)] == [not h for h in held[1:]]
    assert model.exchange.held == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_where_nobody_is_held_it_is_joint_training_of_the_same_model_bit_for_bit(task: str) -> None:
    data = pictures(2, task)
    ours = student(data, parameters=OFF)
    with seeded(0, "model"):
        model = build_model(ours.info["architecture"])
    joint = fit(model, data, build("joint"), training=recipe(2, batch_size=8), progress=False)
    assert same(ours.model, joint.model)
    assert not same(ours.model, student(data, parameters=OFF | {"alpha": 0}).model)


def test_the_losses_are_those_of_the_branches() -> None:
    """Published: their sum; two epochs of three modalities in a regression."""
    history = student(pictures(3, "regression"), parameters={"replaced": "gate", "alpha": 0}).history
    assert [n for n in history if n.startswith("loss/")] == [
        "loss/task_a",
        "loss/task_b",
        "loss/task_c",
        "loss/total",
    ]
    assert np.isfinite(history.filter(like="loss").to_numpy()).all()


def test_stopped_within_a_window_it_ends_in_the_same_bits_and_the_saved_model_predicts_alike(
    tmp_path: Path,
) -> None:
    data, parameters = pictures(), {"alpha": 0, "start_epoch": 1}
    expected = student(data, parameters=parameters)
    with pytest.raises(InterruptedRun):
        interrupt_in_batch(3, lambda: student(data, parameters=parameters, folder=tmp_path))
    again = student(data, parameters=parameters, folder=tmp_path)
    assert same(again.model, expected.model)
    assert again.history.equals(expected.history)

    assert expected.info["architecture"]["exchange"] == "mmtm"
    rebuilt = build_model(expected.info["architecture"]).eval()
    rebuilt.load_state_dict(expected.model.state_dict())
    x = {m: torch.from_numpy(np.asarray(data.arrays[m][:4])) for m in data.modalities}
    with torch.no_grad():
        assert torch.equal(rebuilt(x).logits, expected.model(x).logits)


def test_gradients_reach_every_parameter_of_the_exchange() -> None:
    data = pictures()
    model = student(data, parameters=OFF).model
    model.train()(
        {m: torch.from_numpy(np.asarray(data.arrays[m][:8])) for m in data.modalities}
    ).logits.sum().backward()
    assert isinstance(model.exchange, Exchange)
    for parameters in bypasses(model.exchange).values():
        assert all(p.grad is not None and bool(p.grad.any()) for p in parameters)
