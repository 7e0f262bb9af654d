"""Batches: the same for any number of workers; teachers asked only where a look-up would not be the same."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.config import ImageAugment, TabularAugment
from g2d_pipeline.methods.base import Batch
from g2d_pipeline.training import Data, TeacherOutputs, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.data import batches_of, epoch_rows
from g2d_pipeline.training.loader import FeatureCache, Loader, ahead
from g2d_pipeline.training.teachers import online_teachers
from tests.conftest import CNN, TINY, make_data, recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Data:
    """An image in bytes that is augmented, and a table that is not."""
    rng = np.random.default_rng(0)
    inputs = {"image": rng.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8), "table": rng.normal(size=(60, 6))}
    data = Data.from_arrays(
        {m: x if x.dtype == np.uint8 else x.astype(np.float32) for m, x in inputs.items()},
        rng.integers(0, 3, 60),
        ["train"] * 40 + ["val"] * 10 + ["test"] * 10,
        augment={"image": ImageAugment(crop=[0.3, 1.0], flip=0.5, noise=0.2), "table": TabularAugment()},
    )
    data.normalisers["image"] = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
    return data


@pytest.fixture(scope="module")
def teachers(data: Data) -> dict[str, TeacherOutputs]:
    encoders: dict[str, Any] = {"image": CNN, "table": TINY}
    trained = {m: train_teacher(data, m, e, training=recipe(1), progress=False) for m, e in encoders.items()}
    return {m: teacher_outputs(t, m) for m, t in trained.items()}


def loader(
    data: Data, teachers: dict[str, TeacherOutputs], teacher_view: str = "augmented", **settings: Any
) -> Loader:
    any_model = next(iter(teachers.values())).model
    assert any_model is not None
    target = torch.from_numpy(np.asarray(data.target))
    online, cache = online_teachers(data, teachers, teacher_view), FeatureCache(any_model, data, CPU, ())
    return Loader(data, target, teachers, online, cache, CPU, seed=5, **settings)


def epoch(of: Loader, number: int = 1, start: int = 0, teach: bool = True) -> list[Batch]:
    batches = list(batches_of(epoch_rows(of.data.rows["train"], 5, number), 16))
    return list(of.epoch(batches, number, start, teach))


def tensors(batch: Batch) -> list[torch.Tensor]:
    views = [t for v in batch.teachers.values() for t in (v.feature, v.logits, v.confidence)]
    return [batch.index, batch.target, *batch.inputs.values(), *views]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_the_number_of_workers(
    data: Data, teachers: dict[str, TeacherOutputs], workers: int
) -> None:
    alone, with_workers = epoch(loader(data, teachers)), epoch(loader(data, teachers, workers=workers))
    for one, other in zip(alone, with_workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_an_epoch_begun_in_the_middle_has_the_same_batches(
    data: Data, teachers: dict[str, TeacherOutputs]
) -> None:
    whole, rest = epoch(loader(data, teachers)), epoch(loader(data, teachers), start=2)
    assert len(whole) == 3
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_augmentation_changes_from_epoch_to_epoch_and_spares_the_other_modality(
    data: Data, teachers: dict[str, TeacherOutputs]
) -> None:
    of = loader(data, teachers)
    first, second = epoch(of, 1)[0], epoch(of, 2)[0]
    stored = torch.from_numpy(np.asarray(data.arrays["table"])[first.index.numpy()])
    assert torch.equal(first.inputs["table"], stored)
    assert first.inputs["image"].dtype == torch.float32
    same = [int(i) for i in first.index if i in second.index]
    for row in same:
        a = first.inputs["image"][first.index.tolist().index(row)]
        b = second.inputs["image"][second.index.tolist().index(row)]
        assert not torch.equal(a, b)


def test_bytes_stay_bytes_where_nothing_is_augmented(data: Data, teachers: dict[str, TeacherOutputs]) -> None:
    plain = Data(**{**vars(data), "augment": {}})
    assert epoch(loader(plain, teachers))[0].inputs["image"].dtype == torch.uint8


def test_a_teacher_of_an_augmented_modality_sees_the_augmented_batch(
    data: Data, teachers: dict[str, TeacherOutputs]
) -> None:
    """Faithful: its answers are those of a forward on the very same input; the others' are looked up."""
    of = loader(data, teachers)
    assert list(of.online) == ["image"]
    for batch in epoch(of):
        for m, teacher in teachers.items():
            assert teacher.model is not None
            with torch.no_grad():
                output = teacher.model({m: batch.inputs[m]})
            view = batch.teachers[m]
            if m == "image":
                assert torch.equal(view.logits, output.logits)
                assert torch.equal(view.feature, output.features[m])
                assert torch.equal(view.confidence, data.task.confidence(output.logits, batch.target))
                assert not torch.allclose(view.logits, torch.as_tensor(teacher.logits)[batch.index])
            else:
                assert torch.equal(view.logits, torch.as_tensor(teacher.logits)[batch.index])
                torch.testing.assert_close(view.logits, output.logits, rtol=1e-5, atol=1e-6)


