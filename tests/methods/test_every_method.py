"""Every method × fusion × task trains, moves what it should, resumes to the bit; undefined ones say so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.errors import ConfigError, InterruptedRun
from g2d_pipeline.methods import available, load
from g2d_pipeline.methods.base import MethodContext
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.overrides import METHOD_KEYS
from g2d_pipeline.training import Data, fit, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.loader import Loader
from g2d_pipeline.training.streams import seeded
from tests.conftest import REPOSITORY, TINY, make_data, recipe

FUSIONS: tuple[Any, ...] = (
    "late",
    "sum",
    "concat",
    "film",
    "bi_gated",
    {"name": "cross_attention", "heads": 1},
)
OWN = "its own"  # stands for the fusion that a method's file names
TASKS = {"classification k=2": (2, "classification"), "classification k=3": (3, "classification"),
         "regression k=2": (2, "regression")}  # fmt: skip


def files() -> dict[str, dict[str, Any]]:
    """name → what its YAML says, for every method that the project ships."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((REPOSITORY / "conf/base/methods").glob("*.yml")):
        found |= yaml.safe_load(file.read_text())["methods"]
    return found


FILES = files()
# Two epochs are too few for the stages of these: shorter ones, all else as shipped.
SHORTER: dict[str, dict[str, Any]] = {
    "reconboost": {"stage_epochs": 1, "rectification_epochs": 1},
    "modality_valuation": {"start_epoch": 1},
}

# Biases before a batch norm, which takes them away: their gradient is zero up to rounding.
HELD_BY_NORM = ("0.bias", "3.bias")
# Those that go over the modalities in configuration order (concatenate them, draw a head for each): only
# renaming.
IN_ORDER = {"mla", "reconboost"} | {
    n for n, of in FILES.items() if of.get("fusion") in ("concat", {"name": "concat"})
}
# Those that look into a teacher's model, which knows the modality by its name: only permuting.
BY_NAME = {n for n, of in FILES.items() if of.get("algorithm", n) == "ume"}

# One step that moves nothing: what a training starts from.
UNTRAINED = recipe(1, lr=1e-12, momentum=0.0, weight_decay=0.0, batch_size=64)


@cache
def data_of(kind: str) -> Data:
    k, task = TASKS[kind]
    return make_data(k, task, n=60)


@cache
def teachers_of(kind: str) -> dict[str, Trained]:
    data = data_of(kind)
    return {m: train_teacher(data, m, TINY, training=recipe(2), progress=False) for m in data.modalities}


def settings_of(name: str, fusion: Any) -> dict[str, Any]:
    of = FILES[name]
    own = {key: value for key, value in of.items() if key not in METHOD_KEYS} | SHORTER.get(name, {})
    return {
        "method": of.get("algorithm", name),
        "parameters": own,
        "smp": of.get("smp"),
        "fusion": of.get("fusion") or fusion,
    }


def refusal(name: str, kind: str, fusion: Any, smp: bool = False) -> str | None:
    """Why the method is not defined for the combination."""
    settings, (_, task) = settings_of(name, fusion), TASKS[kind]
    cls = load(settings["method"])
    of_fusion = {"name": settings["fusion"]} if isinstance(settings["fusion"], str) else settings["fusion"]
    encoders = dict.fromkeys(data_of(kind).modalities, "mlp")
    try:
        cls(cls.Parameters(**settings["parameters"])).check(
            MethodContext(task, of_fusion["name"], encoders, smp or settings["smp"] is not None, 1, of_fusion)
        )
    except ValueError as error:
        return str(error)
    return None


def student(
    name: str, kind: str, fusion: Any, training: TrainingSettings | None = None, **more: Any
) -> Trained:
    settings = settings_of(name, fusion) | more
    training = training or recipe(2)
    data = data_of(kind)
    return train_student(
        data,
        dict.fromkeys(data.modalities, TINY),
        teachers_of(kind),
        training=training,
        progress=False,
        **settings,
    )


def initial(trained: Trained) -> MultimodalModel:
    """What this training has started from."""
    with seeded(0, "model"):
        return build_model(trained.info["architecture"])


def pairs_of(name: str) -> Iterator[tuple[Any, str]]:
    """(fusion, kind) to train: each fusion with one of the kinds that it is defined for, in turns, so that a
    method meets all fusions and all kinds; every kind where the method has its own fusion."""
    if FILES[name].get("fusion") is not None:
        yield from ((OWN, kind) for kind in TASKS if refusal(name, kind, OWN) is None)
        return
    for position, fusion in enumerate(FUSIONS, list(FILES).index(name)):
        if kinds := [kind for kind in TASKS if refusal(name, kind, fusion) is None]:
            yield fusion, kinds[position % len(kinds)]


def test_every_method_file_has_its_yaml() -> None:
    algorithms = {of.get("algorithm", name) for name, of in FILES.items()}
    assert set(available()) - {"unimodal"} == algorithms


@pytest.mark.parametrize("name", FILES)
def test_what_it_is_not_defined_for_is_refused(name: str) -> None:
    for fusion, kind in product(FUSIONS if FILES[name].get("fusion") is None else [OWN], TASKS):
        if (reason := refusal(name, kind, fusion)) is not None:
            with pytest.raises(ConfigError) as error:
                student(name, kind, fusion)
            assert reason in str(error.value)
            assert len(reason) > 20


