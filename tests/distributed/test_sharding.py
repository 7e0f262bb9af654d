"""Encoders in shards (`strategy: fsdp`): the same training, half of the memory, any checkpoint."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from g2d_pipeline.config import MLP, AdamW, ImageAugment, RunOptions, TrainingSettings
from g2d_pipeline.errors import ConfigError, InterruptedRun
from g2d_pipeline.methods import build, load
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, train_student
from g2d_pipeline.training.launch import launch
from g2d_pipeline.training.streams import seeded
from tests.conftest import recipe
from tests.distributed.test_faults import kill_at
from tests.distributed.test_methods import differences
from tests.distributed.together import (
    BATCH,
    CNN,
    PLAIN,
    SEQUENCES,
    Case,
    data_of,
    digest,
    teachers_of,
    train,
    train_all,
)
from tests.distributed.weighing import Weighing
from tests.methods.test_every_method import interrupt_in_batch, settings_of
from tests.test_resolve import configure

TWO = RunOptions(device="cpu", progress=False, compute={"devices": 2, "timeout": 60, "strategy": "fsdp"})
ONE = TWO.updated(compute={})
THREE = (3, "classification")
CHANGED = ImageAugment(flip=0.5, noise=0.1)
ADAM = {"optimizer": AdamW(lr=0.003)}
CASES: dict[str, Case] = {
    "joint": {"method": "joint"},
    "joint, regression": {"method": "joint", "data": (2, "regression")},
    "recomputed blocks, clipped": {"method": "joint", "encoder": SEQUENCES,
                                   "training": {"checkpoint_activations": True, "clip_norm": 0.1}},
    "AdamW": {"method": "joint", "training": ADAM},
    "distillation": settings_of("distillation", "late"),
    "umt": settings_of("umt", "late"),
    "g2d, complete": {"method": "g2d", "smp": {"tau": [2]}},
    "g2d, complete, accumulated": {"method": "g2d", "smp": {"tau": [2]}, "training": {"accumulation": 2}},
    "g2d, partial": {"method": "g2d", "smp": {"tau": [2], "suppression": "partial"}},
    "g2d, zero_grad": {"method": "g2d", "smp": {"tau": [2], "update": "zero_grad"}},
    "g2d, by epoch": {"method": "g2d", "smp": {"tau": [1, 1, 2], "ranking": "epoch"}, "data": THREE,
                      "epochs": 4},
    "g2d, remembered": {"method": "g2d", "smp": {"tau": [2], "ranking": "dataset",
                                                 "suppressed_norm": "frozen"}},
    "g2d, convolutions": {"method": "g2d", "smp": {"tau": [2], "scope": "conv_only"}, "encoder": CNN,
                          "augment": {"a": CHANGED}},
    "g2d, from teachers": {"method": "g2d", "parameters": {"start": "teachers"}},
    "ogm": settings_of("ogm", "late"),
    # Noise is drawn in the order of memory, and shards lie in row order.
    "ogm_ge": settings_of("ogm_ge", "late") | {"encoder": CNN, "training": {"channels_last": False}},
    "agm": {"method": "agm", "parameters": {"clip": 0.01}},
    "mla": settings_of("mla", "shared"),
    "mslr": settings_of("mslr", "late"),
    "g2d, undisturbed": {"method": "g2d", "smp": {"tau": [4]}, "epochs": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def both() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name → (one process, two processes), all trained in one start."""
    for case in CASES.values():
        case["teachers"] = teachers_of(data_of(case), case.get("encoder", PLAIN))
    two = launch(train_all, CASES, options=TWO, description="tests")
    return {name: (train(case, ONE, 1), two[name]) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_in_shards_the_training_is_that_of_one_process(both: Any, name: str) -> None:
    weights, history = differences(*both[name])
    assert weights < 1e-6
    assert history < 1e-5


def test_each_process_holds_half_of_weights_gradients_and_optimizer_state() -> None:
    data, training = data_of({}), recipe(1).model_copy(update=ADAM)
    encoders = dict.fromkeys("ab", MLP(widths=[64, 32], dropout=[]))
    done = train_student(data, encoders, {}, method="joint", training=recipe(1), progress=False)
    model, method = build_model(done.info["architecture"]), Weighing()
    fit(model, data, method, training=training, options=TWO)
    number, heads = (sum(p.numel() for p in part.parameters()) for part in (model.encoders, model.fusion))
    assert method.held["all"] == [number, 2 * (number + 2 * heads), number]
    own_weights, own_states, own_gradients = method.held["own"]
    assert own_weights == own_gradients < 0.52 * number
    assert own_states == 2 * (own_weights + heads)


# ------------------------------------------------------------------------------------------------ checkpoints
STRATEGIES = [("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")]
TRAINING = recipe(4).model_copy(update=ADAM | {"selection": "val"})


def resume_all(options: RunOptions, about: dict[str, Any], data: Data, folder: Path) -> dict[str, Any]:
    """Weights by pair of strategies: stopped in the middle of an epoch with one, ended with the other."""
    made = {}
    for first, second in STRATEGIES:
        name = f"{first} {second}"
        one, other = (options.updated(folder=folder / name, compute={"strategy": s}) for s in (first, second))
        with pytest.raises(InterruptedRun):
            interrupt_in_batch(9, lambda options=one: weights_of(about, data, options))
        made[name] = weights_of(about, data, other)
    return made


def weights_of(about: dict[str, Any], data: Data, options: RunOptions, size: int = 6) -> dict[str, Tensor]:
    with seeded(3, "model"):
        model = build_model(about)
    training = TRAINING.model_copy(update={"batch_size": size})
    return fit(model, data, build("ogm"), training=training, seed=3, options=options).model.state_dict()


def test_a_checkpoint_goes_on_with_any_strategy_and_on_one_device(tmp_path: Path) -> None:
    data = data_of({})
    done = train_student(data, dict.fromkeys("ab", PLAIN), {}, method="ogm", epochs=1, progress=False)
    about = done.info["architecture"]
    undisturbed = weights_of(about, data, ONE, BATCH)
    made = launch(resume_all, about, data, tmp_path, options=TWO, description="tests")
    for weights in made.values():
        assert max(float((w - weights[n]).abs().max()) for n, w in undisturbed.items()) < 1e-6
    ended = weights_of(about, data, ONE.updated(folder=tmp_path / "fsdp fsdp"))
    assert digest(ended) == digest(made["fsdp fsdp"])


def test_after_a_kill_all_start_again_and_end_in_the_same_bits(
    both: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = digest(both["g2d, undisturbed"][1]["weights"])
    options = TWO.updated(folder=tmp_path, checkpoint_minutes=0)
    thread = threading.Thread(target=kill_at, args=(tmp_path, 6, 1), daemon=True)
    thread.start()
    assert digest(train(CASES["g2d, undisturbed"], options, 2)["weights"]) == undisturbed
    thread.join()
    assert sum("was ended by SIGKILL" in r.getMessage() for r in caplog.records) == 1


# -------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", ["dlmg", "gblending", "greedy", "mmpareto", "mses", "relearning"])
def test_a_method_that_needs_whole_encoders_is_refused_before_work(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        train({"teachers": {}, "encoder": CNN} | settings_of(name, "late"), TWO, 2)
    allowed = f"Allowed with {name}: compute.strategy=ddp"
    assert f"compute.strategy = fsdp: {name} {load(name).no_sharding}. {allowed}" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [("ema", 0.9, "null"), ("batch_size", "auto", "a number"), ("compile", True, "false"),
     ("precision", "fp16", "fp32, tf32, bf16, auto")],
)  # fmt: skip
def test_a_setting_that_needs_whole_models_is_refused(setting: str, value: Any, allowed: str) -> None:
    training = TrainingSettings.model_validate({setting: value})
    said = f"^{setting} = {value} .*Allowed: {allowed}; or compute.strategy=ddp"
    with pytest.raises(ValueError, match=said):
        TWO.compute.check_training(training)
    ONE.compute.check_training(training)


def test_both_are_refused_by_the_configuration_already() -> None:
    compute = {"devices": 2, "strategy": "fsdp"}
    with pytest.raises(ConfigError, match=r"method = 'mmpareto': compute\.strategy = fsdp: mmpareto weighs"):
        configure(method="mmpareto", compute=compute)
    with pytest.raises(ConfigError, match=r"ema = 0\.9 keeps a whole copy of the weights"):
        configure(method="joint", training={"ema": 0.9}, compute=compute)
    configure(method="mmpareto", compute={"devices": 1, "strategy": "fsdp"})


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_two_gpus_the_training_is_that_of_one_process_nearly() -> None:
    case = CASES["g2d, complete"] | {"teachers": teachers_of(data_of({}))}
    two = train(case, TWO.updated(device="cuda"), 2)
    assert differences(train(case, ONE, 1), two)[0] < 1e-3
