"""A fusion of another package: by a dotted path or an entry point; what leads nowhere is told with the
nearest name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import build_fusion
from g2d_pipeline.training import train_student
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure

OUTSIDE = '''
"""The product of a head a modality."""
import torch
from torch import nn
from g2d_pipeline.models import Fusion

class Product(Fusion):
    def __init__(self, widths, outputs, power=1.0, unimodal_readout="paper"):
        super().__init__(widths, outputs, unimodal_readout)
        self.power = power
        self.heads = nn.ModuleDict({m: nn.Linear(d, outputs) for m, d in widths.items()})

    def forward(self, features):
        return torch.stack([self.heads[m](f) for m, f in features.items()]).prod(dim=0) * self.power
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of another lab, installed: a module and the metadata that name it as an entry point."""
    (tmp_path / "fusion_lab").mkdir()
    (tmp_path / "fusion_lab" / "__init__.py").write_text("")
    (tmp_path / "fusion_lab" / "product.py").write_text(OUTSIDE)
    about = tmp_path / "fusion_lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fusion-lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[g2d_pipeline.fusions]\nproduct = fusion_lab.product:Product\nnothing = fusion_lab.product:OUTSIDE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("fusion_lab")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["product", "fusion_lab.product", "fusion_lab.product.Product"])
def test_a_fusion_of_another_package_trains_and_is_rebuilt_by_its_name(lab: Path, name: str) -> None:
    of = configure({"datasets.av_digits.fusion": {"name": name, "options": {"power": 2.0}}}).dataset.fusion
    data = make_data(2)
    encoders = dict.fromkeys(data.modalities, TINY)
    trained = train_student(data, encoders, {}, method="joint", fusion=of, training=recipe(1), progress=False)
    assert type(trained.model.fusion).__name__ == "Product"
    assert trained.model.fusion.power == 2.0
    assert trained.info["architecture"]["fusion"]["name"] == name


def test_a_misspelt_fusion_is_told_with_the_nearest_known_or_installed(lab: Path) -> None:
    for wrong, near in (
        ("prodct", "product"),
        ("cross_atention", "cross_attention"),
        ("weihgted", "weighted"),
    ):
        with pytest.raises(ConfigError, match=f"--params.*{wrong}.*Did you mean '{near}'"):
            configure(fusion=wrong)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fusion_lab.sum", "no module or class at that path"),
        ("fusion_lab.product.Quotient", "no module or class at that path"),
        ("fusion_lab", "or the dotted path of a module"),  # no dot: a name, and none that is known
        ("json.decoder", "must define exactly one subclass of Fusion; it defines 0"),
        ("json.JSONDecoder", "neither a module nor a subclass of Fusion"),
    ],
)
def test_a_path_that_leads_to_no_fusion_is_refused(lab: Path, name: str, said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        build_fusion(name, {"a": 3, "b": 3}, 2)


def test_wrong_options_of_a_fusion_from_outside_are_refused(lab: Path) -> None:
    with pytest.raises(ConfigError, match=r"fusion product: .*unexpected keyword argument 'pover'"):
        build_fusion({"name": "product", "options": {"pover": 2}}, {"a": 3, "b": 3}, 2)
