"""Finished artefacts on a URL (`storage.artefacts`), which machines share: a copy of the project's `data`.

An artefact's files are uploaded under their names and hashes, then `complete.json`, by a single write: who
reads looks for that alone, and so never sees half an artefact, nor one that is being replaced. Its card and
files are in `complete.json`; elsewhere the artefact appears as a folder of unfetched files (see `remote`)."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from g2d_pipeline.cards import CARD
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import atomic_folder, atomic_write, content_hash, fingerprint
from g2d_pipeline.remote import (
    LISTING,
    Files,
    Remote,
    filesystem,
    make_tree,
    object_name,
    set_limit,
    talking_to,
)

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"


@dataclass
class Mirror:
    """`data`: the folder that artefacts are named relative to. `limit`: bytes of each that are kept here."""

    url: str
    data: Path
    options: Mapping[str, Any]
    limit: float
    _absent: set[Path] = field(default_factory=set)

    @cached_property
    def fs(self) -> Any:
        return filesystem(self.url, self.options)

    def check(self) -> None:
        """Raise DataError where nothing can be written."""
        with self._uploading("artefacts can not be written"):
            self.fs.pipe_file(self._place(".writable"), b"")

    def push(self, folder: Path) -> None:
        """Upload what of a finished artefact is not there yet. Raises DataError, and leaves it absent there,
        or as it was."""
        name, note = self._name(folder), folder.with_name(f"{folder.name}.uploaded.json")
        card = json.loads((folder / CARD).read_bytes())
        state = {"url": self.url, "card": fingerprint(card)}
        with suppress(OSError, ValueError):
            if (folder / LISTING).exists() or json.loads(note.read_bytes()) == state:
                return  # it came from there, or is there
        paths = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != CARD)
        files = {f.relative_to(folder).as_posix(): (f.stat().st_size, content_hash(f)) for f in paths}
        with self._uploading(f"{folder.name} is made, but not uploaded: the same command does that"):
            before = self._complete(name).get("files", {})
            self.fs.invalidate_cache()
            known: dict[str, int] = {}
            with suppress(FileNotFoundError):
                objects = self.fs.find(self._place(name), detail=True)
                known = {path: about["size"] for path, about in objects.items()}
            for file, (size, version) in files.items():
                place = self._place(f"{name}/{object_name(file, version)}")
                if known.get(place) != size:
                    self.fs.put_file(str(folder / file), place)
            complete = json.dumps({"files": files, "card": card}).encode()
            self.fs.pipe_file(self._place(f"{name}/{COMPLETE}"), complete)
            kept = {object_name(file, version) for file, (_, version) in files.items()}
            if old := {object_name(file, version) for file, (_, version) in before.items()} - kept:
                self.fs.rm([self._place(f"{name}/{file}") for file in old])
        with suppress(OSError), atomic_write(note) as path:
            path.write_text(json.dumps(state), encoding="utf-8")

    def find(self, folder: Path) -> bool:
        """Where the artefact is there, but not here: make its folder, of unfetched files and the card."""
        if (folder / LISTING).exists():
            set_limit(folder, self.limit)
        if folder in self._absent or (folder / CARD).exists() or not folder.is_relative_to(self.data):
            return False
        name = self._name(folder)
        with talking_to(self.url):
            complete = self._complete(name)
        if not complete:
            self._absent.add(folder)
            return False
        files: Files = {file: (size, version) for file, (size, version) in complete["files"].items()}
        with atomic_folder(folder) as new:
            make_tree(new, files)
            Remote(new, f"{self.url}/{name}", self.options, self.limit, files, named_by_hash=True).save()
            (new / CARD).write_text(json.dumps(complete["card"], indent=2), encoding="utf-8")
        logger.info("%s is in %s already.", name, self.url)
        return True

    def forget(self) -> None:
        """Look again for artefacts that were absent."""
        self._absent.clear()

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.data).as_posix()

    def _place(self, name: str) -> str:
        return f"{self.fs._strip_protocol(self.url).rstrip('/')}/{name}"

    def _complete(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.fs.cat_file(self._place(f"{name}/{COMPLETE}"))))
        except FileNotFoundError:
            return {}

    @contextmanager
    def _uploading(self, fault: str) -> Iterator[None]:
        try:
            with talking_to(self.url):
                yield
        except DataError as error:
            raise DataError(f"{fault}. {error}") from error
