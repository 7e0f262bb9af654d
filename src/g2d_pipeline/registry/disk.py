"""What lies under data/ and in the registry, and which of it is not referred to any more."""

import json
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2d_pipeline.cards import partial_folder, read_card
from g2d_pipeline.errors import DataError, LockedError
from g2d_pipeline.files import locked

LAYERS = "0[2-8]_*"
PIN = "keep"  # an empty file of this name in a folder keeps it
LEFTOVER_AGE = 86400.0  # seconds
BESIDE = (".verified.json", ".uploaded.json")  # endings of files that belong to a folder


@dataclass(frozen=True)
class Stored:
    """A folder under data/: an artefact with its stage card, or a leftover of a killed run (`card` is empty).
    `reason`: why it is kept; empty: nothing refers to it."""

    folder: Path
    card: Mapping[str, Any]
    size: int
    reason: str = ""


@dataclass
class References:
    """What is in use. `fingerprints` and `contents` (of stage cards) → by what; `folders` that are, or will
    be made; `unknown`: (data set, stage or "" for all) → why it is unknown: all of it is kept."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    folders: dict[Path, str] = field(default_factory=dict)
    unknown: dict[tuple[str, str], str] = field(default_factory=dict)

    def add_version(self, dataset: str, name: str, folder: Path) -> None:
        """Add the artefacts that a version was made from, by its `lineage.json`."""
        try:
            lineage = json.loads((folder / "lineage.json").read_bytes())
            parts = {key: lineage.get(key) or {} for key in ("fingerprints", "contents", "inputs")}
            self.fingerprints |= dict.fromkeys(parts["fingerprints"].values(), name)
            self.contents |= dict.fromkeys([*parts["contents"].values(), *parts["inputs"].values()], name)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            self.unknown[dataset, ""] = f"{name} has no readable lineage.json ({error})"

    def reason(self, folder: Path, card: Mapping[str, Any], studies: Collection[str]) -> str:
        """Why an artefact is kept, by itself."""
        if (folder / PIN).exists():
            return f"pinned by a file {PIN!r}"
        if card.get("stage") == "study":
            return f"study {card.get('study')}" if card.get("study") in studies else ""
        dataset = str(card.get("dataset"))
        return (
            self.folders.get(folder)
            or self.fingerprints.get(str(card.get("fingerprint")))
            or self.contents.get(str(card.get("content")))
            or self.unknown.get((dataset, str(card.get("stage"))))
            or self.unknown.get((dataset, ""), "")
        )

    def leftover_reason(self, data: Path, folder: Path) -> str:
        """Why a leftover is kept: a training that is to be made would resume from it, or may do so."""
        resumed = {partial_folder(made): reason for made, reason in self.folders.items()}
        parts = folder.relative_to(data).parts if folder.suffix == ".partial" else ()
        unknown = [reason for (dataset, _), reason in self.unknown.items() if dataset in parts]
        return resumed.get(folder) or next(reversed(unknown), "")


def stored(data: Path, references: References, studies: Collection[str]) -> list[Stored]:
    """All artefacts and old leftovers under the layers 02 to 08, with why each is kept. What a kept artefact
    is made from is kept, too. Left out: folders without a stage card, and links."""
    cards: dict[Path, dict[str, Any]] = {}
    leftovers = []
    for folder in _folders(data):
        if _is_leftover(folder.name):
            newest = max(f.lstat().st_mtime for f in [folder, *folder.rglob("*")])
            if time.time() - newest > LEFTOVER_AGE:
                reason = references.leftover_reason(data, folder)
                leftovers.append(Stored(folder, {}, size_of(folder), reason))
        elif (card := read_card(folder)) and "stage" in card:
            cards[folder] = card
    kept = {folder: references.reason(folder, card, studies) for folder, card in cards.items()}
    new = [folder for folder, reason in kept.items() if reason]
    while new:
        inputs = {h: f"input of {folder.name}" for folder in new for h in _inputs(cards[folder])}
        new = []
        for folder in (f for f, reason in kept.items() if not reason):
            hashes = (str(cards[folder].get(key)) for key in ("content", "fingerprint"))
            if kept_as := next(filter(None, map(inputs.get, hashes)), ""):
                kept[folder] = kept_as
                new.append(folder)
    artefacts = [Stored(folder, card, size_of(folder), kept[folder]) for folder, card in cards.items()]
    return sorted([*artefacts, *leftovers], key=lambda one: one.folder)


def _folders(data: Path) -> Iterator[Path]:
    """All folders of the layers that are really below `data`, and in no leftover."""
    for layer in sorted(data.glob(LAYERS)):
        for folder in (f for f in layer.rglob("*") if f.is_dir() and not f.is_symlink()):
            in_leftover = any(map(_is_leftover, folder.relative_to(data).parts[:-1]))
            if not in_leftover and folder.resolve().is_relative_to(data.resolve()):
                yield folder


def _is_leftover(name: str) -> bool:
    return name.endswith((".partial", ".old")) or name.startswith(".unfinished-")


def _inputs(card: Mapping[str, Any]) -> Iterator[str]:
    """Content hashes (of studies: fingerprints) of what an artefact is made from."""
    inputs = card.get("inputs") or {}
    for entry in inputs.values() if isinstance(inputs, Mapping) else inputs:
        yield str(entry[-1] if isinstance(entry, list) else entry)


def is_busy(data: Path, dataset: str) -> bool:
    """Whether a process is making an artefact of a data set: it may be reading the others."""
    for file in data.glob(f"{LAYERS}/{dataset}/**/*.lock"):
        try:
            with locked(file.with_suffix("")):
                pass
        except LockedError:
            return True
    return False


def remove(one: Stored) -> bool:
    """Delete a folder that nothing refers to, whole or not at all; False if a run is making it. Raises
    OSError, and DataError if the folder is kept."""
    if one.reason:
        raise DataError(f"{one.folder} is kept: {one.reason}")
    try:
        with locked(one.folder):
            old = one.folder
            if one.card:
                old = one.folder.with_name(f"{one.folder.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                one.folder.replace(old)
            shutil.rmtree(old)
            for ending in BESIDE:
                one.folder.with_name(one.folder.name + ending).unlink(missing_ok=True)
    except LockedError:
        return False
    return True


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def usage(data: Path) -> Iterator[tuple[str, str, int]]:
    """(layer, data set, bytes) of what lies under data/, 01_raw included."""
    for layer in sorted(f for f in data.glob("0*_*") if f.is_dir()):
        for folder in sorted(f for f in layer.iterdir() if f.is_dir()):
            yield layer.name, folder.name, size_of(folder)
