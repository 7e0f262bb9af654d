"""The trainer and its data: selection, history, outputs, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from g2d_pipeline.artefacts import Trained, TrainedFolder, write_trained
from g2d_pipeline.config import MLP, SPLITS, MobileNetV2, ResNet18, SmallCNN, TrainingSettings, Transformer
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, DivergenceError, fit, train_student, train_teacher
from g2d_pipeline.training.data import batches_of, chunks, epoch_rows
from g2d_pipeline.training.recipes import compute_outputs
from tests.conftest import CNN, TINY, make_data, recipe


def joint(data: Data, training: TrainingSettings, **options: Any) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    return train_student(data, encoders, {}, method="joint", training=training, progress=False, **options)


def test_every_row_once_an_epoch_in_an_order_of_its_own() -> None:
    rows = np.arange(50)
    first, second = epoch_rows(rows, 0, 1), epoch_rows(rows, 0, 2)
    assert sorted(first) == sorted(second) == rows.tolist()
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_rows(rows, 0, 1).tolist()


@pytest.mark.parametrize(("n", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (3, [3]), (1, [1])])
def test_a_last_batch_of_one_joins_the_one_before(n: int, sizes: list[int]) -> None:
    assert [len(b) for b in batches_of(np.arange(n), 4)] == sizes


@pytest.mark.parametrize(
    ("shapes", "device", "size"),
    [
        ([], "cpu", 256),
        ([(6,)], "cpu", 256),
        ([(1, 128, 64)], "cpu", 128),
        ([(6,), (3, 224, 224)], "cpu", 8),
        ([(3, 224, 224)], "cuda", 256),
    ],
)
def test_a_forward_takes_fewer_of_large_samples_on_the_cpu(
    shapes: list[tuple[int, ...]], device: str, size: int
) -> None:
    rows = np.arange(700)[::-1]
    parts = list(chunks(rows, shapes, torch.device(device)))
    assert {len(part) for part in parts[:-1]} == {size}
    assert np.concatenate(parts).tolist() == rows.tolist()
    assert not list(chunks(rows[:0], shapes, torch.device(device)))


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        (ResNet18(), (1, 32, 32)),
        (MobileNetV2(), (3, 32, 32)),
        (SmallCNN(), (1, 32, 32)),
        (MLP(), (64,)),
        (Transformer(width=16, layers=2, heads=2, feedforward=32), (9, 8)),
    ],
)
def test_outputs_do_not_depend_on_how_many_samples_a_forward_takes(
    encoder: Any, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handwritten digits; as a sequence, its rows are features and all steps are real (the mask row is 1)."""
    images, target = (x[:24] for x in load_digits(return_X_y=True))
    images = images.reshape(24, 8, 8).astype(np.float32) / 16
    inputs = {
        1: images.reshape(24, 64),
        2: np.concatenate([images, np.ones((24, 1, 8), np.float32)], axis=1),
        3: np.kron(images[:, None].repeat(shape[0], 1), np.ones((1, 1, 4, 4), np.float32)),
    }[len(shape)]
    data = Data.from_arrays({"x": inputs}, target, ["train"] * 12 + ["val"] * 6 + ["test"] * 6)
    model = train_teacher(data, "x", encoder, training=recipe(1), progress=False).model
    outputs = []
    for smallest in (5, 24):
        monkeypatch.setattr("g2d_pipeline.models.multimodal.CHUNK_BYTES", 1)
        monkeypatch.setattr("g2d_pipeline.models.multimodal.SMALLEST_CHUNK", smallest)
        arrays, _ = compute_outputs(model, data, build_method("unimodal"), torch.device("cpu"), SPLITS)
        outputs.append(arrays)
    for name, values in outputs[0].items():
        scale = float(torch.as_tensor(values).abs().max())
        torch.testing.assert_close(values, outputs[1][name], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_selection_on_validation_picks_the_best_validation_epoch(task: str) -> None:
    data = make_data(task=task)
    training = recipe(6).model_copy(update={"selection": "val"})
    trained = joint(data, training)
    scores = trained.history["val/multi"]
    best = scores.max() if task == "classification" else scores.min()
    assert scores[trained.info["selected_epoch"] - 1] == best
    of_val = trained.predictions.query("split == 'val' and part == 'multi'")
    error = of_val["prediction"] - of_val["target"]
    again = (error == 0).mean() if task == "classification" else np.sqrt((error**2).mean())
    assert again == pytest.approx(best, rel=1e-6)


def test_the_published_protocol_selects_on_test_and_says_so() -> None:
    data = make_data()
    training = recipe(6).model_copy(update={"selection": "test"})
    trained = joint(data, training)
    assert trained.info["selection"] == "test"
    assert (
        trained.history["test/multi"][trained.info["selected_epoch"] - 1]
        == trained.history["test/multi"].max()
    )


def test_test_is_scored_when_it_counts() -> None:
    data = make_data()
    at_end = recipe(3).model_copy(update={"selection": "val"})
    by_epoch = at_end.model_copy(update={"score_test": "epoch"})
    ended, curves = (joint(data, training) for training in (at_end, by_epoch))
    assert not [column for column in ended.history if column.startswith("test/")]
    assert ended.history.equals(curves.history[ended.history.columns])
    assert ended.predictions.equals(curves.predictions)
    test = ended.predictions.query("split == 'test' and part == 'multi'")
    selected = curves.history["test/multi"][curves.info["selected_epoch"] - 1]
    assert (test["prediction"] == test["target"]).mean() == pytest.approx(selected)


def test_a_model_on_disk_predicts_the_same_bits(tmp_path: Path) -> None:
    data = make_data(task="regression")
    trained = joint(data, recipe())
    write_trained(tmp_path, trained)
    loaded = TrainedFolder(tmp_path)
    rows = data.rows["test"]
    with torch.no_grad():
        output = loaded.model()({m: torch.from_numpy(np.asarray(a)[rows]) for m, a in data.arrays.items()})
    expected = trained.predictions.query("split == 'test' and part == 'multi'")["prediction"]
    np.testing.assert_array_equal(data.task.predict(output.logits).numpy(), expected.to_numpy())
    outputs = loaded.outputs()
    at = np.searchsorted(outputs["row"], rows)
    np.testing.assert_array_equal(outputs["logits/multi"][at], output.logits.numpy())
    assert loaded.predictions.equals(trained.predictions)


def test_a_teacher_answers_for_train_too_and_a_student_for_val_and_test() -> None:
    data = make_data()
    teacher = train_teacher(data, "a", TINY, training=recipe(1), progress=False)
    assert bool(torch.isfinite(teacher.outputs["confidence/a"]).all())
    assert teacher.outputs["row"].tolist() == list(range(len(data.target)))
    assert set(teacher.info["confidence"]) == {"train", "val", "test"}
    assert set(teacher.predictions["part"]) == {"a"}
    student = joint(data, recipe(1))
    assert set(student.predictions["part"]) == {"multi", "a", "b"}
    asked = sorted([*data.rows["val"], *data.rows["test"]])
    assert student.outputs["row"].tolist() == asked
    assert len(student.outputs["feature/a"]) == len(asked)


def test_divergence_is_said_with_its_epoch_term_and_remedy() -> None:
    data = make_data()
    with pytest.raises(
        DivergenceError, match=r"loss/task.*epoch \d+, batch \d+[\s\S]*none was kept[\s\S]*lr="
    ):
        joint(data, recipe(5, lr=1e30))


def test_missing_and_foreign_teachers_are_named() -> None:
    data = make_data()
    encoders = dict.fromkeys(data.modalities, TINY)
    with pytest.raises(ValueError, match=r"teacher for each of \['a', 'b'\]"):
        train_student(data, encoders, {}, training=recipe(1), progress=False)
    other = make_data(n=60)
    teachers = {m: train_teacher(other, m, TINY, training=recipe(1), progress=False) for m in "ab"}
    with pytest.raises(ValueError, match="teacher of a: has outputs of 60 samples, the data have 96"):
        train_student(data, encoders, teachers, training=recipe(1), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": ["train"] * 3}, "split has 3 rows, the target has 4"),
        ({"split": ["train", "val", "tset", "test"]}, r"split holds \['tset'\]"),
        ({"split": ["train", "train", "val", "val"]}, r"no sample is in split \['test'\]"),
        ({"target": [0.1, np.nan, 0.2, 0.3], "task": "regression"}, r"not finite in rows \[1\]"),
        ({"target": [0.1, 0.1, 0.2, 0.3], "task": "regression"}, "constant"),
    ],
)
def test_bad_arrays_are_refused(change: dict, message: str) -> None:  # type: ignore[type-arg]
    good = {"target": [0, 1, 0, 1], "split": ["train", "train", "val", "test"]}
    with pytest.raises(ValueError, match=message):
        Data.from_arrays({"a": np.zeros((4, 2), np.float32)}, **(good | change))


def test_images_train_in_bytes() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 3, 9, 9), dtype=np.uint8)
    data = Data.from_arrays(
        {"image": images}, rng.integers(0, 2, 24), ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    )
    data.normalisers["image"] = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
    trained = train_teacher(data, "image", CNN, training=recipe(1), progress=False)
    assert trained.model.encoders["image"].normaliser.mean.tolist() == [0.5] * 3


def test_fit_leaves_its_data_and_settings_alone() -> None:
    data = make_data()
    before = {m: np.array(a) for m, a in data.arrays.items()}
    architecture = joint(data, recipe(1)).info["architecture"]
    fit(
        build_model(architecture),
        data,
        build_method("joint"),
        training=TrainingSettings(epochs=1),
        progress=False,
    )
    assert all(np.array_equal(before[m], a) for m, a in data.arrays.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_result_as_the_cpu_nearly() -> None:
    data = make_data()
    found = [joint(data, recipe(2), device=d) for d in ("cpu", "cuda")]
    np.testing.assert_allclose(found[0].history["loss/total"], found[1].history["loss/total"], rtol=1e-3)
