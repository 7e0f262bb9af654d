"""Configuration: precedence, short keys, and one readable line for every mistake."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.explain import Origins
from g2d_pipeline.methods import available, load
from g2d_pipeline.resolve import Configuration, check_methods, resolve

CONF = Path(__file__).resolve().parents[1] / "conf" / "base"


def read() -> tuple[dict[str, Any], Origins]:
    files: dict[str, Any] = {"datasets": {}, "methods": {}}
    origins = Origins()

    def note(name: str, tree: Any, prefix: tuple[str, ...] = ()) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                origins.entries.append((name, (*prefix, key)))
                note(name, value, (*prefix, key))

    for file in [*CONF.glob("parameters*.yml"), *CONF.glob("methods/*.yml")]:
        tree = yaml.safe_load(file.read_text().replace("${oc.env:G2D_SHARED_DATA,../shared/data}", "shared"))
        note(f"conf/base/{file.relative_to(CONF)}", tree)
        for section in ("datasets", "methods"):
            files[section] |= tree.pop(section, {})
        files |= tree
    return files, origins


FILES, ORIGINS = read()


def locate(raw: Any, wanted: str) -> Any:
    return ("raw" if wanted == "raw" or raw.layout == "spoken_mnist" else "sample"), Path("data")


def configure(change: dict[str, Any] | None = None, **overrides: Any) -> Configuration:
    files = copy.deepcopy(FILES)
    for path, value in (change or {}).items():
        *above, last = path.split(".")
        tree = files
        for key in above:
            tree = tree.setdefault(key, {})
        tree[last] = value
    configuration = resolve(files, overrides, locate, ORIGINS)
    check_methods(configuration)
    return configuration


@pytest.mark.parametrize("dataset", sorted(FILES["datasets"]))
@pytest.mark.parametrize("method", [*sorted(FILES["methods"]), "unimodal"])
def test_every_shipped_dataset_goes_with_every_shipped_method(dataset: str, method: str) -> None:
    configure(dataset=dataset, method=method)


def test_every_method_file_lists_exactly_the_parameters_of_its_class() -> None:
    for name, tree in FILES["methods"].items():
        listed = set(tree) - {"algorithm", "smp", "training", "needs_teachers"}
        assert listed == set(load(tree.get("algorithm", name)).Parameters.model_fields), name
    assert {"g2d", "joint", "unimodal"} <= set(available())


def test_the_command_of_the_issue() -> None:
    c = configure(dataset="mis_me", alpha=0.5, tau="8/16", epochs=20)
    g2d = c.methods["g2d"]
    assert (g2d.parameters["alpha"], g2d.smp and g2d.smp.tau, g2d.training.epochs) == (0.5, [8, 16], 20)
    assert g2d.smp is not None
    assert g2d.smp.phases(2, 20) == [8, 12]
    assert any("8/12" in note for note in c.notes)


def test_precedence_method_file_dataset_file_methods_section_command_line() -> None:
    assert configure().methods["g2d"].parameters["alpha"] == 1.0
    section = {"datasets.av_digits.methods": {"g2d": {"alpha": 0.7}}}
    assert configure(section).methods["g2d"].parameters["alpha"] == 0.7
    assert configure(section, alpha=0.2).methods["g2d"].parameters["alpha"] == 0.2
    smp = configure({"datasets.av_digits.smp": {"tau": [3, 17]}}).methods["g2d"].smp
    assert smp is not None
    assert smp.tau == [3, 17]


def test_the_sample_section_applies_to_the_sample_only() -> None:
    sample, raw = configure(dataset="mis_me"), configure(dataset="mis_me", source="raw")
    assert sample.shrunk
    assert not raw.shrunk
    assert sample.dataset.training.epochs < raw.dataset.training.epochs
    assert sample.dataset.modalities["image"].encoder == raw.dataset.modalities["image"].encoder


def test_short_keys_reach_their_one_place() -> None:
    c = configure(n_fft=512, lr=0.5, fusion="concat", ranking="epoch", seed=3)
    assert c.dataset.modalities["audio"].n_fft == 512  # type: ignore[union-attr]
    assert c.methods["joint"].training.optimizer.lr == c.teacher_training.optimizer.lr == 0.5
    assert c.dataset.fusion == "concat"
    assert c.run.seeds == [3]
    assert c.methods["g2d"].smp is not None
    assert c.methods["g2d"].smp.ranking == "epoch"


def test_dotted_keys_and_lists_with_slashes() -> None:
    c = configure(modalities={"audio": {"encoder": {"widths": "4/8"}}}, compare="joint/distillation", seeds="1/2")
    assert c.dataset.modalities["audio"].encoder.widths == [4, 8]  # type: ignore[union-attr]
    assert list(c.methods) == ["joint", "distillation", "g2d"]
    assert c.run.seeds == [1, 2]


def test_another_encoder_replaces_the_settings_of_the_old_one() -> None:
    c = configure(modalities={"audio": {"encoder": {"name": "resnet18"}}})
    assert c.dataset.modalities["audio"].encoder.model_dump() == {"name": "resnet18"}


def test_smp_false_switches_the_schedule_off() -> None:
    assert configure(smp=False).methods["g2d"].smp is None


def test_teachers_follow_the_recipe_unless_told_otherwise() -> None:
    assert configure(epochs=30).teacher_training.epochs == 30
    c = configure(teacher={"epochs": 7})
    assert (c.teacher_training.epochs, c.methods["g2d"].training.epochs) == (7, 20)


P = "--params"
AV = "conf/base/parameters_av_digits.yml"


@pytest.mark.parametrize(
    ("change", "overrides", "parts"),
    [
        ({}, {"dataset": "mis_mee"}, [P, "'mis_mee'", "Did you mean 'mis_me'?", "av_digits, mis_me, spoken_mnist"]),
        ({}, {"method": "g2"}, [P, "'g2'", "Did you mean 'g2d'?"]),
        ({}, {"alhpa": 1}, [P, "unknown key 'alhpa'", "Did you mean 'alpha'?"]),
        ({}, {"methd": "joint"}, [P, "Did you mean 'method'?"]),
        ({}, {"alpha": -3}, [P, "alpha = -3", "greater than or equal to 0"]),
        ({}, {"alpha": float("nan")}, [P, "alpha = nan", "finite"]),
        ({}, {"temperature": 0}, [P, "temperature = 0", "greater than 0"]),
        ({}, {"epochs": 0}, [P, "training.epochs = 0", "greater than 0"]),
        ({}, {"epochs": "many"}, [P, "training.epochs = 'many'", "integer"]),
        ({}, {"n_fft": 128}, [AV, "hop_length (256)", "n_fft (128)"]),
        ({}, {"batch_size": 1}, [P, "training.batch_size = 1", "from 2 on"]),
        ({}, {"tau": "1/2/3"}, [P, "tau = 1/2/3", "2 modalities need 2"]),
        ({}, {"tau": "-1/2"}, [P, "tau = '-1/2'", "whole numbers"]),
        ({}, {"tau": "1.5/2"}, [P, "whole numbers"]),
        ({}, {"epochs": 4}, [AV, "tau = 10/10 (epochs 4)", "tau=half"]),
        ({}, {"fusion": "lat"}, [P, "fusion = 'lat'", "'late' or 'concat'", "Did you mean 'late'?"]),
        ({}, {"ranking": "batches"}, [P, "ranking = 'batches'", "Did you mean 'batch'?"]),
        ({}, {"device": "gpu"}, [P, "device = 'gpu'"]),
        ({}, {"source": "rw"}, [P, "source = 'rw'", "Did you mean 'raw'?"]),
        ({}, {"seed": 1, "seeds": "1/2"}, [P, "seed or seeds, not both"]),
        ({}, {"widths": "3/4"}, [P, "ambiguous", "modalities.audio.encoder.widths"]),
        ({}, {"method": "joint", "compare": "joint", "tau": "8/12"}, [P, "tau belong to SMP", "method=g2d"]),
        ({}, {"method": "joint", "compare": "joint", "alpha": 1}, [P, "unknown key 'alpha'", "method joint"]),
        ({}, {"modalities": {"audio": {"nfft": 3}}}, [P, "'modalities.audio.nfft'", "Did you mean 'n_fft'?"]),
        ({"datasets.av_digits.trainings": 1}, {}, [AV, "'trainings' (value 1)", "'training'?", "Allowed: raw"]),
        ({"datasets.av_digits.modalities.audio.nmels": 4}, {}, [AV, "'modalities.audio.nmels'", "'n_mels'"]),
        ({"datasets.av_digits.modalities.audio.encoder": {"name": "resnet8"}}, {}, [AV, "resnet8", "'resnet18'?"]),
        ({"datasets.av_digits.modalities.audio.kind": "sound"}, {}, [AV, "modalities.audio", "sound", "'audio'"]),
        ({"datasets.av_digits.task": "regresion"}, {}, [AV, "task = 'regresion'", "Did you mean 'regression'?"]),
        ({"datasets.av_digits.modalities.multi": {"kind": "audio"}}, {}, [AV, "modality name 'multi'"]),
        ({"datasets.av_digits.raw.layout": "avdigits"}, {}, [AV, "avdigits", "Did you mean 'av_digits'?"]),
        ({"methods.joint": {"algorithm": "jont"}}, {}, ["no method file", "Did you mean joint?"]),
        ({"methods.g2d.needs_teachers": False}, {}, ["needs_teachers", "distils from teachers"]),
        ({"datasets.mis_me.modalities.image.mean": [0.5]}, {"dataset": "mis_me"}, ["mean has 1 values for 3 channels"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_file_key_value_and_remedy(
    change: dict[str, Any], overrides: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        configure(change, **overrides)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)
    assert error.value.exit_status == 2


def test_smp_needs_two_modalities() -> None:
    one = {k: v for k, v in FILES["datasets"]["av_digits"]["modalities"].items() if k == "audio"}
    with pytest.raises(ConfigError, match="at least two modalities"):
        configure({"datasets.av_digits.modalities": one})


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        configure({"datasets.av_digits.fusion": "x", "datasets.av_digits.training.epochs": -1})
    assert len(str(error.value).splitlines()) == 2
