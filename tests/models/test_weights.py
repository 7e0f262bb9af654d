"""Weights from a local file: what is loaded, what is refused in which words, and that saved models do without
it."""

from __future__ import annotations

import copy
import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model_weights, mobilenet_v2, resnet18

from g2d_pipeline.artefacts import TrainedFolder, write_trained
from g2d_pipeline.config import EncoderSettings, MobileNetV2, ResNet18
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.models import build_encoder
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.weights import load_pretrained, load_trunk
from g2d_pipeline.resolve import resolve
from g2d_pipeline.stages import STAGES
from g2d_pipeline.training import Data, train_student, train_teacher
from tests.conftest import recipe
from tests.plans import make_missing, plan_of
from tests.test_resolve import FILES, ORIGINS, locate

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def published() -> State:
    """Weights by torchvision's names, as a published file has them: with running statistics that are not 0
    and 1."""
    torch.manual_seed(7)
    model = resnet18(weights=None).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))
    return model.state_dict()


def legacy(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


SAVE: dict[str, Callable[[Any, Path], None]] = {
    "w.safetensors": save_file, "w.pth": torch.save, "w.pt": torch.save, "old.pth": legacy,
    "checkpoint.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
}  # fmt: skip


def architecture(settings: EncoderSettings, shape: tuple[int, ...]) -> dict[str, Any]:
    modality = {"encoder": settings.model_dump(mode="json"), "shape": list(shape), "normaliser": None}
    task = {"name": "classification", "class_names": ["x", "y"]}
    return {"modalities": {"face": modality}, "fusion": "late", "task": task}


@pytest.mark.parametrize("file", SAVE)
def test_a_trunk_computes_what_the_published_network_does_before_its_classifier(
    file: str, published: State, tmp_path: Path
) -> None:
    SAVE[file](published, tmp_path / file)
    of = architecture(ResNet18(weights=str(tmp_path / file)), (3, 64, 64))
    model = build_model(of)
    head = model.fusion.state_dict()
    load_pretrained(model, of)
    theirs = resnet18(weights=None).eval()
    theirs.load_state_dict(published)
    theirs.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()({"face": x}).features["face"], theirs(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(head[k], v) for k, v in model.fusion.state_dict().items())


def test_mobilenet_and_clips_are_filled_too(tmp_path: Path, published: State) -> None:
    theirs = mobilenet_v2(weights=None).eval()
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    encoder = build_encoder(MobileNetV2(), (3, 32, 32)).eval()
    load_trunk(encoder.trunk, "mobilenet_v2", tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(x), theirs.features(x).mean((2, 3)), rtol=1e-4, atol=1e-5)
    save_file(published, tmp_path / "r.safetensors")
    clips = build_encoder(ResNet18(), (3, 2, 32, 32))
    load_trunk(clips.trunk, "resnet18", tmp_path / "r.safetensors")
    assert torch.equal(
        clips.state_dict()["trunk.layer4.1.bn2.running_var"], published["layer4.1.bn2.running_var"]
    )


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_stem_of_other_channels_answers_a_grey_picture_as_before(
    channels: int, published: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(published, tmp_path / "w.safetensors")
    ours, plain = (
        build_encoder(ResNet18(), (channels, 64, 64)).eval(),
        build_encoder(ResNet18(), (3, 64, 64)).eval(),
    )
    with caplog.at_level(logging.WARNING):
        load_trunk(plain.trunk, "resnet18", tmp_path / "w.safetensors")
        assert not caplog.records
        load_trunk(ours.trunk, "resnet18", tmp_path / "w.safetensors")
    assert f"its stem for 3 channels is averaged for {channels}" in caplog.text
    grey = torch.randn(2, 1, 64, 64)
    expected = plain(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-3, atol=1e-4)


def test_half_precision_and_files_without_counters_are_taken(tmp_path: Path, published: State) -> None:
    old = {k: v.half() for k, v in published.items() if not k.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "w.safetensors")
    encoder = build_encoder(ResNet18(), (3, 32, 32))
    load_trunk(encoder.trunk, "resnet18", tmp_path / "w.safetensors")
    assert encoder.trunk.conv1.weight.dtype == torch.float32  # type: ignore[union-attr]
    torch.testing.assert_close(encoder.trunk.conv1.weight, published["conv1.weight"], rtol=1e-3, atol=1e-6)  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------- refusals
def without(*names: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k not in names}


def changed(**new: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: (
        state | {k.replace("__", "."): f(state[k.replace("__", ".")]) for k, f in new.items()}
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("layer1.0.conv1.weight"), [r"\(1 missing\)", "missing: layer1.0.conv1.weight"]),
        (lambda s: s | {"extra": torch.ones(2)}, [r"\(1 not expected\)", "not expected: extra"]),
        (
            changed(bn1__weight=lambda w: w[:3]),
            [r"\(1 of another shape\)", r"bn1.weight: \[3\] instead of \[64\]"],
        ),
        (
            changed(bn1__bias=lambda w: w * torch.nan),
            ["1 not finite", "not finite: bn1.bias: 64 of 64 values"],
        ),
        (changed(conv1__weight=lambda w: w[:, :, :3]), [r"\[64, 3, 3, 7\] instead of \[64, 3, 7, 7\]"]),
        (changed(conv1__weight=lambda w: w[0, 0, 0]), [r"\[7\] instead of \[64, 3, 7, 7\]"]),
        (
            lambda s: {f"module.{k}": v for k, v in s.items()},
            [r"100 missing, 122 not expected", "missing: conv1.weight", "and 217 more, 222 in all"],
        ),
        (lambda s: {}, ["100 missing"]),
    ],
    ids=["missing", "unexpected", "shape", "nan", "stem", "flat-stem", "prefix", "nothing"],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(
    change: Callable[[State], State], said: list[str], published: State, tmp_path: Path
) -> None:
    torch.save(change(published), tmp_path / "w.pth")
    of = architecture(ResNet18(weights=str(tmp_path / "w.pth")), (3, 32, 32))
    model = build_model(of)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_pretrained(model, of)
    for words in [
        "modality face: The weights .*w.pth do not fit resnet18",
        *said,
        "What to do: give a file of",
    ]:
        assert re.search(words, str(caught.value))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("w.pth", None, "the file is missing"),
        ("w.pth", b"", r"is empty \(0 bytes\)"),
        (
            "w.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git-LFS pointer",
        ),
        ("w.pth", b"<!DOCTYPE html><html>quota exceeded</html>", "is a web page"),
        ("w.safetensors", b"\x10\0\0\0\0\0\0\0{}", "can not be read"),
        ("w.safetensors", saved({"a": torch.ones(2)}), "can not be read"),
        ("w.pth", saved({"a": torch.ones(200)})[:700], "can not be read"),
        ("w.pt", b"no weights at all", "it is not a file of tensors"),
        ("w.pth", saved(Payload()), r"it holds \S+mkdir, and only tensors are read"),
        ("w.pth", saved(resnet18(weights=None)), r"it holds torchvision\S+ResNet, and only tensors are read"),
        ("w.pth", saved([torch.ones(2)]), "are not a mapping of names to tensors"),
        ("w.pth", saved({"epoch": 3}), "are not a mapping of names to tensors"),
    ],
    ids=[
        "missing",
        "empty",
        "lfs",
        "html",
        "header",
        "ending",
        "truncated",
        "text",
        "code",
        "module",
        "list",
        "other",
    ],
)
def test_a_file_that_holds_no_weights_is_told_and_nothing_in_it_runs(
    file: str, content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(file).write_bytes(content)
    of = architecture(ResNet18(weights=file), (3, 32, 32))
    with pytest.raises(
        DataError, match=f"(?s)modality face: The weights {tmp_path.resolve() / file} .*{said}"
    ):
        load_pretrained(build_model(of), of)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("settings", "name", "file"),
    [
        ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth"),
        ("resnet18", "ResNet18_Weights.DEFAULT", "resnet18-f37072fd.pth"),
        ("mobilenet_v2", "imagenet1k_v1", "mobilenet_v2-b0353104.pth"),
        ("mobilenet_v2", "DEFAULT", "mobilenet_v2-7ebf99e0.pth"),
    ],
)
def test_torchvisions_names_are_answered_with_the_file_to_put_there(
    settings: str, name: str, file: str
) -> None:
    of = architecture(ResNet18(), (3, 32, 32))
    of["modalities"]["face"]["encoder"] = {"name": settings, "weights": name}
    said = f"modality face: encoder: weights = '{name}': nothing is downloaded .*org/models/{file}.*{file}"
    with pytest.raises(ConfigError, match=said):
        build_model(of)
    of["modalities"]["face"]["encoder"]["weights"] = "best"
    with pytest.raises(
        ConfigError, match=r"weights = 'best': a file that ends in \.safetensors, \.pth or \.pt"
    ):
        build_model(of)


