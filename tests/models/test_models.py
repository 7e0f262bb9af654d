"""Encoders and fusions: published parameter counts, shapes, and what a unimodal readout means."""

from __future__ import annotations

import pytest
import torch

from g2d_pipeline.config import MLP, MobileNetV2, ResNet18, SmallCNN, Transformer
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import MultimodalModel, Normaliser, build_encoder, build_fusion
from g2d_pipeline.models.build import build_model

IMAGE, CLIP = "an image or spectrogram: [C, H, W]", "the frames of a clip: [C, T, H, W]"
SEQUENCE = "a sequence with its mask row: [F + 1, T]"


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "shape", "parameters", "width"),
    [
        (ResNet18(), (3, 64, 64), 11_176_512, 512),
        (ResNet18(), (1, 64, 64), 11_170_240, 512),
        (MobileNetV2(), (3, 64, 64), 2_223_872, 1280),
        (MLP(), (8,), 47_056, 16),
    ],
)
def test_parameter_counts_are_the_published_ones(settings, shape, parameters, width) -> None:  # type: ignore[no-untyped-def]
    encoder = build_encoder(settings, shape)
    assert count(encoder) == parameters
    assert encoder(torch.randn(2, *shape)).shape == (2, width)


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", torch.nn.BatchNorm1d), ("layer", torch.nn.LayerNorm), ("none", None)]
)
def test_the_norm_of_an_mlp_is_a_setting(norm: str, kind: type | None) -> None:
    settings = MLP(widths=[6, 4], dropout=[], norm=norm)
    parts = list(build_encoder(settings, (8,)).trunk.children())
    norms = [type(p) for p in parts if not isinstance(p, torch.nn.Linear | torch.nn.ReLU)]
    assert norms == ([] if kind is None else [kind, kind])
    assert [p.out_features for p in parts if isinstance(p, torch.nn.Linear)] == [6, 4]
    assert MLP() == MLP(norm="batch")  # as published


PAIRS = {  # dataset → channels of its two ResNet-18, classes
    "crema_d": (1, 3, 6),
    "av_mnist": (1, 1, 10),
    "vggsound": (1, 3, 309),
}


@pytest.mark.parametrize(
    ("dataset", "fusion", "parameters"),
    [
        ("crema_d", "late", 22_352_908),
        ("av_mnist", "late", 22_350_740),
        ("vggsound", "late", 22_663_786),
        ("crema_d", "concat", 22_352_902),
        ("av_mnist", "concat", 22_350_730),
        ("vggsound", "concat", 22_663_477),
    ],
)
def test_students_of_two_resnets_have_the_published_size(dataset: str, fusion: str, parameters: int) -> None:
    a, b, classes = PAIRS[dataset]
    with torch.device("meta"):
        encoders = {
            "a": build_encoder(ResNet18(), (a, 32, 32)),
            "b": build_encoder(ResNet18(), (b, 3, 32, 32)),
        }
        model = MultimodalModel(encoders, build_fusion(fusion, {"a": 512, "b": 512}, classes))
    assert count(model) == parameters


@pytest.mark.parametrize(
    ("settings", "shape", "outputs", "head", "parameters"),
    [
        (ResNet18(), (1, 257, 188), 6, 3_078, 11_173_318),  # CREMA-D
        (ResNet18(), (3, 1, 224, 224), 6, 3_078, 11_179_590),
        (ResNet18(), (1, 28, 28), 10, 5_130, 11_175_370),  # AV-MNIST
        (ResNet18(), (3, 3, 224, 224), 309, 158_517, 11_335_029),  # VGGSound
        (MobileNetV2(), (3, 224, 224), 1, 1_281, 2_225_153),  # MIS-ME
        (MLP(), (8,), 1, 17, 47_073),
    ],
)
def test_teachers_and_their_heads_have_the_published_size(settings, shape, outputs, head, parameters) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        encoder = build_encoder(settings, shape)
        fusion = build_fusion("late", {"m": encoder.width}, outputs)
    assert (count(fusion), count(encoder) + count(fusion)) == (head, parameters)


