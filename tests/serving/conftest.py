"""A data set of one's own with a modality of every kind, and models that were trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from g2d_pipeline.artefacts import TrainedFolder, write_trained
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.pipelines.distill import train_students
from g2d_pipeline.pipelines.teachers import train_teachers
from g2d_pipeline.sources import locate, read_raw
from g2d_pipeline.sources.manifest import Manifest
from tests.test_resolve import FILES, resolve

N = 48
CNN = {"name": "small_cnn", "widths": [4, 6], "grid": 1}
MLP = {"name": "mlp", "widths": [8, 6], "dropout": []}
STEPS = {"name": "transformer", "width": 6, "layers": 1, "heads": 2, "feedforward": 8, "dropout": 0.0}
SOUND = {"kind": "audio", "sample_rate": 4000, "seconds": 0.25, "noise": 0.1, "n_fft": 64, "hop_length": 64}
MODALITIES: dict[str, dict[str, Any]] = {
    "audio": {**SOUND, "augment": {"kind": "audio", "window_frames": 12}, "encoder": CNN},
    "short": {**SOUND, "n_mels": 8, "dtype": "float16", "encoder": CNN},
    "image": {"kind": "image", "size": [8], "channels": 3, "encoder": CNN},
    "grey": {"kind": "image", "size": [8], "channels": 1, "pca_energy": 0.6, "encoder": CNN},
    "video": {"kind": "video", "size": [8], "frames": 2, "encoder": CNN},
    "text": {"kind": "text", "length": 6, "vocabulary": 40, "encoder": {"name": "bag", "width": 6}},
    "table": {"kind": "tabular", "columns": ["heat", "rain"], "categorical": ["soil"], "dates": ["day"],
              "encoder": MLP},
    "vector": {"kind": "vector", "encoder": MLP},
    "steps": {"kind": "sequence", "steps": 5, "encoder": STEPS},
}  # fmt: skip
SOURCES = {
    "short": "audio",
    "grey": "image",
    "vector": "vectors.npy#{index}",
    "text": "words",
    "video": "film",
}


def write_raw(folder: Path) -> pd.DataFrame:
    """The files, and `metadata.csv`, whose rows tell the class a little in every modality."""
    rng = np.random.default_rng(0)
    label = np.arange(N) % 3
    for part in ("wav", "png", *(f"film/{i}" for i in range(N))):
        (folder / part).mkdir(parents=True)
    for i, c in enumerate(label):
        tone = np.sin(np.arange(1200) * 0.2 * (c + 1)) + 0.3 * rng.standard_normal(1200)
        soundfile.write(folder / f"wav/{i}.wav", 0.4 * tone / np.abs(tone).max(), 4000, subtype="PCM_16")
        for name in (f"png/{i}.png", *(f"film/{i}/{t}.png" for t in range(3))):
            pixels = np.clip(rng.integers(0, 160, (9, 8, 3)) + 40 * c, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
    np.save(folder / "vectors.npy", rng.normal(label[:, None], 1, (N, 4)).astype(np.float32))
    np.save(folder / "steps.npy", rng.normal(label[:, None, None], 1, (N, 7, 3)))
    words = [["wet field", "dry sand", "warm stone"][c] + f" number {i % 5}" for i, c in enumerate(label)]
    table = pd.DataFrame({
        "audio": [f"wav/{i}.wav" for i in range(N)],
        "image": [f"png/{i}.png" for i in range(N)],
        "film": [f"film/{i}" for i in range(N)],
        "words": words,
        "steps": [f"steps.npy#{i}" for i in range(N)],
        "heat": np.round(rng.normal(label, 1), 3),
        "rain": np.where(np.arange(N) % 7 == 3, np.nan, np.round(rng.normal(2, 1, N), 3)),
        "soil": np.array(["clay", "sand", None], object)[(label + (np.arange(N) % 4 == 0)) % 3],
        "day": pd.date_range("2024-03-01", periods=N).strftime("%Y-%m-%d"),
        "kind": np.array(["a", "b", "c"])[label],
        "water": np.round(20 + 5 * label + rng.normal(0, 1, N), 3),
    })  # fmt: skip
    table.to_csv(folder / "metadata.csv", index=False)
    return table


@dataclass
class Served:
    """What was made of a raw folder: `runs`: name → folder of a model."""

    raw: Path
    table: pd.DataFrame
    manifest: Manifest
    store: FeatureStore
    configuration: Configuration
    runs: dict[str, Path]

    def stored(self, run: str, part: str) -> tuple[np.ndarray, pd.DataFrame]:
        """(logits of a part, the index rows that they are of), as training has stored them."""
        outputs = TrainedFolder(self.runs[run]).outputs()
        return np.array(outputs[f"logits/{part}"]), self.store.index.iloc[np.asarray(outputs["row"])]


Serve = Callable[..., Served]


def serve(
    base: Path,
    task: str = "classification",
    modalities: Any = None,
    fusion: str = "late",
    teachers: bool = True,
) -> Served:
    """Ingest, featurize and train for an epoch, as the pipeline does."""
    raw = base / "raw"
    table = pd.read_csv(raw / "metadata.csv") if raw.exists() else write_raw(raw)
    chosen = {m: MODALITIES[m] for m in modalities or MODALITIES}
    target = {"name": "kind"} if task == "classification" else {"name": "water", "unit": "%"}
    columns = {m: c for m, c in SOURCES.items() if m in chosen}
    of_raw = {"raw_dir": str(raw), "target": target["name"], "split": {"val": 0.2, "test": 0.2}}
    dataset = {
        "raw": {"layout": "table", "columns": columns, **of_raw},
        "task": task, "target": target, "modalities": chosen, "fusion": fusion,
        "training": {"epochs": 1, "batch_size": 8},
    }  # fmt: skip
    files = {"datasets": {"all_kinds": dataset}, "methods": FILES["methods"]}
    overrides = {"dataset": "all_kinds", "method": "joint", "compare": [], "seed": 0, "device": "cpu"}
    overrides |= {"progress": False, "workers": 1}
    configuration = resolve(files, overrides, lambda r, wanted: locate(r, wanted, base), project=base)
    manifest = read_raw(configuration.ingest(), base)
    folder = base / f"store-{task}-{'-'.join(chosen)}"
    if not folder.exists():
        write_store(folder, manifest, raw, configuration.featurize())
    store = open_store(folder)
    features, runs = {"": store}, {}
    jobs = dict(train_teachers(features, configuration.teachers())) if teachers else {}
    jobs |= train_students(features, {}, configuration.distill())
    for name, train in jobs.items():
        runs[name] = base / f"models-{task}-{fusion}-{len(chosen)}" / name
        runs[name].mkdir(parents=True, exist_ok=True)
        write_trained(runs[name], train(runs[name]))
    return Served(raw, table, manifest, store, configuration, runs)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="session")
def every_kind(base: Path) -> Served:
    """A classification with a modality of every kind, a teacher each and a student of all."""
    return serve(base)


@pytest.fixture(scope="session")
def regression(base: Path) -> Served:
    return serve(base, "regression", ["table", "image", "vector"], "concat", teachers=False)
