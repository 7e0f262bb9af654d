"""Samples a second from disk to a batch ready for the encoders: ours against decoding each sample in each
epoch.

The script makes WAV (16 kHz, 2.5 s) and JPEG files (480 × 360) in a temporary folder. The common way, in a
process of its own: a torch DataLoader whose Dataset decodes (soundfile, PIL) and transforms (STFT,
torchvision) each sample, 2 worker processes. Ours: the batches that the trainer gets, gathered from the
memory-mapped store that `featurize` wrote once, normalised; 2 reading threads, all else in one. Both batches
have the same shapes; both read files that the system has in its cache. Augmented: a random resized crop and a
flip, there one picture after the other, of the decoded one; here as a batch, of those stored at 224 × 224.

Seconds are of the wall clock (`cpu`: of all processes together); rounds take turns, median (lowest–highest).
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from common import CROP, spread_of, write_result
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, ImageFeatures, RunOptions, TargetSettings
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.models import MultimodalModel, Normaliser, build_fusion
from g2d_pipeline.sources.manifest import Manifest
from g2d_pipeline.training import Data
from g2d_pipeline.training.data import batches_of, epoch_rows
from g2d_pipeline.training.loader import FeatureCache, Loader
from g2d_pipeline.training.precision import keep_freed_memory

SAMPLES, BATCH, WORKERS, ROUNDS = 400, 16, 2, 3
AUDIO = AudioFeatures(seconds=2.5, n_fft=512, hop_length=353)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGE = ImageFeatures(size=[224], mean=MEAN, std=STD)
FORKED: dict[str, Any] = {"num_workers": WORKERS, "multiprocessing_context": "fork"}  # the fastest start
Epoch = Callable[[int], Iterator[dict[str, Tensor]]]  # number → its batches


def make_files(folder: Path) -> pd.DataFrame:
    """Recordings of a tone in noise and pictures of smooth blots: a row a sample, as a manifest has it."""
    rng = np.random.default_rng(0)
    time_axis = np.arange(40_000) / 16_000
    for i in range(SAMPLES):
        wave = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * time_axis) + rng.normal(0, 0.05, 40_000)
        soundfile.write(folder / f"{i}.wav", wave.astype(np.float32), 16_000, subtype="PCM_16")
        blots = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((480, 360))
        blots.save(folder / f"{i}.jpg", quality=90)
    split = ["val", "test"] + ["train"] * (SAMPLES - 2)
    names = [str(i) for i in range(SAMPLES)]
    table = {"sample_id": names, "split": split, "target": np.arange(SAMPLES) % 6}
    return pd.DataFrame(table | {"audio": [f"{n}.wav" for n in names], "image": [f"{n}.jpg" for n in names]})


class Decoding(Dataset[tuple[dict[str, Tensor], int]]):
    """A sample is decoded and transformed each time it is asked for."""

    def __init__(self, folder: Path, table: pd.DataFrame, augment: bool) -> None:
        self.audio = [str(folder / name) for name in table["audio"]]
        self.image = [str(folder / name) for name in table["image"]]
        self.target = table["target"].tolist()
        self.window = torch.hann_window(512)
        changes = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()] if augment else []
        self.transform = transforms.Compose(
            [
                *(changes or [transforms.Resize((224, 224))]),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, position: int) -> tuple[dict[str, Tensor], int]:
        wave, _ = soundfile.read(self.audio[position], dtype="float32")
        spectrum = torch.stft(torch.from_numpy(wave), 512, 353, window=self.window, return_complex=True).abs()
        image = self.transform(Image.open(self.image[position]).convert("RGB"))
        return {"audio": torch.log(spectrum + 1e-7)[None], "image": image}, self.target[position]


def decoding(folder: Path, table: pd.DataFrame, augment: bool) -> Epoch:
    """The common way: a DataLoader that starts its workers in every epoch."""
    dataset = Decoding(folder, table, augment)
    rows = np.flatnonzero(table["split"] == "train")

    def epoch(number: int) -> Iterator[dict[str, Tensor]]:
        order = epoch_rows(rows, 0, number).tolist()
        for inputs, _ in DataLoader(dataset, BATCH, sampler=order, **FORKED):
            yield inputs

    return epoch


def stored(folder: Path, augment: bool) -> Epoch:
    """Ours: the trainer's loader over a feature store, and the normalisation that the encoders begin with."""
    data = Data.from_store(open_store(folder), TargetSettings(), augment={"image": CROP} if augment else {})
    normalisers = {
        m: Normaliser(of["scale"], of["mean"], of["std"]) for m, of in data.normalisers.items() if of
    }
    device = torch.device("cpu")
    nothing = FeatureCache(
        MultimodalModel({}, build_fusion("late", {"image": 1}, 1)), data, device, (), None
    )  # no encoder is frozen
    loader = Loader(data, torch.from_numpy(data.target), {}, (), nothing, device, seed=0, workers=WORKERS)

    def epoch(number: int) -> Iterator[dict[str, Tensor]]:
        batches = list(batches_of(epoch_rows(data.rows["train"], 0, number), BATCH))
        for batch in loader.epoch(batches, number, 0, teach=False):
            yield {m: normalisers[m](x) for m, x in batch.inputs.items()}

    return epoch


