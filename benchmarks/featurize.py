"""Making features once: CPU seconds beside librosa, what a later run still has to do, and memory at many
samples.

1. `librosa`: CPU seconds of `write_store` on the FSDD recordings (decode, STFT, logarithm, normaliser,
   checksums), one process and one thread, over those of the usual loop in one process: `librosa.load`, cut or
   fill to a second, `log(|librosa.stft| + 1e-7)`, `np.save` of each file. librosa is the extra `bench`: `pip
   install -e ".[bench]"`.
2. `incremental`: CPU seconds of the same with 10 % more recordings, given the store of the others, over
   afresh.
3. `peak`: the most resident memory of a process that writes a store of pictures, vectors and a table, of 1
   000 and of 100 000 samples (rows of array files).
4. `ingest`: seconds and peak memory of reading a CSV of a million rows (a path and four numbers each) into a
   manifest.
5. `wide`: seconds and peak memory of reading a CSV of 1 000 rows and 10 000 columns of numbers, which a
   pattern selects, and of writing its store.

FSDD is looked for in $G2D_SHARED_DATA/fsdd/recordings (default ../shared/data). `python
benchmarks/featurize.py peak` runs a part; a result is written when all have run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2d_pipeline.config import (
    AudioFeatures,
    FeaturizeSettings,
    ImageFeatures,
    IngestSettings,
    RunOptions,
    TabularFeatures,
    VectorFeatures,
)
from g2d_pipeline.features import write_store
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest

REPOSITORY = Path(__file__).resolve().parents[1]
FSDD = Path(os.environ.get("G2D_SHARED_DATA", REPOSITORY / "../shared/data")) / "fsdd/recordings"
MACHINE = RunOptions(device="cpu", progress=False, workers=1)
SOUND = AudioFeatures(sample_rate=8000, seconds=1.0, peak_normalise=False, n_fft=256, hop_length=128)
ROUNDS = 3
FEW, MANY = 1_000, 100_000
ROWS = 1_000_000
COLUMNS = 10_000


def manifest_of(table: pd.DataFrame, columns: dict[str, list[str]]) -> Manifest:
    counts = {s: int((table["split"] == s).sum()) for s in ("train", "val", "test")}
    meta = {
        "dataset": "bench",
        "task": "classification",
        "class_names": list("0123456789"),
        "source": "raw",
        "target": {"name": "digit", "unit": ""},
        "counts": counts,
        "columns": columns,
    }
    return Manifest(table, meta)


def samples(n: int) -> dict[str, Any]:
    split = np.where(np.arange(n) % 10 < 8, "train", np.where(np.arange(n) % 10 == 8, "val", "test"))
    return {
        "sample_id": [f"sample-{i:07d}" for i in range(n)],
        "split": split,
        "target": np.arange(n) // 10 % 10,
    }


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


# ---------------------------------------------------------------------------------------------------- librosa
def sounds() -> tuple[list[str], Callable[..., None]]:
    """(the recordings, what writes a store of some of them)."""
    names = sorted(f.name for f in FSDD.glob("*.wav"))
    if not names:
        raise SystemExit(f"There are no recordings in {FSDD}: set G2D_SHARED_DATA.")

    def store(folder: Path, chosen: list[str], previous: tuple[Path, ...] = ()) -> None:
        table = pd.DataFrame(samples(len(chosen)) | {"audio": chosen})
        settings = FeaturizeSettings(dataset="bench", modalities={"audio": SOUND}, options=MACHINE)
        write_store(folder, manifest_of(table, {"audio": ["audio"]}), FSDD, settings, previous)

    return names, store


def against_librosa(folder: Path) -> list[dict[str, Any]]:
    try:
        import librosa
    except ImportError:
        raise SystemExit('librosa is not installed: pip install -e ".[bench]"') from None
    names, store = sounds()

    def loop(chosen: list[str]) -> None:
        for name in chosen:
            wave, _ = librosa.load(FSDD / name, sr=SOUND.sample_rate)
            wave = librosa.util.fix_length(wave, size=SOUND.sample_rate)
            found = np.log(np.abs(librosa.stft(wave, n_fft=SOUND.n_fft, hop_length=SOUND.hop_length)) + 1e-7)
            np.save(folder / f"{name}.npy", found.astype(np.float32))

    loop(names[:20])  # librosa compiles and imports on first use
    store(folder / "warm", names[:20])
    rows = []
    for number in range(ROUNDS):
        theirs = cpu(lambda: loop(names))
        ours = cpu(lambda n=number: store(folder / f"store{n}", names))
        rows.append(
            {
                "what": "librosa",
                "recordings": len(names),
                "ours_s": round(ours, 2),
                "theirs_s": round(theirs, 2),
            }
        )
        rows[-1]["ratio"] = round(ours / theirs, 3)
        print(rows[-1])
    return rows


def incremental(folder: Path) -> list[dict[str, Any]]:
    names, store = sounds()
    old = [name for i, name in enumerate(names) if i % 11]  # the others are 10 % of these
    store(folder / "old", old)
    rows = []
    for number in range(ROUNDS):
        more = cpu(lambda n=number: store(folder / f"more{n}", names, (folder / "old",)))
        afresh = cpu(lambda n=number: store(folder / f"afresh{n}", names))
        rows.append({"what": "incremental", "old": len(old), "new": len(names) - len(old)})
        rows[-1] |= {
            "incremental_s": round(more, 2),
            "afresh_s": round(afresh, 2),
            "ratio": round(more / afresh, 3),
        }
        print(rows[-1])
    return rows


# ----------------------------------------------------------------------------------------------------- memory
def make_rows(folder: Path, n: int) -> None:
    """The raw folder of `n` samples, and their table."""
    rng = np.random.default_rng(0)
    for name, dtype, shape in (("image.npy", np.uint8, (24, 24)), ("vector.npy", np.float32, (64,))):
        array = np.lib.format.open_memmap(folder / name, "w+", dtype, (n, *shape))
        array[:] = rng.integers(0, 256, array.shape)
        array.flush()
    table = pd.DataFrame(
        samples(n)
        | {m: [f"{m}.npy#{i}" for i in range(n)] for m in ("image", "vector")}
        | {c: rng.normal(size=n) for c in "abcd"}
    )
    table.to_parquet(folder / "table.parquet", index=False)


def write_rows(folder: Path) -> None:
    """A store of the table, which is read as the pipeline reads a manifest."""
    table = pd.read_parquet(folder / "table.parquet")
    modalities = {
        "image": ImageFeatures(size=[24], channels=1),
        "vector": VectorFeatures(),
        "table": TabularFeatures(columns=list("abcd")),
    }
    settings = FeaturizeSettings(dataset="bench", modalities=modalities, options=MACHINE)
    columns = {"image": ["image"], "vector": ["vector"], "table": list("abcd")}
    write_store(folder / "store", manifest_of(table, columns), folder, settings)


def read_table(folder: Path) -> None:
    table = {
        "layout": "table",
        "raw_dir": "raw",
        "target": "target",
        "id": "sample_id",
        "split": "split",
        "columns": {"image": "image"},
    }
    settings = IngestSettings.model_validate(
        {
            "dataset": "bench",
            "source": "raw",
            "task": "classification",
            "target": {"name": "digit"},
            "raw": table,
            "columns": {"image": ["image"], "table": list("abcd")},
            "kinds": {"image": "image", "table": "tabular"},
            "max_bad_fraction": 0.0,
            "options": MACHINE.model_dump(),
        }
    )
    manifest = read_raw(settings, folder)
    assert len(manifest.table) == ROWS


def read_wide(folder: Path) -> None:
    """Ingest and featurize `raw/metadata.csv`, all of whose columns `g…` are features."""
    fields = {
        "dataset": "bench",
        "source": "raw",
        "task": "classification",
        "target": {"name": "digit"},
        "raw": {"layout": "table", "raw_dir": "raw", "target": "target", "id": "sample_id", "split": "split"},
        "columns": {"genes": ["g*"]},
        "kinds": {"genes": "tabular"},
        "max_bad_fraction": 0.0,
        "options": MACHINE.model_dump(),
    }
    manifest = read_raw(IngestSettings.model_validate(fields), folder)
    assert len(manifest.meta["columns"]["genes"]) == COLUMNS
    modalities = {"genes": TabularFeatures(columns=["g*"])}
    settings = FeaturizeSettings(dataset="bench", modalities=modalities, options=MACHINE)
    write_store(folder / "store", manifest, folder / "raw", settings)


def part_of_its_own(what: str, n: int, folder: Path) -> dict[str, Any]:
    """Run a part in a process of its own; what it needs and how long it takes."""
    command = [sys.executable, __file__, what, str(n), str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    print(row)
    return row


def peak_bytes() -> int:
    """The most memory this process has had; on Linux getrusage tells that of the starting process where it
    was more."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(
            int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(what: str, n: int, folder: Path) -> None:
    start = time.perf_counter()
    {"write_rows": write_rows, "read_table": read_table, "read_wide": read_wide}[what](folder)
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    row = {"what": what, "rows": n, "seconds": round(seconds, 1), "cpu_s": round(time.process_time(), 1)}
    print(json.dumps(row | {"peak_MB": round(peak / 1e6, 1)}))


