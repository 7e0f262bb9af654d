"""Trained models on disk: open formats only, readable without the code that trained them.

A folder holds `model.safetensors`, `model.json`, `history.parquet`, `predictions.parquet`, `outputs.safetensors`.
Nothing here imports torch before weights are asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from g2d_pipeline.models import MultimodalModel


@dataclass(frozen=True)
class Trained:
    """A model just trained.

    `info`: architecture, method, seed, selection, metrics, … as JSON; `history`: a row an epoch; `predictions`: long,
    `sample_id, split, part, target, prediction, confidence`; `outputs`: named tensors over the rows of the store
    (`feature/<m>` `[N, D]`, `logits/<part>` `[N, C]`, `confidence/<part>` `[N]`).
    """

    model: MultimodalModel
    info: dict[str, Any]
    history: pd.DataFrame
    predictions: pd.DataFrame
    outputs: dict[str, Tensor]


def write_trained(folder: Path, trained: Trained) -> None:
    """Write the files of a trained model into `folder` (which exists; renaming it into place is the caller's)."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in trained.model.state_dict().items()}, folder / "model.safetensors")
    save_file({k: v.contiguous() for k, v in trained.outputs.items()}, folder / "outputs.safetensors")
    trained.history.to_parquet(folder / "history.parquet", index=False)
    trained.predictions.to_parquet(folder / "predictions.parquet", index=False)
    (folder / "model.json").write_text(json.dumps(trained.info, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class TrainedFolder:
    """A trained model on disk; each part is read when it is asked for. Raises DataError where a file is missing."""

    path: Path

    def _file(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise DataError(f"{file} is missing. Delete the folder {self.path} and run again.")
        return file

    @cached_property
    def info(self) -> dict[str, Any]:
        return dict(json.loads(self._file("model.json").read_text()))

    @cached_property
    def history(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._file("history.parquet"))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._file("predictions.parquet"))

    def outputs(self) -> dict[str, Tensor]:
        """The named tensors over the rows of the store, memory-mapped."""
        from safetensors.torch import load_file

        return load_file(self._file("outputs.safetensors"))

    def model(self) -> MultimodalModel:
        """Rebuild the model with its weights, in evaluation mode."""
        from safetensors.torch import load_file

        from g2d_pipeline.models.build import build_model

        model = build_model(self.info["architecture"])
        model.load_state_dict(load_file(self._file("model.safetensors")))
        return model.eval()
