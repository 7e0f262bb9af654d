"""Data sets of the files of reports, each written to a temporary name and renamed."""

import json
from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import HTMLPreview, JSONPreview, TablePreview

from g2d_pipeline.cards import Clock, write_card
from g2d_pipeline.catalog.folder import when_made
from g2d_pipeline.files import atomic_folder, atomic_write, content_hash
from g2d_pipeline.stages import Plan

if TYPE_CHECKING:
    import pandas as pd


class StageFile(AbstractDataset[Any, Any]):
    """A file (a text, unless a subclass says otherwise) in the folder of a stage's artefact, whole or absent.

    `filepath`: a template with `{fingerprint}`. What is saved is a function that returns the content, called
    unless the stage is fresh. `last`: the file is the last of its folder, which then gets its stage card."""

    whole = staticmethod(atomic_write)

    def __init__(
        self,
        filepath: str,
        stage: str,
        plan: Plan,
        overwrite: bool = False,
        last: bool = False,
        save_args: dict[str, Any] | None = None,
        metadata: Any = None,
    ) -> None:
        self.template, self.stage, self.plan = filepath, stage, plan
        self.overwrite, self.last = overwrite, last
        self.save_args, self.metadata = save_args or {}, metadata
        self.clock = Clock.start()  # again when the node that makes this file starts

    def read(self, path: Path) -> Any:
        """The content of a finished file."""
        return path.read_text("utf-8")

    def write(self, path: Path, content: Any) -> None:
        """Write the content to a temporary path."""
        path.write_text(content, "utf-8")

    @property
    def filepath(self) -> Path:
        """Raises DataError where the stage depends on what has not been made yet."""
        return Path(self.template.replace("{fingerprint}", self.plan.fingerprint(self.stage)))

    def load(self) -> Any:
        return self.read(self.filepath)

    def save(self, data: Callable[[], Any]) -> None:
        if self._exists():
            return
        card = self.plan.card(self.stage)
        with self.whole(self.filepath) as path:
            self.write(path, data())
        if self.last:
            write_card(self.filepath.parent, card, self.clock, content_hash(self.filepath))
            self.plan.refresh()
            self.plan.share(self.stage)
        self.overwrite = False

    def is_made(self) -> bool:
        """Whether it is there and fresh, also with `overwrite`."""
        return self.plan.is_fresh(self.stage) and self.filepath.exists()

    def _exists(self) -> bool:
        return not self.overwrite and self.is_made()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.template}


class JSONDataset(StageFile):
    """Plain data; `save_args`: of `json.dumps` (left out: `indent: 2`)."""

    def read(self, path: Path) -> Any:
        return json.loads(path.read_bytes())

    def write(self, path: Path, content: Any) -> None:
        super().write(path, json.dumps(content, **{"indent": 2} | self.save_args))

    @when_made
    def preview(self) -> JSONPreview:
        return JSONPreview(json.dumps(self.load()))


class ParquetDataset(StageFile):
    """A table. (Importing Kedro's data set imports each library that it supports.)"""

    def read(self, path: Path) -> "pd.DataFrame":
        import pandas as pd

        return pd.read_parquet(path)

    def write(self, path: Path, content: "pd.DataFrame") -> None:
        content.to_parquet(path)

    @when_made
    def preview(self, nrows: int = 5) -> TablePreview:
        return TablePreview(self.load().head(nrows).to_dict(orient="split"))


class FiguresDataset(StageFile):
    """A folder of figures, name → text: each as SVG, and its data as CSV."""

    whole = staticmethod(atomic_folder)

    def read(self, path: Path) -> dict[str, str]:
        return {file.name: file.read_text("utf-8") for file in sorted(path.iterdir())}

    def write(self, path: Path, content: dict[str, str]) -> None:
        for name, text in content.items():
            (path / name).write_text(text, "utf-8", newline="\n")

    @when_made
    def preview(self) -> HTMLPreview:
        """Every figure, for Kedro-Viz."""
        drawn = [text for name, text in self.load().items() if name.endswith(".svg")]
        sources = (f"data:image/svg+xml;base64,{b64encode(text.encode()).decode()}" for text in drawn)
        return HTMLPreview("".join(f'<p><img style="max-width: 100%" src="{url}"></p>' for url in sources))


class TextDataset(StageFile):
    """A text or a page."""


class TableDataset(StageFile):
    """A text for people, shown in Kedro-Viz as it is."""

    @when_made
    def preview(self) -> HTMLPreview:
        return HTMLPreview(f"<pre>{escape(self.load())}</pre>")