def peak(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for n in (FEW, MANY):
        (folder / str(n)).mkdir()
        make_rows(folder / str(n), n)
        rows.append(part_of_its_own("write_rows", n, folder / str(n)))
    print(f"peak: x {rows[1]['peak_MB'] / rows[0]['peak_MB']:.3f}")
    return rows


def ingest(folder: Path) -> list[dict[str, Any]]:
    (folder / "raw").mkdir()
    np.lib.format.open_memmap(folder / "raw/image.npy", "w+", np.uint8, (ROWS, 4, 4)).flush()
    rng = np.random.default_rng(0)
    table = pd.DataFrame(samples(ROWS) | {"image": [f"image.npy#{i}" for i in range(ROWS)]})
    for column in "abcd":
        table[column] = rng.normal(size=ROWS).round(4)
    table.to_csv(folder / "raw/metadata.csv", index=False)
    return [part_of_its_own("read_table", ROWS, folder)]


def wide(folder: Path) -> list[dict[str, Any]]:
    (folder / "raw").mkdir()
    values = np.random.default_rng(0).normal(size=(FEW, COLUMNS)).round(4)
    genes = pd.DataFrame(values, columns=[f"g{k}" for k in range(COLUMNS)])
    pd.concat([pd.DataFrame(samples(FEW)), genes], axis=1).to_csv(folder / "raw/metadata.csv", index=False)
    return [part_of_its_own("read_wide", FEW, folder)]


PARTS = {"librosa": against_librosa, "incremental": incremental, "peak": peak, "ingest": ingest, "wide": wide}


def main() -> None:
    if len(sys.argv) == 4:
        measured(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
        return
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    rows = []
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            rows += PARTS[name](Path(folder))
    if wanted == list(PARTS):
        from common import write_result

        write_result("featurize", rows, load=[round(x, 1) for x in os.getloadavg()])


if __name__ == "__main__":
    main()
