"""MMCosine: logits by angles (rivals.md, mmcosine)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import build_fusion
from tests.conftest import make_data
from tests.methods.tiny import student
from tests.test_resolve import configure


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("scale", [15.0, 4.0])
def test_logits_are_the_sum_of_scaled_cosines(k: int, scale: float) -> None:
    rng = np.random.default_rng(k)
    widths = dict(zip("abc"[:k], (4, 6, 5), strict=False))
    fusion = build_fusion({"name": "cosine", "scale": scale}, widths, 3).double()
    f = {m: rng.normal(size=(5, width)) for m, width in widths.items()}
    features = {m: torch.tensor(x) for m, x in f.items()}
    expected = {}
    for m in widths:
        w = fusion.heads[m].weight.detach().numpy()  # type: ignore[index, union-attr]
        angles = [[x @ c / np.sqrt((x @ x) * (c @ c)) for c in w] for x in f[m]]
        expected[m] = scale * np.array(angles)
        np.testing.assert_allclose(
            fusion.unimodal_logits(features, m).detach().numpy(), expected[m], rtol=1e-9
        )
    np.testing.assert_allclose(fusion(features).detach().numpy(), sum(expected.values()), rtol=1e-9)


def test_the_norm_of_a_feature_changes_nothing() -> None:
    torch.manual_seed(0)
    fusion = build_fusion("cosine", {"a": 4, "b": 6}, 3).double()
    features = {"a": torch.randn(5, 4).double(), "b": torch.randn(5, 6).double()}
    for c in (1e-3, 7.0, 1e4):
        scaled = features | {"b": c * features["b"]}
        torch.testing.assert_close(fusion(scaled), fusion(features), rtol=1e-12, atol=1e-12)
    blank = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    logits = fusion.unimodal_logits(features | {"a": blank}, "a")
    logits.sum().backward()
    assert not logits.any()
    assert torch.isfinite(blank.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [2, 3])
def test_it_is_joint_training_with_fusion_cosine_bit_for_bit_and_learns(k: int) -> None:
    data = make_data(k)
    ours = student(data, method="mmcosine", fusion={"name": "cosine", "scale": 15.0})
    joint = student(data, method="joint", fusion="cosine")
    for name, value in joint.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], value)
    assert not any(n.startswith("fusion") and n.endswith("bias") for n in ours.model.state_dict())
    assert ours.history["loss/task"].iloc[-1] < ours.history["loss/task"].iloc[0]


def test_what_it_is_not_defined_for_is_told() -> None:
    with pytest.raises(ConfigError, match="a regression has no classes: say method=joint with fusion=sum"):
        student(make_data(2, "regression"), method="mmcosine", fusion="cosine")
    with pytest.raises(ConfigError, match=r"not defined for fusion late\. It works with: cosine"):
        student(make_data(2), method="mmcosine", fusion="late")
    with pytest.raises(ConfigError, match="a regression has no classes"):
        student(make_data(2, "regression"), method="joint", fusion="cosine")
    with pytest.raises(ConfigError, match="a regression has no classes"):
        configure(dataset="mis_me", method="mmcosine")
