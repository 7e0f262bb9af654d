"""A resting encoder is computed once: what is looked up is what would have been computed."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.artefacts import Trained, new_output
from g2d_pipeline.config import MLP, SmallCNN, SMPSettings, TabularAugment, TrainingSettings
from g2d_pipeline.methods import build
from g2d_pipeline.models import Encoder, build_encoder, depends_on_batch
from g2d_pipeline.training import Data, fit, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.data import take
from g2d_pipeline.training.loader import FeatureCache, empty_array
from g2d_pipeline.training.smp import SMP
from tests.conftest import TINY, make_data, recipe
from tests.training.test_equalities import plain_model, teachers_of

EPOCHS = 4


@pytest.fixture(scope="module", params=["mlp", "small_cnn"])
def case(request: pytest.FixtureRequest) -> tuple[Data, dict[str, Any], dict[str, Trained]]:
    if request.param == "mlp":
        data, encoder = make_data(n=120), TINY
    else:
        rng = np.random.default_rng(0)
        label = rng.integers(0, 3, 120)
        inputs = {m: rng.normal(size=(120, 1, 9, 7)).astype(np.float32) for m in "ab"}
        for x in inputs.values():
            x[np.arange(120), 0, label] += 1
        data = Data.from_arrays(inputs, label, ["train"] * 80 + ["val"] * 20 + ["test"] * 20)
        encoder = SmallCNN(widths=[4, 6])
    encoders = dict.fromkeys(data.modalities, encoder)
    return (
        data,
        encoders,
        {m: train_teacher(data, m, encoder, training=recipe(1), progress=False) for m in encoders},
    )


def student(case: tuple[Data, dict[str, Any], dict[str, Trained]], **settings: Any) -> Trained:
    data, encoders, teachers = case
    smp = {"tau": [EPOCHS - 2], "ranking": "dataset"} | settings.pop("smp", {})
    return train_student(
        data, encoders, teachers, smp=smp, training=recipe(EPOCHS), progress=False, **settings
    )


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("ranking", ["dataset", "batch", "epoch"])
def test_looking_up_equals_computing(
    case: tuple[Data, dict[str, Any], dict[str, Trained]],
    norm: str,
    ranking: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To 1e-5: the memory computes a split in chunks of 256, the loop in batches of 16, and kernels may round
    apart."""
    smp = {"suppressed_norm": norm, "ranking": ranking}
    remembered = student(case, smp=smp)
    monkeypatch.setattr(SMP, "cacheable", lambda *_: [])
    monkeypatch.setattr(FeatureCache, "of_split", lambda *_: {})
    computed = student(case, smp=smp)
    for name, value in computed.model.state_dict().items():
        torch.testing.assert_close(remembered.model.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    numbers = [c for c in computed.history if computed.history[c].dtype.kind == "f"]
    np.testing.assert_allclose(remembered.history[numbers], computed.history[numbers], rtol=1e-4, atol=1e-5)


def test_validation_from_memory_is_validation_bit_for_bit(
    case: tuple[Data, dict[str, Any], dict[str, Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same chunks: not a rounding apart."""
    remembered = student(case)
    monkeypatch.setattr(FeatureCache, "of_split", lambda *_: {})
    computed = student(case)
    assert remembered.history.equals(computed.history)
    assert remembered.predictions.equals(computed.predictions)


def count_forwards(patch: pytest.MonkeyPatch) -> Counter[tuple[bool, int]]:
    """(with gradient, number of samples) → forwards of encoders."""
    seen: Counter[tuple[bool, int]] = Counter()
    original = Encoder.forward

    def forward(self: Encoder, x: torch.Tensor) -> torch.Tensor:
        seen[torch.is_grad_enabled(), len(x)] += 1
        return original(self, x)

    patch.setattr(Encoder, "forward", forward)
    return seen


def test_a_resting_encoder_runs_once_a_phase(
    case: tuple[Data, dict[str, Any], dict[str, Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_forwards(monkeypatch)
    student(case, smp={"suppressed_norm": "frozen"})
    alone, joint, batches = EPOCHS - 2, 2, 80 // 16
    assert seen[True, 16] == alone * batches + joint * batches * 2
    assert seen[False, 16] == 0  # no suppressed forward in any batch
    assert seen[False, 80] == 2  # the train split: once for its batch norm, once for its features
    evaluations = EPOCHS * 2  # two encoders, on val
    spared = alone - 1
    assert seen[False, 20] == evaluations - spared + 4  # and val and test of the kept weights, at the end


def test_with_batch_statistics_a_suppressed_encoder_runs_without_gradient(
    case: tuple[Data, dict[str, Any], dict[str, Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_forwards(monkeypatch)
    student(case, smp={"suppressed_norm": "batch"})
    assert seen[False, 16] == (EPOCHS - 2) * 80 // 16


def test_an_encoder_without_batch_norm_is_remembered_whatever_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_data(n=120)
    outputs = {m: teacher_outputs(t, m) for m, t in teachers_of(data).items()}
    seen = count_forwards(monkeypatch)
    smp = SMPSettings(tau=[3], ranking="dataset", suppressed_norm="batch")
    fit(plain_model(data), data, build("g2d"), training=recipe(4), smp=smp, teachers=outputs, progress=False)
    assert seen[False, 16] == 0
    assert seen[False, 80] == 1


def test_an_augmented_modality_is_never_remembered_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data()
    data.augment.update(dict.fromkeys("ab", TabularAugment(noise=0.1)))
    teachers = {m: train_teacher(data, m, TINY, training=recipe(1), progress=False) for m in "ab"}
    for teacher in teachers.values():
        teacher.model.requires_grad_(False)
    seen = count_forwards(monkeypatch)
    smp = {"tau": [2], "suppressed_norm": "frozen"}
    train_student(data, dict.fromkeys("ab", TINY), teachers, smp=smp, training=recipe(2), progress=False)
    batches = 64 // 16 * 2
    assert seen[True, 16] == batches
    assert (
        seen[False, 16] >= batches * 3 - 2
    )  # the suppressed encoder and two teachers (val and test have 16 rows too)


def test_features_are_forgotten_with_the_first_change_of_a_weight() -> None:
    data = make_data()
    model = train_student(
        data, dict.fromkeys("ab", TINY), {}, method="joint", training=recipe(1), progress=False
    ).model
    cache = FeatureCache(model, data, torch.device("cpu"), "ab")
    cache.start_epoch(["a"])
    before = cache.train_features(np.arange(4))["a"]
    with torch.no_grad():
        next(model.encoders["a"].parameters()).mul_(2)
    after = cache.train_features(np.arange(4))["a"]
    assert not torch.equal(before, after)


def test_a_memory_of_many_samples_lies_in_a_file(tmp_path: Any) -> None:
    small, large = empty_array((10, 4), tmp_path), empty_array((2**20, 16), tmp_path)
    assert not isinstance(small, np.memmap)
    assert isinstance(large, np.memmap)
    large[2**20 - 1] = 7
    assert large[2**20 - 1].tolist() == [7] * 16
    assert list(tmp_path.iterdir()) == []


def test_the_widths_of_dropout_keep_an_encoder_from_being_remembered_with_batch_statistics() -> None:
    assert depends_on_batch(build_encoder(MLP(widths=[4], dropout=[]), (3,)))
    assert depends_on_batch(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1)))
    assert not depends_on_batch(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))


def test_a_disk_without_room_is_an_error_that_names_the_file_and_not_a_dead_process(tmp_path: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(OSError, match=r"64\.0 MiB wanted"):
            empty_array((2**20, 16), tmp_path)
        with pytest.raises(OSError, match=r"feature\.a\.npy"):
            new_output(tmp_path, "feature/a", (2**20, 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="resident pages of a mapping are read from /proc"
)
def test_pages_of_a_large_file_are_let_go_after_each_gather(tmp_path: Path) -> None:
    shape = (4096, 4096)
    writing = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)
    writing[:] = 1
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = Data.from_arrays(
        {"x": array}, np.arange(4096) % 2, ["train"] * 4000 + ["val"] * 48 + ["test"] * 48
    )
    del writing

    def resident() -> int:
        parts = Path("/proc/self/smaps").read_text().split("x.npy")[1:]
        return sum(int(part.split("Rss:")[1].split()[0]) for part in parts)

    assert float(np.asarray(array).sum()) == shape[0] * shape[1]
    assert resident() > 60_000  # kB: the whole file
    assert torch.equal(take(data.arrays["x"], np.arange(8)), torch.ones(8, 4096))
    assert resident() < 1_000


@pytest.mark.parametrize(
    "optimizer", [{"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"name": "adam"}, {"name": "adamw"}]
)
def test_an_encoder_that_learns_without_batch_norm_is_scored_anew_after_every_epoch(
    optimizer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but its weights changes, and torch's fused steps do not count as writes."""
    data = make_data(n=120)
    training = TrainingSettings(**(recipe(3).model_dump() | {"optimizer": optimizer | {"lr": 0.05}}))

    def history() -> Any:
        return fit(plain_model(data), data, build("joint"), training=training, progress=False).history

    remembered = history()
    monkeypatch.setattr(FeatureCache, "of_split", lambda *_: {})
    assert remembered.equals(history())
    assert remembered["val/a"].nunique() + remembered["val/loss"].nunique() > 2