def cpu_seconds() -> float:
    """Of this process and of those that have ended."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def measure(epoch: Epoch, epochs: int) -> dict[str, float]:
    """Samples a second over some epochs, CPU milliseconds a sample, milliseconds to the first batch of the
    first."""
    cpu, begin, first, samples = cpu_seconds(), time.perf_counter(), 0.0, 0
    for number in range(1, epochs + 1):
        for inputs in epoch(number):
            first = first or time.perf_counter() - begin
            assert inputs["audio"].shape[1:] == (1, 257, 114), inputs["audio"].shape
            assert inputs["image"].shape[1:] == (3, 224, 224), inputs["image"].shape
            samples += len(inputs["image"])
    seconds = time.perf_counter() - begin
    used = cpu_seconds() - cpu
    return {"samples_per_s": samples / seconds, "cpu_ms": 1e3 * used / samples, "first_batch_ms": 1e3 * first}


def measure_decoding(folder: Path, table: pd.DataFrame, augment: bool) -> dict[str, float]:
    """An epoch of the common way, to be called in a process of its own."""
    torch.set_num_threads(1)
    return measure(decoding(folder, table, augment), 1)


def compare(theirs: Callable[[], dict[str, float]], mine: Epoch) -> dict[str, Any]:
    """Rounds of both in turns, after one of ours that is not counted."""
    measure(mine, 1)
    rounds = [(theirs(), measure(mine, 5)) for _ in range(ROUNDS)]
    return {
        "speed_up": spread_of([ours["samples_per_s"] / other["samples_per_s"] for other, ours in rounds]),
        "speed_up_cpu": spread_of([other["cpu_ms"] / ours["cpu_ms"] for other, ours in rounds]),
        **{
            f"{who}_{what}": spread_of([pair[position][what] for pair in rounds])
            for position, who in enumerate(("decoding", "ours"))
            for what in ("samples_per_s", "cpu_ms", "first_batch_ms")
        },
    }


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as the trainer does; of the other process memory is handled as Python found it
    rows = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        raw, store = Path(temporary) / "raw", Path(temporary) / "store"
        raw.mkdir()
        table = make_files(raw)
        begin = time.perf_counter()
        featurize(raw, store, table)
        once = time.perf_counter() - begin
        print(f"featurize, once: {once:.1f} s for {SAMPLES} samples")
        for augment in (False, True):
            theirs = partial(process.submit, measure_decoding, raw, table, augment)
            mine = stored(store, augment)
            row = {"augmented": augment, **compare(lambda theirs=theirs: theirs().result(), mine)}
            rows.append(row)
            middle = {what: round(of["median"]) for what, of in row.items() if isinstance(of, dict)}
            print(
                f"{'augmented' if augment else 'as stored'}: ours {middle['ours_samples_per_s']} samples/s, "
                f"decoding {middle['decoding_samples_per_s']}: "
                + "× {median:.1f} ({lowest:.1f}–{highest:.1f})".format(**row["speed_up"])
                + " (bar × 10), of CPU seconds × {median:.1f}".format(**row["speed_up_cpu"])
                + f"; first batch after {middle['ours_first_batch_ms']} ms, "
                f"decoding {middle['decoding_first_batch_ms']} ms"
            )
    about = {"samples": SAMPLES, "batch_size": BATCH, "workers": WORKERS, "rounds": ROUNDS}
    write_result("input_path", rows, **about, featurize_s=round(once, 1))


def featurize(raw: Path, store: Path, table: pd.DataFrame) -> None:
    """What the pipeline's featurize stage does, in this process."""
    counts = {str(name): int(n) for name, n in table["split"].value_counts().items()}
    meta = {
        "dataset": "made_up",
        "task": "classification",
        "class_names": [*"abcdef"],
        "target": {"name": "label"},
        "source": "sample",
        "counts": counts,
        "columns": {"audio": ["audio"], "image": ["image"]},
    }
    settings = FeaturizeSettings(
        dataset="made_up",
        modalities={"audio": AUDIO, "image": IMAGE},
        options=RunOptions(device="cpu", progress=False, workers=1),
    )
    write_store(store, Manifest(table, meta), raw, settings)


if __name__ == "__main__":
    main()
