"""What lies under data/ and in the registry, and which of it nothing refers to any more."""

import json
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2d_pipeline.cards import CARD, partial_folder, read_card
from g2d_pipeline.errors import DataError, LockedError
from g2d_pipeline.files import locked

LAYERS = "0[2-8]_*"
PIN = "keep"  # an empty file of this name in a folder keeps it
LEFTOVER_AGE = 86400.0  # seconds
BESIDE = (".verified.json", ".uploaded.json")  # endings of files that belong to a folder


@dataclass(frozen=True)
class Stored:
    """A folder under data/: an artefact with its stage card, or what a killed run left (`card` is empty).
    `reason`: why it is kept; empty: nothing refers to it."""

    folder: Path
    card: Mapping[str, Any]
    size: int
    reason: str = ""


@dataclass
class References:
    """What is in use. `fingerprints` and `contents` (of stage cards) → by what; `folders` that are, or will
    be made; `unknown`: (data set, stage or "" for all) → why that can not be told: all of it is kept."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    folders: dict[Path, str] = field(default_factory=dict)
    unknown: dict[tuple[str, str], str] = field(default_factory=dict)

    def add_version(self, dataset: str, name: str, folder: Path) -> None:
        """What `lineage.json` of a version says that it was made from."""
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


def stored(data: Path, references: References, studies: Collection[str]) -> list[Stored]:
    """All artefacts and old leftovers under the layers 02 to 08, with why each is kept. What a kept artefact
    is made from is kept, too. Left out: folders without a stage card, and what a link leads to outside."""
    cards = {folder: card for folder in _folders(data) if (card := read_card(folder)) and "stage" in card}
    kept = {folder: references.reason(folder, card, studies) for folder, card in cards.items()}
    new = {folder: reason for folder, reason in kept.items() if reason}
    while new:
        inputs = {h: f"input of {folder.name}" for folder in new for h in _inputs(cards[folder])}
        new = {
            folder: why
            for folder, card in cards.items()
            if not kept[folder]
            and (why := inputs.get(str(card.get("content"))) or inputs.get(str(card["fingerprint"])))
        }
        kept |= new
    made = [Stored(folder, card, size_of(folder), kept[folder]) for folder, card in cards.items()]
    return sorted([*made, *_leftovers(data, references)], key=lambda one: one.folder)


def _folders(data: Path) -> Iterator[Path]:
    for layer in sorted(data.glob(LAYERS)):
        for file in layer.rglob(CARD):
            folder = file.parent
            parts = folder.relative_to(data).parts
            if not any(map(_is_leftover, parts)) and folder.resolve().is_relative_to(data.resolve()):
                yield folder


def _inputs(card: Mapping[str, Any]) -> Iterator[str]:
    """Content hashes (of studies: fingerprints) of what an artefact is made from."""
    inputs = card.get("inputs") or {}
    for one in inputs.values() if isinstance(inputs, Mapping) else inputs:
        yield str(one[-1] if isinstance(one, list) else one)


def _is_leftover(name: str) -> bool:
    return name.endswith((".partial", ".old")) or name.startswith(".unfinished-")


def _leftovers(data: Path, references: References) -> Iterator[Stored]:
    """Of killed runs, a day old. What a training that is to be made would resume from is kept."""
    resumed = {partial_folder(folder): reason for folder, reason in references.folders.items()}
    unsure = {dataset: why for (dataset, _), why in references.unknown.items()}
    for layer in sorted(data.glob(LAYERS)):
        for folder in layer.rglob("*"):
            parts = folder.relative_to(data).parts
            if not _is_leftover(folder.name) or any(map(_is_leftover, parts[:-1])) or not folder.is_dir():
                continue
            newest = max(f.lstat().st_mtime for f in [folder, *folder.rglob("*")])
            inside = folder.resolve().is_relative_to(data.resolve())
            if inside and time.time() - newest > LEFTOVER_AGE:
                unknown = next((why for part in parts if (why := unsure.get(part))), "")
                reason = resumed.get(folder) or (unknown if folder.suffix == ".partial" else "")
                yield Stored(folder, {}, size_of(folder), reason)


def is_busy(data: Path, dataset: str) -> bool:
    """Whether a process is making something of a data set: it may be reading what else there is."""
    for file in data.glob(f"{LAYERS}/{dataset}/**/*.lock"):
        try:
            with locked(file.with_suffix("")):
                pass
        except LockedError:
            return True
    return False


def remove(one: Stored) -> bool:
    """Delete a folder that nothing refers to, whole or not at all; False: a run is just making it. Raises
    OSError."""
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


def usage(data: Path) -> Iterable[tuple[str, str, int]]:
    """(layer, data set, bytes) of what lies under data/, 01_raw included."""
    for layer in sorted(f for f in data.glob("0*_*") if f.is_dir()):
        for folder in sorted(f for f in layer.iterdir() if f.is_dir()):
            yield layer.name, folder.name, size_of(folder)
