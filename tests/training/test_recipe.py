"""What the keys of a recipe promise, as equalities between trainings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import SGD, CosineSchedule, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import build
from g2d_pipeline.training import Data, fit, train_student
from tests.conftest import CNN, TINY, make_data, recipe
from tests.training.test_equalities import plain_model, same, teachers_of


def joint(data: Data, **changes: Any) -> Trained:
    training = TrainingSettings(**(recipe(changes.pop("epochs", 3)).model_dump() | changes))
    encoders = dict.fromkeys(data.modalities, TINY)
    return train_student(data, encoders, {}, method="joint", training=training, progress=False)


def weights_of_plain(data: Data, **changes: Any) -> dict[str, torch.Tensor]:
    """Encoders without batch norm: a mean over two half batches is the mean over the whole."""
    training = TrainingSettings(**(recipe(2).model_dump() | changes))
    return fit(plain_model(data), data, build("joint"), training=training, progress=False).model.state_dict()


def test_accumulating_two_half_batches_is_a_step_on_the_whole() -> None:
    data = make_data()
    whole = weights_of_plain(data, batch_size=16)
    halves = weights_of_plain(data, batch_size=8, accumulation=2)
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-5, atol=1e-6)  # sums in another order


def test_a_rest_that_does_not_fill_an_accumulation_still_makes_a_step() -> None:
    data = make_data(n=60)  # 40 train samples: three batches of 16, 16 and 8
    steps = []
    method = build("joint")
    method.after_backward = lambda state: steps.append(state.epoch)  # type: ignore[method-assign]
    training = TrainingSettings(**(recipe(2).model_dump() | {"accumulation": 2}))
    fit(plain_model(data), data, method, training=training, progress=False)
    assert steps == [1, 1, 2, 2]


def test_a_gradient_below_the_clip_norm_is_left_alone_and_one_above_is_not() -> None:
    data = make_data()
    assert same(joint(data), joint(data, clip_norm=1e6))
    assert not same(joint(data), joint(data, clip_norm=1e-3))


def test_a_clipped_step_of_plain_sgd_is_as_long_as_it_may_be() -> None:
    data = make_data(n=24)
    model = plain_model(data)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    training = TrainingSettings(
        epochs=1,
        batch_size=16,
        optimizer=SGD(lr=0.5, momentum=0, weight_decay=0),
        clip_norm=0.01,
        selection="last",
    )
    after = fit(model, data, build("joint"), training=training, progress=False).model.parameters()
    moved = torch.cat([p.detach().flatten() for p in after]) - before
    assert float(moved.norm()) == pytest.approx(0.5 * 0.01, rel=1e-4)  # 16 train samples: one step


def test_the_average_of_the_weights_is_what_is_kept_and_scored() -> None:
    data = make_data()
    plain, averaged = joint(data, epochs=2), joint(data, epochs=2, ema=0.5)
    assert not same(plain, averaged)
    model = plain_model(data)
    seen: list[dict[str, torch.Tensor]] = []
    method = build("joint")
    training = TrainingSettings(**(recipe(1).model_dump() | {"ema": 0.5}))
    original = method.train_batch

    def remember(batch: Any, state: Any) -> Any:
        seen.append({k: v.clone() for k, v in state.model.state_dict().items()})  # before this batch's step
        return original(batch, state)

    method.train_batch = remember  # type: ignore[method-assign]
    last: dict[str, torch.Tensor] = {}
    method.on_epoch_end = lambda state: last.update(
        {k: v.clone() for k, v in state.model.state_dict().items()}
    )  # type: ignore[method-assign]
    kept = fit(model, data, method, training=training, progress=False).model.state_dict()
    closed = seen[1]
    for weights in [*seen[2:], last]:
        closed = {k: 0.5 * closed[k] + 0.5 * weights[k] for k in closed}
    for name, value in kept.items():
        torch.testing.assert_close(value, closed[name], rtol=1e-5, atol=1e-6)


def test_early_stopping_ends_after_its_patience() -> None:
    data = make_data()
    trained = joint(data, epochs=40, early_stopping=3, selection="val", optimizer={"name": "sgd", "lr": 0.1})
    epochs = len(trained.history)
    assert epochs < 40
    keys = list(zip(trained.history["val/multi"], -trained.history["val/loss"], strict=True))
    best = max(range(epochs), key=lambda e: (keys[e], -e))
    assert epochs == best + 1 + 3
    assert trained.info["selected_epoch"] == best + 1


def test_early_stopping_never_cuts_a_phase_of_one_modality() -> None:
    data = make_data()
    training = TrainingSettings(
        **(recipe(12, lr=1e-9).model_dump() | {"early_stopping": 2})
    )  # nothing ever improves
    trained = train_student(
        data,
        dict.fromkeys("ab", TINY),
        teachers_of(data),
        smp={"tau": [8], "suppressed_norm": "batch"},
        training=training,
        progress=False,
    )
    assert (
        trained.history["phase"].tolist() == [1] * 8 + [2] * 3
    )  # a first value, then two without a better one


def test_the_learning_rate_of_each_epoch_is_in_the_history() -> None:
    history = joint(
        make_data(), epochs=4, lr_schedule=CosineSchedule(warmup=1), optimizer=SGD(lr=0.1)
    ).history
    expected = [0.05, *(0.05 * (1 + np.cos(np.pi * e / 3)) for e in range(3))]
    np.testing.assert_allclose(history["lr"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs CUDA"),
        ({"batch_size": "auto"}, "batch_size=auto needs CUDA"),
        ({"lr_schedule": {"name": "cosine", "warmup": 9}}, "warmup = 9"),
    ],
)
def test_what_this_machine_or_recipe_cannot_do_is_said_before_work_starts(
    changes: dict[str, Any], message: str
) -> None:
    if torch.cuda.is_available() and "warmup" not in message:
        pytest.skip("there is CUDA here")
    with pytest.raises(ConfigError, match=message):
        joint(make_data(), **changes)


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"channels_last": False}, {"checkpoint_activations": True}]
)
def test_every_way_of_computing_learns_the_same_thing_nearly(changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 120)
    image = rng.normal(size=(120, 1, 9, 7)).astype(np.float32)
    image[np.arange(120), 0, label] += 2
    data = Data.from_arrays({"image": image}, label, ["train"] * 80 + ["val"] * 20 + ["test"] * 20)

    def losses(**changes: Any) -> np.ndarray:  # type: ignore[type-arg]
        training = TrainingSettings(**(recipe(2).model_dump() | changes))
        trained = train_student(data, {"image": CNN}, {}, method="joint", training=training, progress=False)
        return trained.history["loss/total"].to_numpy()

    tolerance = 0.03 if changes == {"precision": "bf16"} else 1e-4  # bfloat16 has 8 bits of mantissa
    np.testing.assert_allclose(losses(**changes), losses(), rtol=tolerance)


def test_predictions_of_a_model_trained_in_bf16_are_those_of_the_saved_model() -> None:
    data = make_data()
    trained = joint(data, precision="bf16")
    rows = data.rows["test"]
    with torch.no_grad():
        output = trained.model({m: torch.from_numpy(np.asarray(a)[rows]) for m, a in data.arrays.items()})
    expected = trained.predictions.query("split == 'test' and part == 'multi'")["prediction"]
    assert data.task.predict(output.logits).tolist() == expected.tolist()
