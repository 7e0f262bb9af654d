"""The README's Python example is short and runs; its pictures and files are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from g2d_pipeline.config import ExternalEncoder
from g2d_pipeline.models import build_encoder

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_without_kedro_runs_and_imports_no_kedro() -> None:
    _, code, _ = PYTHON
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    check = "\nimport sys\nassert not [m for m in sys.modules if m == 'kedro' or m.startswith('kedro.')]\n"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert "image" in done.stdout


def test_the_example_of_an_encoder_of_ones_own_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "readme_lab.py").write_text(PYTHON[0], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = build_encoder(ExternalEncoder(name="readme_lab.LSTM", options={"hidden": 5}), (4, 7))
    assert encoder(torch.randn(2, 4, 7)).shape == (2, 5)


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (REPOSITORY / target).exists(), target


def test_no_absolute_path_or_address_in_lock_and_build_files() -> None:
    for name in ("requirements.lock", "Makefile", "pyproject.toml", ".ci/run"):
        assert not re.search(r"https?://|file://", (REPOSITORY / name).read_text()), name
