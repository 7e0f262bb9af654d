"""The whole recipe in CREMA-D's shape, CPU seconds on one thread: both teachers, SMP, joint phase,
evaluation.

Four sides take turns, each in a process of its own. `ours`: as shipped (`suppressed_norm: batch`, batches of
16, augmented images, test scored once at the end). `plain`: a loop as it is usually written (DataLoader,
torchvision's transforms sample by sample, PyTorch's default memory format, every teacher and every encoder on
every batch). `generous`: the same from tensors in memory with the channels innermost and without
augmentation. With `--peer PATH`: the authors' program, its functions unmodified. Inputs are made up and
decoded already on all sides: of theirs the audio transform and the decoding of files are left out. Nobody
writes checkpoints. With `--wall`: seconds of the wall clock on two cores, two threads for everybody but ours,
which trains two seeds at once with one thread each, as `compute.workers: auto` does; half of it is a seed's.

`whole` is the seconds a sample times the published counts: 6,698 clips and 744 held-out ones, 300 epochs for
each teacher, 151 with one modality alone and 149 joint for the student, evaluation after every epoch."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import CROP, RECIPES, TeacherOutputs, model_of, spread_of, write_result
from peer import Peer, load_peer
from PIL import Image
from reference import train_reference
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from g2d_pipeline.config import SGD, SMPSettings, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.methods.base import Method
from g2d_pipeline.training import Data, fit
from g2d_pipeline.training.recipes import compute_outputs

CREMA_D = RECIPES[0]
BATCH, TRAIN, HELD_OUT = 16, 16, 16  # samples of an epoch here: one step, one batch of evaluation
CLIPS, EVALUATED, TEACHER, ALONE, JOINT = 6698, 744, 300, 151, 149  # the published counts
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CPU = torch.device("cpu")
Seconds = dict[str, float]  # part → of a sample; of `once`: of all
clock: Callable[[], float] = time.process_time
PARTS = ("teacher audio", "teacher visual", "alone", "joint", "evaluate teacher", "evaluate student", "once")


def made_up() -> Data:
    rng = np.random.default_rng(0)
    n = TRAIN + 2 * HELD_OUT
    inputs = {
        "audio": rng.normal(size=(n, *CREMA_D.modalities["audio"].shape)).astype(np.float32),
        "visual": rng.integers(0, 256, (n, 3, 224, 224), np.uint8),
    }
    split = ["train"] * TRAIN + ["val"] * HELD_OUT + ["test"] * HELD_OUT
    names = [str(c) for c in range(CREMA_D.classes)]
    data = Data.from_arrays(inputs, np.zeros(n, np.int64), split, class_names=names, augment={"visual": CROP})
    normaliser = {"scale": 1 / 255, "mean": MEAN, "std": STD}
    return replace(data, normalisers={"audio": None, "visual": normaliser})


class Clips(Dataset[Any]):
    """Rows of one split, one by one, through the usual transforms. `as_peer`: in its shapes."""

    def __init__(self, data: Data, split: str, as_peer: bool = False) -> None:
        self.data, self.rows, self.as_peer = data, data.rows[split], as_peer
        random = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
        changes = random if split == "train" else [transforms.Resize((224, 224))]
        self.transform = transforms.Compose(
            [*changes, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        row = self.rows[position]
        picture = Image.fromarray(self.data.arrays["visual"][row].transpose(1, 2, 0))
        audio, visual = torch.from_numpy(self.data.arrays["audio"][row]), self.transform(picture)
        target = int(self.data.target[row])
        if self.as_peer:
            return audio[0], visual.unsqueeze(1), target
        return {"audio": audio, "visual": visual}, target


class InMemory(Clips):
    """The same rows as tensors, normalised once, without random changes."""

    def __init__(self, data: Data, split: str) -> None:
        super().__init__(data, split)
        self.transform = Clips(data, "val").transform
        self.samples = [super(InMemory, self).__getitem__(i) for i in range(len(self))]

    def __getitem__(self, position: int) -> Any:
        return self.samples[position]


def warm_up(data: Data) -> None:
    """A step in both memory formats, so that nobody pays for being first."""
    samples = [Clips(data, "train")[i] for i in range(BATCH)]
    inputs = {m: torch.stack([of[m] for of, _ in samples]) for m in data.modalities}
    for layout in (torch.contiguous_format, torch.channels_last):
        model = model_of(CREMA_D, replace(data, normalisers=dict.fromkeys(data.modalities)))
        model.to(memory_format=layout)  # type: ignore[call-overload]
        model.train()(inputs).logits.sum().backward()


def seconds_of(call: Callable[[], Any]) -> float:
    start = clock()
    call()
    return clock() - start


# ------------------------------------------------------------------------------------------------------- ours
def ours(data: Data) -> Seconds:
    seconds: Seconds = {"once": 0.0}
    teachers = {}
    settings = TrainingSettings(epochs=1, batch_size=BATCH, optimizer=SGD(), selection="val")
    for m in data.modalities:
        own = data.only(m)
        model, method = model_of(CREMA_D, own, m), build_method("unimodal")
        marks = watch(method)
        fit(model, own, method, training=settings, device="cpu", progress=False)
        seconds[f"teacher {m}"] = (marks[1] - marks[0]) / TRAIN
        seconds["evaluate teacher"] = (
            seconds.get("evaluate teacher", 0) + (marks[2] - marks[1]) / HELD_OUT / 2
        )
        sure_of_class_0(model.fusion.heads[m], 6.0 * (m != CREMA_D.prioritised))  # type: ignore[index]
        start = clock()
        outputs, _ = compute_outputs(model, own, method, CPU, ("train", "val", "test"))
        rows = CLIPS + 2 * EVALUATED
        seconds["once"] += (clock() - start) / (TRAIN + 2 * HELD_OUT) * rows
        feature, logits, confidence = (outputs[f"{of}/{m}"] for of in ("feature", "logits", "confidence"))
        teachers[m] = TeacherOutputs(feature, logits, confidence, model)
    model, method = model_of(CREMA_D, data), build_method("g2d")
    marks = watch(method)
    settings = settings.model_copy(update={"epochs": 3})
    smp = SMPSettings(tau=[2, 1], ranking="batch", update="skip", suppressed_norm="batch")
    fitted = fit(
        model, data, method, training=settings, smp=smp, teachers=teachers, device="cpu", progress=False
    )  # fmt: skip
    learning = fitted.history["learning"].tolist()
    assert learning[:2] == [CREMA_D.prioritised] * 2, learning
    seconds["alone"], seconds["joint"] = ((marks[i + 1] - marks[i]) / TRAIN for i in (3, 6))
    seconds["evaluate student"] = (marks[8] - marks[7]) / HELD_OUT
    final = seconds_of(lambda: compute_outputs(model, data, method, CPU, ("val", "test")))
    seconds["once"] += final / (2 * HELD_OUT) * 2 * EVALUATED
    return seconds


def watch(method: Method) -> list[float]:
    """CPU times at the beginning of each epoch, at its end, and after its evaluation."""
    marks: list[float] = []

    def marked(hook: Callable[..., Any], *inputs: Any) -> Any:
        marks.append(clock())
        return hook(*inputs)

    for name in ("on_epoch_start", "on_epoch_end", "on_validation"):
        setattr(method, name, partial(marked, getattr(method, name)))
    return marks


def sure_of_class_0(head: Any, bias: float) -> None:
    """The head says the same of every sample, so that the ranking is the published one."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.bias.data[0] = bias


