"""A modality of files on its way into the store: which cells there are, who has them, and the work of decoding them."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import ImageFeatures, VideoFeatures
from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.features import chunks
from g2d_pipeline.features.cells import split_cell, stamp
from g2d_pipeline.features.ledger import Ledger
from g2d_pipeline.progress import track

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CHUNK = 256  # recordings, pictures, arrays
CLIPS = 32  # clips, which are larger and take longer
WHAT = {"audio": "recordings", "image": "pictures", "video": "clips", "sequence": "sequences", "vector": "vectors"}
START_UP = 8.0  # seconds until worker processes have imported torch: they have to save more


@dataclass(frozen=True)
class Media:
    """A modality of files: its distinct cells in order of first appearance, and which of them each sample has.

    `code` `[N]`: each sample's position in `cells`; `order` `[N]`: the samples' rows sorted by it; `starts`: where in
    `order` the rows of each cell start.
    """

    name: str
    settings: chunks.FileSettings
    cells: Sequence[str]
    code: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, name: str, settings: chunks.FileSettings, column: pd.Series[str]) -> Self:
        """From the manifest's column of cells `[N]`."""
        import pandas as pd

        code, cells = pd.factorize(column.astype(object))
        starts = np.concatenate([[0], np.cumsum(np.bincount(code, minlength=len(cells)))])
        order = np.argsort(code, kind="stable")
        return cls(name, settings, [str(c) for c in cells], *(a.astype(np.int64) for a in (code, order, starts)))

    def rows(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """The samples' rows that have one of the cells from `first` to before `last`."""
        return self.order[self.starts[first] : self.starts[last]]

    @property
    def file(self) -> str:
        """The array that decoding fills: the stored one, or the pixels that principal components are taken of."""
        poor = isinstance(self.settings, ImageFeatures) and self.settings.pca_energy is not None
        return f"{self.name}.pixels.npy" if poor else f"{self.name}.npy"

    @property
    def what(self) -> str:
        return WHAT[self.settings.kind]

    @property
    def chunk(self) -> int:
        """Cells at once."""
        return min(CHUNK, CLIPS) if isinstance(self.settings, VideoFeatures) else CHUNK

    def form(self, root: Path) -> chunks.Form:
        return chunks.form_of(self.settings, self.cells, root)

    def jobs(self, folder: Path, root: Path) -> Iterator[chunks.Job]:
        form, array = self.form(root), folder / self.file
        for number, first in enumerate(range(0, len(self.cells), self.chunk)):
            last = min(first + self.chunk, len(self.cells))
            rows = self.rows(first, last)
            cells = tuple(self.cells[first:last])
            yield chunks.Job(number, self.settings, root, cells, array, rows, self.code[rows] - first, form)

    def tell(self, faults: dict[int, str], sample_ids: Sequence[str]) -> DataError:
        """The error for bad cells: `faults` is position in `cells` → what is wrong."""
        named = []
        for k in sorted(faults):
            rows = self.rows(k, k + 1)
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            named.append(f"{self.cells[k]} (sample {sample_ids[rows[0]]}{more}) {faults[k]}")
        headline = f"{len(faults)} of {len(self.cells)} {self.what} of modality {self.name!r} can not be used"
        remedy = "copy or download these files again, or leave them out of the raw data; then run again."
        return data_error(headline, named, remedy)


def decode(
    folder: Path,
    media: Media,
    root: Path,
    ledger: Ledger,
    workers: Workers,
    sample_ids: Sequence[str],
    progress: Literal["auto"] | bool,
) -> dict[str, dict[int, int]]:
    """Fill the array `media.file` in `folder`, going on from what the ledger says is there.

    Returns what is to be noted (`chunks.Findings.notes`): kind → position in `media.cells` → a count. Raises DataError
    naming all cells that can not be used, after everything else has been done.
    """
    chunks.load(media.settings)
    _ensure_array(folder / media.file, len(sample_ids), media, media.form(root), ledger)
    jobs = list(media.jobs(folder, root))
    digests = [_digest(job) for job in jobs]
    todo = [job for job in jobs if not ledger.has(media.name, job.number, digests[job.number])]
    faults: dict[int, str] = {}
    with track(f"featurize {media.name}", len(media.cells), progress) as advance:
        if there := len(media.cells) - sum(len(job.cells) for job in todo):
            logger.info("%s: %d of %d %s are there already.", media.name, there, len(media.cells), media.what)
            advance(there)
        for done in workers.run(todo):
            if done.faults:
                faults |= {done.number * media.chunk + k: reason for k, reason in done.faults.items()}
            else:
                ledger.record(media.name, done.number, digests[done.number], done.notes)
            advance(len(jobs[done.number].cells))
    if faults:
        raise media.tell(faults, sample_ids)
    notes: dict[str, dict[int, int]] = {}
    for job in jobs:
        for kind, counts in ledger.notes(media.name, job.number).items():
            notes.setdefault(kind, {}).update({job.number * media.chunk + k: n for k, n in counts.items()})
    return notes


def _ensure_array(path: Path, samples: int, media: Media, form: chunks.Form, ledger: Ledger) -> None:
    """An array of this form at `path`; where there is none, what the ledger says about it does not count."""
    shape = (samples, *form.shape)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.shape == shape and array.dtype == form.dtype:
            return
    except (OSError, ValueError, EOFError):
        pass
    ledger.forget(media.name)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(form.dtype), shape=shape).flush()


def _digest(job: chunks.Job) -> str:
    """What a chunk is made from: its cells, the sizes and times of their files, and the form of the array."""
    digest = hashlib.blake2b(str(job.form).encode(), digest_size=8)
    for cell in job.cells:
        digest.update(f"{cell}\0{stamp(job.root / split_cell(cell)[0])}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


class Workers:
    """Runs jobs, in any order: here, or over processes where that saves time. Leaving its context ends the processes.

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

    def run(self, jobs: Sequence[chunks.Job]) -> Iterator[chunks.Done]:
        """The first job is done here and timed: it tells whether processes are worth their start."""
        if not jobs:
            return
        start = time.perf_counter()
        first, rest = chunks.run(jobs[0]), jobs[1:]
        saved = (time.perf_counter() - start) * len(rest) * (1 - 1 / min(self.number, max(len(rest), 1)))
        yield first
        if self.number == 1 or saved <= (0 if self.started else START_UP):
            yield from map(chunks.run, rest)
        else:
            yield from self._run_in_processes(rest)

    def _run_in_processes(self, jobs: Sequence[chunks.Job]) -> Iterator[chunks.Done]:
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
