"""The fusion of MLA and ReconBoost, one head for all modalities; and the late mean of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import build_fusion
from g2d_pipeline.models.fusions.shared import certainty_weights, certainty_weights_of_batch


def features_of(k: int, n: int = 7, width: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(k)
    return {m: torch.randn(n, width) * (position + 1) for position, m in enumerate("abc"[:k])}


def softmax(u: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(u - u.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("k", [2, 3])
def test_predictions_weighted_by_certainty_equal_the_formula(k: int) -> None:
    features = features_of(k)
    fusion = build_fusion({"name": "shared", "combine": "entropy"}, dict.fromkeys(features, 5), 4)
    u = np.stack([fusion.unimodal_logits(features, m).detach().double().numpy() for m in features])
    p = softmax(u, 2)
    entropy = -(p * np.log(p)).sum(axis=2)
    w = np.exp(entropy.max(axis=0) - entropy)
    w /= w.sum(axis=0)
    np.testing.assert_allclose(certainty_weights(torch.tensor(u)).numpy(), w, rtol=1e-12)
    np.testing.assert_allclose(w.sum(axis=0), 1)
    assert (w.argmax(axis=0) == entropy.argmin(axis=0)).all()
    found = fusion(features).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(found, (w[..., None] * p).sum(axis=0), rtol=1e-5, atol=1e-7)


def test_the_codes_weights_are_one_a_batch() -> None:
    features = features_of(3)
    fusion = build_fusion({"name": "shared", "combine": "entropy_of_batch"}, dict.fromkeys(features, 5), 4)
    u = np.stack([fusion.unimodal_logits(features, m).detach().double().numpy() for m in features])
    p = softmax(u, 1)  # over the samples, as there
    entropy = -(p * np.log(p)).sum(axis=(1, 2))
    w = np.exp(entropy.max() - entropy)
    w /= w.sum()
    np.testing.assert_allclose(certainty_weights_of_batch(torch.tensor(u)).numpy(), w, rtol=1e-12)
    np.testing.assert_allclose(fusion(features).detach().numpy(), np.tensordot(w, u, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("combine", "of"), [("sum", np.sum), ("mean", np.mean)])
def test_sum_and_mean_add_what_one_head_says_of_each_modality(combine: str, of: object) -> None:
    features = features_of(3)
    fusion = build_fusion(
        {"name": "shared", "combine": combine, "hidden": [6]}, dict.fromkeys(features, 5), 4
    )
    assert [tuple(p.shape) for p in fusion.parameters()] == [(6, 5), (6,), (4, 6), (4,)]
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in fusion.parameters())
    u = [np.maximum(f.double().numpy() @ w1.T + b1, 0) @ w2.T + b2 for f in features.values()]
    np.testing.assert_allclose(fusion(features).detach().numpy(), of(u, axis=0), rtol=1e-5, atol=1e-5)  # type: ignore[operator]
    np.testing.assert_allclose(
        fusion.unimodal_logits(features, "b").detach().numpy(), u[1], rtol=1e-5, atol=1e-5
    )


def test_a_regression_weighs_by_remembered_errors_and_without_any_takes_the_mean() -> None:
    features = features_of(3)
    fusion = build_fusion({"name": "shared", "combine": "entropy"}, dict.fromkeys(features, 5), 1)
    u = torch.stack([fusion.unimodal_logits(features, m) for m in features]).detach()
    torch.testing.assert_close(fusion(features).detach(), u.mean(dim=0))
    errors = fusion.get_buffer("errors")
    errors.copy_(torch.tensor([0.1, 0.5, 2.0]))
    w = np.exp(-np.array([0.1, 0.5, 2.0]))
    expected = np.tensordot(w / w.sum(), u.double().numpy(), 1)
    np.testing.assert_allclose(fusion(features).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert "errors" in fusion.state_dict()  # a rebuilt model weighs alike


def test_what_it_cannot_do_is_told_with_the_remedy() -> None:
    with pytest.raises(
        ConfigError, match=r"fusion shared: .*a: 3, b: 5.*same width, or say fusion.width=greatest"
    ):
        build_fusion("shared", {"a": 3, "b": 5}, 4)
    with pytest.raises(
        ConfigError, match=r"entropy_of_batch: a regression has no entropy. Say combine=entropy"
    ):
        build_fusion({"name": "shared", "combine": "entropy_of_batch"}, {"a": 3, "b": 3}, 1)
    with pytest.raises(ConfigError, match=r"probabilities: a regression has none. Say average=logits"):
        build_fusion({"name": "late", "average": "probabilities"}, {"a": 3, "b": 5}, 1)


def test_late_fusion_averages_probabilities_where_asked() -> None:
    features = features_of(3)
    fusion = build_fusion({"name": "late", "average": "probabilities"}, dict.fromkeys(features, 5), 4)
    own = torch.stack([fusion.unimodal_logits(features, m) for m in features]).softmax(dim=2)
    torch.testing.assert_close(fusion(features).softmax(dim=1), own.mean(dim=0))


@pytest.mark.parametrize(("width", "projected"), [("greatest", ["a"]), (3, ["b"]), (4, ["a", "b"])])
def test_features_of_another_width_are_projected_where_asked(width: int | str, projected: list[str]) -> None:
    features = {"a": torch.randn(7, 3), "b": torch.randn(7, 5)}
    fusion = build_fusion({"name": "shared", "width": width}, {"a": 3, "b": 5}, 4)
    names = {name.split(".")[1] for name in fusion.state_dict() if name.startswith("projections.")}
    assert sorted(names) == projected
    own = [fusion.head(fusion.projections[m](features[m])) for m in "ab"]  # type: ignore[operator, index]
    torch.testing.assert_close(fusion(features), (own[0] + own[1]) / 2)