def test_teacher_view_clean_looks_everything_up(data: Data, teachers: dict[str, TeacherOutputs]) -> None:
    of = loader(data, teachers, teacher_view="clean")
    assert not of.online
    batch = epoch(of)[0]
    assert torch.equal(batch.teachers["image"].logits, torch.as_tensor(teachers["image"].logits)[batch.index])


def test_an_online_teacher_without_its_model_is_refused(
    data: Data, teachers: dict[str, TeacherOutputs]
) -> None:
    bare = {m: TeacherOutputs(t.feature, t.logits, t.confidence) for m, t in teachers.items()}
    with pytest.raises(ValueError, match=r"image is augmented[\s\S]*teacher_view=clean"):
        online_teachers(data, bare, "augmented")


def test_teachers_are_not_asked_where_nobody_wants_to_know(
    data: Data, teachers: dict[str, TeacherOutputs]
) -> None:
    assert all(not batch.teachers for batch in epoch(loader(data, teachers), teach=False))


def test_augmented_training_is_reproducible_and_depends_on_the_view(data: Data) -> None:
    encoders: dict[str, Any] = {"image": CNN, "table": TINY}
    trained = {m: train_teacher(data, m, e, training=recipe(1), progress=False) for m, e in encoders.items()}

    def student(**changes: Any) -> dict[str, torch.Tensor]:
        workers = changes.pop("workers", 0)
        training = recipe(2).model_copy(update=changes)
        smp = {"tau": [1]}
        return train_student(
            data, encoders, trained, smp=smp, training=training, workers=workers, progress=False
        ).model.state_dict()

    once, twice, clean = student(), student(workers=2), student(teacher_view="clean")
    assert all(torch.equal(v, twice[k]) for k, v in once.items())
    assert not all(torch.equal(v, clean[k]) for k, v in once.items())


def test_teachers_that_see_the_batch_are_compiled_like_the_student_s_encoders(data: Data) -> None:
    """While it trains; what they are asked by is torch's own switch, so that no compiler is needed here."""
    encoders: dict[str, Any] = {"image": CNN, "table": TINY}
    trained = {m: train_teacher(data, m, e, training=recipe(1), progress=False) for m, e in encoders.items()}
    models = {m: teacher.model for m, teacher in trained.items()}
    compiled: dict[str, bool] = {}

    def note(encoder: Any, *_: Any) -> None:
        compiled.update({m: of.encoders[m]._compiled_call_impl is not None for m, of in models.items()})

    hook = models["image"].encoders["image"].register_forward_hook(note)
    training = recipe(1).model_copy(update={"compile": True})
    with torch.compiler.set_stance("force_eager"):
        train_student(data, encoders, trained, training=training, workers=0, progress=False)
    hook.remove()
    assert compiled == {"image": True, "table": False}  # the table is not augmented: a look-up
    assert all(of.encoders[m]._compiled_call_impl is None for m, of in models.items())


def test_augmentation_touches_neither_data_order_nor_dropout() -> None:
    """Streams are separate: a modality's noise changes its own input and nothing else that is drawn."""
    data = make_data()
    noisy = Data(**{**vars(data), "augment": {"a": TabularAugment(noise=0.5)}})
    any_teacher = train_teacher(data, "a", TINY, training=recipe(1), progress=False)
    of = {"a": teacher_outputs(any_teacher, "a")}
    clean = [epoch(loader(d, of), teach=False) for d in (data, noisy)]
    for one, other in zip(*clean, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.inputs["b"], other.inputs["b"])
        assert not torch.equal(one.inputs["a"], other.inputs["a"])


def test_what_is_read_ahead_comes_in_order_and_failures_come_through() -> None:
    threads = set()

    def read(item: int) -> int:
        threads.add(threading.current_thread().name)
        if item == 40:
            raise OSError("the disk is gone")
        return item * item

    found: list[tuple[int, int]] = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(ahead(read, range(50), 3))
    assert found == [(i, i * i) for i in range(40)]
    assert all(name.startswith("loader") for name in threads)
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]