def test_the_table_network_of_mis_me_is_the_published_one() -> None:
    parts = list(build_encoder(MLP(), (8,)).trunk.children())
    linear = [p for p in parts if isinstance(p, torch.nn.Linear)]
    assert [(p.in_features, p.out_features) for p in linear] == [
        (8, 256),
        (256, 128),
        (128, 64),
        (64, 32),
        (32, 16),
    ]
    assert [p.p for p in parts if isinstance(p, torch.nn.Dropout)] == [0.3, 0.2, 0.1]
    once = ["Linear", "BatchNorm1d", "ReLU"]
    assert [type(p).__name__ for p in parts] == [*once, "Dropout"] * 3 + once * 2


def test_resnet18_has_the_published_shapes_up_to_its_feature() -> None:
    trunk = build_encoder(ResNet18(), (1, 257, 188)).trunk.eval()
    shapes = {}
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"):
        getattr(trunk, name).register_forward_hook(
            lambda _, __, y, name=name: shapes.update({name: tuple(y.shape)})
        )
    trunk(torch.randn(1, 1, 257, 188))
    assert list(shapes.values()) == [
        (1, 64, 129, 94), (1, 64, 65, 47), (1, 64, 65, 47), (1, 128, 33, 24), (1, 256, 17, 12),
        (1, 512, 9, 6), (1, 512, 1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        (ResNet18(), (3, 8, 8)),
        (MobileNetV2(), (3, 8, 8)),
        (MLP(), (8,)),
        (Transformer(width=64, layers=1), (65, 4)),
    ],
    ids=["resnet18", "mobilenet_v2", "mlp", "transformer"],
)
def test_encoders_start_as_published(settings, shape) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    parts = list(build_encoder(settings, shape).modules())
    for part in parts:
        if isinstance(part, torch.nn.Linear):
            wanted = (2 / (part.in_features + part.out_features)) ** 0.5  # Xavier
        elif isinstance(part, torch.nn.Conv1d | torch.nn.Conv2d):
            wanted = (2 / (part.weight[0][0].numel() * part.out_channels)) ** 0.5  # Kaiming, fan-out
        else:
            if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.LayerNorm):
                assert bool((part.weight == 1).all())
                assert not part.bias.any()
            continue
        if part.weight.numel() > 1000:
            assert float(part.weight.detach().std()) == pytest.approx(wanted, rel=0.1)
        assert part.bias is None or not part.bias.any()
    attention = [p for p in parts if isinstance(p, torch.nn.MultiheadAttention)]
    for part in attention:  # left to torch: Xavier uniform of the three together
        assert float(part.in_proj_weight.detach().abs().max()) == pytest.approx(
            (6 / (64 + 3 * 64)) ** 0.5, rel=0.01
        )


def test_a_wrong_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"mobilenet_v2 takes samples of shape \[3, H, W\], not \[1, 8, 8\]"):
        build_encoder(MobileNetV2(), (1, 8, 8))
    with pytest.raises(ValueError, match=r"mlp takes samples of shape \[F\]"):
        build_encoder(MLP(), (1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "shape", "takes", "kind", "others"),
    [
        (ResNet18(), (8,), "[C, H, W] or [C, T, H, W]", "a vector: [F]", "mlp"),
        (MLP(), (6, 50), "[F]", SEQUENCE, "transformer"),
        (MLP(), (3, 2, 9, 9), "[F]", CLIP, "small_cnn, resnet18, mobilenet_v2"),
        (MobileNetV2(), (1, 2, 9, 9), "[3, T, H, W]", CLIP, "small_cnn, resnet18"),
        (Transformer(), (3, 9, 9), "[F + 1, T]", IMAGE, "small_cnn, resnet18, mobilenet_v2"),
        (Transformer(), (1, 50), "[F + 1, T]", SEQUENCE, ""),
        (SmallCNN(), (28, 28), "[C, H, W] or [C, T, H, W]", SEQUENCE, "transformer"),
        (SmallCNN(), (3, 0, 28), "[C, H, W]", IMAGE, ""),
        (MLP(), (), "[F]", "", ""),
        (ResNet18(), (1, 2, 3, 4, 5), "[C, H, W] or [C, T, H, W]", "", ""),
    ],
)  # fmt: skip
def test_the_message_says_which_shapes_fit_and_which_encoders(settings, shape, takes, kind, others) -> None:  # type: ignore[no-untyped-def]
    modality = {"encoder": settings.model_dump(), "shape": list(shape), "normaliser": None}
    task = {"name": "classification", "class_names": ["x", "y"]}
    with pytest.raises(ConfigError) as caught:
        build_model({"modalities": {"weather": modality}, "fusion": "late", "task": task})
    what = f" ({kind})" if kind else ""
    which = f"Encoders that take these: {others}." if others else "No encoder takes these."
    expected = f"encoder {settings.name} takes samples of shape {takes}, not {list(shape)}{what}. {which}"
    hint = " Images without colour need their channel: [1, 28, 28]." if shape == (28, 28) else ""
    assert str(caught.value) == f"modality weather: {expected}{hint}"