# ----------------------------------------------------------------------------------------------- plain loops
def loop(data: Data, layout: torch.memory_format, dataset: type[Clips]) -> Seconds:
    """All that is published by plain loops: see `reference.train_reference`."""
    normalised = replace(data, normalisers=dict.fromkeys(data.modalities))
    train, held_out = dataset(data, "train"), dataset(data, "val")
    seconds: Seconds = {"evaluate teacher": 0.0, "once": 0.0}
    teachers = {}
    for m in data.modalities:
        model = model_of(CREMA_D, normalised, m).to(memory_format=layout)  # type: ignore[call-overload]
        seconds[f"teacher {m}"] = seconds_of(lambda model=model, m=m: train_plain(model, m, train)) / TRAIN
        evaluated = seconds_of(lambda model=model: evaluate_plain(model, held_out))
        seconds["evaluate teacher"] += evaluated / HELD_OUT / 2
        sure_of_class_0(model.fusion.heads[m], 6.0 * (m != CREMA_D.prioritised))
        teachers[m] = model
    student = model_of(CREMA_D, normalised).to(memory_format=layout)  # type: ignore[call-overload]
    starts: list[float] = []

    def order(epoch: int) -> list[int]:
        starts.append(clock())
        return torch.randperm(TRAIN).tolist()

    train_reference(student, train, teachers, phases=[1, 1], order=order, batch_size=BATCH)
    seconds["alone"], seconds["joint"] = (
        (end - start) / TRAIN for start, end in zip(starts, [*starts[1:], clock()], strict=True)
    )
    seconds["evaluate student"] = seconds_of(lambda: evaluate_plain(student, held_out)) / HELD_OUT
    return seconds


