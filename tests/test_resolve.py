"""Configuration: precedence, short keys, and one readable line for every mistake."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.cli.utils import _split_params

from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.explain import Origins
from g2d_pipeline.hooks import ProjectHooks
from g2d_pipeline.methods import available, load
from g2d_pipeline.overrides import METHOD_KEYS
from g2d_pipeline.resolve import check_methods, resolve

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


def locate(raw: Any, source: str) -> Any:
    return ("raw" if source == "raw" or raw.layout == "spoken_mnist" else "sample"), Path("data")


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


PAIRS = [(dataset, "g2d") for dataset in sorted(FILES["datasets"])] + [
    (dataset, method)
    for dataset in ("av_digits", "mis_me", "ur_funny")
    for method in [*FILES["methods"], "unimodal"]
]


@pytest.mark.parametrize(("dataset", "method"), PAIRS)
def test_every_shipped_dataset_goes_with_every_shipped_method(dataset: str, method: str) -> None:
    encoders = {m["encoder"]["name"] for m in FILES["datasets"][dataset]["modalities"].values()}
    if method == "mmcosine" and FILES["datasets"][dataset]["task"] == "regression":
        with pytest.raises(ConfigError, match="a regression has no classes: say method=joint"):
            configure(dataset=dataset, method=method)
        return
    if method == "lfm" and FILES["datasets"][dataset]["task"] == "regression":
        with pytest.raises(ConfigError, match="Say matching=infonce"):
            configure(dataset=dataset, method=method)
        return
    if method == "greedy" and not encoders <= {"small_cnn", "resnet18"}:
        with pytest.raises(ConfigError, match="works with: small_cnn, resnet18"):
            configure(dataset=dataset, method=method)
        return
    configure(dataset=dataset, method=method)


def test_every_method_file_lists_exactly_the_parameters_of_its_class() -> None:
    for name, tree in FILES["methods"].items():
        listed = set(tree) - set(METHOD_KEYS)
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
    encoders = [c.dataset.modalities["image"].encoder.name for c in (raw, sample)]  # type: ignore[union-attr]
    assert encoders == ["mobilenet_v2", "small_cnn"]
    assert sample.dataset.modalities["tabular"] == raw.dataset.modalities["tabular"]


def test_short_keys_reach_their_one_place() -> None:
    c = configure(n_fft=512, lr=0.5, fusion="concat", ranking="epoch", seed=3)
    assert c.dataset.modalities["audio"].n_fft == 512  # type: ignore[union-attr]
    assert c.methods["joint"].training.optimizer.lr == c.teacher_training.optimizer.lr == 0.5
    assert c.dataset.fusion.name == "concat"
    assert c.run.seeds == [3]
    assert c.methods["g2d"].smp is not None
    assert c.methods["g2d"].smp.ranking == "epoch"


def test_several_values_of_seed_are_seeds() -> None:
    assert configure(seed="0/2").run.seeds == [0, 2]


def test_dotted_keys_and_lists_with_slashes() -> None:
    c = configure(
        modalities={"audio": {"encoder": {"widths": "4/8"}}}, compare="joint/distillation", seeds="1/2"
    )
    assert c.dataset.modalities["audio"].encoder.widths == [4, 8]  # type: ignore[union-attr]
    assert list(c.methods) == ["joint", "distillation", "g2d"]
    assert c.run.seeds == [1, 2]


def test_one_key_of_evaluate_leaves_the_others_as_the_file_has_them() -> None:
    settings = configure(evaluate={"robustness": "false"}).evaluate()
    assert (settings.robustness, settings.corrupted_samples) == (False, 2000)


def test_another_encoder_replaces_the_settings_of_the_old_one() -> None:
    c = configure(modalities={"audio": {"encoder": {"name": "resnet18"}}})
    assert c.dataset.modalities["audio"].encoder.model_dump() == {
        "name": "resnet18",
        "initialisation": "published",
    }


def typed(line: str, change: dict[str, Any] | None = None) -> Configuration:
    """The configuration of `--params <line>`, split as Kedro splits it."""
    return configure(change, **_split_params(None, None, line))


def orders(*items: str) -> list[str]:
    return [",".join(order) for order in itertools.permutations(items)]


def test_a_share_beside_a_split_column_leaves_the_column() -> None:
    change = {"datasets.houses.raw.split": "fold"}
    split = typed("dataset=houses,source=raw,split.val=0.2,split.group=zipcode", change).dataset.raw.split
    assert (split.column, split.val, split.test, split.group) == ("fold", 0.2, None, "zipcode")
    with pytest.raises(ConfigError, match="column 'fold' says what test is: remove test"):
        typed("dataset=houses,source=raw,split.test=0.2", change)
    split = typed("dataset=houses,source=raw,split=other", change).dataset.raw.split
    assert (split.column, split.val) == ("other", None)
    split = typed("dataset=houses,source=raw,split.group=zipcode,split.test.group=1/2").dataset.raw.split
    assert split.test.group == ["1", "2"]


@pytest.mark.parametrize(
    "line",
    [
        *orders("lr_schedule.name=cosine", "lr_schedule.min_lr=1e-5", "optimizer.name=adamw", "lr=0.02"),
        *orders("lr_schedule=cosine", "min_lr=1e-5", "optimizer=adamw", "lr=0.02"),
        *orders(
            "training.lr_schedule=cosine",
            "lr_schedule.min_lr=1e-5",
            "training.optimizer=adamw",
            "optimizer.lr=0.02",
        ),
    ],
)
def test_names_of_sections_come_first_whatever_the_order(line: str) -> None:
    for training in (typed(line).methods["g2d"].training, typed(line).teacher_training):
        assert training.lr_schedule.model_dump() == {"name": "cosine", "min_lr": 1e-5, "warmup": 0}
        assert training.optimizer.model_dump() == {"name": "adamw", "lr": 0.02, "weight_decay": 1e-2}


@pytest.mark.parametrize("line", orders("lr_schedule=multistep", "milestones=3/6", "gamma=0.5", "warmup=2"))
def test_a_key_that_the_new_name_demands_is_known(line: str) -> None:
    expected = {"name": "multistep", "milestones": [3, 6], "gamma": 0.5, "warmup": 2}
    assert typed(line).methods["joint"].training.lr_schedule.model_dump() == expected


def test_the_name_that_is_already_there_keeps_the_keys_beside_it() -> None:
    kept = typed("optimizer=sgd,momentum=0.5").teacher_training.optimizer
    assert kept.model_dump() == {"name": "sgd", "lr": 0.01, "momentum": 0.5, "weight_decay": 1e-4}


@pytest.mark.parametrize(
    "line", orders("modalities.image.kind=audio", "image.encoder=resnet18", "image.n_mels=8")
)
def test_another_kind_comes_before_what_is_inside(line: str) -> None:
    image = typed(line).dataset.modalities["image"]
    assert (image.kind, image.encoder.name, image.n_mels) == ("audio", "resnet18", 8)  # type: ignore[union-attr]


def test_sections_that_the_file_leaves_out_can_be_changed_all_the_same() -> None:
    tree = {k: v for k, v in FILES["datasets"]["av_digits"].items() if k not in ("training", "smp")}
    change = {"datasets.av_digits": tree}
    training = typed("lr=0.2,every=7,epochs=4,warmup=1", change).teacher_training
    assert (training.optimizer.lr, training.epochs) == (0.2, 4)
    assert training.lr_schedule.model_dump() == {"name": "step", "every": 7, "gamma": 0.1, "warmup": 1}
    assert typed("optimizer=adam,lr=0.2", change).teacher_training.optimizer.model_dump()["name"] == "adam"


def test_the_name_of_the_target_is_no_choice_of_a_class() -> None:
    change = {"datasets.mis_me.target": {"name": "vwc", "unit": "%", "output": "identity"}}
    target = typed("dataset=mis_me,target.name=water", change).dataset.target
    assert target.model_dump() == {"name": "water", "unit": "%", "output": "identity"}


@pytest.mark.parametrize(
    "line", orders("teacher.optimizer=adam", "teacher.lr=0.3", "optimizer=adamw", "lr=0.02")
)
def test_teachers_take_names_and_short_keys_too(line: str) -> None:
    c = typed(line)
    assert c.teacher_training.optimizer.model_dump() == {"name": "adam", "lr": 0.3, "weight_decay": 0.0}
    assert c.methods["g2d"].training.optimizer.model_dump() == {
        "name": "adamw",
        "lr": 0.02,
        "weight_decay": 1e-2,
    }


@pytest.mark.parametrize(
    "line",
    [
        "modalities.image.augment.flip=0.5,modalities.image.augment.crop=0.08/1",
        "image.augment.crop=0.08/1,image.augment.flip=0.5",
        "flip=0.5,crop=0.08/1",
    ],
)
@pytest.mark.parametrize("section", [None, {"kind": "image", "flip": 0.1}, {"crop": [0.5, 1]}])
def test_augmentation_with_and_without_a_section_in_the_file(
    line: str, section: dict[str, Any] | None
) -> None:
    c = typed(line, {"datasets.av_digits.modalities.image.augment": section})
    augment = c.dataset.modalities["image"].augment
    assert augment is not None
    assert augment.model_dump(include={"flip", "crop"}) == {"flip": 0.5, "crop": [0.08, 1.0]}
    assert c.dataset.modalities["audio"].augment is None


def test_a_short_key_goes_to_the_section_that_is_there() -> None:
    change = {"datasets.mis_me.modalities.image.augment": {"flip": 0.5}}
    modalities = typed("dataset=mis_me,noise=0.2", change).dataset.modalities
    assert modalities["image"].augment is not None
    assert (modalities["image"].augment.noise, modalities["tabular"].augment) == (0.2, None)


def test_the_shallower_place_wins() -> None:
    c = typed("audio.noise=0.2,time_masks=2", {"datasets.av_digits.modalities.audio.augment": {"noise": 0.3}})
    audio = c.dataset.modalities["audio"]
    assert (audio.noise, audio.augment and audio.augment.noise) == (0.2, 0.3)  # type: ignore[union-attr]
    assert typed("noise=0.4").dataset.modalities["audio"].noise == 0.4  # type: ignore[union-attr]
    assert typed("audio.augment.noise=0.5").dataset.modalities["audio"].augment.noise == 0.5  # type: ignore[union-attr]


def test_a_parameter_of_the_method_comes_before_a_section_that_is_not_there() -> None:
    files = copy.deepcopy(FILES)
    files["methods"]["g2d"]["flip"] = 1
    assert resolve(files, {"flip": 2}, locate, ORIGINS).methods["g2d"].parameters["flip"] == 2


def test_smp_false_switches_the_schedule_off() -> None:
    assert configure(smp=False).methods["g2d"].smp is None


def test_teachers_follow_the_recipe_unless_told_otherwise() -> None:
    assert configure(epochs=30).teacher_training.epochs == 30
    c = configure(teacher={"epochs": 7})
    assert (c.teacher_training.epochs, c.methods["g2d"].training.epochs) == (7, 20)


P = "--params"
AV = "conf/base/parameters_av_digits.yml"
OTHER = {"datasets.av_digits.modalities.image.teacher_encoder": {"name": "resnet18", "weights": "x.pth"}}
TWO = "datasets.av_digits.modalities.left"
NEW = "datasets.av_digits.modalities.new"


@pytest.mark.parametrize(
    ("change", "overrides", "parts"),
    [
        (
            {},
            {"dataset": "mis_mee"},
            [P, "'mis_mee'", "Did you mean 'mis_me'?", "Known: av_digits, av_mnist, crema_d"],
        ),
        ({}, {"method": "g2"}, [P, "'g2'", "Did you mean 'g2d'?"]),
        (
            {},
            {"selection_metric": "rmse"},
            [P, "training.selection_metric = 'rmse': a classification is selected by accuracy or loss"],
        ),
        ({}, {"alhpa": 1}, [P, "unknown key 'alhpa'", "Did you mean 'alpha'?"]),
        ({}, {"methd": "joint"}, [P, "Did you mean 'method'?"]),
        ({}, {"alpha": -3}, [P, "alpha = -3", "greater than or equal to 0"]),
        ({}, {"alpha": float("nan")}, [P, "alpha = nan", "finite"]),
        ({}, {"temperature": 0}, [P, "temperature = 0", "greater than 0"]),
        ({}, {"epochs": 0}, [P, "training.epochs = 0", "greater than 0"]),
        ({}, {"epochs": "many"}, [P, "training.epochs = 'many'", "whole number"]),
        ({}, {"n_fft": 128}, [AV, "hop_length (256)", "n_fft (128)"]),
        ({}, {"batch_size": 1}, [P, "training.batch_size = 1", "from 2 on"]),
        ({}, {"tau": "1/2/3"}, [P, "tau = 1/2/3", "2 modalities need 2"]),
        ({}, {"tau": "-1/2"}, [P, "tau = '-1/2'", "whole numbers"]),
        ({}, {"tau": "1.5/2"}, [P, "whole numbers"]),
        ({}, {"epochs": 4}, [AV, "tau = 10/10 (epochs 4)", "tau=half"]),
        (
            {},
            {"fusion": "lat"},
            [P, "fusion = 'lat'", "allowed are late, sum, concat", "Did you mean 'late'?"],
        ),
        ({}, {"ranking": "batches"}, [P, "ranking = 'batches'", "Did you mean 'batch'?"]),
        ({}, {"device": "gpu"}, [P, "device = 'gpu'"]),
        ({}, {"source": "rw"}, [P, "source = 'rw'", "Did you mean 'raw'?"]),
        ({}, {"seed": 1, "seeds": "1/2"}, [P, "seed or seeds, not both"]),
        ({}, {"widths": "3/4"}, [P, "ambiguous", "modalities.audio.encoder.widths"]),
        ({}, {"method": "joint", "compare": "joint", "tau": "8/12"}, [P, "tau belong to SMP", "method=g2d"]),
        ({}, {"method": "joint", "compare": "joint", "alpha": 1}, [P, "unknown key 'alpha'", "method joint"]),
        ({}, {"modalities": {"audio": {"nfft": 3}}}, [P, "'modalities.audio.nfft'", "Did you mean 'n_fft'?"]),
        (
            {},
            {"optimizer": "adamm", "momentum": 0.5},
            [P, "training.optimizer", "adamm", "Did you mean 'adam'?"],
        ),
        ({}, {"optimizer": ["adam"]}, [P, "training.optimizer = adam"]),
        ({}, {"lr_schedule": "multistep"}, [P, "'training.lr_schedule.milestones' is missing"]),
        (
            {},
            {"lr_schedule": "cosine", "gamma": 0.5},
            [P, "unknown key 'gamma'", "training.lr_schedule.name=step or"],
        ),
        (
            {},
            {"lr_schedule": {"min_lr": 1}},
            [P, "'lr_schedule.min_lr'", "lr_schedule.name=cosine or training.lr_sch"],
        ),
        ({}, {"encoder": "mlp"}, [P, "'encoder' is ambiguous", "modalities.audio.encoder.name"]),
        ({}, {"teacher": 3}, [P, "teacher.<key>=<value>"]),
        ({}, {"teacher": {"optimizer": "adamm"}}, [P, "optimizer", "Did you mean 'adam'?"]),
        ({}, {"teacher": {"epoch": 3}}, [P, "unknown key 'epoch'", "Did you mean 'epochs'?"]),
        ({}, {"flip": 3}, [P, "modalities.image.augment.flip = 3", "less than or equal to 1"]),
        ({}, {"crop": "1/0.5"}, [P, "modalities.image.augment", "least/greatest"]),
        ({}, {"image": {"noise": 1}}, [P, "unknown key 'image.noise'", "'modalities.image.augment.noise'?"]),
        (
            {},
            {"augment": {"noise": 1}},
            [P, "'augment.noise' is ambiguous", "modalities.image.augment.noise"],
        ),
        ({TWO: {"kind": "image"}}, {"flip": 1}, [P, "ambiguous", "modalities.left.augment.flip"]),
        ({"datasets.av_digits.training": 3}, {"teacher": {"lr": 1}}, [AV, "training = 3"]),
        (
            {"datasets.av_digits.trainings": 1},
            {},
            [AV, "'trainings' (value 1)", "'training'?", "Allowed: raw"],
        ),
        ({"datasets.av_digits.modalities.audio.nmels": 4}, {}, [AV, "'modalities.audio.nmels'", "'n_mels'"]),
        (
            {"datasets.av_digits.modalities.audio.encoder": {"name": "resnet8"}},
            {},
            [AV, "resnet8", "'resnet18'?"],
        ),
        (
            {"datasets.av_digits.modalities.audio.kind": "sound"},
            {},
            [AV, "modalities.audio.kind = 'sound' is unknown", "Allowed: audio, image"],
        ),
        (
            {"datasets.av_digits.task": "regresion"},
            {},
            [AV, "task = 'regresion'", "Did you mean 'regression'?"],
        ),
        ({"datasets.av_digits.modalities.multi": {"kind": "audio"}}, {}, [AV, "modality name 'multi'"]),
        ({"datasets.av_digits.raw.layout": "avdigits"}, {}, [AV, "avdigits", "Did you mean 'av_digits'?"]),
        ({"methods.joint": {"algorithm": "jont"}}, {}, ["no method 'jont'", "Did you mean 'joint'?"]),
        ({"methods.g2d.needs_teachers": False}, {}, ["needs_teachers", "distils from teachers"]),
        (
            {"methods.g2d.needs_teachers": "maybe"},
            {},
            ["methods.g2d.needs_teachers = 'maybe'", "true or false"],
        ),
        ({"methods.g2d.smp": 7}, {}, ["methods.g2d.smp = 7", "true or false"]),
        ({}, {"smp": "flase"}, [P, "smp = 'flase'", "true or false"]),
        (
            {},
            {"modalities": "image"},
            [P, "modalities = 'image'", "a section, not one value: say modalities.<key>="],
        ),
        ({}, {"methods": {"g2d": 3}}, [P, "methods.g2d = 3", "a section, not one value"]),
        ({}, {"datasets": {"av_digits": 3}}, [P, "datasets.av_digits = 3", "a section, not one value"]),
        ({NEW: {}}, {}, [AV, "modalities.new.kind is missing", "Allowed: audio, image, tabular"]),
        ({NEW: None}, {}, [AV, "modalities.new is empty"]),
        ({NEW: 3}, {}, [AV, "modalities.new = 3: it is a section, not one value"]),
        ({NEW: {"kind": "imagee"}}, {}, [AV, "new.kind = 'imagee' is unknown. Did you mean 'image'?"]),
        ({NEW: {"kind": "lab.points"}}, {}, [AV, "'modalities.new.encoder' is missing"]),
        (
            {NEW: {"kind": "lab.points", "encoder": "lab.net"}},
            {"modalities": {"new": {"encoder": {"width": 3}}}},
            [P, "'modalities.new.encoder.width'", "Of a plug-in say modalities.new.encoder.options.width."],
        ),
        (
            {"datasets.av_digits.modalities.image.encoder": {"name": "mlp", "widths": [8]}},
            {},
            [AV, "dropout has 3 values by default for 1 widths: say dropout: []"],
        ),
        ({}, {"raw": {"sed": 1}}, [P, "unknown key 'sed'", "Did you mean 'seed'?"]),
        ({NEW: {"kind": "tabular", "columns": {"a": 1}}}, {}, [AV, "modalities.new.columns.0", "text"]),
        ({"datasets.av_digits": None}, {}, [AV, "datasets.av_digits is empty"]),
        (
            {"datasets.av_digits": {"rwa": {}, "task": "classification"}},
            {},
            [AV, "unknown key 'rwa'", "Did you mean 'raw'?", "'raw' is missing"],
        ),
        ({"datasets.av_digits.raw": {}}, {}, [AV, "raw.layout is missing", "Allowed: av_digits"]),
        ({"datasets.av_digits.modalities": {}}, {}, [AV, "modalities", "needs 1", "has 0"]),
        ({}, {"seeds": None}, [P, "seeds", "needs 1", "has 0"]),
        ({}, {"epochs": None}, [P, "training.epochs is empty"]),
        ({}, {"evaluate": {"robustness": "often"}}, [P, "evaluate.robustness = 'often'", "true or false"]),
        ({}, {"evaluate": {"robust": True}}, [P, "evaluate.robust", "Did you mean 'robustness'"]),
        ({"evaluate": {"corrupted_samples": 0}}, {}, ["parameters.yml: evaluate.corrupted_samples = 0"]),
        ({}, {"lr": "high"}, [P, "training.optimizer.lr = 'high'", "a number"]),
        ({}, {"teacher_encoder": {"name": "mlp"}}, [P, "ambiguous", "image.teacher_encoder.name"]),
        ({}, {"size": "0"}, [P, "modalities.image.size.0 = '0'", "greater than 0"]),
        ({}, {"size": 0}, [P, "modalities.image.size.0 = 0", "greater than 0"]),
        (OTHER, {}, [AV, "image.teacher_encoder.weights = 'x.pth'", "the file", "is missing"]),
        (
            {"datasets.mis_me.modalities.image.mean": [0.5]},
            {"dataset": "mis_me"},
            ["mean has 1 values for 3 channels"],
        ),
    ],
)
def test_mistakes_are_told_with_file_key_value_and_remedy(
    change: dict[str, Any], overrides: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        configure(change, **overrides)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)
    assert error.value.exit_status == 2


def test_nothing_to_compare_with() -> None:
    assert list(configure(compare=None).methods) == ["g2d"]


def test_a_teacher_encoder_that_the_file_does_not_have() -> None:
    encoder = {"name": "small_cnn", "widths": "4/8"}
    modality = configure(modalities={"image": {"teacher_encoder": encoder}}).dataset.modalities["image"]
    assert modality.teacher_encoder is not None
    assert modality.teacher_encoder.model_dump()["widths"] == [4, 8]


def test_smp_needs_two_modalities() -> None:
    one = {k: v for k, v in FILES["datasets"]["av_digits"]["modalities"].items() if k == "audio"}
    with pytest.raises(ConfigError, match=r"at least two modalities.*method=unimodal,compare="):
        configure({"datasets.av_digits.modalities": one})


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        configure({"datasets.av_digits.fusion": "x", "datasets.av_digits.training.epochs": -1})
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("overrides", [{"raw_dir": "elsewhere"}, {"raw": {"raw_dir": "elsewhere"}}])
def test_a_raw_folder_named_on_the_command_line_decides_whether_there_are_raw_data(
    overrides: dict[str, Any],
) -> None:
    folders: list[str] = []

    def note(raw: Any, source: str) -> Any:
        folders.append(raw.raw_dir)
        return locate(raw, source)

    c = resolve(copy.deepcopy(FILES), {"dataset": "mis_me", **overrides}, note, ORIGINS)
    assert folders == ["elsewhere"]
    assert c.dataset.raw.raw_dir == "elsewhere"


@pytest.mark.parametrize(
    ("source", "said"), [("auto", "there are no raw data in"), ("sample", "source=sample asks")]
)
def test_why_a_sample_is_used_is_said(caplog: pytest.LogCaptureFixture, source: str, said: str) -> None:
    with caplog.at_level("WARNING"):
        ProjectHooks()._announce(configure(dataset="mis_me", source=source))
    assert said in caplog.text
    assert caplog.text.count("SAMPLE: ") == 1
