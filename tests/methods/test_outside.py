"""A method of another lab: one file outside this package, by dotted path, as `method=…`, or as an entry
point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import external, load
from g2d_pipeline.methods.base import Method
from g2d_pipeline.training import train_student
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure

ONE_FILE = '''
"""Joint training that pulls the features of two modalities together; not defined for a regression."""
from typing import Annotated, ClassVar
from pydantic import Field
from g2d_pipeline.methods.base import Method, MethodParameters

class Parameters(MethodParameters):
    weight: Annotated[float, Field(ge=0)] = 0.1

class Together(Method):
    Parameters: ClassVar = Parameters
    tasks: ClassVar = ("classification",)
    def loss(self, output, batch, state):
        a, b = list(output.features.values())[:2]
        apart = self.parameters.weight * (a - b).square().mean()
        return super().loss(output, batch, state) | {"apart": apart}
'''


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one module, installed: on the path, with metadata that name it as an entry point."""
    (tmp_path / "method_lab").mkdir()
    (tmp_path / "method_lab" / "__init__.py").write_text("")
    (tmp_path / "method_lab" / "together.py").write_text(ONE_FILE)
    about = tmp_path / "method_lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: method-lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[g2d_pipeline.methods]\n"
        "together = method_lab.together\n"
        "together_class = method_lab.together:Together\n"
        "joint = method_lab.together\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("method_lab")]:
        del sys.modules[name]


def train(c: Configuration, name: str) -> dict[str, float]:
    """One epoch of the method as configured: the means of its loss terms."""
    of, data = c.methods[name], make_data(2)
    own = {"method": of.algorithm, "parameters": of.parameters, "fusion": of.fusion, "smp": of.smp}
    trained = train_student(data, dict.fromkeys("ab", TINY), {}, training=recipe(1), progress=False, **own)
    assert trained.info["algorithm"] == of.algorithm
    return trained.history.filter(like="loss/").iloc[0].to_dict()


def test_by_dotted_path_in_a_yaml() -> None:
    yml = {"methods.mine": {"algorithm": "method_lab.together", "needs_teachers": False, "weight": 0.2}}
    plain = train(configure(yml, method="mine"), "mine")
    strong = train(configure(yml, method="mine", weight=20), "mine")
    assert strong["loss/apart"] > 2 * plain["loss/apart"] > 0


@pytest.mark.parametrize("name", ["method_lab.together", "together", "together_class"])
def test_by_its_path_or_entry_point_on_the_command_line_without_a_yaml(name: str) -> None:
    c = configure(method=name)
    assert c.methods[name].algorithm == name
    assert "loss/apart" in train(c, name)
    with pytest.raises(ConfigError, match=r"unknown key 'weight'.* where a YAML of methods lists them"):
        configure(method=name, weight=0.2)


def test_its_parameters_may_come_from_the_data_set_s_file() -> None:
    section = {"datasets.av_digits.methods": {"together": {"weight": 0.5, "needs_teachers": False}}}
    c = configure(section, method="together")
    assert c.methods["together"].parameters == {"weight": 0.5}
    assert not c.methods["together"].needs_teachers
    assert configure(section, method="together", weight=0.7).methods["together"].parameters == {"weight": 0.7}
    with pytest.raises(ConfigError, match=r"weight = -1.*greater than or equal to 0"):
        configure(section, method="together", weight=-1)


def test_what_it_is_not_defined_for_is_said_before_any_data_are_read() -> None:
    with pytest.raises(
        ConfigError, match="method = 'together': together is defined for classification, not for reg"
    ):
        configure(dataset="mis_me", method="together")


def test_names_of_this_package_stay_its_own() -> None:
    assert set(external()) >= {"together", "together_class", "joint"}
    assert load("joint").__module__ == "g2d_pipeline.methods.joint"


def test_a_misspelt_one_is_told_with_the_nearest_installed() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'together'"):
        load("togehter")
    with pytest.raises(ConfigError, match=r"no method 'method_lab\.apart'"):
        configure(method="method_lab.apart")


def test_a_mistake_inside_its_file_is_not_called_a_missing_file(lab: Path) -> None:
    (lab / "method_lab" / "broken.py").write_text("import no_such_package_anywhere\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
        load("method_lab.broken")


def test_any_subclass_counts_and_other_classes_do_not() -> None:
    assert issubclass(load("together_class"), Method)
    assert load("together") is load("together_class") is load("method_lab.together")