def train_plain(model: nn.Module, modality: str, dataset: Clips) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    model.train()
    for inputs, target in DataLoader(dataset, BATCH, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(model({modality: inputs[modality]}).logits, target).backward()
        optimizer.step()


@torch.no_grad()
def evaluate_plain(model: Any, dataset: Clips) -> float:
    model.eval()
    right = sum(
        float((model({m: inputs[m] for m in model.modalities}).logits.argmax(1) == target).sum())
        for inputs, target in DataLoader(dataset, BATCH)
    )
    return right / len(dataset)


# -------------------------------------------------------------------------------------------------- the peer
def theirs(data: Data, peer: Peer) -> Seconds:
    config, seconds = peer.config, {"evaluate teacher": 0.0, "once": 0.0}
    loaders = {
        s: DataLoader(Clips(data, s, as_peer=True), BATCH, shuffle=s == "train") for s in ("train", "val")
    }
    criterion = nn.CrossEntropyLoss()

    def run(model: Any, train: Callable[..., Any], epochs: Iterable[int]) -> list[float]:
        """Seconds a sample of these epochs, then of an evaluation."""
        model.apply(peer.initialise)
        options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
        optimizer = torch.optim.SGD(model.parameters(), **options)
        took = [
            seconds_of(lambda e=e: train(model, CPU, loaders["train"], criterion, optimizer, e))
            for e in epochs
        ]
        evaluated = seconds_of(lambda: peer.evaluate(model, CPU, loaders["val"], criterion))
        return [*(s / TRAIN for s in took), evaluated / HELD_OUT]

    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        config.scores_path, config.modulation, config.dataset = name, "G2D", "CREMAD"
        for m in data.modalities:
            config.modality = m
            model = peer.model("teacher", m, None, "CREMAD")
            seconds[f"teacher {m}"], evaluated = run(model, peer.train_teacher, [0])
            seconds["evaluate teacher"] += evaluated / 2
            sure_of_class_0(model.classifier, 6.0 * (m != CREMA_D.prioritised))
            weights = "audio_teacher_weights" if m == "audio" else "video_teacher_weights"
            setattr(config, weights, str(Path(name, m)))
            torch.save(model.state_dict(), Path(name, m))
        config.modality = "multimodal"
        student = peer.model("student", "multimodal", "late", "CREMAD")
        epochs = [config.modulation_starts, config.modulation_ends + 1]
        seconds["alone"], seconds["joint"], seconds["evaluate student"] = run(
            student, peer.train_student, epochs
        )
    return seconds


def whole(of: Mapping[str, float]) -> float:
    """CPU seconds of the published recipe."""
    epochs = (
        TEACHER * (of["teacher audio"] + of["teacher visual"]) + ALONE * of["alone"] + JOINT * of["joint"]
    )
    evaluations = 2 * TEACHER * of["evaluate teacher"] + (ALONE + JOINT) * of["evaluate student"]
    return CLIPS * epochs + EVALUATED * evaluations + of["once"]


@cache
def prepared(threads: int, on_wall_clock: bool) -> Data:
    """The data, in a process that is warm. Reads what follows off that clock."""
    global clock
    clock = time.perf_counter if on_wall_clock else time.process_time
    torch.set_num_threads(threads)
    data = made_up()
    warm_up(data)
    return data


def run_side(side: str, peer: Path | None, threads: int, on_wall_clock: bool) -> Seconds:
    """One round of a side, in its process."""
    data = prepared(threads, on_wall_clock)
    if side == "ours":
        return ours(data)
    if side == "peer" and peer is not None:
        return theirs(data, load_peer(peer))
    layout = torch.contiguous_format if side == "plain" else torch.channels_last
    return loop(data, layout, Clips if side == "plain" else InMemory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="checkout of the authors' program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="the wall clock and two cores")
    asked = parser.parse_args()
    sides = ["plain", "generous", *(["peer"] if asked.peer else []), "ours"]
    rounds: list[dict[str, Seconds]] = []
    with ExitStack() as stack:
        copies = {side: 2 if asked.wall and side == "ours" else 1 for side in sides}
        start = partial(ProcessPoolExecutor, 1, mp_context=get_context("spawn"))
        processes = {side: [stack.enter_context(start()) for _ in range(copies[side])] for side in sides}
        for number in range(asked.rounds):
            costs = {}
            for side in sides if number % 2 else sides[::-1]:
                threads = 2 if asked.wall and side != "ours" else 1
                many = [p.submit(run_side, side, asked.peer, threads, asked.wall) for p in processes[side]]
                costs[side] = mean([one.result() for one in many], copies[side])
            rounds.append({side: of | {"whole": whole(of)} for side, of in costs.items()})
            write(rounds, asked.wall)


def mean(runs: list[Seconds], at_once: int) -> Seconds:
    """Seconds a run, of runs that went on at once."""
    return {part: sum(run[part] for run in runs) / len(runs) / at_once for part in runs[0]}


def write(rounds: list[dict[str, Seconds]], on_wall_clock: bool) -> None:
    """Print and write the ratios of the rounds so far."""
    rows = []
    for part in [*PARTS[:-1], "whole"]:
        row: dict[str, Any] = {"part": part}
        for side in [side for side in rounds[0] if side != "ours"]:
            row[side] = spread_of([of[side][part] / of["ours"][part] for of in rounds])
        rows.append(row)
        text = [
            f"{side} {r['median']:.2f} ({r['lowest']:.2f}–{r['highest']:.2f})"
            for side, r in list(row.items())[1:]
        ]
        print(f"{part:17} ÷ ours: {', '.join(text)}", flush=True)
    raw = [{side: {p: round(s, 5) for p, s in of.items()} for side, of in each.items()} for each in rounds]
    shape = {"batch_size": BATCH, "samples": TRAIN, "held_out": HELD_OUT, "suppressed_norm": "batch"}
    write_result("recipe_wall" if on_wall_clock else "recipe", rows, rounds=len(rounds), **shape, seconds=raw)


if __name__ == "__main__":
    main()
