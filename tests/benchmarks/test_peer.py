"""A peer's checkout: what is missing is named, and what is there is imported as it is."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

FILES = {
    "config.py": "import os\nos.makedirs('{folder}/made_by_config')\n",
    "teacher.py": "import config, dataset.CremadDataset\ndef train(*a): return 'teacher'\n",
    "student.py": "def train(*a): return 'student'\n",
    "utils/utils.py": "def evaluate(*a): return 'scores'\ndef weight_init(m): pass\n",
    "models/basic_model.py": "class AVClassifier: pass\n",
}


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("peer")


def checkout(folder: Path, without: str = "") -> Path:
    for name, text in FILES.items():
        if name != without:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text.format(folder=folder))
    return folder


def test_a_checkout_without_a_file_is_refused(peer: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"1 of 5 files are missing: .*student\.py\. Clone"):
        peer.load_peer(checkout(tmp_path, without="student.py"))


def test_its_functions_are_imported_and_nothing_is_written(peer: Any, tmp_path: Path) -> None:
    before = set(sys.modules)
    checkout(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    try:
        found = peer.load_peer(tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        for name in set(sys.modules) - before:
            del sys.modules[name]
    assert (found.train_teacher(), found.train_student(), found.evaluate()) == (
        "teacher",
        "student",
        "scores",
    )
    assert sorted(tmp_path.rglob("*")) == files
