"""A kind of modality is one file: everything else asks it. And an image is read once."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g2d_pipeline.config import MODALITIES, FeaturizeSettings, ImageFeatures, RunOptions
from g2d_pipeline.data_report.report import describe_data
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.features.kinds import ColumnKind, FileKind, kind_class, kind_of, stored_kind
from g2d_pipeline.plugins import files
from g2d_pipeline.resolve import check_kinds
from tests.test_resolve import configure

MakeRaw = Callable[..., Any]
KIND = '''
"""The loudness of each tenth of a text file of numbers."""
from typing import Literal

import numpy as np

from g2d_pipeline.config.base import Strict
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds import ArraySpec, FileKind


class LoudnessFeatures(Strict):
    kind: Literal["loudness_kind.Loudness"] = "loudness_kind.Loudness"
    parts: int = 10


class Loudness(FileKind):
    settings_class = LoudnessFeatures
    plural = "loudnesses"
    headers = True
    notes = {"clipped": "with clipped values ({total} in all)"}  # beside that of constant ones

    def spec(self, cells, root):
        return ArraySpec((1, 1, self.settings.parts), "float32")

    def read(self, cell, root, spec, content):
        numbers = np.array((root / cell).read_text().split(), np.float32)
        if len(numbers) < self.settings.parts:
            raise MediaError(root / cell, f"has {len(numbers)} numbers, not {self.settings.parts}")
        return [[[np.abs(part).mean() for part in np.array_split(numbers, self.settings.parts)]]], {}

    def header(self, path):
        return {"seconds": len(path.read_text().split()) / 100}
'''


@pytest.fixture
def loudness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "loudness_kind.py").write_text(KIND)
    monkeypatch.syspath_prepend(str(tmp_path))
    import loudness_kind  # type: ignore[import-not-found]

    yield loudness_kind
    del sys.modules["loudness_kind"]


def test_a_new_kind_is_one_file(make_raw: MakeRaw, tmp_path: Path, loudness: Any):
    """Written, measured, noted, dropped and reported like any other."""
    raw = make_raw(12, only=["image"])
    for i in range(12):
        (raw.root / f"{i}.txt").write_text(" ".join(["0" if i == 3 else str(i + 1)] * (5 if i == 4 else 200)))
    raw.table["loud"] = [f"{i}.txt" for i in range(12)]
    raw.modalities = {"loud": loudness.LoudnessFeatures()}
    options = RunOptions(device="cpu", progress=False, workers=1)
    settings = FeaturizeSettings.model_construct(dataset="x", modalities=raw.modalities, options=options)
    with pytest.raises(
        DataError, match=r"(?s)1 of 12 loudnesses .*4\.txt \(sample s004\) has 5 numbers"
    ) as error:
        write_store(tmp_path / "store", raw.manifest, raw.root, settings)
    assert "max_bad_fraction" in str(error.value)
    settings = settings.model_copy(update={"max_bad_fraction": 0.1})
    write_store(tmp_path / "store", raw.manifest, raw.root, settings)
    store = open_store(tmp_path / "store")
    about = store.meta["modalities"]["loud"]
    assert store.arrays["loud"].shape == (11, 1, 1, 10)
    assert store.arrays["loud"][4:].mean(axis=(1, 2, 3)).tolist() == [6, 7, 8, 9, 10, 11, 12]
    assert about["normaliser"]["mean"] == [pytest.approx(np.mean([1, 2, 3, 0, 6, 7, 8]))]
    assert any("s003" in note and "zero throughout" in note for note in store.meta["notes"])
    assert [d["sample_id"] for d in store.meta["dropped"]] == ["s004"]
    manifest = raw.manifest
    manifest.meta.update(dropped=[], notes=[])
    facts = describe_data(manifest, store, raw.root)["modalities"]["loud"]
    assert facts["kind"] == "loudness_kind.Loudness"
    assert facts["splits"]["test"]["seconds"] == {"min": 2.0, "median": 2.0, "max": 2.0}


POINTS = '''
"""Sets of points, a line each."""
import numpy as np

from g2d_pipeline.config.base import Strict
from g2d_pipeline.features.kinds import ArraySpec, FileKind


class PointSettings(Strict):
    kind: str = ""
    points: int = 6
    mask: float = 1


class Points(FileKind):
    settings_class = PointSettings
    plural = "point sets"

    def spec(self, cells, root):
        return ArraySpec((3, self.settings.points), "float32")

    def read(self, cell, root, spec, content):
        rows = np.loadtxt(root / cell, ndmin=2)[: self.settings.points]
        values = np.zeros(spec.shape, np.float32)
        values[:, : len(rows)] = [*rows.T, np.full(len(rows), self.settings.mask)]
        return values, {}
'''


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_raw: MakeRaw) -> Any:
    """Eight files of 1 to 8 points, and the module of their kind, which is an entry point, too."""
    about = tmp_path / "points_lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: points-lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[g2d_pipeline.kinds]\nlab_points = points_lab\n")
    (tmp_path / "points_lab.py").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    raw = make_raw(8, only=["image"])
    for i in range(8):
        np.savetxt(raw.root / f"{i}.txt", np.zeros((1, 2)) if i == 7 else np.full((i + 1, 2), i))
    raw.table["cloud"] = [f"{i}.txt" for i in range(8)]
    kind_class.cache_clear()
    yield raw
    sys.modules.pop("points_lab", None)
    kind_class.cache_clear()


def configured(options: dict[str, Any], kind: str = "lab_points") -> Any:
    own = {"kind": kind, "options": options, "encoder": "transformer"}
    return configure({"datasets.av_digits.modalities.cloud": own})


def write(folder: Path, raw: Any, c: Any) -> None:
    """A store of the modality `cloud` alone."""
    settings = c.featurize()
    raw.modalities = {"cloud": settings.modalities["cloud"]}
    write_store(folder, raw.manifest, raw.root, settings.model_copy(update={"modalities": raw.modalities}))


@pytest.mark.parametrize("kind", ["lab_points", "points_lab.Points"])
def test_a_kind_of_another_package_is_named_in_a_yaml(points: Any, tmp_path: Path, kind: str):
    """Of samples [F + 1, T], the mask row is left as it is, and is not what tells an empty one."""
    c = configured({"points": 4}, kind)
    check_kinds(c)
    write(tmp_path / "store", points, c)
    store = open_store(tmp_path / "store")
    about = store.meta["modalities"]["cloud"]
    assert (about["kind"], about["settings"]["points"]) == (kind, 4)
    assert store.arrays["cloud"].shape == (8, 3, 4)
    normaliser = about["normaliser"]
    assert (normaliser["mean"][-1], normaliser["std"][-1]) == (0, 1)
    train = store.arrays["cloud"][(points.manifest.table["split"] == "train").to_numpy()]
    assert normaliser["mean"][0] == pytest.approx(train[:, 0][train[:, -1] == 1].mean())
    assert about["found"]["constant"]["first"] == ["s000", "s007"]  # all points are at the origin
    assert kind_of(stored_kind(kind, about["settings"]).settings).settings.points == 4


def test_what_is_wrong_with_a_kind_of_another_package_is_told(points: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"unknown key 'pionts' .*Did you mean 'points'\?"):
        check_kinds(configured({"pionts": 4}))
    with pytest.raises(ConfigError, match=r"modalities\.cloud\.kind: There is no kind 'points_lab\.Poimts'"):
        check_kinds(configured({}, "points_lab.Poimts"))
    c = configured({"mask": 0.5})
    with pytest.raises(ConfigError, match=r"Points stores samples \[3, 6\], .*its last row has to be 1"):
        write(tmp_path / "store", points, c)


def test_every_kind_has_its_settings():
    names = set(MODALITIES) - {""}  # of external ones
    assert names <= set(files("g2d_pipeline.features.kinds"))
    for name in names:
        settings = {"columns": ["a"]} if name == "tabular" else {}
        kind = stored_kind(name, json.loads(json.dumps(settings)))
        assert isinstance(kind, FileKind | ColumnKind)
        assert kind.settings.kind == name
        assert type(kind_of(kind.settings)) is type(kind)


def test_an_unknown_kind_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no kind 'imag'.*Did you mean '?image'?"):
        stored_kind("imag", {})


OPENED: Counter[str] = Counter()
HOOKED: list[bool] = []


def _count(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(args[0], str | Path) and str(args[0]).endswith(".png"):
        OPENED[str(args[0])] += 1


@pytest.mark.parametrize(
    "settings",
    [ImageFeatures(size=[6]), ImageFeatures(size=[6], pca_energy=0.5)],
    ids=["bytes", "components"],
)
def test_an_image_is_opened_twice_at_most(make_raw: MakeRaw, tmp_path: Path, settings: ImageFeatures):
    """Once to find all bad files before any work, once for its hash and its pixels."""
    raw = make_raw(12, image=settings, only=["image"])
    if not HOOKED:  # a hook can not be removed; this one only counts
        sys.addaudithook(_count)
        HOOKED.append(True)
    OPENED.clear()
    raw.write(tmp_path / "store")
    assert dict(OPENED) == {str(raw.png(i)): 2 for i in range(12)}
