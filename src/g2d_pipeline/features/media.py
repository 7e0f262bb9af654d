"""A modality of files on its way into the store: its cells, who has them, and the work of decoding them."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from g2d_pipeline.compute import Pool
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import chunks
from g2d_pipeline.features.cells import cells_state
from g2d_pipeline.features.chunks import ChunkJournal, Done, Job
from g2d_pipeline.features.files import Rows, create, fits, remove
from g2d_pipeline.features.kinds import ArraySpec, FileKind, Findings
from g2d_pipeline.features.store import RECORD, ReusableStore
from g2d_pipeline.progress import track

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CHUNK = 256  # the most cells at once, of any kind
SCRATCH = ("pixels", "records", "rounding", "kept")  # arrays that are there only while a store is written
SHARD_BYTES = 2**30  # of a file of a stored array; one of more is in shards
ShardRows = int | Literal["auto"]  # in a file
START_UP = 8.0  # seconds until worker processes have imported torch: they have to save more
KILLED = (
    "A process that decodes raw files was killed each time that it was tried, perhaps for want of memory. "
    "Run again with fewer of them (`--params compute.workers=1`): it goes on from the last whole chunk."
)


class Names(Sequence[str]):
    """Strings kept as one piece of bytes: a quarter of what a list of them takes. A slice is a list."""

    def __init__(self, names: Iterable[str]) -> None:
        parts = [name.encode("utf-8", "surrogatepass") for name in names]
        self._bytes = b"".join(parts)
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self._bytes[self._ends[position] : self._ends[position + 1]].decode("utf-8", "surrogatepass")

    def digest_into(self, digest: hashlib.blake2b) -> None:
        """Add all strings and their borders to a hash."""
        digest.update(self._ends.tobytes())
        digest.update(self._bytes)


@dataclass(frozen=True)
class Media:
    """A modality of files: its distinct cells in order of first appearance, and who has them.

    `root`: what cells are relative to; `code` `[N]`: each sample's position in `cells`; `order` `[N]`: the
    samples' rows sorted by it; `starts`: where in `order` the rows of each cell start."""

    name: str
    kind: FileKind
    root: Path
    cells: Names
    code: Rows
    order: Rows
    starts: Rows
    shard_rows: ShardRows = "auto"

    @classmethod
    def from_column(
        cls, name: str, kind: FileKind, root: Path, column: pd.Series[str], shard_rows: ShardRows = "auto"
    ) -> Self:
        """From the manifest's column of cells `[N]`."""
        import pandas as pd

        code, cells = pd.factorize(column.astype(object))
        starts = np.concatenate([[0], np.cumsum(np.bincount(code, minlength=len(cells)))])
        order = np.argsort(code, kind="stable")
        code, order, starts = (a.astype(np.int64) for a in (code, order, starts))
        return cls(name, kind, root, Names(str(c) for c in cells), code, order, starts, shard_rows)

    def rows(self, first: int, last: int | None = None) -> Rows:
        """The samples' rows that have the cell `first`, or one of those to before `last`."""
        return self.order[self.starts[first] : self.starts[first + 1 if last is None else last]]

    @cached_property
    def spec(self) -> ArraySpec:
        """The array that decoding fills."""
        return self.kind.spec(self.cells, self.root)

    def file(self, part: str = "") -> str:
        """The name of the stored array, or of something beside it."""
        return f"{self.name}.{part}.npy" if part else f"{self.name}.npy"

    @property
    def rows_in_file(self) -> int:
        """The most samples in a file of the stored array."""
        if self.shard_rows != "auto":
            return self.shard_rows
        return max(1, SHARD_BYTES // max(self.spec.bytes, 1))

    @property
    def chunk(self) -> int:
        """Cells at once."""
        return min(CHUNK, self.kind.chunk)

    @property
    def chunks(self) -> int:
        return math.ceil(len(self.cells) / self.chunk)

    def span(self, number: int) -> range:
        """The positions of a chunk's cells."""
        return range(len(self.cells))[number * self.chunk : (number + 1) * self.chunk]

    @property
    def reusable(self) -> bool:
        """Whether its cells are remembered and copied from store to store (see `store`)."""
        return self.kind.reusable(self.spec)

    def job(self, number: int, folder: Path, known: ReusableStore | None = None, workers: int = 1) -> Job:
        """The work of a chunk, made when it is wanted: together they are large. The chunk that one of
        `workers` is likely to get next is read ahead."""
        first, last = (span := self.span(number)).start, span.stop
        rows, ahead = self.rows(first, last), workers * self.chunk
        rounded = self.spec.dtype == "float16" and not self.reusable
        return Job(
            number=number,
            settings=self.kind.settings,
            root=self.root,
            cells=tuple(self.cells[first:last]),
            array=folder / self.file(self.kind.decoded),
            rows=rows,
            source=self.code[rows] - first,
            spec=self.spec,
            first=first,
            records=folder / self.file("records") if self.reusable else None,
            rounding=folder / self.file("rounding") if rounded else None,
            known=known,
            ahead=tuple(self.cells[first + ahead : last + ahead]),
        )

    def digest(self, number: int) -> str:
        """What a chunk is made from: its cells, the sizes and times of their files, and the array's form."""
        span = self.span(number)
        content = str(self.spec).encode() + cells_state(self.cells[span.start : span.stop], self.root)
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def named(self, k: int, reason: str, sample_ids: Sequence[str]) -> str:
        """A bad cell as messages name it."""
        rows = self.rows(k)
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return f"{self.cells[k]} (sample {sample_ids[rows[0]]}{more}) {reason}"


def decode(
    folder: Path,
    media: Media,
    journal: ChunkJournal,
    pool: Pool,
    known: ReusableStore | None,
    progress: Literal["auto"] | bool = "auto",
) -> Findings:
    """Fill the array that `prepare` made in `folder`, going on from what the journal says is there.

    The array is the same for any number of workers. Cells that an earlier store has are copied from it. The
    rows of cells that can not be used stay zero."""
    name, plural = media.name, media.kind.plural
    digests = [media.digest(number) for number in range(media.chunks)]
    todo = [k for k, digest in enumerate(digests) if journal.notes(name, k, digest) is None]
    bad: dict[int, Findings] = {}  # by chunk
    copied = 0
    with track(f"featurize {name}", len(media.cells), progress) as advance:
        if present := len(media.cells) - sum(len(media.span(number)) for number in todo):
            logger.info("%s: %d of %d %s are there already.", name, present, len(media.cells), plural)
            advance(present)
        for done in _run(pool, partial(media.job, folder=folder, known=known, workers=pool.workers), todo):
            copied += done.copied
            if done.findings.faults:
                bad[done.number] = done.findings
            else:
                journal.record(name, done.number, digests[done.number], done.findings.notes)
            advance(len(media.span(done.number)))
    if known is not None:
        total = f"{copied} of {len(media.cells)} {plural}"
        logger.info("%s: %s are copied from %s, not decoded.", name, total, known.array.parent.name)
    result = Findings()
    for number, digest in enumerate(digests):
        first, notes = number * media.chunk, journal.notes(name, number, digest)
        findings = bad[number] if notes is None else Findings(notes=notes)
        result.faults |= {first + k: reason for k, reason in findings.faults.items()}
        for note, counts in findings.notes.items():
            result.notes[note] |= {first + k: n for k, n in counts.items()}
    return result


def prepare(folder: Path, media: Media, journal: ChunkJournal) -> None:
    """Make the arrays that `decode` fills, unless all are there; else the journal forgets the modality.

    Raises OSError where there is no room for them; then the new ones are gone."""
    spec = media.spec
    shape = (len(media.code), *spec.shape)
    arrays: dict[str, tuple[Any, tuple[int, ...], int | None]] = {
        media.file(media.kind.decoded): (np.dtype(spec.dtype), shape, media.rows_in_file)
    }
    if media.reusable:
        arrays[media.file("records")] = (RECORD, (len(media.cells),), None)
    elif spec.dtype == "float16":
        arrays[media.file("rounding")] = (np.dtype("float64"), (media.chunks, 2, spec.shape[0]), None)
    if all(fits(folder / name, *form) for name, form in arrays.items()):
        return
    journal.forget(media.name)
    try:
        for name, form in arrays.items():
            create(folder / name, *form)
    except OSError:
        for name in arrays:
            remove(folder / name)
        raise


def _run(pool: Pool, job: Callable[[int], Job], numbers: Sequence[int]) -> Iterator[Done]:
    """Jobs are done here and timed (some are mere copies) until workers are worth their start."""
    for position, number in enumerate(numbers, start=1):
        start = time.perf_counter()
        done, seconds = chunks.run(job(number)), time.perf_counter() - start
        yield done
        rest = len(numbers) - position
        saved = seconds * rest * (1 - 1 / min(pool.workers, max(rest, 1)))
        if pool.workers > 1 and saved > (START_UP if pool.engine is None else 0):
            for _, other in pool.run(chunks.run, map(job, numbers[position:])):
                if other is None:
                    raise DataError(KILLED)
                yield other
            return