@pytest.mark.parametrize("settings", [ResNet18, MobileNetV2])
def test_the_files_named_are_torchvisions(settings: type[ResNet18] | type[MobileNetV2]) -> None:
    published = get_model_weights(settings().name)
    assert {w.name: w.url.rpartition("/")[2] for w in published} == settings.FILES
    assert published.DEFAULT.url.endswith(list(settings.FILES.values())[-1])


# ------------------------------------------------------------------------------------ training and rebuilding
def test_training_starts_from_the_file_and_the_saved_model_does_without_it(
    published: State, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(24) % 2
    pictures = rng.normal(size=(24, 3, 16, 16)).astype(np.float32)
    data = Data.from_arrays({"face": pictures}, label, ["train"] * 16 + ["val"] * 4 + ["test"] * 4)
    file = tmp_path / "w.safetensors"
    save_file(published, file)
    slow = recipe(1, lr=1e-12, momentum=0.0, weight_decay=0.0)
    trained = train_teacher(data, "face", ResNet18(weights=str(file)), training=slow, progress=False)
    state = trained.model.state_dict()
    torch.testing.assert_close(state["encoders.face.trunk.conv1.weight"], published["conv1.weight"])
    assert trained.info["architecture"]["modalities"]["face"]["encoder"]["weights"] == str(file)

    file.unlink()
    folder = tmp_path / "teacher"
    folder.mkdir()
    write_trained(folder, trained)
    again = TrainedFolder(folder).model()
    assert all(torch.equal(state[k], v) for k, v in again.state_dict().items())


def test_settings_without_weights_look_as_before() -> None:
    plain = {"name": "resnet18", "initialisation": "published"}
    assert ResNet18().model_dump(mode="json") == plain
    assert ResNet18(weights="a.pt").model_dump(mode="json") == plain | {"weights": "a.pt"}


# ---------------------------------------------------------------------------------- in a project of pipelines
def of_project(project: Path, weights: str | None, **overrides: Any) -> Configuration:
    """av_digits with a ResNet-18 for its pictures, in the folder `project`."""
    encoder = {"name": "resnet18"} | ({} if weights is None else {"weights": weights})
    overrides = {"modalities": {"image": {"encoder": encoder}}, "seeds": [0]} | overrides
    return resolve(copy.deepcopy(FILES), overrides, locate, ORIGINS, project)


def fingerprints(configuration: Configuration, folder: Path) -> dict[str, str]:
    plan = plan_of(configuration, folder / "artefacts")
    make_missing(plan)
    return {f"{s}/{run}".rstrip("/"): plan.fingerprint(s, run) for s in STAGES for run in plan.runs(s)}


def test_another_content_under_the_same_name_trains_anew_what_starts_from_it(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    before = fingerprints(of_project(tmp_path, "w.safetensors"), tmp_path)
    assert fingerprints(of_project(tmp_path, "w.safetensors"), tmp_path) == before
    file.touch()  # another time stamp, the same content
    assert fingerprints(of_project(tmp_path, "w.safetensors"), tmp_path) == before
    file.write_bytes(b"two")
    after = fingerprints(of_project(tmp_path, "w.safetensors"), tmp_path)
    assert {name for name in after if after[name] != before[name]} == {
        "teachers/image/seed0", "distill/joint/seed0", "distill/g2d/seed0", "evaluate",
    }  # fmt: skip


def test_the_same_file_in_another_copy_of_the_project_is_the_same(tmp_path: Path) -> None:
    found = []
    for copy_of in ("a", "b"):
        (tmp_path / copy_of).mkdir()
        (tmp_path / copy_of / "w.pt").write_bytes(b"one")
        found.append(fingerprints(of_project(tmp_path / copy_of, "w.pt"), tmp_path))
    assert found[0] == found[1]


def test_missing_weights_end_a_run_before_it_starts(tmp_path: Path) -> None:
    said = (
        "--params: modalities.image.encoder.weights = 'far/w.pt': the file "
        f"{tmp_path / 'far/w.pt'} is missing. (A relative path starts at the project's folder.)"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        of_project(tmp_path, "far/w.pt")
    (tmp_path / "w.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ConfigError, match=r"encoder\.weights = 'w\.pt': the file \S+ is a Git-LFS pointer"):
        of_project(tmp_path, "w.pt")
    files = copy.deepcopy(FILES)
    files["datasets"]["av_digits"]["modalities"]["image"]["encoder"] = {
        "name": "resnet18",
        "weights": "w.pth",
    }
    with pytest.raises(
        ConfigError, match=r"^conf/base/parameters_av_digits\.yml: modalities\.image\.encoder\.weights"
    ):
        resolve(files, {}, locate, ORIGINS, tmp_path)
    assert of_project(tmp_path, None).weights == {}


def test_a_relative_path_starts_at_the_projects_folder_and_not_at_the_current_one(
    published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    save_file(published, project / "w.safetensors")
    monkeypatch.chdir(elsewhere)
    assert of_project(project, "w.safetensors").weights == {"image": project / "w.safetensors"}

    of = architecture(ResNet18(weights="w.safetensors"), (3, 8, 8))
    with pytest.raises(DataError, match="is missing"):
        load_pretrained(build_model(of), of)
    pictures = np.zeros((12, 3, 8, 8), np.float32)
    data = Data.from_arrays(
        {"image": pictures}, np.arange(12) % 2, ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    )
    slow = recipe(1, lr=1e-12, momentum=0.0, weight_decay=0.0, batch_size=8)
    encoder, told = ResNet18(weights="w.safetensors"), {"training": slow, "progress": False, "device": "cpu"}
    told["weights"] = of_project(project, "w.safetensors").weights
    teacher = train_teacher(data, "image", encoder, **told)
    student = train_student(data, {"image": encoder}, {}, method="joint", **told)  # type: ignore[arg-type]
    for trained in (teacher, student):
        assert trained.info["architecture"]["modalities"]["image"]["encoder"]["weights"] == "w.safetensors"
        found = trained.model.state_dict()["encoders.image.trunk.conv1.weight"]
        torch.testing.assert_close(found, published["conv1.weight"])