@pytest.mark.parametrize("name", FILES)
def test_it_trains_with_every_fusion_and_moves_what_should_move(name: str) -> None:
    for fusion, kind in pairs_of(name):
        trained = student(name, kind, fusion)
        losses = trained.history[["loss/total", "val/loss"]]  # terms may come and go; NaN ends a training
        assert np.isfinite(losses.to_numpy()).all(), fusion
        assert trained.predictions["prediction"].notna().all()
        start = student(name, kind, fusion, UNTRAINED).model if name in BY_NAME else initial(trained)
        before, after = start.state_dict(), trained.model.state_dict()
        watched = [n for n, _ in start.named_parameters() if n.partition("trunk.")[2] not in HELD_BY_NORM]
        unchanged = [n for n in watched if float((after[n] - before[n]).abs().max()) < 1e-7]
        # BY_NAME trains nothing: the teachers' weights are put together.
        assert unchanged == (watched if name in BY_NAME else []), fusion


def interrupt_in_batch(at: int, call: Any) -> None:
    """Ctrl-C in the middle of batch `at`."""
    made, original = 0, Loader._batch

    def count(self: Loader, *arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == at:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loader, "_batch", count)
            call()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", FILES)
def test_stopped_and_called_again_it_ends_in_the_same_bits(tmp_path: Path, name: str) -> None:
    """In a fusion without heads a modality where it has none of its own; three modalities or a regression."""
    pairs = product(["classification k=3", "regression k=2"], FUSIONS)
    of_kind = {kind: fusion for kind, fusion in pairs if refusal(name, kind, fusion) is None}
    if not of_kind:  # greedy: refused for each
        return
    kind, fusion = list(of_kind.items())[list(FILES).index(name) % len(of_kind)]
    expected = student(name, kind, fusion)
    if name not in BY_NAME:  # it has no batch
        with pytest.raises(InterruptedRun):
            interrupt_in_batch(5, lambda: student(name, kind, fusion, folder=tmp_path))
    again = student(name, kind, fusion, folder=tmp_path)
    for key, value in expected.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    assert again.history.equals(expected.history)
    assert again.predictions.equals(expected.predictions)


@pytest.mark.parametrize("name", FILES)
def test_permuting_and_renaming_the_modalities_changes_nothing_else(name: str) -> None:
    """From the same initial weights, assigned by name; late fusion, or the method's own."""
    kind = "classification k=3"
    if refusal(name, kind, "late") is not None:
        kind = "classification k=2"
    if refusal(name, kind, "late") is not None:
        return
    data, settings = data_of(kind), settings_of(name, "late")
    base = student(name, kind, "late", UNTRAINED)
    outputs = {m: teacher_outputs(t, m) for m, t in teachers_of(kind).items()}
    found = []
    new_names = data.modalities if name in BY_NAME else "zyx"
    changed = list(zip(data.modalities, new_names, strict=False))
    for renamed in (
        dict(zip(data.modalities, data.modalities, strict=True)),
        dict(changed if name in IN_ORDER else reversed(changed)),
    ):
        architecture = dict(base.info["architecture"])
        architecture["modalities"] = {new: architecture["modalities"][old] for old, new in renamed.items()}
        model = build_model(architecture)
        back = {new: old for old, new in renamed.items()}
        model.load_state_dict({n: base.model.state_dict()[_old_name(n, back)] for n in model.state_dict()})
        cls = load(settings["method"])
        fitted = fit(
            model,
            Data(
                {new: data.arrays[old] for old, new in renamed.items()}, data.target, data.rows, data.task,
                {new: data.normalisers[old] for old, new in renamed.items()}, data.sample_ids,
            ),
            cls(cls.Parameters(**settings["parameters"])),
            training=recipe(2, lr=0.02),
            smp=None,
            teachers={new: outputs[old] for old, new in renamed.items()},
            progress=False,
        )  # fmt: skip
        weights = fitted.model.state_dict()
        found.append({_old_name(n, back): value for n, value in weights.items()})
    for key, value in found[0].items():
        torch.testing.assert_close(
            found[1][key], value, rtol=2e-3, atol=2e-4, msg=lambda m, key=key: f"{key}: {m}"
        )


def _old_name(name: str, back: dict[str, str]) -> str:
    return ".".join(back.get(part, part) for part in name.split("."))


@pytest.mark.parametrize("name", FILES)
def test_smp_composes_with_it_or_it_says_why_not(name: str) -> None:
    """A suppressed encoder's bits stay, whatever the method does."""
    kind = "classification k=2"
    if (reason := refusal(name, kind, "late", smp=True)) is not None:
        assert "SMP" in reason or refusal(name, kind, "late") == reason
        return
    fusion = settings_of(name, "late")["fusion"]
    smp = {"tau": [2, 0], "ranking": "dataset"}
    trained = student(name, kind, "late", smp=smp)
    confidence = {m: t.info["confidence"]["train"][m] for m, t in teachers_of(kind).items()}
    strong = max(confidence, key=confidence.__getitem__)
    for (key, value), before in zip(
        trained.model.named_parameters(), initial(trained).parameters(), strict=True
    ):
        if key.startswith("encoders."):
            assert torch.equal(value, before) is (key.split(".")[1] == strong), (key, fusion)
