"""The examples of docs/extending.md and of a layout in docs/own-data.md do what the text says."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from g2d_pipeline.config import SmallCNN
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features.chunks import decode_cells
from g2d_pipeline.features.kinds import stored_kind
from g2d_pipeline.methods import load
from g2d_pipeline.sources.layout import find_layout
from g2d_pipeline.training import Data, train_student
from tests.conftest import recipe
from tests.test_resolve import configure

Examples = Callable[[str, str], list[str]]
LAYOUT = """
from pydantic import PositiveInt
from g2d_pipeline.config import Strict
from g2d_pipeline.sources.layout import Layout

class Options(Strict):
    clips: PositiveInt = 8

class Birds(Layout):
    options_class = Options
    expected = raw_files = read_samples = None
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Write and import a module of the package `doc_lab`."""
    (tmp_path / "doc_lab").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> Any:
        (tmp_path / "doc_lab" / f"{name}.py").write_text(text, encoding="utf-8")
        return importlib.import_module(f"doc_lab.{name}")

    yield write
    for name in [n for n in sys.modules if n.partition(".")[0] == "doc_lab"]:
        del sys.modules[name]


@pytest.fixture
def examples(repository: Path) -> Examples:
    """The blocks of code below a heading of a page."""

    def blocks(page: str, heading: str) -> list[str]:
        text = (repository / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
        found = re.findall(r"^ *```(?:python|yaml)\n(.*?)^ *```", text.partition("\n## ")[0], re.M | re.S)
        return [textwrap.dedent(block) for block in found]

    return blocks


def trained(method: str, encoders: dict[str, Any], fusion: Any = "late", **parameters: Any) -> Any:
    rng = np.random.default_rng(0)
    arrays = {m: rng.normal(size=(24, 1, 12, 12)).astype(np.float32) for m in encoders}
    data = Data.from_arrays(arrays, np.arange(24) % 3, ["train"] * 12 + ["val"] * 6 + ["test"] * 6)
    own = {"method": method, "parameters": parameters, "training": recipe(1), "fusion": fusion}
    return train_student(data, encoders, {}, **own, progress=False)


def test_an_encoder_a_fusion_and_a_method(lab: Any, examples: Any) -> None:
    lab("pooled", examples("extending.md", "Add an encoder")[0])
    code, section, *_ = examples("extending.md", "Add a method")
    lab("agreement", code)
    own, cls = yaml.safe_load(section)["methods"]["agreement"], load("doc_lab.agreement")
    assert cls.Parameters(weight=own["weight"]) == cls.Parameters()
    pooled: dict[str, Any] = {"name": "doc_lab.pooled", "options": {"grid": 2}}
    encoders, fusion = {"a": pooled, "b": SmallCNN(widths=[8])}, {"name": "doc_lab.largest"}
    lab("largest", examples("extending.md", "Add a fusion")[0])
    history = trained("doc_lab.agreement", encoders, fusion | {"options": {"scale": 2}}, weight=0.5).history
    assert (history["loss/distance"] > 0).all()


def test_a_kind(lab: Any, examples: Any, tmp_path: Path) -> None:
    code, section, _ = examples("extending.md", "Add a kind of modality")
    lab("spectrum", code)
    options = yaml.safe_load(section)["modalities"]["spectrum"]["options"]
    for name, count in (("a", 64), ("b", 63)):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, range(count))))
    kind: Any = stored_kind("doc_lab.spectrum", options)
    values, found = decode_cells(kind, ["a.txt", "b.txt"], tmp_path)
    assert values[0].tolist() == list(range(64))
    assert found.faults == {1: "has 63 numbers, not bins=64"}


def test_a_layout(lab: Any, examples: Any, tmp_path: Path) -> None:
    code, section, additions, *_ = examples("own-data.md", "A layout of its own")
    options, _, attributes = additions.partition("class BirdsLayout(Layout[ExternalLayout]):\n")
    imports = "from pydantic import NonNegativeInt, PositiveInt\nfrom g2d_pipeline.config import Strict\n"
    imports += "from g2d_pipeline.sources.simulated import Simulated\n"
    code = code.replace("ENDINGS =", f"{imports}{options}\nENDINGS =").replace(
        "    task =", f"{attributes}    task ="
    )
    lab("birds", code)
    assert yaml.safe_load(section)["datasets"]["birds"]["raw"]["layout"] == "birds"
    root = tmp_path / "raw"
    (root / "horn").mkdir(parents=True)
    for name in ("1.wav", "1.png", "2.wav"):
        (root / "horn" / name).touch()
    c = configure({"datasets.av_digits.raw": {"layout": "doc_lab.birds", "raw_dir": "raw"}})
    layout = find_layout(c.dataset.raw, root)
    assert layout.sample_size == 36
    assert layout.raw_files() == []
    (root / "splits.csv").write_text("clip,split\nhorn/1,train\nhorn/2,val\n")
    layout = find_layout(c.dataset.raw, root)
    assert len(layout.raw_files()) == 4
    settings = c.ingest().model_copy(update={"max_bad_fraction": 0.5})
    columns = {"audio": "audio", "image": "photo"}
    samples = layout.read_samples(settings, columns)
    assert samples.table.to_dict("records") == [
        {"sample_id": "horn/1", "split": "train", "target": 0, "audio": "horn/1.wav", "photo": "horn/1.png"}
    ]
    assert [row.row for row in samples.dropped] == [3]
    (root / "splits.csv").write_text("clip\nhorn/1\n")
    with pytest.raises(DataError, match=r"splits\.csv lacks columns:\n  - split"):
        layout.read_samples(settings, columns)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"layout": "doc_lab.bids"},
            r"raw\.layout: There is no layout 'doc_lab\.bids'.* Known: av_digits, av_mnist, crema_d, ",
        ),
        ({"layout": "vggsond"}, r"raw\.layout = 'vggsond' is unknown\. Did you mean 'vggsound'\?"),
        ({"layout": "doc_lab.birds", "options": {"clps": 4}}, r"unknown key 'clps'.*Did you mean 'clips'\?"),
        ({"layout": "doc_lab.birds", "options": {"clips": -1}}, r"clips = -1: it should be greater than 0"),
        ({"layout": "doc_lab.birds", "clips": 4}, r"unknown key 'clips'.*Allowed: layout, raw_dir, options"),
    ],
)
def test_what_is_wrong_with_a_layout_is_told_before_work(lab: Any, raw: Any, message: str) -> None:
    lab("birds", LAYOUT)
    with pytest.raises(ConfigError, match=message):
        configure({"datasets.av_digits.raw": {"raw_dir": "raw", **raw}})
