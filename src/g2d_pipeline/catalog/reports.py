"""Data sets of the files of reports: Kedro's, but written to a temporary name and renamed."""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro_datasets import json, text
from kedro_datasets._typing import HTMLPreview, TablePreview

from g2d_pipeline.cards import Clock, write_card
from g2d_pipeline.catalog.folder import when_made
from g2d_pipeline.files import atomic_folder, atomic_write, content_hash
from g2d_pipeline.stages import Plan

if TYPE_CHECKING:
    import pandas as pd


class StageFile:
    """Mixin of file data sets: a file in the folder of a stage's artefact, whole or absent.

    `filepath`: a template with `{fingerprint}`. What is saved is a function that returns the content, called
    unless the stage is fresh. `last`: the file is the last of its folder, which then gets its stage card."""

    whole = staticmethod(atomic_write)

    def __init__(
        self,
        *,
        filepath: str,
        stage: str,
        plan: Plan,
        overwrite: bool = False,
        last: bool = False,
        **kwargs: Any,
    ) -> None:
        self.template, self.stage, self.plan = filepath, stage, plan
        self.overwrite, self.last = overwrite, last
        self.clock = Clock.start()  # again when the node that makes this file starts
        super().__init__(filepath=filepath, **kwargs)  # type: ignore[call-arg]

    @property
    def filepath(self) -> Path:
        """Raises DataError where the stage depends on what has not been made yet."""
        return Path(self.template.replace("{fingerprint}", self.plan.fingerprint(self.stage)))

    def save(self, data: Callable[[], Any]) -> None:
        if self._exists():
            return
        card = self.plan.card(self.stage)
        with self.whole(self.filepath) as path:
            self._filepath = PurePosixPath(path)
            super().save(data())  # type: ignore[misc]
            self._filepath = PurePosixPath(self.template)
        if self.last:
            write_card(self.filepath.parent, card, self.clock, content_hash(self.filepath))
            self.plan.refresh()
            self.plan.share(self.stage)
        self.overwrite = False

    def _get_load_path(self) -> PurePosixPath:
        return PurePosixPath(self.filepath)

    def is_made(self) -> bool:
        """Whether it is there and fresh, to be made anew or not."""
        return self.plan.is_fresh(self.stage) and self.filepath.exists()

    def _exists(self) -> bool:
        return not self.overwrite and self.is_made()


class JSONDataset(StageFile, json.JSONDataset):
    """Plain data."""

    preview = when_made(json.JSONDataset.preview)


class _File(AbstractDataset):
    """A file or folder at a path."""

    def __init__(self, filepath: str, metadata: Any = None) -> None:
        self._filepath, self.metadata = PurePosixPath(filepath), metadata

    def _get_load_path(self) -> PurePosixPath:
        return self._filepath

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class _Table(_File):
    """A table as parquet. (Importing Kedro's data set imports each library that it supports.)"""

    def load(self) -> "pd.DataFrame":
        import pandas as pd

        return pd.read_parquet(self._get_load_path())

    def save(self, data: Any) -> None:
        data.to_parquet(self._filepath)


class ParquetDataset(StageFile, _Table):
    """A table."""

    @when_made
    def preview(self, nrows: int = 5) -> TablePreview:
        return TablePreview(self.load().head(nrows).to_dict(orient="split"))


class _TextFolder(_File):
    """A folder of text files: name → text."""

    def load(self) -> dict[str, str]:
        return {file.name: file.read_text("utf-8") for file in sorted(Path(self._get_load_path()).iterdir())}

    def save(self, data: Any) -> None:
        for name, content in data.items():
            (Path(self._filepath) / name).write_text(content, "utf-8", newline="\n")


class FiguresDataset(StageFile, _TextFolder):
    """A folder of figures: each as SVG, and its data as CSV."""

    whole = staticmethod(atomic_folder)

    @when_made
    def preview(self) -> HTMLPreview:
        """Every figure, for Kedro-Viz."""
        drawn = [text for name, text in self.load().items() if name.endswith(".svg")]
        sources = (f"data:image/svg+xml;base64,{b64encode(text.encode()).decode()}" for text in drawn)
        return HTMLPreview("".join(f'<p><img style="max-width: 100%" src="{one}"></p>' for one in sources))


class TextDataset(StageFile, text.TextDataset):
    """A text or a page."""


class TableDataset(TextDataset):
    """A text for people, shown in Kedro-Viz as it is."""

    @when_made
    def preview(self) -> HTMLPreview:
        return HTMLPreview(f"<pre>{escape(self.load())}</pre>")
