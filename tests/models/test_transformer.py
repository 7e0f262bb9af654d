"""The transformer encoder: published sizes, and padding that changes nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from g2d_pipeline.config import TrainingSettings, Transformer
from g2d_pipeline.models import (
    Encoder,
    MultimodalModel,
    Normaliser,
    build_encoder,
    build_fusion,
    depends_on_batch,
)
from g2d_pipeline.training.precision import blocks, prepare

F = 5
SMALL = Transformer(width=16, layers=2, heads=4, feedforward=32, dropout=0.0)


def encoder_of(pool: str = "mean", dropout: float = 0.0, features: int = F) -> Encoder:
    torch.manual_seed(0)
    changed = SMALL.model_copy(update={"pool": pool, "dropout": dropout})
    return build_encoder(changed, (features + 1, 7))


def padded(steps: Tensor, length: int, before: int = 0, filling: float = 0.0) -> Tensor:
    """Real steps `[F, L]` → `[F + 1, length]`, with `before` padded steps in front, `filling` in every padded
    cell."""
    x = torch.full((len(steps) + 1, length), filling)
    x[-1] = 0
    x[:-1, before : before + steps.shape[1]] = steps
    x[-1, before : before + steps.shape[1]] = 1
    return x


# ------------------------------------------------------------------------------------------------------ sizes
def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("features", "projection"), [(81, 62_208), (371, 284_928), (300, 230_400)])
def test_an_encoder_has_the_published_number_of_parameters(features: int, projection: int) -> None:
    with torch.device("meta"):
        trunk = build_encoder(Transformer(), (features + 1, 50)).trunk
    assert count(trunk.projection) == projection  # type: ignore[arg-type]
    assert [count(layer) for layer in trunk.layers] == [5_513_984] * 4  # type: ignore[union-attr]
    assert count(trunk) == 22_055_936 + projection


@pytest.mark.parametrize(("layers", "heads", "parameters"), [(4, 8, 66_749_958), (8, 4, 132_917_766)])
def test_a_ur_funny_student_has_the_published_size(layers: int, heads: int, parameters: int) -> None:
    """The paper's 4 layers of 8 heads, and its code's argument order (datasets.md §4.4)."""
    widths = {"audio": 81, "visual": 371, "text": 300}
    with torch.device("meta"):
        encoders = {
            m: build_encoder(Transformer(layers=layers, heads=heads), (f + 1, 50)) for m, f in widths.items()
        }
        model = MultimodalModel(encoders, build_fusion("late", dict.fromkeys(widths, 768), 2))
    assert count(model) == parameters


# ---------------------------------------------------------------------------------------------------- padding
@pytest.mark.parametrize("pool", ["mean", "first"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@settings(max_examples=15)
@given(
    length=st.integers(1, 9),
    before=st.integers(0, 4),
    after=st.integers(0, 12),
    others=st.lists(st.integers(0, 12), max_size=3),
    filling=st.sampled_from([0.0, -1e6, 7.5, math.nan, math.inf]),
    seed=st.integers(0, 99),
)
def test_padding_changes_nothing(
    pool: str, training: bool, grad: bool, length: int, before: int, after: int, others: list[int],
    filling: float,
    seed: int,
) -> None:  # fmt: skip
    encoder = encoder_of(pool).train(training)
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(F, length, generator=generator)
    total = max([before + length + after, *others])
    batch = [padded(steps, total, before, filling)]
    batch += [padded(torch.randn(F, n, generator=generator), total) for n in others]
    with torch.set_grad_enabled(grad):
        alone = encoder(padded(steps, length)[None])
        among = encoder(torch.stack(batch))[:1]
    torch.testing.assert_close(among, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_training_and_evaluation_agree_without_dropout_and_with_gradients_or_not(pool: str) -> None:
    encoder = encoder_of(pool)
    x = torch.stack([padded(torch.randn(F, n), 9) for n in (1, 4, 9, 0)])
    trained = encoder.train()(x)
    assert trained.shape == (4, 16)
    torch.testing.assert_close(encoder.eval()(x), trained, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "first"])
@pytest.mark.parametrize("training", [False, True])
def test_a_sample_without_real_steps_has_the_feature_zero_and_no_gradient(pool: str, training: bool) -> None:
    encoder = encoder_of(pool).train(training)
    empty = torch.zeros(2, F + 1, 6)
    with torch.no_grad():
        assert torch.equal(encoder(empty), torch.zeros(2, 16))
    encoder(empty).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())


def test_padding_gets_no_gradient_and_real_steps_do() -> None:
    x = padded(torch.randn(F, 3), 6, filling=math.nan)[None].requires_grad_()
    encoder_of()(x).square().sum().backward()
    assert x.grad is not None
    assert not x.grad[:, :-1, 3:].any()
    assert x.grad[:, :-1, :3].all()


def test_the_mean_ignores_the_order_of_steps_and_first_knows_the_first() -> None:
    steps = torch.randn(F, 6)
    turned = steps.flip(1)
    mean, first = encoder_of("mean").eval(), encoder_of("first").eval()
    a, b = padded(steps, 8)[None], padded(turned, 8)[None]
    torch.testing.assert_close(mean(a), mean(b), rtol=0, atol=1e-5)
    assert float((first(a) - first(b)).detach().abs().max()) > 0.1


def test_the_mean_of_one_step_is_that_step() -> None:
    x = padded(torch.randn(F, 1), 5)[None]
    assert torch.equal(encoder_of("mean").eval()(x), encoder_of("first").eval()(x))


def test_the_normaliser_leaves_the_mask_row_alone() -> None:
    steps = torch.randn(F, 4) * 3 + 2
    mean, std = [2.0] * F + [0.0], [3.0] * F + [1.0]
    plain = encoder_of().eval()
    normalised = Encoder(plain.trunk, plain.width, Normaliser(1.0, mean, std)).eval()
    expected = plain(padded((steps - 2) / 3, 7)[None])
    torch.testing.assert_close(normalised(padded(steps, 7)[None]), expected, rtol=0, atol=1e-5)


def test_it_equals_torchs_own_encoder_of_the_same_weights() -> None:
    encoder = encoder_of().eval()
    trunk = encoder.trunk
    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    theirs.layers.load_state_dict(trunk.layers.state_dict())  # type: ignore[union-attr]
    x = torch.stack([padded(torch.randn(F, n), 6) for n in (2, 6)])
    hidden = theirs(trunk.projection(x[:, :-1]).transpose(1, 2), src_key_padding_mask=x[:, -1] < 0.5)  # type: ignore[operator]
    expected = torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)])
    torch.testing.assert_close(encoder(x), expected, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------------- training
def test_layers_start_as_published_and_differ_from_each_other() -> None:
    encoder = build_encoder(SMALL, (F + 1, 7))
    first, second = encoder.trunk.layers  # type: ignore[misc, union-attr]
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)
    for layer in (first, second):
        for linear in (layer.linear1, layer.linear2, layer.self_attn.out_proj):
            assert not linear.bias.any()
        assert not layer.self_attn.in_proj_bias.any()
        assert (layer.norm1.weight == 1).all()
        assert not layer.norm1.bias.any()


def test_its_layers_are_the_blocks_that_are_computed_again() -> None:
    plain = MultimodalModel({"a": encoder_of(dropout=0.3)}, build_fusion("late", {"a": 16}, 3)).train()
    model = copy.deepcopy(plain)
    assert [type(block).__name__ for block in blocks(model.encoders["a"])] == ["TransformerEncoderLayer"] * 2
    prepare(model, TrainingSettings(checkpoint_activations=True))
    x = {"a": torch.stack([padded(torch.randn(F, n), 9) for n in (1, 4, 9, 0)])}
    for each in (plain, model):
        torch.manual_seed(1)
        each(x).logits.square().sum().backward()
    assert torch.equal(plain(x).logits, plain(x).logits) is False  # dropout is on
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_a_sample_depends_on_the_draw_of_dropout() -> None:
    assert depends_on_batch(encoder_of(dropout=0.1))


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_gives_float32_features_close_to_float32s(training: bool) -> None:
    encoder = encoder_of().train(training)
    x = torch.stack([padded(torch.randn(F, n), 9) for n in (1, 4, 9, 0)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = encoder(x)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, encoder(x), rtol=0, atol=0.1)
    assert torch.equal(rough[3], torch.zeros(16))


def test_it_learns_which_sequences_hold_a_large_value() -> None:
    torch.manual_seed(0)
    encoder = encoder_of(features=2)
    head = nn.Linear(16, 2)
    lengths = torch.randint(1, 8, (64,)).tolist()
    label = torch.arange(64) % 2
    x = torch.stack(
        [padded(torch.randn(2, n) + 1.5 * int(y), 8) for n, y in zip(lengths, label, strict=True)]
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(encoder(x)), label).backward()
        optimizer.step()
    assert float((head(encoder.eval()(x)).argmax(1) == label).float().mean()) > 0.9
