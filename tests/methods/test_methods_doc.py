"""docs/methods.md is what `scripts/methods_doc.py` makes of the methods as they are."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_doc", REPOSITORY / "scripts/methods_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_up_to_date(script: ModuleType) -> None:
    written = (REPOSITORY / "docs/methods.md").read_text(encoding="utf-8")
    assert script.document() == written, "run: python scripts/methods_doc.py"


def test_what_a_method_works_with_is_what_it_lets_through(script: ModuleType) -> None:
    said = {
        name: script.where(script.load(of.get("algorithm", name)), of)
        for name, of in script.methods().items()
    }
    assert said["joint"] == "every fusion; classification and regression; any k ≥ 2; SMP"
    assert "regression" in said["dlmg"]
    assert "regression" not in said["lfm"]  # compares distributions over classes
    assert "encoders small_cnn / resnet18;" in said["greedy"]  # those with stages
    assert "no SMP" in said["ume"]


def test_every_method_says_its_idea_equation_and_source(script: ModuleType) -> None:
    for name, of in script.methods().items():
        cls = script.load(of.get("algorithm", name))
        assert script.first_paragraph(cls), name
        assert cls.equation, name
        assert cls.source, name
        assert set(script.comments(name)) >= set(cls.Parameters.model_fields), name
