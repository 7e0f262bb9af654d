"""Fusions and encoders of other packages: one file, by a dotted path or an entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from g2d_pipeline.config import ENCODER_GROUP, ENCODERS, FUSION_GROUP, EncoderSettings, ExternalEncoder
from g2d_pipeline.config.models import ByName
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import build_encoder, build_fusion
from g2d_pipeline.models.build import build_model
from g2d_pipeline.plugins import files
from g2d_pipeline.training import train_student
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure

FUSION = '''
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
ENCODER = '''
"""One linear layer for vectors."""
from torch import nn
from g2d_pipeline.models.encoders.base import VECTOR, Trunk

class OneLayer(Trunk):
    dimensions = (VECTOR,)
    convolutional = False

    def __init__(self, shape, width=4):
        super().__init__()
        self.layer, self.width = nn.Linear(shape[0], width), width

    def forward(self, x):
        return self.layer(x)
'''


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of another lab, installed: two modules and the metadata that name them as entry points."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("")
    (tmp_path / "lab" / "product.py").write_text(FUSION)
    (tmp_path / "lab" / "one_layer.py").write_text(ENCODER)
    about = tmp_path / "lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[g2d_pipeline.fusions]\nproduct = lab.product:Product\nnothing = lab.product:NOTHING\n"
        "[g2d_pipeline.encoders]\none_layer = lab.one_layer\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "lab"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["one_layer", "lab.one_layer", "lab.one_layer.OneLayer"])
def test_an_encoder_of_another_package_trains_and_is_rebuilt_by_its_name(name: str) -> None:
    own = {"name": name, "options": {"width": 3}}
    settings = (
        configure({"datasets.av_digits.modalities.image.encoder": own}).dataset.modalities["image"].encoder
    )
    assert settings == ExternalEncoder(**own)
    data = make_data(2)
    encoders = {"a": settings, "b": TINY}
    trained = train_student(data, encoders, {}, method="joint", training=recipe(1), progress=False)
    assert type(trained.model.encoders["a"].trunk).__name__ == "OneLayer"
    assert trained.info["architecture"]["modalities"]["a"]["encoder"]["name"] == name
    rebuilt = build_model(trained.info["architecture"])
    rebuilt.load_state_dict(trained.model.state_dict())
    x = torch.from_numpy(data.arrays["a"][:2])
    assert rebuilt.encoders["a"](x).shape == (2, 3)  # type: ignore[index, operator]


def test_a_word_is_enough_for_an_encoder_and_a_misspelt_one_is_named_with_the_nearest() -> None:
    one = configure({"datasets.av_digits.modalities.image.encoder": "one_layer"}).dataset.modalities["image"]
    assert one.encoder == ExternalEncoder(name="one_layer")
    with pytest.raises(ConfigError, match=r"modalities\.image\.encoder.*one_lyer.*Did you mean 'one_layer'"):
        configure({"datasets.av_digits.modalities.image.encoder": {"name": "one_lyer"}})


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (
            {"name": "one_layer", "options": {"wide": 3}},
            (4,),
            r"one_layer\(wide=3\): .*unexpected keyword argument 'wide'",
        ),
        (
            {"name": "one_layer"},
            (3, 8, 8),
            r"one_layer takes samples of shape \[F\].*Encoders that take these: small",
        ),
        ({"name": "lab.none"}, (4,), "no encoder 'lab.none'.*no module or class at that path"),
        ({"name": "lab.product"}, (4,), "must define exactly one subclass of Trunk; it defines 0"),
    ],
)
def test_what_is_wrong_with_an_external_encoder_is_said(settings: dict, shape: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=message):
        build_encoder(ExternalEncoder(**settings), shape)


def test_a_file_of_ours_without_settings_is_a_plug_in_with_any_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = files("g2d_pipeline.models.encoders")
    assert set(ENCODERS) <= set(ours) == set(ByName(ENCODER_GROUP)._files())
    assert ByName(FUSION_GROUP)._files() == files("g2d_pipeline.models.fusions")
    adapter = TypeAdapter(EncoderSettings)
    with pytest.raises(ValueError, match="allowed are"):
        adapter.validate_python("in_a_file")
    monkeypatch.setattr(ByName, "_files", lambda _: ["in_a_file"])
    assert adapter.validate_python("in_a_file") == ExternalEncoder(name="in_a_file")


def test_options_of_a_plug_in_are_given_on_the_command_line() -> None:
    given = {"name": "one_layer", "options": {"width": 3}}
    of = configure(modalities={"image": {"encoder": given}}).dataset.modalities["image"].encoder
    assert of == ExternalEncoder(**given)
    change = {"datasets.av_digits.modalities.image.encoder": "one_layer"}
    assert configure(change, options={"width": 3}).dataset.modalities["image"].encoder == of
    with pytest.raises(
        ConfigError, match=r"unknown key.*encoder\.width.*Allowed: name, options, initialisation"
    ):
        configure({"datasets.av_digits.modalities.image.encoder": {"name": "one_layer", "width": 3}})


def test_a_path_that_leads_to_no_encoder_is_told_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"modalities\.image\.encoder: There is no encoder 'lab\.one_lyer'"):
        configure({"datasets.av_digits.modalities.image.encoder": "lab.one_lyer"})
    with pytest.raises(ConfigError, match=r"--params: There is no fusion 'lab\.produt'"):
        configure(fusion="lab.produt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("    dimensions = (VECTOR,)\n", "OneLayer does not say what it takes: set `dimensions`"),
        ("def forward", r"one_layer\.py, line 1[0-9]: "),
        (", self.width =", r"one_layer\(width=3\): 'OneLayer' object has no attribute 'width'"),
    ],
)
def test_what_a_trunk_has_to_say_is_asked_for(lab: Path, line: str, message: str) -> None:
    text = ENCODER.replace(line, " = " if line.endswith("=") else "")
    (lab / "lab" / "one_layer.py").write_text(text.replace("width), width", "width)"))
    with pytest.raises(ConfigError, match=message):
        build_encoder(ExternalEncoder(name="lab.one_layer", options={"width": 3}), (4,))


@pytest.mark.parametrize("name", ["product", "lab.product", "lab.product.Product"])
def test_a_fusion_of_another_package_trains_and_is_rebuilt_by_its_name(name: str) -> None:
    of = configure({"datasets.av_digits.fusion": {"name": name, "options": {"power": 2.0}}}).dataset.fusion
    data = make_data(2)
    encoders = dict.fromkeys(data.modalities, TINY)
    trained = train_student(data, encoders, {}, method="joint", fusion=of, training=recipe(1), progress=False)
    assert type(trained.model.fusion).__name__ == "Product"
    assert trained.model.fusion.power == 2.0
    assert trained.info["architecture"]["fusion"]["name"] == name


def test_a_misspelt_fusion_is_told_with_the_nearest_known_or_installed() -> None:
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
        ("lab.sum", "no module or class at that path"),
        ("lab.product.Quotient", "no module or class at that path"),
        ("lab", "or the dotted path of a module"),  # no dot: a name, and none that is known
        ("json.decoder", "must define exactly one subclass of Fusion; it defines 0"),
        ("json.JSONDecoder", "neither a module nor a subclass of Fusion"),
    ],
)
def test_a_path_that_leads_to_no_fusion_is_refused(name: str, said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        build_fusion(name, {"a": 3, "b": 3}, 2)


def test_wrong_options_of_a_fusion_from_outside_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"fusion product: .*unexpected keyword argument 'pover'"):
        build_fusion({"name": "product", "options": {"pover": 2}}, {"a": 3, "b": 3}, 2)
