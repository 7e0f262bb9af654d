"""Kedro's own datasets for what evaluation makes, written to a temporary name and renamed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from kedro_datasets import json, pandas, plotly, text

from g2d_pipeline.stages import Clock, is_fresh, write_card


class Atomic:
    """Mixed into a file dataset: a killed save leaves nothing that could be taken for the file."""

    _filepath: Any

    def __init__(self, *, overwrite: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.overwrite = overwrite

    def save(self, data: Any) -> None:
        final = self._filepath
        partial = final.with_name(f"{final.name}.partial")
        Path(partial).parent.mkdir(parents=True, exist_ok=True)
        self._filepath = PurePosixPath(partial)
        try:
            super().save(data)  # type: ignore[misc]
        finally:
            self._filepath = final
        Path(partial).replace(final)
        self.overwrite = False

    def _exists(self) -> bool:
        return not self.overwrite and bool(super()._exists())  # type: ignore[misc]


class ParquetDataset(Atomic, pandas.ParquetDataset):
    """A table, whole or not there."""


class JSONDataset(Atomic, json.JSONDataset):
    """Plain data, whole or not there."""


class FigureDataset(Atomic, plotly.JSONDataset):
    """A plotly figure, whole or not there."""


class TextDataset(Atomic, text.TextDataset):
    """A text, whole or not there."""


class ReportDataset(TextDataset):
    """The report; saved last, it brings the stage card of the whole folder, `stage.json`."""

    def __init__(self, *, card: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.card = dict(card)
        self.clock = Clock.start()

    def start_clock(self) -> None:
        """Called when the node that makes the report starts."""
        self.clock = Clock.start()

    @property
    def filepath(self) -> Path:
        return Path(self._filepath)

    def save(self, data: str) -> None:
        super().save(data)
        write_card(self.filepath.parent, self.card, self.clock)

    def _exists(self) -> bool:
        return super()._exists() and is_fresh(self.filepath.parent, self.card["fingerprint"])
