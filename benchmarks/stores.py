"""Feature stores in shards, and data behind a URL.

1. `batches`: random batches of 256 rows, as a training takes them, from a store in shards over those from one
   file, wall and CPU seconds. Rows of a picture (`[3, 64, 64]` bytes, 20,000 of them in 16 shards) and of a
   spectrogram (`[1, 129, 313]` float32, 4,000 in 16); all of it in the system's cache.
2. `pass`: wall seconds of a first pass over a store of 16 shards of 4 MB on S3 (moto on this machine, whose
   answers are kept back by 30 ms), with the next shard read ahead and without; WORK seconds of sleep a shard
   stand for a device that computes.
3. `raw`: wall seconds of featurizing 24 clips of ten seconds from the same server (answers kept back by 300
   ms), in chunks of 4, with the next chunk read ahead and without.
4. `clips`: CPU seconds of featurizing a clip of ten seconds (640 × 360, H.264 and AAC, made from the shared
   sample) under the settings of conf/base/parameters_vggsound.yml, on one core.

Data lie below $TMPDIR. `python benchmarks/stores.py batches` runs a part; a result is written after all."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import pandas as pd
import yaml
from common import write_result

from g2d_pipeline import remote
from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, RunOptions, VideoFeatures
from g2d_pipeline.features import chunks, media, write_store
from g2d_pipeline.features import files as disk
from g2d_pipeline.features.files import Shards, create, mapped
from g2d_pipeline.sources.manifest import Manifest
from g2d_pipeline.training.data import take

ROUNDS, WORK = 5, 0.05
LATENCY = {"pass": 0.03, "raw": 0.3}
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("G2D_SHARED_DATA", REPOSITORY / "../shared/data"))
Row = dict[str, Any]


def batches(folder: Path) -> Iterator[Row]:
    for name, shape, dtype, n in (
        ("picture", (3, 64, 64), "u1", 20_000),
        ("spectrogram", (1, 129, 313), "f4", 4_000),
    ):
        arrays = {}
        for kind, rows in (("file", None), ("shards", n // 16)):
            arrays[kind] = create(folder / f"{name}{kind}.npy", dtype, (n, *shape), rows)
            arrays[kind][:] = np.random.default_rng(0).integers(0, 255, (n, *shape), np.uint8)
            arrays[kind] = mapped(folder / f"{name}{kind}.npy")
        for number in range(ROUNDS):
            order, seconds = np.random.default_rng(number).permutation(n), {}
            for kind in ("file", "shards") if number % 2 else ("shards", "file"):
                wall, cpu = time.perf_counter(), time.process_time()
                for start in range(0, n, 256):
                    take(arrays[kind], order[start : start + 256])
                seconds[kind] = time.perf_counter() - wall, time.process_time() - cpu
            ratios = [round(a / b, 3) for a, b in zip(seconds["shards"], seconds["file"], strict=True)]
            own = {f"{kind}_s": round(of[0], 3) for kind, of in seconds.items()}
            yield {"what": "batches", "rows": name, "wall": ratios[0], "cpu": ratios[1], **own}


@contextmanager
def server() -> Iterator[Any]:
    import fsspec
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)

    delay = [0.0]

    def late(environ: Any, start_response: Any) -> Any:
        time.sleep(delay[0])
        return app(environ, start_response)

    served = make_server("127.0.0.1", 0, late, threaded=True)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
    with mock.patch.dict(os.environ, keys | {"AWS_DEFAULT_REGION": "us-east-1"}):
        fs = fsspec.filesystem("s3", endpoint_url=f"http://127.0.0.1:{served.server_port}")
        fs.mkdir("bench")
        yield fs, delay
    served.shutdown()


@contextmanager
def reading_ahead(wanted: bool) -> Iterator[None]:
    with (
        mock.patch.object(disk, "fetch_ahead", remote.fetch_ahead if wanted else not_ahead),
        mock.patch.object(chunks, "fetch_ahead", remote.fetch_ahead if wanted else not_ahead),
    ):
        yield


def not_ahead(files: Any) -> None:
    """In the place of reading ahead."""


def first_pass(folder: Path, fs: Any, delay: list[float]) -> Iterator[Row]:
    array = create(folder / "x.npy", "f4", (16 * 256, 4096), 256)
    array[:] = np.random.default_rng(0).random((16 * 256, 4096), np.float32)
    array.flush()
    for file in folder.glob("x-*.npy"):
        fs.put_file(str(file), f"bench/x/{file.name}")
    delay[0] = LATENCY["pass"]
    for number in range(ROUNDS):
        seconds = {}
        for ahead in (True, False) if number % 2 else (False, True):
            place = folder / f"there{number}{ahead}"
            remote._listed.clear()
            remote.connect("s3://bench/x", place, fs.storage_options, 1e9)
            files = sorted(place.glob("x-*.npy"))
            there = Shards(files, 256, (16 * 256, 4096), np.dtype("f4"))
            with reading_ahead(ahead):
                start = time.perf_counter()
                for shard in range(16):
                    there[shard * 256 : (shard + 1) * 256].sum()
                    time.sleep(WORK)
                seconds[ahead] = time.perf_counter() - start
        yield {"what": "pass", "ahead_s": round(seconds[True], 2), "not_s": round(seconds[False], 2),
               "ratio": round(seconds[True] / seconds[False], 3)}  # fmt: skip


def raw(folder: Path, fs: Any, delay: list[float]) -> Iterator[Row]:
    make_clip(folder / "clip.mp4", 0)
    for i in range(24):
        fs.put_file(str(folder / "clip.mp4"), f"bench/raw/{i}.mp4")
    delay[0] = LATENCY["raw"]
    manifest = manifest_of([f"{i}.mp4" for i in range(24)], "visual")
    for number in range(3):
        seconds = {}
        for ahead in (True, False) if number % 2 else (False, True):
            place = folder / f"raw{number}{ahead}"
            remote._listed.clear()
            remote.connect("s3://bench/raw", place, fs.storage_options, 1e9)
            with reading_ahead(ahead), mock.patch.object(media, "CHUNK", 4):
                start = time.perf_counter()
                store = folder / f"store{number}{ahead}"
                write_store(store, manifest, place, of(visual=VideoFeatures(pick="published")))
                seconds[ahead] = time.perf_counter() - start
        yield {"what": "raw", "ahead_s": round(seconds[True], 2), "not_s": round(seconds[False], 2),
               "ratio": round(seconds[True] / seconds[False], 3)}  # fmt: skip


def clips(folder: Path) -> Iterator[Row]:
    n = 8
    for i in range(n):
        make_clip(folder / f"clip{i}.mp4", i)
    own = yaml.safe_load((REPOSITORY / "conf/base/parameters_vggsound.yml").read_text())["datasets"][
        "vggsound"
    ]
    kinds = {"audio": AudioFeatures, "visual": VideoFeatures}
    for modality, kind in kinds.items():
        fields = {
            key: value for key, value in own["modalities"][modality].items() if key in kind.model_fields
        }
        manifest = manifest_of([f"clip{i}.mp4" for i in range(n)], modality)
        start = time.process_time()
        write_store(folder / f"store-{modality}", manifest, folder, of(**{modality: kind(**fields)}))
        size = (folder / f"store-{modality}/{modality}.npy").stat().st_size
        yield {"what": "clips", "modality": modality, "cpu_s": round((time.process_time() - start) / n, 3),
               "bytes": size // n, "raw_bytes": (folder / "clip0.mp4").stat().st_size}  # fmt: skip


def make_clip(path: Path, shift: int) -> None:
    """Ten seconds of the shared film, 640 × 360 at 25 pictures a second, with noise for its sound."""
    with av.open(str(SHARED / "video_samples/bigbuckbunny_6ch.mp4")) as film:
        pictures = [f.reformat(640, 360, "yuv420p") for f in film.decode(video=0)][:125]
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=44_100)
        video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
        video.options = {"crf": "23", "preset": "veryfast"}
        for k in range(250):
            picture = pictures[(k + 5 * shift) % len(pictures)]
            picture.pts, picture.time_base = k, Fraction(1, 25)
            out.mux(video.encode(picture))
        out.mux(video.encode())
        wave = (0.1 * np.random.default_rng(shift).standard_normal((1, 441_000))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        frame.sample_rate = 44_100
        out.mux(sound.encode(frame))
        out.mux(sound.encode())


def manifest_of(cells: list[str], modality: str) -> Manifest:
    n = len(cells)
    split = ["train"] * (n - 2) + ["val", "test"]
    table = pd.DataFrame({"sample_id": cells, "split": split, "target": np.arange(n) % 2, modality: cells})
    meta = {
        "dataset": "bench", "task": "classification", "class_names": ["a", "b"],
        "target": {"name": "label", "unit": ""}, "source": "raw", "columns": {modality: [modality]},
        "counts": {"train": n - 2, "val": 1, "test": 1},
    }  # fmt: skip
    return Manifest(table, meta)


def of(**modalities: Any) -> FeaturizeSettings:
    options = RunOptions(device="cpu", progress=False, workers=1)
    return FeaturizeSettings(dataset="bench", modalities=modalities, options=options)


def main() -> None:
    parts, rows = sys.argv[1:] or ["batches", "pass", "raw", "clips"], []
    with tempfile.TemporaryDirectory() as name, server() as (fs, delay):
        folder = Path(name)
        run = {"batches": lambda: batches(folder), "pass": lambda: first_pass(folder, fs, delay),
               "raw": lambda: raw(folder, fs, delay), "clips": lambda: clips(folder)}  # fmt: skip
        for part in parts:
            for row in run[part]():
                print(row, flush=True)
                rows.append(row)
    if len(parts) == 4:
        write_result("stores", rows, latency_s=LATENCY, work_s=WORK)


if __name__ == "__main__":
    main()
