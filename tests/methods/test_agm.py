"""AGM: responses, coefficients, and where they act (rivals.md, agm)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import build
from g2d_pipeline.methods.agm import coefficients, masked_input, ratios, responses
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import (
    Classification,
    Encoder,
    MultimodalModel,
    Normaliser,
    Output,
    Regression,
    build_fusion,
)
from g2d_pipeline.training import Data, train_student
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}
FUSIONS: tuple[Any, ...] = ("late", "concat", "film", "bi_gated", {"name": "cross_attention", "heads": 1})


def student(data: Data, method: str = "agm", **parameters: Any) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    return train_student(
        data, encoders, {}, method=method, parameters=parameters, training=recipe(2), progress=False
    )


def model_of(names: str, fusion: Any, outputs: int) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {m: Encoder(nn.Sequential(nn.Linear(6, 4), nn.Tanh()), 4) for m in names}
    return MultimodalModel(encoders, build_fusion(fusion, dict.fromkeys(names, 4), outputs)).double()


def run(model: MultimodalModel, x: dict[str, Tensor]) -> Output:
    """The forward pass in float64."""
    features = {m: model.encoders[m].trunk(of) for m, of in x.items()}  # type: ignore[operator, union-attr]
    return Output(features, model.fusion(features))


def score(task: str, logits: np.ndarray, y: np.ndarray) -> float:
    """Mean cross-entropy, or half squared error, of each sample no more than −ln 1e-8."""
    if task == "classification":
        p = np.exp(logits - logits.max(1, keepdims=True))
        loss = -np.log((p / p.sum(1, keepdims=True))[np.arange(len(y)), y])
    else:
        loss = (logits[:, 0] - y) ** 2 / 2
    return float(np.minimum(loss, -np.log(1e-8)).mean())


def gradients(
    model: MultimodalModel, batch: Batch, state: State, **parameters: Any
) -> tuple[Any, dict[str, Tensor]]:
    """The method after two batches alike, and the gradients of the second one by parameter."""
    method = build("agm", parameters)
    method.on_fit_start(state)
    state.forward = lambda of: model(of.inputs, features=of.features)
    for _ in range(2):
        model.train()
        model.zero_grad()
        terms = method.loss(state.forward(batch), batch, state)
        sum(terms.values(), torch.zeros(())).backward()
    return method, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [2, 3])
def test_coefficients_and_gradients_equal_the_equations_in_numpy(k: int, task: str) -> None:
    rng = np.random.default_rng(k)
    names, outputs, alpha = "abc"[:k], TASKS[task].outputs, 0.8
    model = model_of(names, "concat", outputs)
    x = {m: rng.normal(size=(7, 6)) * (i + 1) for i, m in enumerate(names)}
    y = rng.integers(0, 3, 7) if task == "classification" else rng.normal(size=7)
    batch = Batch(torch.arange(7), {m: torch.tensor(of) for m, of in x.items()}, torch.tensor(y))
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1, epoch=1)  # type: ignore[arg-type]

    w = {n: p.detach().numpy() for n, p in model.named_parameters()}
    f = {
        m: np.tanh(x[m] @ w[f"encoders.{m}.trunk.0.weight"].T + w[f"encoders.{m}.trunk.0.bias"])
        for m in names
    }

    def logits(kept: str) -> np.ndarray:
        parts = [f[m] if m in kept else np.zeros_like(f[m]) for m in names]
        found: np.ndarray = np.concatenate(parts, 1) @ w["fusion.head.weight"].T + w["fusion.head.bias"]
        return found

    phi = {}
    for m in names:
        rest = [n for n in names if n != m]
        if k == 2:
            phi[m] = 0.5 * (logits(names) - logits(rest[0]) + logits(m))
        else:
            i, j = rest
            phi[m] = (logits(names) - logits(i + j)) / 3 + logits(m) / 3
            phi[m] += (logits(m + i) - logits(i) + logits(m + j) - logits(j)) / 6
    np.testing.assert_allclose(sum(phi.values()), logits(names), atol=1e-12)
    s = np.array([score(task, phi[m], y) for m in names])
    r = np.exp(k / (k - 1) * (s.mean() - s))
    first = np.exp(alpha * np.minimum(1 - r, 7))  # no history yet: its ratios are 1

    method = build("agm", {"alpha": alpha, "masked": "features"})
    method.on_fit_start(state)
    method.loss(run(model, batch.inputs), batch, state)
    np.testing.assert_allclose([state.logged[f"kappa/{m}"] for m in names], first, rtol=1e-9)
    np.testing.assert_allclose(method.mean_scores.numpy(), s, rtol=1e-9)  # type: ignore[attr-defined]

    model.zero_grad()
    state.task.loss(run(model, batch.inputs).logits, batch.target).backward()
    joint = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for where in ("response", "encoder"):
        method = build("agm", {"alpha": alpha, "masked": "features", "where": where})
        method.on_fit_start(state)
        model.zero_grad()
        sum(method.loss(run(model, batch.inputs), batch, state).values(), torch.zeros(())).backward()
        found = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
        columns = joint["fusion.head.weight"].numpy().reshape(outputs, k, 4)
        of_head = columns * (first[None, :, None] if where == "response" else 1)
        np.testing.assert_allclose(
            found["fusion.head.weight"], of_head.reshape(outputs, -1), rtol=1e-7, atol=1e-12
        )
        for i, m in enumerate(names):
            name = f"encoders.{m}.trunk.0.weight"
            np.testing.assert_allclose(found[name], first[i] * joint[name].numpy(), rtol=1e-7, atol=1e-12)


def test_a_modality_ahead_of_its_history_is_held_back_and_equal_scores_change_nothing() -> None:
    even = torch.full((3,), 0.7, dtype=torch.float64)
    assert coefficients(even, even, 2.0).tolist() == [1.0, 1.0, 1.0]
    assert coefficients(torch.tensor([0.2, 0.9]), torch.tensor([0.2, 0.9]), 2.0).tolist() == [1.0, 1.0]
    ahead, behind = coefficients(torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.6]), 1.0).tolist()
    assert ahead < 1 < behind
    far = coefficients(torch.tensor([18.0, 0.0]).double(), torch.tensor([0.0, 18.0]).double(), 1.0)
    assert far.isfinite().all()
    assert float(far[0]) == pytest.approx(np.exp(7.0))
    two = ratios(torch.tensor([0.2, 0.9], dtype=torch.float64))
    np.testing.assert_allclose(two, np.exp([0.7, -0.7]), rtol=1e-12)  # k = 2: e^(S^other − S^m)


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
@pytest.mark.parametrize("masked", ["inputs", "features"])
@pytest.mark.parametrize("k", [2, 3])
def test_responses_sum_to_the_logits_and_unscaled_their_gradient_is_joint(
    k: int, masked: str, fusion: Any
) -> None:
    model, names = model_of("abc"[:k], fusion, 3), "abc"[:k]
    x = {m: torch.randn(5, 6).double() for m in names}
    present = run(model, x).features
    other = {m: torch.zeros_like(of) for m, of in present.items()}
    if masked == "inputs":
        other = run(model, {m: torch.zeros(1, 6).double() for m in names}).features
        other = {m: of.expand(5, -1) for m, of in other.items()}
    whole = model.fusion(present)
    parts = responses(model.fusion, whole, present, other)
    total = sum(parts.values(), torch.zeros(()))
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-12)
    target, task = torch.tensor([0, 1, 2, 1, 0]), TASKS["classification"]
    weights = list(model.parameters())
    one = torch.autograd.grad(task.loss(whole, target), weights, retain_graph=True, allow_unused=True)
    two = torch.autograd.grad(task.loss(total, target), weights, allow_unused=True)
    for a, b in zip(one, two, strict=True):
        a = torch.zeros_like(b) if a is None and b is not None else a
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_with_masked_inputs_the_other_batches_numbers_stay_and_encoders_are_left_in_training_mode() -> None:
    """Two batches alike: the second is no news, so κ = 1 and the gradients are those of joint training."""
    data = make_data(n=48)
    model = student(data, "joint").model
    model.train()
    rows = data.rows["train"][:12]
    inputs = {m: torch.from_numpy(np.asarray(data.arrays[m])[rows]) for m in data.modalities}
    batch = Batch(torch.from_numpy(rows), inputs, torch.from_numpy(np.asarray(data.target)[rows]))
    state = State(model=model, optimizer=None, task=data.task, epochs=1, epoch=1)  # type: ignore[arg-type]
    for p in model.parameters():
        p.grad = None
    data.task.loss(model(inputs).logits, batch.target).backward()
    joint = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    model(inputs)
    model(inputs)
    moved = {n: b.clone() for n, b in model.named_buffers()}
    model.load_state_dict(buffers, strict=False)
    for where in ("response", "encoder"):
        model.load_state_dict(buffers, strict=False)
        _, found = gradients(model, batch, state, where=where, masked="features")
        assert [state.logged[f"kappa/{m}"] for m in state.model.modalities] == pytest.approx(
            [1.0, 1.0], abs=1e-6
        )
        for name, value in joint.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
        model.load_state_dict(buffers, strict=False)
        gradients(model, batch, state, where=where, masked="inputs")
        assert all(part.training for part in model.modules())
        for name, value in model.named_buffers():
            torch.testing.assert_close(
                value, moved[name], msg=name
            )  # running statistics: of the two batches alone


def test_a_masked_input_is_zeros_behind_the_normaliser() -> None:
    encoder = Encoder(nn.Flatten(), 12, Normaliser(1 / 255, [0.2, 0.4, 0.5], [0.3, 0.2, 0.1]))
    x = torch.randint(0, 255, (4, 3, 2, 2), dtype=torch.uint8)
    nothing = masked_input(encoder, x)
    assert nothing.shape == (1, 3, 2, 2)
    torch.testing.assert_close(encoder(nothing), torch.zeros(1, 12), rtol=0, atol=1e-5)
    tokens = Encoder(nn.Identity(), 5, Normaliser(1, [3.0], [1.0]), tokens=True)
    assert torch.equal(
        masked_input(tokens, torch.ones(4, 5, dtype=torch.long)), torch.zeros(1, 5, dtype=torch.long)
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_history_has_its_coefficients(task: str) -> None:
    kappa = student(make_data(2, task)).history[["kappa/a", "kappa/b"]].to_numpy()
    assert (kappa > 0).all()
    assert not np.allclose(kappa, 1)


def test_clipping_starts_with_the_fusions_gradient() -> None:
    model = model_of("ab", "concat", 3)
    state = State(model=model, optimizer=None, task=TASKS["classification"], epochs=1, epoch=1)  # type: ignore[arg-type]
    method = build("agm", {"clip": 0.5})
    for of_encoder, of_fusion, clipped in ((9.0, 0.4, False), (0.1, 0.6, True)):
        for name, p in model.named_parameters():
            p.grad = torch.full_like(p, of_fusion if name.startswith("fusion") else of_encoder)
        method.after_backward(state)
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
        assert (abs(float(norm) - 0.5) < 1e-4) is clipped


def test_an_output_is_not_changed_by_looking_at_it() -> None:
    """The value of the logits is that of the forward pass, up to rounding: only gradients are modulated."""
    model = model_of("ab", "late", 3)
    x = {m: torch.randn(5, 6).double() for m in "ab"}
    batch = Batch(torch.arange(5), x, torch.tensor([0, 1, 2, 1, 0]))
    state = State(model=model, optimizer=None, task=TASKS["classification"], epochs=1, epoch=1)  # type: ignore[arg-type]
    method = build("agm", {"masked": "features"})
    method.on_fit_start(state)
    output = run(model, x)
    loss = method.loss(output, batch, state)["task"]
    torch.testing.assert_close(loss, state.task.loss(output.logits, batch.target), rtol=1e-12, atol=1e-12)


def test_the_old_name_of_masked_is_answered_with_the_new_one() -> None:
    in_file = {"datasets.av_digits.methods": {"agm": {"muted": "features"}}}
    for change, overrides in (({}, {"muted": "features"}), (in_file, {})):
        with pytest.raises(ConfigError, match=r"unknown key 'muted'.*Did you mean 'masked'\?"):
            configure(change, method="agm", **overrides)
