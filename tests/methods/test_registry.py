"""A new method is one file and one YAML: added here at test time, without touching the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import available, build, load
from g2d_pipeline.methods.base import Method
from g2d_pipeline.training import train_student
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure

NEW = '''
"""Joint training with a penalty on the size of the features."""
from typing import Annotated, ClassVar
from pydantic import Field
from g2d_pipeline.methods.base import Method, MethodParameters

class Parameters(MethodParameters):
    weight: Annotated[float, Field(ge=0)] = 0.1

class SmallFeatures(Method):
    Parameters: ClassVar = Parameters
    def loss(self, output, batch, state):
        size = sum(f.square().mean() for f in output.features.values())
        return super().loss(output, batch, state) | {"size": self.parameters.weight * size}
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "small_features.py").write_text(NEW)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_lab.small_features"  # type: ignore[misc]
    for name in [n for n in sys.modules if n.startswith("my_lab")]:
        del sys.modules[name]


def test_a_method_of_ones_own_trains_and_its_parameters_are_checked(module: str) -> None:
    data = make_data()
    encoders = dict.fromkeys(data.modalities, TINY)
    own = {"method": module, "parameters": {"weight": 0.5}}
    trained = train_student(data, encoders, {}, training=recipe(1), progress=False, **own)  # type: ignore[arg-type]
    assert "loss/size" in trained.history
    assert trained.info["parameters"] == {"weight": 0.5}


def test_its_yaml_makes_it_a_name_with_short_keys_and_readable_mistakes(module: str) -> None:
    yml = {"methods.mine": {"algorithm": module, "needs_teachers": False, "weight": 0.1}}
    c = configure(yml, method="mine", weight=0.3)
    assert c.methods["mine"].parameters == {"weight": 0.3}
    assert c.methods["mine"].smp is None
    with pytest.raises(ConfigError, match="--params: weight = -1"):
        configure(yml, method="mine", weight=-1)
    with pytest.raises(ConfigError, match="unknown key 'wieght'"):
        configure({"methods.mine": {"algorithm": module, "wieght": 1}}, method="mine")


def test_smp_composes_with_it(module: str) -> None:
    yml = {"methods.mine": {"algorithm": module, "weight": 0.1, "smp": {"ranking": "epoch"}}}
    smp = configure(yml, method="mine").methods["mine"].smp
    assert smp is not None
    assert (smp.ranking, smp.tau) == ("epoch", [10, 10])


def test_the_shipped_methods_are_found_by_name() -> None:
    for name in available():
        assert issubclass(load(name), Method)
        assert build(name).parameters == load(name).Parameters()


def test_an_unknown_one_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'g2d'"):
        load("g2dd")
    with pytest.raises(ConfigError, match="must define exactly one subclass of Method; it defines 0"):
        load("json.decoder")
