"""`precision: auto` is the faster of two arithmetics, chosen once and recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods import build
from g2d_pipeline.training import capacity, fit
from g2d_pipeline.training.capacity import benchmark, cache_file, resolve_precision
from tests.conftest import make_data, recipe
from tests.training.test_equalities import plain_model, same
from tests.training.test_recipe import joint

CPU = torch.device("cpu")
AUTO = TrainingSettings(**(recipe(3).model_dump() | {"precision": "auto"}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How often it was measured, and what is measured next."""
    about: dict[str, Any] = {"times": 0, "ratio": 0.5}

    def fake(*_: Any) -> float:
        about["times"] += 1
        return float(about["ratio"])

    monkeypatch.setattr(capacity, "benchmark", fake)
    return about


def chosen(folder: Path | None = None) -> str:
    data = make_data()
    return resolve_precision(AUTO, plain_model(data), data, CPU, folder).precision


def test_the_benchmark_measures_and_leaves_the_model_alone() -> None:
    data = make_data()
    model = plain_model(data)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert benchmark(AUTO, model, data, CPU) > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("ratio", "expected"), [(0.4, "fp32"), (1.05, "fp32"), (1.1, "bf16"), (2.0, "bf16")])
def test_bf16_has_to_be_faster_by_a_tenth(measured: dict[str, Any], ratio: float, expected: str) -> None:
    measured["ratio"] = ratio
    assert chosen() == expected


def test_trainings_of_one_model_share_one_measurement(measured: dict[str, Any]) -> None:
    assert chosen() == "fp32"
    measured["ratio"] = 2.0
    assert chosen() == "fp32"
    assert measured["times"] == 1
    other = TrainingSettings(**(AUTO.model_dump() | {"batch_size": 4}))
    data = make_data()
    assert resolve_precision(other, plain_model(data), data, CPU).precision == "bf16"


def test_a_broken_cache_is_measured_again(measured: dict[str, Any]) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text("{", encoding="utf-8")
    assert chosen() == "fp32"
    assert list(json.loads(cache_file().read_text(encoding="utf-8")).values()) == [0.5]


def test_a_home_that_must_not_be_written_costs_a_measurement(
    measured: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, no folder", encoding="utf-8")
    assert chosen() == chosen() == "fp32"
    assert measured["times"] == 2
    assert "not kept" in caplog.text


@pytest.mark.parametrize(("ratio", "precision"), [(0.5, "fp32"), (2.0, "bf16")])
def test_auto_trains_as_the_precision_that_it_chose(
    measured: dict[str, Any], ratio: float, precision: str
) -> None:
    measured["ratio"] = ratio
    automatic, named = joint(make_data(), precision="auto"), joint(make_data(), precision=precision)
    assert same(automatic, named)
    assert automatic.info["precision"] == named.info["precision"] == precision
    assert automatic.info["training"]["precision"] == "auto"


def test_a_resumed_training_keeps_its_arithmetic(measured: dict[str, Any], tmp_path: Path) -> None:
    """Whatever this machine, or the one that it was moved to, would choose now."""
    measured["ratio"] = 2.0
    data = make_data()

    class Stopped(Exception):
        pass

    method = build("joint")
    method.on_epoch_start = lambda state: (_ for _ in ()).throw(Stopped) if state.epoch == 2 else None  # type: ignore[method-assign]
    with pytest.raises((Stopped, InterruptedRun)):
        fit(plain_model(data), data, method, training=AUTO, folder=tmp_path / "run", checkpoint_minutes=0)
    cache_file().unlink()
    measured["ratio"] = 0.5
    resumed = fit(plain_model(data), data, build("joint"), training=AUTO, folder=tmp_path / "run")
    assert resumed.precision == "bf16"
    bf16 = TrainingSettings(**(AUTO.model_dump() | {"precision": "bf16"}))
    whole = fit(plain_model(data), data, build("joint"), training=bf16).model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.model.state_dict().items())
