"""A data set that grows: spoken and written digits of the bundled sample, a table a delivery."""

from __future__ import annotations

import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from tests.e2e.project import REPOSITORY, Project, copy_project

SAMPLE = REPOSITORY / "data" / "01_raw" / "av_digits"
NAME = "deliveries"
SETTINGS = {
    "raw": {
        "layout": "table",
        "raw_dir": f"data/01_raw/{NAME}",
        "table": "months/*.csv",
        "root": ".",
        "id": "id",
        "target": "digit",
        "columns": {"audio": "audio", "image": "image"},
        "split": {"column": "part", "val": 0.2, "seed": 0},
    },
    "task": "classification",
    "target": {"name": "digit"},
    "max_bad_fraction": 0.1,
    "modalities": {
        "audio": {
            "kind": "audio", "sample_rate": 8000, "seconds": 0.6, "noise": 0.2, "n_fft": 256,
            "hop_length": 256, "n_mels": 24, "encoder": {"name": "small_cnn", "widths": [16, 32], "grid": 2},
        },
        "image": {
            "kind": "image", "size": [8], "channels": 1,
            "encoder": {"name": "small_cnn", "widths": [16, 32], "grid": 2},
        },
    },
    "training": {
        "epochs": 6, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "selection": "val",
    },
}  # fmt: skip


def small_files() -> None:
    """A disk without room: no file may grow beyond 20 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@dataclass(frozen=True)
class Deliveries(Project):
    """A copy of the project with this data set; months are added by `deliver`."""

    @property
    def raw(self) -> Path:
        return self.path / "data" / "01_raw" / NAME

    def rows(self, start: int, count: int, test: int = 0) -> pd.DataFrame:
        """`count` pairs from the `start`-th on, no two alike, and their files; the first `test` are test."""
        digits, target = (np.load(SAMPLE / f"digits{part}.npy") for part in ("", "_target"))
        order = np.random.default_rng(0).permutation(len(target))  # no writer is in one delivery alone
        digits, target = digits[order], target[order]
        voices = {d: sorted(SAMPLE.glob(f"speech/{d}_*.flac")) for d in range(10)}
        rows = []
        for i in range(start, start + count):
            digit = int(target[i])
            image, audio = self.raw / f"image/{i}.png", self.raw / f"audio/{i}.flac"
            for file in (image, audio):
                file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits[i]).save(image)
            audio.write_bytes(voices[digit][i % len(voices[digit])].read_bytes())
            part = "test" if i - start < test else "train"
            rows.append((f"s{i:04d}", f"audio/{audio.name}", f"image/{image.name}", digit, part))
        return pd.DataFrame(rows, columns=["id", "audio", "image", "digit", "part"])

    def deliver(self, month: int, table: pd.DataFrame) -> Path:
        file = self.raw / "months" / f"{month:02d}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False)
        return file

    def retrain(self, *params: str) -> tuple[str, ...]:
        """The arguments of the command."""
        return ("run", "--pipeline", "retrain", "--params", ",".join([f"dataset={NAME}", *params]))


def new_project(folder: Path) -> Deliveries:
    copy_project(folder)
    local = {"datasets": {NAME: SETTINGS}, "seeds": 0, "dataset": NAME}
    local |= {"method": "distillation_heads", "compare": [], "evaluate": {"robustness": False}}
    (folder / "conf" / "local" / "parameters.yml").write_text(yaml.safe_dump(local))
    (folder / "requirements.lock").write_bytes((REPOSITORY / "requirements.lock").read_bytes())
    return Deliveries(folder)
