"""Encoders of tokens: what the bag computes, what padding does to it, and which encoders take samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from g2d_pipeline.config import MLP, Bag, EncoderSettings, SmallCNN, Transformer
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import Encoder, build_encoder, build_fusion
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.multimodal import MultimodalModel
from g2d_pipeline.training.capacity import trial

VOCABULARY = 50
TEXTS = torch.tensor([[3, 4, 3, 0, 0, 0], [7, 1, 2, 5, 9, 8], [0, 0, 0, 0, 0, 0]], dtype=torch.int32)
SMALL = Transformer(width=16, layers=2, heads=2, feedforward=32, dropout=0.0)


def build(settings: EncoderSettings, length: int = 6) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(settings, (length,), vocabulary=VOCABULARY).eval()


@pytest.mark.parametrize(
    ("settings", "parameters", "width"),
    [
        (Bag(), 2000 * 64 + 65 * 64, 64),
        (Bag(width=8, widths=[]), 2000 * 8, 8),
        (Bag(width=8, widths=[16, 4], dropout=0.5), 2000 * 8 + 9 * 16 + 17 * 4, 4),
    ],
)
def test_a_bag_has_an_embedding_a_token_and_its_layers(settings: Bag, parameters: int, width: int) -> None:
    encoder = build_encoder(settings, (64,), vocabulary=2000)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder(torch.ones(2, 64, dtype=torch.int32)).shape == (2, encoder.width) == (2, width)


def test_the_feature_is_the_mean_over_the_real_tokens_then_the_layers() -> None:
    encoder = build(Bag(width=4, widths=[3]))
    embedding, linear = encoder.trunk[0], encoder.trunk[1]  # type: ignore[index]
    of = embedding.weight  # type: ignore[union-attr]
    means = torch.stack([(2 * of[3] + of[4]) / 3, of[[7, 1, 2, 5, 9, 8]].mean(0), torch.zeros(4)])
    torch.testing.assert_close(encoder(TEXTS), linear(means).relu())  # type: ignore[operator]


def either(test: object) -> object:
    return pytest.mark.parametrize("settings", [Bag(width=8, widths=[5]), SMALL], ids=["bag", "transformer"])(
        test
    )  # type: ignore[arg-type]


@either
def test_padding_and_the_rest_of_the_batch_change_no_feature(settings: EncoderSettings) -> None:
    encoder = build(settings)
    whole: Tensor = encoder(TEXTS)
    assert bool(whole.isfinite().all())
    torch.testing.assert_close(encoder(TEXTS[:1, :3]), whole[:1])
    longer = torch.nn.functional.pad(TEXTS, (0, 9))
    torch.testing.assert_close(encoder(longer), whole)


@either
def test_the_padding_is_never_learnt(settings: EncoderSettings) -> None:
    encoder = build(settings).train()
    table = next(p for p in encoder.modules() if isinstance(p, nn.EmbeddingBag | nn.Embedding)).weight
    assert not table[0].any()
    encoder(TEXTS).square().sum().backward()
    assert table.grad is not None
    met = sorted(set(TEXTS.flatten().tolist()) - {0})
    assert table.grad.abs().sum(1).nonzero().flatten().tolist() == met


def test_the_order_of_tokens_has_no_influence_on_a_bag_and_other_tokens_have() -> None:
    encoder = build(Bag())
    torch.testing.assert_close(encoder(TEXTS[1:2].flip(1)), encoder(TEXTS[1:2]))
    assert not torch.allclose(encoder(TEXTS[1:2] + 1), encoder(TEXTS[1:2]))


def test_large_ids_are_not_rounded() -> None:
    encoder = build_encoder(Bag(width=1, widths=[]), (1,), vocabulary=2**24 + 2).eval()
    with torch.no_grad():
        encoder.trunk[0].weight[-2:, 0] = torch.tensor([5.0, 7.0])  # type: ignore[index, union-attr, operator]
        found = encoder(torch.tensor([[2**24], [2**24 + 1]], dtype=torch.int32))
    assert found.flatten().tolist() == [5.0, 7.0]


def test_the_first_token_of_a_transformer_is_the_first_real_one() -> None:
    encoder = build(SMALL.model_copy(update={"pool": "first", "layers": 0}))
    table = encoder.trunk.projection.weight  # type: ignore[union-attr]
    torch.testing.assert_close(encoder(TEXTS)[:2], table[[3, 7]])


def test_a_batch_of_padding_alone_can_be_tried_for_its_size() -> None:
    encoders = {"text": build(Bag()), "table": build_encoder(MLP(widths=[4], dropout=[]), (3,))}
    model = MultimodalModel(encoders, build_fusion("late", {m: e.width for m, e in encoders.items()}, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    dtypes = {"text": torch.int32, "table": torch.float32}
    trial(model, {"text": (6,), "table": (3,)}, dtypes, 4, torch.device("cpu"))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "shape", "vocabulary", "said"),
    [
        (MLP(), [6], 50, "mlp takes samples of shape [F], not [6] (the token ids of a text: [L]). "
         "Encoders that take these: transformer, bag."),
        (SmallCNN(), [6], 50, "small_cnn takes samples of shape [C, H, W] or [C, T, H, W], not [6] (the"),
        (Bag(), [6], None, "bag takes samples of shape [L] (the token ids of a text), not [6] "
         "(a vector: [F]). Encoders that take these: mlp."),
        (Bag(), [3, 8, 8], None, "bag takes samples of shape [L] (the token ids of a text), not [3, 8, 8]"),
    ],
)  # fmt: skip
def test_ids_go_to_encoders_of_tokens_and_to_no_others(
    settings: EncoderSettings, shape: list[int], vocabulary: int | None, said: str
) -> None:
    modality = {"encoder": settings.model_dump(), "shape": shape, "normaliser": None}
    modality |= {} if vocabulary is None else {"vocabulary": vocabulary}
    task = {"name": "classification", "class_names": ["x", "y"]}
    with pytest.raises(ConfigError) as caught:
        build_model({"modalities": {"comment": modality}, "fusion": "late", "task": task})
    assert f"modality comment: encoder {said}" in str(caught.value)
