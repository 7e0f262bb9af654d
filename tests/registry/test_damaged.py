"""Damaged files of a model give one kind of error, and never anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g2d_pipeline import load_model
from g2d_pipeline.errors import DataError
from g2d_pipeline.registry.store import Registry
from g2d_pipeline.serving.registered import verify
from tests.registry.test_store import register

FEW = settings(
    max_examples=60, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def damaged(content: bytes, draw: Any) -> bytes:
    """Cut off, with flipped bits, or with bytes of another file in between."""
    what = draw(st.sampled_from(["cut", "flip", "flip", "insert"]))
    # headers are where damage matters: half of it is in the first 2,000 bytes
    position = draw(st.integers(0, draw(st.sampled_from([min(2000, len(content)), len(content)])) - 1))
    if what == "cut":
        return content[:position]
    if what == "insert":
        return content[:position] + draw(st.binary(min_size=1, max_size=9)) + content[position:]
    changed = bytearray(content)
    for offset in draw(st.lists(st.integers(0, 40), min_size=1, max_size=4)):
        changed[min(position + offset, len(content) - 1)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "inputs.json", "text.tokenizer.json"])
def test_damaged_files_of_a_model(trained_folder: Path, tmp_path: Path, name: str) -> None:
    """It may still load, where a number was changed into another one; nothing but DataError is raised."""
    folder = shutil.copytree(trained_folder, tmp_path / "student")
    content, refused = (folder / name).read_bytes(), []

    @FEW
    @given(st.data())
    def check(data: Any) -> None:
        (folder / name).write_bytes(damaged(content, data.draw))
        try:
            load_model(folder)
        except DataError as error:
            refused.append(error)

    check()
    assert len(refused) > 5


def test_damaged_mlmodel(registry: Registry, small: Path) -> None:
    outer = register(registry, small).outer()
    content, refused = (outer / "MLmodel").read_bytes(), []

    @FEW
    @given(st.data())
    def check(data: Any) -> None:
        (outer / "MLmodel").write_bytes(damaged(content, data.draw))
        try:
            verify(outer)
        except DataError as error:
            refused.append(error)

    check()
    assert len(refused) > 5


@pytest.mark.parametrize("file", ["../secret.json", "/etc/hostname", "sub/x.json", "..", ""])
def test_paths_that_leave_the_folder_are_refused(trained_folder: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(trained_folder, tmp_path / "student")
    about = json.loads((folder / "inputs.json").read_text())
    about["modalities"]["text"]["tokenizer"]["file"] = file
    (folder / "inputs.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"inputs\.json is damaged|can not be read|missing"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "inputs.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "null", "[]", "1e999", "\ufeff{}", '{"version": 99}'])
def test_json_of_another_kind(trained_folder: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = shutil.copytree(trained_folder, tmp_path / "student")
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=r"can not be read|is damaged|is of version 99"):
        load_model(folder)
