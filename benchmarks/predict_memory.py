"""Peak resident memory and time of `write_predictions` for 1 k and 100 k rows, each in its own process.

Two modalities (an image of 32×32 pixels, one of 1,000 PNG files a row; a table of eight numbers); the rows in
a parquet table, which is read in parts, or in a CSV table, whose text is read at once. Bar: equal within
10 %. Peak: the kernel's VmHWM."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = (1_000, 100_000)
FILES, COLUMNS = 1_000, [f"x{k}" for k in range(8)]


def write(folder: Path) -> None:
    """Pictures, tables of all sizes, and a model that was trained on 300 rows for one epoch."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    from g2d_pipeline.artefacts import write_trained
    from g2d_pipeline.features import open_store, write_store
    from g2d_pipeline.pipelines.distill import train_students
    from g2d_pipeline.resolve import resolve
    from g2d_pipeline.sources import locate, read_raw

    rng = np.random.default_rng(0)
    (folder / "png").mkdir()
    for i in range(FILES):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"png/{i}.png")
    for n in (300, *SIZES):
        table = pd.DataFrame(rng.normal(size=(n, len(COLUMNS))).round(4), columns=COLUMNS)
        table["picture"] = [f"png/{i % FILES}.png" for i in range(n)]
        table["target"] = np.arange(n) % 3
        table.to_csv(folder / f"{n}.csv", index=False)
        table.to_parquet(folder / f"{n}.parquet", index=False)
    dataset = {
        "raw": {"layout": "table", "raw_dir": str(folder), "table": "300.csv", "target": "target"},
        "task": "classification",
        "modalities": {
            "picture": {"kind": "image", "size": [32], "encoder": {"name": "small_cnn"}},
            "numbers": {"kind": "tabular", "columns": COLUMNS, "encoder": {"name": "mlp"}},
        },
        "training": {"epochs": 1},
    }
    overrides = {"dataset": "rows", "method": "joint", "compare": [], "seed": 0, "progress": False}
    files = {"datasets": {"rows": dataset}, "methods": {"joint": {"needs_teachers": False}}}
    c = resolve(files, overrides, lambda raw, wanted: locate(raw, wanted, folder), project=folder)
    write_store(folder / "store", read_raw(c.ingest(), folder), folder, c.featurize())
    (train,) = train_students({"": open_store(folder / "store")}, {}, c.distill()).values()
    (folder / "model").mkdir()
    write_trained(folder / "model", train(folder / "model"))


def predict(folder: Path, table: str) -> dict[str, Any]:
    import torch

    from g2d_pipeline import load_model
    from g2d_pipeline.serving.predictor import write_predictions

    torch.set_num_threads(1)
    start = time.perf_counter()
    count = write_predictions(
        load_model(folder / "model"), folder / table, folder / "out" / f"{table}.parquet"
    )
    seconds = time.perf_counter() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rows": count,
        "peak_mib": round(int(status["VmHWM"].split()[0]) / 1024, 1),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--table", default="")
    given = parser.parse_args()
    if given.table:
        print(json.dumps(predict(given.folder, given.table)))
        return
    if given.folder:
        write(given.folder)
        return

    from common import write_result

    if not Path("/proc/self/status").exists():
        sys.exit("peak memory is read from /proc, which this system does not have")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        child = [sys.executable, __file__, "--folder", name]
        subprocess.run(child, check=True)
        for form in ("parquet", "csv"):
            for n in SIZES:
                arguments = [*child, "--table", f"{n}.{form}"]
                done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
                rows.append({"table": form, **json.loads(done.stdout.splitlines()[-1])})
                print("{table:8} {rows:7} rows: peak {peak_mib} MiB, {seconds} s".format(**rows[-1]))
    ratios = {form: rows[k + 1]["peak_mib"] / rows[k]["peak_mib"] for k, form in ((0, "parquet"), (2, "csv"))}
    print("peak at 100 k / at 1 k: " + ", ".join(f"{form} {ratio:.3f}" for form, ratio in ratios.items()))
    write_result("predict_memory", rows, ratio={k: round(v, 3) for k, v in ratios.items()}, bar=1.10)


if __name__ == "__main__":
    main()