def test_late_fusion_is_the_mean_of_its_unimodal_logits_and_k1_is_the_head_alone() -> None:
    features = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    late = build_fusion("late", {"a": 3, "b": 5}, 7)
    own = [late.unimodal_logits(features, m) for m in "ab"]
    torch.testing.assert_close(late(features), (own[0] + own[1]) / 2)
    alone = build_fusion("late", {"a": 3}, 7)
    assert torch.equal(alone({"a": features["a"]}), alone.unimodal_logits(features, "a"))


def test_concat_readouts_sum_to_the_logits_with_the_bias_counted_once() -> None:
    features = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    concat = build_fusion("concat", {"a": 3, "b": 5}, 7)
    torch.nn.init.normal_(concat.head.bias)
    total = concat.unimodal_logits(features, "a") + concat.unimodal_logits(features, "b") - concat.head.bias
    torch.testing.assert_close(concat(features), total)


def test_concat_readout_ignores_the_other_modality() -> None:
    features = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    concat = build_fusion("concat", {"a": 3, "b": 5}, 7)
    before = concat.unimodal_logits(features, "a")
    assert torch.equal(before, concat.unimodal_logits(features | {"b": torch.zeros(4, 5)}, "a"))


def test_the_normaliser_is_a_channelwise_affine_map_of_stored_bytes() -> None:
    x = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    found = Normaliser(1 / 255, [0.5, 0.2], [0.5, 0.1])(x)
    torch.testing.assert_close(found, torch.tensor([[[[-1.0, 1.0]], [[0.0, 2.0]]]]))


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 17), (3, 3, 31, 17), (2, 3, 5, 12, 10)], ids=str)
def test_the_normaliser_gives_the_same_bits_in_every_layout_and_leaves_its_input(
    shape: tuple[int, ...],
) -> None:
    of = Normaliser(1 / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = torch.randint(0, 256, shape, dtype=torch.uint8)
    stored = x.float()
    column = (1, 3) + (1,) * (x.dim() - 2)
    shift, factor = (-of.mean / of.std).view(column), (of.scale / of.std).view(column)
    wanted = torch.addcmul(shift, stored, factor)
    inner = x.movedim(1, -1).contiguous().movedim(-1, 1)  # channels innermost
    assert all(torch.equal(of(form), wanted) for form in (x, inner, stored, inner.float()))
    assert torch.equal(stored, x.float())


def test_relu_and_max_pool_commute_so_the_cheaper_order_changes_nothing() -> None:
    x = torch.randn(2, 3, 8, 8)
    pool, relu = torch.nn.MaxPool2d(2), torch.nn.ReLU()
    assert torch.equal(pool(relu(x)), relu(pool(x)))


def test_a_small_map_is_not_pooled_away() -> None:
    assert build_encoder(SmallCNN(widths=[4, 4, 4, 4, 4]), (1, 8, 8))(torch.randn(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("shape", "grid", "stride"),
    [((1, 129, 63), 4, 2), ((3, 28, 28), 4, 1), ((1, 40, 8), 2, 1), ((1, 9, 9), 1, 2)],
)
def test_the_width_of_a_small_cnn_is_that_of_its_features(
    shape: tuple[int, ...], grid: int, stride: int
) -> None:
    encoder = build_encoder(SmallCNN(widths=[4, 6], grid=grid, stride=stride), shape)  # type: ignore[arg-type]
    assert encoder(torch.randn(2, *shape)).shape == (2, encoder.width)


def test_the_modality_is_named_when_its_encoder_does_not_fit() -> None:
    modality = {"encoder": {"name": "resnet18"}, "shape": [8], "normaliser": None}
    task = {"name": "classification", "class_names": ["x", "y"]}
    with pytest.raises(ValueError, match="modality weather: encoder resnet18"):
        build_model({"modalities": {"weather": modality}, "fusion": "late", "task": task})
