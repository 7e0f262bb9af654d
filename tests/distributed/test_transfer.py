"""A training as plain data: what another machine builds from it trains to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.config import ImageAugment, SMPSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.files import Shards
from g2d_pipeline.methods import build
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, teacher_outputs
from g2d_pipeline.training.checkpoint import from_bytes, to_bytes
from g2d_pipeline.training.fitting import pack, unpack
from tests.conftest import recipe
from tests.distributed.together import CNN, data_of, digest, teachers_of


def in_files(data: Data, folder: Path) -> Data:
    """Its first modality memory-mapped, the second one in two shards."""
    first, second = data.arrays.values()
    np.save(folder / "a.npy", first)
    half = len(second) // 2
    files = [folder / "b-00000-of-00002.npy", folder / "b-00001-of-00002.npy"]
    np.save(files[0], second[:half])
    np.save(files[1], second[half:])
    b: Any = Shards(files, half, second.shape, second.dtype)
    return replace(data, arrays={"a": np.load(folder / "a.npy", mmap_mode="r"), "b": b})


def arguments(folder: Path) -> tuple[Any, ...]:
    data = data_of({"encoder": CNN, "augment": {"a": ImageAugment(flip=0.5), "b": None}})
    trained = teachers_of(data, CNN)
    modalities = {m: t.info["architecture"]["modalities"][m] for m, t in trained.items()}
    model = build_model({"modalities": modalities, "fusion": "late", "task": data.task.to_json()})
    teachers = {m: teacher_outputs(t, m) for m, t in trained.items()}
    method = build("g2d", {"alpha": 0.5})
    return model, in_files(data, folder), method, recipe(3), SMPSettings(tau=[1]), teachers, 3, "student"


def weights_of(every: tuple[Any, ...]) -> str:
    model, data, method, training, smp, teachers, seed, description = every
    named = {"training": training, "smp": smp, "teachers": teachers, "description": description}
    done = fit(model, data, method, **named, seed=seed, progress=False, device="cpu")
    return digest(done.model.state_dict())


def test_what_arrives_trains_to_the_same_bits(tmp_path: Path) -> None:
    every = arguments(tmp_path)
    sent = to_bytes(pack(*every))
    arrived = unpack(from_bytes(sent))
    assert len(sent) < every[1].arrays["a"].nbytes + 200_000  # files are named
    assert [type(x) for x in arrived] == [type(x) for x in every]
    assert isinstance(arrived[1].arrays["a"], np.memmap)
    assert isinstance(arrived[1].arrays["b"], Shards)
    assert arrived[1].augment == every[1].augment
    assert arrived[2].parameters == every[2].parameters
    assert arrived[3:5] == every[3:5]
    torch.testing.assert_close(arrived[0].state_dict(), every[0].state_dict(), rtol=0, atol=0)
    assert weights_of(arrived) == weights_of(every)


def test_a_model_of_unknown_architecture_is_refused(tmp_path: Path) -> None:
    model, *rest = arguments(tmp_path)
    with pytest.raises(ConfigError, match=r"compute\.num_nodes: .*build_model"):
        pack(MultimodalModel(dict(model.encoders.items()), model.fusion), *rest)
