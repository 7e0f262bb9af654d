"""Mutated copies of real and hard inputs through ingest, featurize and the data report.

    python scripts/fuzz_inputs.py --cases 2000 --seed 0 --minutes 20       (writes docs/results/fuzz.md)
    python scripts/fuzz_inputs.py --case 1234                              (one of them again, in full)

A case is right where it ends in the values of the unmutated copy (or others, whose number is stated), or in
one of our errors that names the file. Data: G2D_SHARED_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import av  # noqa: F401 - loaded before the first fork, as is what follows
import pyarrow as pa
import soundfile  # noqa: F401
import torchaudio  # noqa: F401
import torchvision  # noqa: F401
from fuzz_mutations import (
    BYTES,
    COLUMNS,
    LINES,
    REPOSITORY,
    ROWS,
    TABLES,
    Base,
    Change,
    Unsuitable,
    bases,
    mutate,
)
from openpyxl.utils.exceptions import IllegalCharacterError

from g2d_pipeline.data_report.report import describe_data
from g2d_pipeline.errors import G2DError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.features.kinds import FileKind, stored_kind
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.layout import find_layout

REPORT = REPOSITORY / "docs/results/fuzz.md"
TIMEOUT, MEMORY = 60.0, 12 * 2**30  # seconds and bytes of address space for one case


# ---------------------------------------------------------------------------------------------------- a run
@dataclass
class Result:
    """What a run made: of each sample its split and values (target, cells, digests of its files' features),
    how many were dropped, what the notes say, which files were read; or an error of ours, or a `crash`."""

    splits: dict[str, str] = field(default_factory=dict)
    samples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: int = 0
    notes: str = ""
    files: list[str] = field(default_factory=list)
    error: str = ""
    crash: str = ""
    output: str = ""  # of C libraries, too
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return len(self.samples) + self.dropped


def read(project: Path, base: Base) -> Result:
    """Ingest, featurize and data report of `project / "raw"`."""
    settings = base.settings(project)
    manifest = read_raw(settings.ingest(), project)
    root = project / manifest.meta["raw_dir"]
    write_store(project / "store", manifest, root, settings.featurize())
    store = open_store(project / "store")
    describe_data(manifest, store, root)
    table = manifest.table.set_index("sample_id").loc[store.index["sample_id"]]
    names = manifest.meta["class_names"]
    values = [[names[int(y)] if names else str(y) for y in table["target"]]]
    files = {
        f.relative_to(project / "raw").as_posix() for f in find_layout(settings.dataset.raw, root).raw_files()
    }
    for modality, about in store.meta["modalities"].items():
        cells = [list(map(str, table[column])) for column in manifest.meta["columns"][modality]]
        kind = stored_kind(about["kind"], about["settings"])
        if isinstance(kind, FileKind):
            files |= {os.path.relpath(root / c.partition("#")[0], project / "raw") for c in cells[0]}
            if not about["settings"].get("pca_energy"):  # which is fitted on train
                values.append([hashlib.md5(row.tobytes()).hexdigest() for row in store.arrays[modality]])
        values += cells
    dropped = [*manifest.meta["dropped"], *store.meta["dropped"]]
    ids = [str(name) for name in table.index]
    return Result(
        splits=dict(zip(ids, table["split"], strict=True)),
        samples=dict(zip(ids, zip(*values, strict=True), strict=True)),
        dropped=len(dropped),
        notes="\n".join(map(str, [*dropped, *manifest.meta["notes"], *store.meta["notes"]])),
        files=sorted(f for f in files if (project / "raw" / f).is_file()),
    )


def guarded(project: Path, base: Base) -> Result:
    """`read` with what it raises and prints."""
    logging.getLogger().addHandler(logging.NullHandler())
    start = time.monotonic()
    with (project / "output").open("w+b") as output:
        old = os.dup(1), os.dup(2)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            result = read(project, base)
        except G2DError as error:
            result = Result(error=str(error))
        except BaseException:
            result = Result(crash=traceback.format_exc())
        sys.stderr.flush()
        os.dup2(old[0], 1)
        os.dup2(old[1], 2)
        output.seek(0)
        result.output = output.read().decode(errors="replace").strip()
    result.seconds = time.monotonic() - start
    return result


# ------------------------------------------------------------------------------------------------ judgement
@dataclass
class Case:
    number: int
    base: str = ""
    file: str = ""
    how: str = ""
    text: str = ""
    outcome: str = ""
    detail: str = ""
    message: str = ""
    seconds: float = 0.0


GOOD = {
    "equal": "the values of the unmutated copy",
    "other": "other values, where the change says so, and their number stated",
    "named": "one of our errors, with the file (or the data set, where no one file is at fault)",
    "as unmutated": "the message that the unmutated copy gives, too",
}
FINDINGS = {
    "crash": "an exception that is not ours",
    "died": "the process died, or was stopped after its time",
    "output": "output of a library that names no file",
    "place": "a message that does not name the file",
    "refused": "refused, although nothing that matters has changed",
    "count": "another count of samples, unsaid",
    "values": "other values of samples that the change does not touch, or must not",
    "truncated": "a truncated file is taken",
}


def judge(
    base: Base, reference: Result, result: Result, change: Change, file: str, how: str
) -> tuple[str, str]:
    """One of GOOD or FINDINGS, and its details."""
    path, failed = Path(file), reference.crash or reference.error
    names = {path.name, *(part for part in (path.stem, path.parent.name) if len(part) > 3)}
    if failed and failed == (result.crash or result.error):
        return "as unmutated", ""
    if result.crash:
        return "crash", result.crash.strip().splitlines()[-1][:200]
    # a C library's, unless the unmutated copy makes it say the same
    if result.output not in reference.output and not any(name in result.output for name in names):
        return "output", result.output.splitlines()[0][:200]
    if result.error:
        # what the samples lack as a whole is in no one file; another file may be bad, too
        names |= {f"{base.name!r}", "`split`"} | ({word for word in reference.error.split() if "/" in word})
        if not any(name in result.error for name in names):
            return "place", result.error[:200]
        return ("refused", result.error[:200]) if how == "shuffled columns" and not failed else ("named", "")
    if failed:
        return "other", ""
    if result.samples == reference.samples and result.splits == reference.splits:
        return "equal", ""
    more = result.total - reference.total
    table = base.section["raw"]["layout"] == "table" and not base.section["raw"].get("labelled_only")
    joined = [join["table"] for join in base.section["raw"].get("join", [])]
    expected = {change.rows} if table and file not in joined else {0, change.rows}
    numbers = set(map(int, re.findall(r"\d+", result.notes)))
    known = path.suffix not in TABLES or change.touched is not None or change.same
    if known and more not in expected and abs(more) not in numbers:
        return "count", f"{reference.total} → {result.total} samples"
    mine = re.compile(rf"(.*/)?{re.escape(path.name)}(#\d+)?").fullmatch
    cells = {i for i, values in reference.samples.items() if any(map(mine, values[1:]))}
    touched = 0 if change.same else len(cells) if cells else change.touched
    lost = (Counter(reference.samples.values()) - Counter(result.samples.values())).total() - result.dropped
    if not base.loose and file not in joined and touched is not None and lost > touched:
        return "values", f"{lost} samples have other values, {touched} may have"
    if how == "truncated" and any(
        result.samples.get(i, v) != v for i, v in reference.samples.items() if i in cells
    ):
        return "truncated", f"of {len(cells)} samples"
    return "other", ""


# --------------------------------------------------------------------------------------------------- the run
def in_processes(jobs: list[Callable[[], Any]], workers: int, until: float) -> Iterator[tuple[int, Any]]:
    """(position, result) of jobs, each in a process of its own; None where it died or took too long."""
    fork, waiting, running = multiprocessing.get_context("fork"), list(range(len(jobs)))[::-1], {}
    while running or (waiting and time.monotonic() < until):
        while waiting and len(running) < workers and time.monotonic() < until:
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=lambda k=waiting[-1], end=theirs: end.send(jobs[k]()))
            process.start()
            theirs.close()
            running[ours] = (waiting.pop(), process, time.monotonic() + TIMEOUT)
        ready = wait(list(running), timeout=1.0)
        for end in [e for e, (*_, limit) in running.items() if e in ready or time.monotonic() > limit]:
            k, process, _ = running[end]
            try:
                yield k, end.recv() if end in ready else None
            except EOFError:
                yield k, None
            process.kill()
            process.join()
            end.close()
            del running[end]


def run_case(
    number: int, seed: int, folder: Path, all_bases: list[Base], references: dict[str, Result]
) -> Case:
    """Copy, mutate, run, judge."""
    rng = random.Random(f"{seed}/{number}")
    base = rng.choice(all_bases)
    reference, project = references[base.name], folder / f"case{number}"
    shutil.copytree(folder / base.name / "raw", project / "raw")
    files = reference.files or sorted(
        f.relative_to(project / "raw").as_posix() for f in project.rglob("raw/**/*.*")
    )
    tables = [f for f in files if Path(f).suffix in TABLES]
    for _ in range(200):
        file = rng.choice(tables if tables and rng.random() < 0.6 else files)
        how = rng.choice([*BYTES, *LINES, *COLUMNS, *ROWS])
        with contextlib.suppress(Unsuitable, ValueError, pa.ArrowException, IllegalCharacterError):
            change = mutate(project / "raw" / file, how, rng, base)
            break
    case = Case(number, base.name, file, how, change.text)
    result = guarded(project, base)
    case.outcome, case.detail = judge(base, reference, result, change, file, how)
    case.message, case.seconds = result.crash or result.error or result.output, result.seconds
    shutil.rmtree(project)
    return case


def page(cases: list[Case], seed: int) -> str:
    """The report as markdown."""
    counts = Counter((case.how, case.outcome) for case in cases)
    outcomes = [o for o in [*GOOD, *FINDINGS] if any(case.outcome == o for case in cases)]
    findings = [case for case in cases if case.outcome in FINDINGS]
    lines = [
        f"# Mutated inputs: {len(cases):,} cases, {len(findings)} findings",
        "",
        f"Made by `python scripts/fuzz_inputs.py --cases {len(cases)} --seed {seed}`: a copy of one of",
        f"{len(bases())} raw folders (`hard_inputs`, small subsets of the shared data, simulated samples of",
        "published layouts), one file of it changed, then ingest, featurize and the data report.",
        "",
        *(f"- {key}: {words}" for key, words in GOOD.items()),
        *(f"- {key} (a finding): {words}" for key, words in FINDINGS.items()),
        "",
        f"| mutation | {' | '.join(outcomes)} |",
        f"|---|{'---|' * len(outcomes)}",
    ]
    for how in [*BYTES, *LINES, *COLUMNS, *ROWS]:
        lines.append(f"| {how} | {' | '.join(str(counts[how, o] or '') for o in outcomes)} |")
    lines += ["", "| case | data | file | mutation | finding | |", "|---|---|---|---|---|---|"] * bool(
        findings
    )
    for c in sorted(findings, key=lambda c: (c.outcome, c.detail, c.number)):
        cells = [str(c.number), c.base, c.file, f"{c.how} {c.text}", c.outcome, c.detail]
        lines.append("| " + " | ".join(re.sub(r"[|\s\x00-\x1f]+", " ", cell)[:160] for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--case", type=int, help="run this one, and print what it says")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as name:
        folder, all_bases = Path(name), bases()
        numbers = range(options.cases) if options.case is None else [options.case]
        used = {random.Random(f"{options.seed}/{n}").choice(range(len(all_bases))) for n in numbers}
        for base in (some := [all_bases[k] for k in sorted(used)]):
            (folder / base.name).mkdir()
            base.make(folder / base.name / "raw")
        jobs = [partial(guarded, folder / base.name, base) for base in some]
        made = dict(in_processes(jobs, options.jobs, math.inf))
        references = {base.name: made[k] or Result(crash="died") for k, base in enumerate(some)}
        jobs = [partial(run_case, n, options.seed, folder, all_bases, references) for n in numbers]
        cases = []
        for k, case in in_processes(jobs, options.jobs, until):
            cases.append(case or Case(numbers[k], outcome="died"))
            if options.case is not None or cases[-1].outcome in FINDINGS:
                print(*list(vars(cases[-1]).values())[: None if options.case is not None else 7], flush=True)
    if options.case is None:
        options.report.write_text(page(cases, options.seed), "utf-8")


if __name__ == "__main__":
    main()
