"""What a method is not defined for, and mistakes in its parameters: two tables, each answer has a remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import available, build, load
from g2d_pipeline.methods.base import MethodContext
from tests.test_resolve import configure

SHARED, SUM = {"name": "shared", "combine": "entropy"}, {"name": "shared", "combine": "sum"}
P = "--params"
GE0, GT0, LE1 = "greater than or equal to 0", "greater than 0", "less than or equal to 1"

# method, parameters, what differs from a classification of two modalities by late fusion, parts of the answer
UNDEFINED: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("dlmg", {}, {"fusion": "concat"}, ["not defined for fusion concat", "works with: late"]),
    ("dlmg", {}, {"fusion_settings": {"average": "probabilities"}}, ["mean of logits", "average=logits"]),
    ("dlmg", {"matching": "js"}, {"task": "regression"}, ["distributions over classes", "matching=infonce"]),
    ("dlmg", {"schedule": "learned"}, {"accumulation": 2}, ["accumulation=1", "schedule=heuristic"]),
    ("gblending", {"weights": {"multl": 1}}, {}, ["weights.multl = 1", "no modality 'multl'", "'multi'?"]),
    ("gblending", {"least": 0.4}, {}, ["least = 0.4: 3 branches"]),
    ("greedy", {}, {"encoders": {"a": "small_cnn", "b": "mlp"}}, ["mlp (b) has none", "small_cnn, resnet18"]),
    ("mla", {}, {}, ["not defined for fusion late. It works with: shared"]),
    ("mla", {}, {"fusion": "shared", "fusion_settings": {"hidden": [4]}}, ["leave out fusion.hidden = [4]"]),
    ("mla", {}, {"fusion": "shared", "smp": True}, ["decides itself who learns when", "smp=false"]),
    ("mla", {}, {"fusion": "shared", "accumulation": 2}, ["none can be accumulated", "accumulation=1"]),
    ("mmcosine", {}, {"task": "regression", "fusion": "cosine"}, ["no classes", "fusion=sum"]),
    ("mmcosine", {}, {}, ["not defined for fusion late. It works with: cosine"]),
    ("mses", {}, {"fusion": "concat"}, ["fusion concat", "its head", "late, sum, weighted, cosine"]),
    ("mses", {}, {"fusion": "shared"}, ["fusion shared", "its head", "fusion=late"]),
    ("mses", {}, {"smp": True}, ["SMP can not be added", "smp=false"]),
    ("ogm", {"scope": "conv_only"}, {}, ["encoder of a (mlp) has none", "scope=encoder"]),
    ("reconboost", {}, {}, ["not defined for fusion late. It works with: shared, sum"]),
    ("reconboost", {}, {"fusion": "shared"}, ["fusion.combine = 'mean'", "fusion.combine=sum"]),
    ("reconboost", {}, {"fusion": "sum", "smp": True}, ["decides itself who learns when"]),
    ("ume", {}, {"fusion": "concat"}, ["not defined for fusion concat. It works with: late"]),
    ("ume", {}, {"smp": True}, ["ume trains nothing, so SMP has nothing to schedule", "smp=false"]),
]  # fmt: skip

# method, overrides on the command line, parts of the answer
MISTAKES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("agm", {"alpha": -1}, ["alpha = -1", GE0]),
    ("agm", {"where": "encoders"}, ["where = 'encoders'", "Did you mean 'encoder'?"]),
    ("agm", {"start_epoch": 5, "end_epoch": 2}, ["end_epoch = 2", "null for the whole run"]),
    ("cml", {"weight": -0.1}, ["weight = -0.1", GE0]),
    ("cml", {"losses": "nest"}, ["losses = 'nest'", "Did you mean 'nested'?"]),
    ("dlmg", {"start": 1.5}, ["start = 1.5", LE1]),
    ("dlmg", {"matching": "jss"}, ["matching = 'jss'", "Did you mean 'js'?"]),
    ("g2d", {"alpha": -1}, [P, "alpha = -1", GE0]),
    ("g2d", {"beta": -0.5}, [P, "beta = -0.5", GE0]),
    ("g2d", {"beta": float("nan")}, [P, "beta = nan", "finite"]),
    ("g2d", {"alpha": float("inf")}, [P, "alpha = inf", "finite"]),
    ("g2d", {"temperature": 0}, [P, "temperature = 0", GT0]),
    ("g2d", {"temperature": -2}, [P, "temperature = -2", GT0]),
    ("g2d", {"feature_loss": "mes"}, [P, "feature_loss = 'mes'", "'l1'", "Did you mean 'mse'?"]),
    ("g2d", {"reduction": "avg"}, [P, "reduction = 'avg'", "'mean'"]),
    ("g2d", {"modality_weights": {"audio": -1}}, [P, "modality_weights.audio = -1", GE0]),
    ("g2d", {"modality_weights": {"audoi": 2}}, [P, "modality_weights.audoi = 2", "'audio'?", "image"]),
    ("g2d", {"projection": "perhaps"}, [P, "projection = 'perhaps'"]),
    ("gblending", {"measure": "ofline"}, ["measure = 'ofline'", "'offline'?"]),
    ("gblending", {"weights": {"audio": 0}}, ["finite sum above 0"]),
    ("greedy", {"dataset": "mis_me"}, ["mlp (tabular) has none", "small_cnn, resnet18"]),
    ("greedy", {"smp": True}, ["SMP can not be added"]),
    ("greedy", {"methods": {"greedy": {"fusion": "concat"}}}, ["has not", "late, sum, weighted", "=whole"]),
    ("greedy", {"window": 0}, ["window = 0", GT0]),
    ("greedy", {"replaced": "gates"}, ["replaced = 'gates'", "Did you mean 'gate'?"]),
    ("mbsd", {"distill_weight": -2}, ["distill_weight = -2", GE0]),
    ("mis_me_hybrid", {"weights": {"iamge": 2}}, ["weights.iamge = 2", "'image'?", "multi, audio, image"]),
    ("mis_me_hybrid", {"weights": {"image": -1}}, ["weights.image = -1", GE0]),
    ("mis_me_hybrid", {"weights": {"multi": 0}}, ["weights.multi = 0", "never be trained", "above 0"]),
    ("mla", {"accumulation": 2}, ["none can be accumulated", "accumulation=1"]),
    ("mla", {"regularisation": 1.5}, ["regularisation = 1.5", "less than 1"]),
    ("mmpareto", {"scale": 0}, ["scale = 0", GT0]),
    ("mmpareto", {"rescale": "layer"}, ["rescale = 'layer'", "'tensor'"]),
    ("modality_valuation", {"level": "samples"}, ["level = 'samples'", "'sample'?"]),
    ("modality_valuation", {"part_ratio": 0}, ["part_ratio = 0", GT0]),
    ("mses", {"fusion": "concat"}, ["fusion concat", "its head", "fusion=late"]),
    ("mses", {"weights": {"adio": 2}}, ["weights.adio = 2", "Did you mean 'audio'?", "Allowed: "]),
    ("mses", {"weights": {"audio": -1}}, ["weights.audio = -1", GE0]),
    ("mses", {"patience": 0}, ["patience = 0", GT0]),
    ("mses", {"patiense": 3}, ["patiense", "patience"]),
    ("mslr", {"rates": {"adio": 2}}, ["rates.adio = 2", "no modality 'adio'", "'audio'?", "Allowed: "]),
    ("mslr", {"rates": {"audio": 0}}, ["rates.audio = 0", GT0]),
    ("mslr", {"strategy": "smoth"}, ["strategy = 'smoth'", "Did you mean 'smooth'?"]),
    ("mslr", {"window": 0}, ["window = 0", GT0]),
    ("mslr", {"rate": 1}, ["rate", "rates"]),
    ("ogm", {"alpha": -1}, ["alpha = -1", GE0]),
    ("ogm_ge", {"start_epoch": 5, "end_epoch": 3}, ["end_epoch = 3 is before start_epoch = 5"]),
    ("pmr", {"share": 0}, ["share = 0", GT0]),
    ("pmr", {"alpah": 1}, ["alpah", "alpha"]),
    ("pmr", {"start_epoch": 5, "end_epoch": 3}, ["end_epoch = 3 is before start_epoch = 5"]),
    ("reconboost", {"reconcilement_weight": 6}, ["reconcilement_weight = 6 exceeds agreement_weight = 5"]),
    ("relearning", {"gap": "abs"}, ["gap = 'abs'", "'absolute'"]),
    ("relearning", {"reinit_epoch": 0}, ["reinit_epoch = 0", GT0]),
]  # fmt: skip


def missing(parts: list[str], error: BaseException) -> list[str]:
    return [part for part in parts if part not in str(error)]


@pytest.mark.parametrize(("method", "parameters", "change", "parts"), UNDEFINED)
def test_what_is_undefined_says_why_and_what_works(
    method: str, parameters: dict[str, Any], change: dict[str, Any], parts: list[str]
) -> None:
    context = {"task": "classification", "fusion": "late", "encoders": {"a": "mlp", "b": "mlp"}} | change
    with pytest.raises(ValueError, match=re.escape(parts[0])) as error:
        build(method, parameters).check(MethodContext(**context))
    assert missing(parts, error.value) == [], str(error.value)


@pytest.mark.parametrize("method", [name for name in available() if load(name).min_modalities > 1])
def test_methods_that_compare_modalities_refuse_one_alone(method: str) -> None:
    with pytest.raises(
        ValueError, match=f"{method} compares modalities, and a is the only one: say method=joint"
    ):
        build(method).check(MethodContext("classification", "late", {"a": "mlp"}))


@pytest.mark.parametrize(("method", "overrides", "parts"), MISTAKES)
def test_mistakes_are_told_before_any_data_are_read(
    method: str, overrides: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        configure(**{"dataset": "av_digits", "method": method, **overrides})
    assert missing(parts, error.value) == [], str(error.value)
