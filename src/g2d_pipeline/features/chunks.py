"""The chunks of a modality: what a worker does to one, and the journal of those that are on disk."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from g2d_pipeline.config.base import Strict
from g2d_pipeline.features.cells import content_key, files_of, release_cells
from g2d_pipeline.features.files import Array, Floats, Rows, mapped
from g2d_pipeline.features.kinds import ArraySpec, FileKind, Findings, kind_of
from g2d_pipeline.features.kinds.base import Item
from g2d_pipeline.features.statistics import OVERFLOW, infinite_rows, summed_errors, to_half
from g2d_pipeline.features.store import NOTES, RECORD, ReusableStore
from g2d_pipeline.files import atomic_write
from g2d_pipeline.remote import attach, fetch, fetch_ahead

PROGRESS = "progress.json"  # the journal, there only while a store is being written
Notes = dict[str, dict[int, int]]  # kind of note → position in the chunk → a count


@dataclass(frozen=True)
class Job:
    """`cells[k]` of a modality → every row `rows[i]` of the array file with `source[i] == k`.

    `records`: the file of the cells' `RECORD`s, those of this chunk from `first` on; None: none are
    kept. `rounding`: the file of the chunks' rounding errors `[chunks, 2, C]`, where they are not in the
    records. `known`: cells that need not be decoded. `ahead`: cells whose files, where they
    are behind a URL, are fetched meanwhile."""

    number: int
    settings: Strict
    root: Path
    cells: tuple[str, ...]
    array: Path
    rows: Rows
    source: Rows
    spec: ArraySpec
    first: int
    records: Path | None
    rounding: Path | None
    known: ReusableStore | None
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A chunk that is on disk, but for the cells with faults; `copied`: cells from an earlier store."""

    number: int
    findings: Findings
    copied: int


def run(job: Job) -> Done:
    """Compute a chunk and write it; the rows of cells that are bad stay as they are.

    On one thread, so that the bytes are the same in any process."""
    kind = kind_of(job.settings)
    assert isinstance(kind, FileKind)
    for folder in (job.root, *([job.known.array.parent] if job.known else [])):
        attach(folder)
    fetch(file for cell in job.cells for file in files_of(cell, job.root))
    fetch_ahead(file for cell in job.ahead for file in files_of(cell, job.root))
    records = np.zeros(len(job.cells), RECORD)
    copied: dict[int, np.void] = {}  # the `CELL`s of those that the earlier store has

    def fresh() -> Iterator[Item]:
        for k, cell in enumerate(job.cells):
            content = None
            if job.records is not None:
                records["key"][k], content = content_key(cell, job.root, kind.keep_bytes)
            if job.known is not None and (known := job.known.find(records["key"][k])) is not None:
                copied[k] = known
            else:
                yield k, cell, content

    values, findings = decode_cells(kind, job.cells, job.root, job.spec, fresh())
    values, errors = round_values(values, job.spec, findings)
    if errors is not None and job.records is not None:
        records["worst"], records["squares"] = errors[:, 0, 0], errors[:, 1, 0]
    for note in NOTES:
        for k, count in findings.notes.get(note, {}).items():
            records[note][k] = count
    records["key"][list(findings.faults)] = b""
    for k, known in copied.items():
        records[k] = known.item()[:-1]  # all but its row
        for note in NOTES:
            if known[note]:
                findings.notes[note][k] = int(known[note])
    if job.known is not None and copied:
        values[list(copied)] = mapped(job.known.array)[[int(known["row"]) for known in copied.values()]]
    _write(job, values, records, errors, findings)
    release_cells(job.cells, job.root)
    return Done(job.number, findings, len(copied))


def decode_cells(
    kind: FileKind,
    cells: Sequence[str],
    root: Path,
    spec: ArraySpec | None = None,
    items: Iterable[Item] | None = None,
) -> tuple[Array, Findings]:
    """(values `[len(cells), …]`, what was found) of cells, or only of those among them that are `items`."""
    spec = spec or kind.spec(cells, root)
    findings = Findings(notes={note: {} for note in FileKind.notes | kind.notes})
    values = np.zeros((len(cells), *spec.shape), spec.exact)
    with one_thread():
        every: Iterable[Item] = ((k, cell, None) for k, cell in enumerate(cells))
        kind.decode(every if items is None else items, root, spec, values, findings)
    return values, findings


def round_values(values: Array, spec: ArraySpec, findings: Findings) -> tuple[Array, Floats | None]:
    """(what is stored, the rounding errors `[n, 2, C]`, 0 of bad cells; None: nothing is rounded)."""
    if values.dtype.kind != "f":
        return values, None
    for k in infinite_rows(values).tolist():
        findings.faults.setdefault(k, "is not finite after the transform: its values are too large")
    if spec.dtype != "float16":
        return values, None
    half, errors = to_half(values)
    for k in infinite_rows(half).tolist():
        findings.faults.setdefault(k, OVERFLOW)
    errors[list(findings.faults)] = 0
    return half, errors


def _write(job: Job, values: Array, records: Array, errors: Floats | None, findings: Findings) -> None:
    good = ~np.isin(job.source, list(findings.faults))
    rows, source = job.rows[good], job.source[good]
    array = mapped(job.array, "r+")
    for start in range(0, len(rows), len(values)):  # many rows a cell: no copy larger than `values`
        part = slice(start, start + len(values))
        array[rows[part]] = values[source[part]]
    array.flush()
    if job.records is not None:
        kept = mapped(job.records, "r+")
        kept[job.first : job.first + len(records)] = records
        kept.flush()
    if job.rounding is not None and errors is not None:
        summed = mapped(job.rounding, "r+")
        summed[job.number] = summed_errors(errors)
        summed.flush()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Chunk(BaseModel):
    """A chunk that is on disk: a digest of what it was made from, and what decoding noticed in it."""

    digest: str
    notes: Notes


class Progress(BaseModel):
    """The journal's content: modality → number of the chunk → chunk. `plan`: see `ChunkJournal`."""

    plan: str
    done: dict[str, dict[int, Chunk]] = {}


class ChunkJournal:
    """The chunks of each modality that are whole in a store's folder, with a digest of their sources.

    `plan` is a digest of settings and samples. A journal of another plan, or a broken one, is not believed:
    all arrays and tokenizers in the folder are removed, and a new one is started."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.path = folder / PROGRESS
        try:
            self._progress = Progress.model_validate_json(self.path.read_bytes())
        except (OSError, ValueError):
            self._progress = Progress(plan="")
        if self._progress.plan != plan:
            self.remove()  # before the arrays: no kill leaves it with arrays that are not its own
            for file in (*folder.glob("*.npy"), *folder.glob("*.tokenizer.json")):
                file.unlink()
            self._progress = Progress(plan=plan)
            self._write()

    def notes(self, modality: str, number: int, digest: str) -> Notes | None:
        """What decoding noticed in the chunk; None: it is not on disk, or was made from other sources."""
        chunk = self._progress.done.get(modality, {}).get(number)
        return chunk.notes if chunk is not None and chunk.digest == digest else None

    def record(self, modality: str, number: int, digest: str, notes: Notes) -> None:
        """To be called when the chunk is on disk; on return, so is the record."""
        self._progress.done.setdefault(modality, {})[number] = Chunk(digest=digest, notes=notes)
        self._write()

    def forget(self, modality: str) -> None:
        """On return no chunk of the modality is recorded on disk: its array may be made anew."""
        if self._progress.done.pop(modality, None):
            self._write()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        with atomic_write(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(self._progress.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
