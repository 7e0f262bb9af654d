"""A modality of files on its way into the store: which cells there are, who has them, and the work of
decoding them."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import ImageFeatures, VideoFeatures
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import chunks
from g2d_pipeline.features.cells import split_cell, stamp
from g2d_pipeline.features.chunk_journal import ChunkJournal
from g2d_pipeline.features.files import create, fits
from g2d_pipeline.features.jobs import ArraySpec, Done, FileSettings, Job
from g2d_pipeline.features.names import Names
from g2d_pipeline.features.reuse import RECORD, ReusableStore
from g2d_pipeline.progress import track

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CHUNK = 256  # recordings, pictures, arrays
CLIPS = 32  # clips, which are larger and take longer
WHAT = {
    "audio": "recordings",
    "image": "pictures",
    "video": "clips",
    "sequence": "sequences",
    "vector": "vectors",
}
START_UP = 8.0  # seconds until worker processes have imported torch: they have to save more


@dataclass(frozen=True)
class Media:
    """A modality of files: its distinct cells in order of first appearance, and which of them each sample
    has.

    `code` `[N]`: each sample's position in `cells`; `order` `[N]`: the samples' rows sorted by it; `starts`:
    where in `order` the rows of each cell start."""

    name: str
    settings: FileSettings
    cells: Names
    code: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, name: str, settings: FileSettings, column: pd.Series[str]) -> Self:
        """From the manifest's column of cells `[N]`."""
        import pandas as pd

        code, cells = pd.factorize(column.astype(object))
        starts = np.concatenate([[0], np.cumsum(np.bincount(code, minlength=len(cells)))])
        order = np.argsort(code, kind="stable")
        return cls(
            name, settings, Names(str(c) for c in cells), *(a.astype(np.int64) for a in (code, order, starts))
        )

    def rows(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """The samples' rows that have one of the cells from `first` to before `last`."""
        return self.order[self.starts[first] : self.starts[last]]

    @property
    def file(self) -> str:
        """The array that decoding fills: the stored one, or the pixels that principal components are taken
        of."""
        poor = isinstance(self.settings, ImageFeatures) and self.settings.pca_energy is not None
        return f"{self.name}.pixels.npy" if poor else f"{self.name}.npy"

    @property
    def what(self) -> str:
        return WHAT[self.settings.kind]

    @property
    def chunk(self) -> int:
        """Cells at once."""
        return min(CHUNK, CLIPS) if isinstance(self.settings, VideoFeatures) else CHUNK

    def size(self, number: int) -> int:
        """How many cells a chunk has."""
        return min(self.chunk, len(self.cells) - number * self.chunk)

    @property
    def scratch(self) -> list[str]:
        """Files that are there only while the store is being written."""
        names = ("pixels", "records", "rounding", "kept")
        return [f"{self.name}.{name}.npy" for name in names]

    def form(self, root: Path) -> ArraySpec:
        return chunks.form_of(self.settings, self.cells, root)

    def reusable(self, form: ArraySpec) -> bool:
        """Whether its cells are remembered and copied from store to store (see `reuse`)."""
        kept = self.file == f"{self.name}.npy"
        return self.settings.kind in ("audio", "video") or (kept and form.dtype == "uint8")

    def jobs(self, folder: Path, root: Path, known: ReusableStore | None = None) -> Jobs:
        numbers = range(math.ceil(len(self.cells) / self.chunk))
        return Jobs(self, folder, root, self.form(root), numbers, known)

    def named(self, k: int, reason: str, sample_ids: Sequence[str]) -> str:
        """A bad cell as messages name it."""
        rows = self.rows(k, k + 1)
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return f"{self.cells[k]} (sample {sample_ids[rows[0]]}{more}) {reason}"


@dataclass(frozen=True)
class Jobs(Sequence[Job]):
    """The jobs of these chunks of a modality, each made when it is asked for: together they are large."""

    media: Media
    folder: Path
    root: Path
    form: ArraySpec
    numbers: Sequence[int]
    known: ReusableStore | None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Job:  # type: ignore[override]
        m, number = self.media, self.numbers[index]
        first = number * m.chunk
        last = min(first + m.chunk, len(m.cells))
        rows = m.rows(first, last)
        reusable = m.reusable(self.form)
        half = self.form.dtype == "float16"
        return Job(
            number=number,
            settings=m.settings,
            root=self.root,
            cells=tuple(m.cells[first:last]),
            array=self.folder / m.file,
            rows=rows,
            source=m.code[rows] - first,
            form=self.form,
            first=first,
            records=self.folder / f"{m.name}.records.npy" if reusable else None,
            rounding=self.folder / f"{m.name}.rounding.npy" if half and not reusable else None,
            known=self.known,
        )

    def only(self, numbers: Sequence[int]) -> Jobs:
        """Those of some chunks."""
        return replace(self, numbers=numbers)


@dataclass(frozen=True)
class Decoded:
    """Position in the cells → what was found: `notes` (`chunks.Findings.notes`, by kind), and `faults`."""

    notes: dict[str, dict[int, int]]
    faults: dict[int, str]


def decode(
    folder: Path,
    media: Media,
    root: Path,
    ledger: ChunkJournal,
    workers: Workers,
    progress: Literal["auto"] | bool,
    known: ReusableStore | None = None,
) -> Decoded:
    """Fill the array `media.file` in `folder` (see `prepare`), going on from what the ledger says is there.

    Cells that an earlier store has are copied from it. The rows of cells that can not be used stay zero.
    """
    chunks.load(media.settings)
    jobs = media.jobs(folder, root, known)
    digests = [_digest(job) for job in jobs]
    todo = jobs.only([k for k, digest in enumerate(digests) if not ledger.has(media.name, k, digest)])
    found = Decoded({}, {})
    copied = 0
    with track(f"featurize {media.name}", len(media.cells), progress) as advance:
        if there := len(media.cells) - sum(media.size(number) for number in todo.numbers):
            logger.info("%s: %d of %d %s are there already.", media.name, there, len(media.cells), media.what)
            advance(there)
        for done in workers.run(todo):
            first = done.number * media.chunk
            copied += done.copied
            if done.faults:
                found.faults.update({first + k: reason for k, reason in done.faults.items()})
                _add(found.notes, done.notes, first)
            else:
                ledger.record(media.name, done.number, digests[done.number], done.notes)
            advance(media.size(done.number))
    if known is not None:
        total = f"{copied} of {len(media.cells)} {media.what}"
        logger.info("%s: %s are copied from %s, not decoded.", media.name, total, known.array.parent.name)
    for number, digest in enumerate(digests):
        if ledger.has(media.name, number, digest):
            _add(found.notes, ledger.notes(media.name, number), number * media.chunk)
    return found


def _add(notes: dict[str, dict[int, int]], more: dict[str, dict[int, int]], first: int) -> None:
    for kind, counts in more.items():
        notes.setdefault(kind, {}).update({first + k: n for k, n in counts.items()})


def prepare(folder: Path, media: Media, root: Path, ledger: ChunkJournal) -> None:
    """The arrays that `decode` fills; where one of them is not there, what the ledger says about them does
    not count.

    Raises OSError where there is no room for them; then the new ones are gone.
    """
    form = media.form(root)
    samples, chunked = len(media.code), math.ceil(len(media.cells) / media.chunk)
    wanted: list[tuple[str, object, tuple[int, ...]]] = [(media.file, form.dtype, (samples, *form.shape))]
    if media.reusable(form):
        wanted.append((f"{media.name}.records.npy", RECORD, (len(media.cells),)))
    elif form.dtype == "float16":
        wanted.append((f"{media.name}.rounding.npy", "float64", (chunked, 2, form.shape[0])))
    if all(fits(folder / name, dtype, shape) for name, dtype, shape in wanted):  # type: ignore[arg-type]
        return
    ledger.forget(media.name)
    try:
        for name, dtype, shape in wanted:
            create(folder / name, dtype, shape)  # type: ignore[arg-type]
    except OSError:
        for name, _, _ in wanted:
            (folder / name).unlink(missing_ok=True)
        raise


def _digest(job: Job) -> str:
    """What a chunk is made from: its cells, the sizes and times of their files, and the form of the array."""
    digest = hashlib.blake2b(str(job.form).encode(), digest_size=8)
    for cell in job.cells:
        try:
            when = stamp(f"{job.root}/{split_cell(cell)[0]}")
        except OSError:
            when = ""  # it is missing: decoding tells
        digest.update(f"{cell}\0{when}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


class Workers:
    """Runs jobs, in any order: here, or over processes where that saves time. Leaving its context ends the
    processes.

    The results are the same for any number of workers.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.started:  # idle, they would keep their memory; half a chunk is no harm
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Jobs are done here and timed until one tells that processes are worth their start; some are mere
        copies."""
        for position, job in enumerate(jobs):
            start = time.perf_counter()
            done = chunks.run(job)
            rest = len(jobs) - position - 1
            saved = (time.perf_counter() - start) * rest * (1 - 1 / min(self.number, max(rest, 1)))
            yield done
            if self.number > 1 and saved > (0 if self.started else START_UP):
                yield from self._run_in_processes(jobs[k] for k in range(position + 1, len(jobs)))
                return

    def _run_in_processes(self, jobs: Iterable[Job]) -> Iterator[Done]:
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        self.started = True
        try:
            with parallel_config(backend="loky", n_jobs=self.number, inner_max_num_threads=1):
                pool = Parallel(return_as="generator_unordered", batch_size=1, max_nbytes=None)
                yield from pool(delayed(chunks.run)(job) for job in jobs)
        except TerminatedWorkerError as error:
            raise DataError(
                f"A process that decodes raw files was killed, perhaps for want of memory ({error}). "
                "Run again with fewer of them (`--params workers=1`): it goes on from the last whole chunk."
            ) from error
