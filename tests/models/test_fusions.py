"""Fusions against their equations in numpy, what one modality alone says, order, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray

from g2d_pipeline.config import ResNet18
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import Fusion, MultimodalModel, build_encoder, build_fusion

FUSIONS = ["late", "sum", "concat", "weighted", "film", "bi_gated", "cross_attention"]
NAMED = {"film": {"condition": "b"}, "bi_gated": {"gate": "b"}, "weighted": {"start": 0.7}}
WIDTHS = [{"a": 8, "b": 8}, {"a": 8, "b": 4}, {"a": 4, "b": 8, "c": 8}, {"a": 12, "b": 8, "c": 4}]
Array = NDArray[np.float64]
Features = dict[str, Array]


def random(fusion: Fusion, seed: int = 0) -> Fusion:
    """All weights and biases drawn, float64."""
    generator = torch.Generator().manual_seed(seed)
    for p in fusion.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return fusion.eval()


def make(name: str, widths: dict[str, int], readout: str = "paper") -> Fusion:
    return random(build_fusion({"name": name, "unimodal_readout": readout, **NAMED.get(name, {})}, widths, 3))


def draw(widths: dict[str, int], n: int = 5) -> Features:
    rng = np.random.default_rng(1)
    return {m: rng.normal(size=(n, d)) for m, d in widths.items()}


def as_tensors(features: Features) -> dict[str, torch.Tensor]:
    return {m: torch.from_numpy(f) for m, f in features.items()}


class Reference:
    """The equations of g2d.md §8, from the fusion's weights alone."""

    def __init__(self, fusion: Fusion, name: str) -> None:
        self.w = {n: p.detach().numpy() for n, p in fusion.named_parameters()}
        self.name, self.widths, self.k = name, fusion.widths, len(fusion.widths)

    def linear(self, name: str, x: Array, bias: float = 1.0) -> Array:
        return x @ self.w[f"{name}.weight"].T + bias * self.w[f"{name}.bias"]

    def common(self, f: Features) -> Features:
        """To the greatest width; `bi_gated` has a layer for every modality."""
        return {m: self.linear(f"projections.{m}", x) if f"projections.{m}.weight" in self.w else x
                for m, x in f.items()}  # fmt: skip

    def modulate(self, by: Array, x: Array) -> Array:
        both = self.linear("film", by)
        return both[:, : x.shape[1]] * x + both[:, x.shape[1] :]

    def attend(self, m: str, query: Array, others: list[Array]) -> Array:
        d, heads = query.shape[1], 4
        weight, bias = (self.w[f"attention.{m}.in_proj_{of}"] for of in ("weight", "bias"))
        q, *_ = (query @ part.T + b for part, b in zip(np.split(weight, 3), np.split(bias, 3), strict=True))
        k, v = (
            np.stack([o @ weight[i * d : (i + 1) * d].T + bias[i * d : (i + 1) * d] for o in others], axis=1)
            for i in (1, 2)
        )
        answer = np.zeros_like(query)
        for h in range(heads):
            at = slice(h * d // heads, (h + 1) * d // heads)
            score = np.einsum("bd,bjd->bj", q[:, at], k[:, :, at]) / np.sqrt(d / heads)
            share = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
            answer[:, at] = np.einsum("bj,bjd->bd", share, v[:, :, at])
        x = (
            query
            + answer @ self.w[f"attention.{m}.out_proj.weight"].T
            + self.w[f"attention.{m}.out_proj.bias"]
        )
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x * self.w[f"norms.{m}.weight"] + self.w[f"norms.{m}.bias"]

    def logits(self, f: Features) -> Array:
        if self.name in ("late", "sum", "weighted"):
            each = {m: self.linear(f"heads.{m}", x) for m, x in f.items()}
            if self.name == "weighted":
                return sum(self.w[f"weights.{m}"] * p for m, p in each.items())  # type: ignore[return-value]
            return sum(each.values()) / (self.k if self.name == "late" else 1)  # type: ignore[return-value]
        if self.name == "concat":
            return self.linear("head", np.hstack(list(f.values())))
        h = self.common(f)
        if self.name == "film":
            others = [self.modulate(h["b"], x) for m, x in h.items() if m != "b"]
            return self.linear("head", sum(others) / len(others))  # type: ignore[arg-type, operator]
        if self.name == "bi_gated":
            gate = 1 / (1 + np.exp(-h["b"]))
            return self.linear("head", gate * sum(x for m, x in h.items() if m != "b"))
        z = [self.attend(m, x, [o for n, o in h.items() if n != m]) for m, x in h.items()]
        return self.linear("head", np.hstack(z))

    def alone(self, f: Features, m: str, readout: str) -> Array:
        share = 1 / self.k if readout == "code" else 1.0
        if self.name in ("late", "weighted"):
            return self.linear(f"heads.{m}", f[m])
        if self.name == "sum":
            return self.linear(f"heads.{m}", f[m], share)
        if self.name == "concat":
            columns = np.hstack([np.full(d, n == m) for n, d in self.widths.items()])
            return f[m] @ self.w["head.weight"][:, columns].T + share * self.w["head.bias"]
        if readout == "code" and self.name == "film":
            x = self.common(f)[m]
            return self.linear("head", self.modulate(x, x), share)
        if readout == "code" and self.name == "bi_gated":
            return self.linear("head", self.common(f)[m], share)
        return self.logits({n: x if n == m else np.zeros_like(x) for n, x in f.items()})


@pytest.mark.parametrize("widths", WIDTHS, ids=lambda w: "-".join(map(str, w.values())))
@pytest.mark.parametrize("name", FUSIONS)
def test_logits_and_both_readouts_are_the_equations(name: str, widths: dict[str, int]) -> None:
    f = draw(widths)
    for readout in ("paper", "code"):
        fusion = make(name, widths, readout)
        reference = Reference(fusion, name)
        with torch.no_grad():
            np.testing.assert_allclose(
                fusion(as_tensors(f)).numpy(), reference.logits(f), rtol=1e-9, atol=1e-9
            )
            for m in widths:
                found = fusion.unimodal_logits(as_tensors(f), m).numpy()
                np.testing.assert_allclose(found, reference.alone(f, m, readout), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FUSIONS)
def test_what_one_modality_says_does_not_depend_on_the_others(name: str) -> None:
    widths = {"a": 8, "b": 4, "c": 8}
    f, other = as_tensors(draw(widths)), as_tensors(draw(widths, n=5))
    for readout in ("paper", "code"):
        fusion = make(name, widths, readout)
        for m in widths:
            changed = {n: x if n == m else x + 1 for n, x in other.items()}
            assert torch.equal(fusion.unimodal_logits(f, m), fusion.unimodal_logits(changed | {m: f[m]}, m))


@pytest.mark.parametrize("name", [*FUSIONS, "cosine", "shared"])
def test_absent_modalities_have_no_influence_and_one_that_is_left_says_what_it_says_alone(name: str) -> None:
    """Heads that are added up are left out; elsewhere features are zeros, as for one modality alone."""
    widths = dict.fromkeys("abc", 8)
    f, fusion = as_tensors(draw(widths)), make(name, widths)
    for absent in ({"a"}, {"b"}, {"a", "c"}):
        without = fusion.logits_without(f, absent)
        changed = {m: x + 1 if m in absent else x for m, x in f.items()}
        assert torch.equal(without, fusion.logits_without(changed, absent))
        alone = {m: fusion.unimodal_logits(f, m) for m in f if m not in absent}
        wanted: Any = None
        if name in ("late", "sum", "cosine", "shared"):
            wanted = sum(alone.values()) / (len(alone) if name in ("late", "shared") else 1)
        elif name == "weighted":
            wanted = sum(fusion.weights[m] * logits for m, logits in alone.items())  # type: ignore[index, operator]
            assert min(w.item() for w in fusion.weights.values()) < 0  # type: ignore[union-attr, operator]
        elif len(alone) == 1:
            (wanted,) = alone.values()
        if wanted is not None:
            torch.testing.assert_close(without, wanted)


@pytest.mark.parametrize("combine", ["sum", "mean", "entropy", "entropy_of_batch"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_shared_head_weighs_those_that_are_there(combine: str, outputs: int) -> None:
    widths = dict.fromkeys("abc", 8)
    f = as_tensors(draw(widths))
    if (combine, outputs) == ("entropy_of_batch", 1):
        return  # refused
    three = random(build_fusion({"name": "shared", "combine": combine}, widths, outputs))
    two = random(build_fusion({"name": "shared", "combine": combine}, {"b": 8, "c": 8}, outputs))
    if three.errors is not None:
        three.errors = torch.tensor([9.0, 1.0, 2.0])
        two.errors = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(three.logits_without(f, {"a"}), two({m: f[m] for m in "bc"}))


@pytest.mark.parametrize("widths", [WIDTHS[0], WIDTHS[3]], ids=["k2", "k3"])
@pytest.mark.parametrize("name", FUSIONS)
def test_the_order_of_modalities_has_no_influence_where_condition_and_gate_are_named(
    name: str, widths: dict[str, int]
) -> None:
    """The same weights by name; the head's columns go with their modality."""
    f, fusion = as_tensors(draw(widths)), make(name, widths)
    order = list(reversed(widths))
    turned = make(name, {m: widths[m] for m in order})
    weights = dict(fusion.state_dict())
    if name in ("concat", "cross_attention"):
        sizes = [d if name == "concat" else max(widths.values()) for d in widths.values()]
        columns = dict(zip(widths, weights["head.weight"].split(sizes, dim=1), strict=True))
        weights["head.weight"] = torch.cat([columns[m] for m in order], dim=1)
    turned.load_state_dict(weights)
    torch.testing.assert_close(turned({m: f[m] for m in order}), fusion(f))
    for m in widths:
        torch.testing.assert_close(turned.unimodal_logits(f, m), fusion.unimodal_logits(f, m))


@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    outputs=st.integers(1, 6),
    n=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@effort(max_examples=12)
def test_for_any_modalities_logits_are_put_together_of_what_each_one_says(
    widths: list[int], outputs: int, n: int, seed: int
) -> None:
    of = {f"m{i}": d for i, d in enumerate(widths)}
    torch.manual_seed(seed)
    f = {m: torch.randn(n, d, dtype=torch.float64) for m, d in of.items()}
    built = {
        name: random(build_fusion(name, of, outputs), seed) for name in ("late", "sum", "concat", "weighted")
    }
    for name, fusion in built.items():
        alone = {m: fusion.unimodal_logits(f, m) for m in of}
        total: Any = sum(alone.values())
        wanted = {
            "late": total / len(of),
            "sum": total,
            "concat": total - (len(of) - 1) * fusion.head.bias if name == "concat" else None,  # type: ignore[operator]
            "weighted": sum(fusion.weights[m] * alone[m] for m in of) if name == "weighted" else None,  # type: ignore[index, operator]
        }[name]
        torch.testing.assert_close(fusion(f), wanted)


def test_weighted_begins_as_late_and_its_weights_learn() -> None:
    widths = {"a": 3, "b": 5, "c": 2}
    torch.manual_seed(0)
    late, weighted = build_fusion("late", widths, 4), build_fusion("weighted", widths, 4)
    weighted.load_state_dict(dict(late.state_dict()) | {f"weights.{m}": torch.tensor(1 / 3) for m in widths})
    assert all(w == torch.tensor(1 / 3) for w in build_fusion("weighted", widths, 4).weights.values())  # type: ignore[union-attr, operator]
    f = {m: torch.randn(6, d) for m, d in widths.items()}
    torch.testing.assert_close(weighted(f), late(f))
    torch.testing.assert_close(weighted.logits_without(f, {"b"}), late.logits_without(f, {"b"}))
    weighted(f).square().sum().backward()
    for m in widths:
        assert weighted.weights[m].grad != 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("fusion", "parameters"),
    [("sum", 22_352_908), ("concat", 22_352_902), ("film", 22_875_142), ("bi_gated", 22_875_142)],
)
def test_students_on_crema_d_have_the_published_size(fusion: str, parameters: int) -> None:
    """datasets.md §0.2: ResNet-18 of one and three channels, features of 512, six classes."""
    with torch.device("meta"):
        encoders = {
            "audio": build_encoder(ResNet18(), (1, 32, 32)),
            "visual": build_encoder(ResNet18(), (3, 3, 32, 32)),
        }
        model = MultimodalModel(encoders, build_fusion(fusion, {"audio": 512, "visual": 512}, 6))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("settings", "widths", "said"),
    [
        (
            {"name": "film", "condition": "sound"},
            {"a": 8, "b": 8},
            "fusion.condition = 'sound'.*Allowed: a, b",
        ),
        ({"name": "bi_gated", "gate": "c"}, {"a": 8, "b": 8}, "fusion.gate = 'c': there is no such modality"),
        ("film", {"a": 8}, "film needs at least two modalities. With one, use late"),
        ("bi_gated", {"a": 8}, "bi_gated needs at least two modalities"),
        ("cross_attention", {"a": 8}, "cross_attention needs at least two modalities"),
        (
            {"name": "cross_attention", "heads": 3},
            {"a": 8, "b": 8},
            r"width 8 is no multiple of heads \(3\): set heads",
        ),
        ("cross_attention", {"a": 6, "b": 4}, r"width 6 is no multiple of heads \(4\)"),
    ],
)
def test_what_does_not_fit_the_modalities_is_refused(
    settings: Any, widths: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build_fusion(settings, widths, 3)


def test_cross_attention_has_8_heads_from_a_width_of_64_on_and_may_be_given_a_width() -> None:
    for settings, width, heads in ((None, 64, 8), (None, 32, 4), (16, 32, 4)):
        fusion = build_fusion({"name": "cross_attention", "width": settings}, {"a": width, "b": width}, 2)
        assert fusion.attention["a"].num_heads == heads  # type: ignore[index, union-attr]
        assert fusion.attention["a"].embed_dim == (settings or width)  # type: ignore[index, union-attr]
