"""The chunks of a modality: what a worker does to one, and the journal of those that are on disk."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter

from g2d_pipeline.config.base import Strict
from g2d_pipeline.features.cells import content_key, files_of, release_cells
from g2d_pipeline.features.files import Array, Floats, Rows, mapped, remove
from g2d_pipeline.features.kinds import ArraySpec, FileKind, Findings, kind_of
from g2d_pipeline.features.reuse import NOTES, RECORD, ReusableStore
from g2d_pipeline.features.statistics import OVERFLOW, infinite_rows, summed_errors, to_half
from g2d_pipeline.files import atomic_write
from g2d_pipeline.remote import attach, fetch, fetch_ahead

PROGRESS = "progress.json"  # the journal, there only while a store is being written
Notes = dict[str, dict[int, int]]  # kind of note → position in the chunk → a count


@dataclass(frozen=True)
class Job:
    """`cells[k]` of a modality → every row `rows[i]` of the array file with `source[i] == k`.

    `records`: the file of the cells' `reuse.RECORD`s, those of this chunk from `first` on; None: none are
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
    findings = kind.findings()
    rows: dict[int, int] = {}  # of the cells that the earlier store has

    def fresh() -> Iterator[tuple[int, str, bytes | None]]:
        for k, cell in enumerate(job.cells):
            content = None
            if job.records is not None:
                key, content = content_key(cell, job.root, kind.keep_bytes)
                records["key"][k] = key
            if job.known is not None and (known := job.known.find(records["key"][k])) is not None:
                for name in RECORD.names or ():
                    records[name][k] = known[name]
                rows[k] = int(known["row"])
                continue
            yield k, cell, content

    values = np.zeros((len(job.cells), *job.spec.shape), job.spec.exact)
    with one_thread():
        kind.decode(fresh(), job.root, job.spec, values, findings)
    decoded = np.setdiff1d(np.arange(len(job.cells)), list(rows))
    values, errors = round_values(values, decoded, job.spec, findings)
    copied = np.array(list(rows), np.int64)
    if len(copied):
        values[copied] = mapped(job.known.array)[list(rows.values())]  # type: ignore[union-attr]
    for note, counts in ((n, findings.notes[n]) for n in NOTES if n in findings.notes):
        counts |= {k: int(records[note][k]) for k in rows if records[note][k]}
        records[note][list(counts)] = list(counts.values())
    if errors is not None and job.records is not None:
        records["worst"][decoded], records["squares"][decoded] = errors[:, 0, 0], errors[:, 1, 0]
    records["key"][list(findings.faults)] = b""
    _write(job, values, records, errors, findings)
    release_cells(job.cells, job.root)
    return Done(job.number, findings, len(copied))


def decode_cells(
    kind: FileKind, cells: Sequence[str], root: Path, spec: ArraySpec | None = None
) -> tuple[Array, Findings]:
    """(values `[len(cells), …]`, what was found) of cells that are decoded here, without a store."""
    spec, findings = spec or kind.spec(cells, root), kind.findings()
    values = np.zeros((len(cells), *spec.shape), spec.exact)
    with one_thread():
        kind.decode(((k, cell, None) for k, cell in enumerate(cells)), root, spec, values, findings)
    return values, findings


def round_values(
    values: Array, decoded: Rows, spec: ArraySpec, findings: Findings
) -> tuple[Array, Floats | None]:
    """(what is stored, the rounding errors `[n, 2, C]` of the rows `decoded`; None: nothing is rounded)."""
    if values.dtype.kind != "f":
        return values, None
    for k in np.intersect1d(decoded, infinite_rows(values)).tolist():
        findings.faults.setdefault(k, "is not finite after the transform: its values are too large")
    if spec.dtype != "float16":
        return values, None
    half, errors = to_half(values)
    for k in np.intersect1d(decoded, infinite_rows(half)).tolist():
        findings.faults.setdefault(k, OVERFLOW)
    errors[list(findings.faults)] = 0
    return half, errors[decoded]


def _write(job: Job, values: Array, records: Array, errors: Floats | None, findings: Findings) -> None:
    array = mapped(job.array, "r+")
    rows, source = job.rows, job.source
    if findings.faults:
        good = ~np.isin(source, list(findings.faults))
        rows, source = rows[good], source[good]
    if len(source) == len(values) and (np.diff(rows) == 1).all() and (np.diff(source) == 1).all():
        array[rows[0] : rows[-1] + 1] = values  # a row a cell, in order: nothing is gathered
        rows = rows[:0]
    for start in range(0, len(rows), len(job.cells)):  # many rows a cell: no copy larger than `values`
        part = slice(start, start + len(job.cells))
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


Chunks = dict[str, dict[int, Chunk]]  # modality → number of the chunk → chunk
CHUNKS = TypeAdapter(Chunks)


class ChunkJournal:
    """The chunks of each modality that are whole, with a digest of what they were made from.

    `plan` is a digest of settings and samples, `files` the arrays that belong to it. A journal of another
    plan, or a broken one, is not believed: its arrays are removed, and a new one is started."""

    def __init__(self, folder: Path, plan: str, files: list[str]) -> None:
        self.path = folder / PROGRESS
        self.plan, self.files = plan, files
        done, others = _read(self.path, plan)
        self._done = done or {}
        if done is None:
            self.remove()  # before the arrays: no kill leaves it with arrays that are not its own
            for name in {*files, *others}:
                remove(folder / name)
            self._write()

    def has(self, modality: str, number: int, digest: str) -> bool:
        chunk = self._done.get(modality, {}).get(number)
        return chunk is not None and chunk.digest == digest

    def notes(self, modality: str, number: int) -> Notes:
        """What decoding noticed in the chunk."""
        return self._done[modality][number].notes

    def record(self, modality: str, number: int, digest: str, notes: Notes) -> None:
        """To be called when the chunk is on disk; on return, so is the record."""
        self._done.setdefault(modality, {})[number] = Chunk(digest=digest, notes=notes)
        self._write()

    def forget(self, modality: str) -> None:
        """On return no chunk of the modality is recorded on disk: its array may be made anew."""
        if self._done.pop(modality, None):
            self._write()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        with atomic_write(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump({"plan": self.plan, "files": self.files, "done": CHUNKS.dump_python(self._done)}, file)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path, plan: str) -> tuple[Chunks | None, list[str]]:
    """(what is done; None: nothing of this plan, the files of arrays and tokenizers it names)."""
    try:
        content = json.loads(path.read_bytes())
        files = [Path(str(name)).name for name in content["files"]]
        files = [name for name in files if name.endswith((".npy", ".tokenizer.json"))]
        return CHUNKS.validate_python(content["done"]) if content["plan"] == plan else None, files
    except (OSError, ValueError, LookupError, TypeError):
        return None, []
