"""What the method promises, as equalities between two trainings (g2d.md §11)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import SMPSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.streams import seeded
from tests.conftest import TINY, make_data, recipe
from tests.methods.tiny import same

Teachers = dict[str, Trained]


def teachers_of(data: Data, seed: int = 0) -> Teachers:
    return {
        m: train_teacher(data, m, TINY, training=recipe(2), seed=seed, progress=False)
        for m in data.modalities
    }


def student(data: Data, teachers: Teachers, **settings: Any) -> Trained:
    settings = {"training": recipe(), "seed": 0, "progress": False, **settings}
    return train_student(data, dict.fromkeys(data.modalities, TINY), teachers, **settings)


def test_beta_zero_without_smp_is_the_unimodal_teacher_method() -> None:
    """UMT: task + α Σ MSE(f, f_t), here as a loop of its own over the same batches."""
    data = make_data()
    teachers = teachers_of(data)
    ours = student(data, teachers, parameters={"alpha": 0.7, "beta": 0})
    method = build_method("joint")
    remembered = {m: teacher_outputs(t, m).feature for m, t in teachers.items()}

    def loss(output, batch, state):  # type: ignore[no-untyped-def]
        squares = [nn.functional.mse_loss(output.features[m], f[batch.index]) for m, f in remembered.items()]
        return {"task": nn.functional.cross_entropy(output.logits, batch.target) + 0.7 * sum(squares)}

    method.loss = loss  # type: ignore[method-assign]
    with seeded(0, "model"):
        model = build_model(ours.info["architecture"])
    theirs = fit(model, data, method, training=recipe(), seed=0, progress=False)
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def watch(data: Data, teachers: Teachers, smp: SMPSettings, epochs: int) -> list[dict[str, Any]]:
    """Weights, buffers and optimizer state after each epoch."""
    seen: list[dict[str, Any]] = []
    method = build_method("g2d")

    def remember(state):  # type: ignore[no-untyped-def]
        momentum = {
            name: state.optimizer.state[p]["momentum_buffer"].clone()
            for name, p in state.model.named_parameters()
            if "momentum_buffer" in state.optimizer.state.get(p, {})
        }
        seen.append(
            {"weights": {k: v.clone() for k, v in state.model.state_dict().items()}, "momentum": momentum}
        )

    method.on_epoch_start = remember  # type: ignore[method-assign]
    method.on_epoch_end = remember  # type: ignore[method-assign]
    architecture = student(data, teachers, training=recipe(1)).info["architecture"]
    with seeded(0, "model"):
        model = build_model(architecture)
    outputs = {m: teacher_outputs(t, m) for m, t in teachers.items()}
    fit(model, data, method, training=recipe(epochs), smp=smp, teachers=outputs, seed=0, progress=False)
    return seen


@pytest.mark.parametrize(("k", "norm"), [(2, "frozen"), (3, "batch")])
def test_a_skipped_encoder_its_buffers_and_its_optimizer_state_do_not_change_by_one_bit(
    k: int, norm: str
) -> None:
    data = make_data(k)
    tau = [1] * (k - 1) + [1]
    smp = SMPSettings(tau=tau, ranking="dataset", suppressed_norm=norm)  # type: ignore[arg-type]
    teachers = teachers_of(data)
    seen = watch(data, teachers, smp, epochs=k)
    confidence = {m: t.info["confidence"]["train"][m] for m, t in teachers.items()}
    order = sorted(confidence, key=confidence.__getitem__)
    for phase in range(k):
        before, after = seen[2 * phase], seen[2 * phase + 1]
        active = [order[phase]] if phase < k - 1 else order
        for m in data.modalities:
            names = [n for n in after["weights"] if n.startswith(f"encoders.{m}.")]
            moved = [n for n in names if not torch.equal(before["weights"][n], after["weights"][n])]
            assert (moved == names) if m in active else (moved == []), (phase, m, moved)
            state = [n for n in after["momentum"] if n.startswith(f"encoders.{m}.")]
            same_state = all(
                n in before["momentum"] and torch.equal(before["momentum"][n], after["momentum"][n])
                for n in state
            )
            assert same_state is (m not in active), (phase, m)
        heads = [n for n in after["weights"] if n.startswith("fusion.")]
        assert heads
        assert all(not torch.equal(before["weights"][n], after["weights"][n]) for n in heads)


def test_zero_grad_moves_a_suppressed_encoder_by_momentum_and_decay_where_skip_does_not() -> None:
    data = make_data()
    teachers = teachers_of(data)
    smp = {"tau": [2, 1], "ranking": "dataset"}
    skip = student(data, teachers, smp=smp | {"update": "skip"})
    zero = student(data, teachers, smp=smp | {"update": "zero_grad"})
    assert not same(skip, zero)


def plain_model(data: Data) -> MultimodalModel:
    """Encoders without normalisation layers."""
    from g2d_pipeline.models import Encoder, build_fusion

    torch.manual_seed(0)
    encoders = {
        m: Encoder(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), 5) for m in data.modalities
    }
    return MultimodalModel(
        encoders, build_fusion("late", dict.fromkeys(data.modalities, 5), data.task.outputs)
    )


def test_zero_grad_equals_skip_without_momentum_decay_and_normalisation() -> None:
    data = make_data(3)
    outputs = {m: teacher_outputs(t, m) for m, t in teachers_of(data).items()}
    found = []
    for update in ("skip", "zero_grad"):
        smp = SMPSettings(tau=[1, 1, 1], update=update)  # type: ignore[arg-type]
        training = recipe(3, momentum=0, weight_decay=0)
        fitted = fit(
            plain_model(data),
            data,
            build_method("g2d"),
            training=training,
            smp=smp,
            teachers=outputs,
            progress=False,
        )
        found.append(fitted.model.state_dict())
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("update", ["skip", "zero_grad"])
def test_five_steps_equal_an_independent_numpy_and_torch_reference(update: str) -> None:
    """From the equations alone: its own forward, loss, ranking, SGD with momentum; linear encoders."""
    data = make_data(n=120)
    teachers = {m: teacher_outputs(t, m) for m, t in teachers_of(data).items()}
    model = plain_model(data)
    start = {k: v.detach().numpy().astype(np.float64) for k, v in model.state_dict().items()}
    training = recipe(1, batch_size=16, lr=0.05)
    smp = SMPSettings(tau=[1], update=update)  # type: ignore[arg-type]
    fitted = fit(
        model, data, build_method("g2d"), training=training, smp=smp, teachers=teachers, progress=False
    )
    assert len(data.rows["train"]) == 80  # five steps of 16

    w = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in start.items()}
    velocity = {k: torch.zeros_like(v) for k, v in w.items()}
    moving: set[str] = set()
    order = np.random.default_rng([0, 1, 1]).permutation(data.rows["train"])
    losses = []
    for step in range(5):
        rows = order[step * 16 : step * 16 + 16]
        y = torch.tensor(np.asarray(data.target)[rows])
        f, l_s = {}, 0
        for m in "ab":
            x = torch.tensor(np.asarray(data.arrays[m])[rows], dtype=torch.float64)
            h = torch.tanh(x @ w[f"encoders.{m}.trunk.0.weight"].T + w[f"encoders.{m}.trunk.0.bias"])
            f[m] = h @ w[f"encoders.{m}.trunk.2.weight"].T + w[f"encoders.{m}.trunk.2.bias"]
            l_s = l_s + (f[m] @ w[f"fusion.heads.{m}.weight"].T + w[f"fusion.heads.{m}.bias"]) / 2
        log_q = l_s - torch.logsumexp(l_s, 1, keepdim=True)
        total = -log_q[torch.arange(16), y].mean()
        rho = {}
        for m in "ab":
            f_t, l_t = teachers[m].feature[rows].double(), teachers[m].logits[rows].double()
            p = torch.exp(l_t - torch.logsumexp(l_t, 1, keepdim=True))
            total = total + ((f[m] - f_t) ** 2).sum() / (16 * 5) + (p * (torch.log(p) - log_q)).sum() / 16
            rho[m] = float(p[torch.arange(16), y].mean())
        losses.append(float(total.detach()))
        grads = dict(zip(w, torch.autograd.grad(total, list(w.values())), strict=True))
        strong = max(
            "ab", key=lambda m: (rho[m], m == "b")
        )  # the least confident one learns; ties: a before b
        with torch.no_grad():
            for name, value in w.items():
                if name.startswith(f"encoders.{strong}."):
                    if update == "skip":
                        continue
                    grads[name] = torch.zeros_like(value)
                d = grads[name] + 1e-3 * value
                velocity[name] = 0.9 * velocity[name] + d if name in moving else d
                moving.add(name)
                value -= 0.05 * velocity[name]
    assert fitted.history["loss/total"][0] == pytest.approx(np.mean(losses), abs=1e-6)
    for name, value in fitted.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), w[name].detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    data = make_data()
    teachers = teachers_of(data)
    once, twice = student(data, teachers, smp={"tau": [1, 2]}), student(data, teachers, smp={"tau": [1, 2]})
    assert same(once, twice)
    assert once.history.equals(twice.history)
    assert once.predictions.equals(twice.predictions)
    assert not same(once, student(data, teachers, smp={"tau": [1, 2]}, seed=1))


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    data = make_data()
    teachers = teachers_of(data)
    torch.manual_seed(1)
    once = student(data, teachers)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert same(once, student(data, teachers))
    assert torch.equal(state, torch.get_rng_state())


def test_renaming_the_modalities_changes_nothing() -> None:
    plain, renamed = make_data(names="ab"), make_data(names="zy")
    one = student(plain, teachers_of(plain), smp={"tau": [1, 2]})
    other = student(renamed, teachers_of(renamed), smp={"tau": [1, 2]})
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_permuting_the_modalities_permutes_the_result() -> None:
    """With SMP, from the same initial weights, assigned by name."""
    data = make_data(3)
    outputs = {m: teacher_outputs(t, m) for m, t in teachers_of(data).items()}
    base = student(data, teachers_of(data), training=recipe(1), fusion="concat")
    results = []
    for order in ("abc", "cab"):
        permuted = data.only(*order)
        architecture = dict(base.info["architecture"])
        architecture["modalities"] = {m: architecture["modalities"][m] for m in order}
        model = build_model(architecture)
        weights = dict(base.model.state_dict())
        blocks = dict(zip("abc", weights["fusion.head.weight"].split(5, dim=1), strict=True))
        weights["fusion.head.weight"] = torch.cat([blocks[m] for m in order], dim=1)
        model.load_state_dict(weights)
        smp = SMPSettings(tau=[1, 1, 1])
        fitted = fit(
            model, permuted, build_method("g2d"), training=recipe(3), smp=smp,
            teachers={m: outputs[m] for m in order}, progress=False,
        )  # fmt: skip
        results.append(fitted)
    first, second = (r.model.state_dict() for r in results)
    for name in (n for n in first if n.startswith("encoders.")):
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)
    assert results[0].history["learning"][0] == results[1].history["learning"][0]


def test_teachers_are_left_alone_and_remembered_outputs_equal_a_forward() -> None:
    data = make_data()
    teachers = teachers_of(data)
    before = {m: {k: v.clone() for k, v in t.model.state_dict().items()} for m, t in teachers.items()}
    student(data, teachers, smp={"tau": [1, 2]})
    for m, t in teachers.items():
        assert all(torch.equal(before[m][k], v) for k, v in t.model.state_dict().items())
        with torch.no_grad():
            output = t.model({m: torch.from_numpy(np.asarray(data.arrays[m]))})
        outputs = teacher_outputs(t, m)
        torch.testing.assert_close(outputs.logits, output.logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs.feature, output.features[m], rtol=1e-5, atol=1e-6)
        expected = data.task.confidence(output.logits, torch.from_numpy(np.asarray(data.target)))
        torch.testing.assert_close(outputs.confidence, expected, rtol=1e-5, atol=1e-6)


def test_logged_kappa_agrees_with_what_moved() -> None:
    data = make_data(3)
    history = student(data, teachers_of(data), smp={"tau": [1, 1, 1], "ranking": "dataset"}).history
    assert history["phase"].tolist() == [1, 2, 3]
    for row in history.to_dict("records"):
        learning = row["learning"].split("+")
        for m in data.modalities:
            assert row[f"kappa/{m}"] == float(m in learning)
            assert (row[f"grad_norm/{m}"] > 0) is (m in learning)


def test_a_k1_student_is_the_teacher() -> None:
    data = make_data(1)
    teacher = train_teacher(data, "a", TINY, training=recipe(), seed=0, progress=False)
    assert same(teacher, student(data, {}, method="joint"))
