"""The whole recipe in CREMA-D's shape, CPU seconds on one thread: both teachers, SMP, joint phase,
evaluation.

Four sides take turns in one process. `ours`: as shipped (`suppressed_norm: batch`, batches of 16, augmented
images, test scored once at the end). `plain`: a loop as it is usually written (DataLoader, torchvision's
transforms sample by sample, PyTorch's default memory format, every teacher and every encoder on every batch).
`generous`: the same from tensors in memory with the channels innermost and without augmentation. With
`--peer PATH`: the authors' program, its functions unmodified. Inputs are made up and decoded already on all
sides: of theirs the audio transform and the decoding of files are left out. Nobody writes checkpoints.

`whole` is the seconds a sample times the published counts: 6,698 clips and 744 held-out ones, 300 epochs for
each teacher, 151 with one modality alone and 149 joint for the student, evaluation after every epoch."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
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


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


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
        start = time.process_time()
        outputs, _ = compute_outputs(model, own, method, CPU, ("train", "val", "test"))
        rows = CLIPS + 2 * EVALUATED
        seconds["once"] += (time.process_time() - start) / (TRAIN + 2 * HELD_OUT) * rows
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
    final = cpu_seconds(lambda: compute_outputs(model, data, method, CPU, ("val", "test")))
    seconds["once"] += final / (2 * HELD_OUT) * 2 * EVALUATED
    return seconds


def watch(method: Method) -> list[float]:
    """CPU times at the beginning of each epoch, at its end, and after its evaluation."""
    marks: list[float] = []

    def marked(hook: Callable[..., Any], *inputs: Any) -> Any:
        marks.append(time.process_time())
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
        seconds[f"teacher {m}"] = cpu_seconds(lambda model=model, m=m: train_plain(model, m, train)) / TRAIN
        evaluated = cpu_seconds(lambda model=model: evaluate_plain(model, held_out))
        seconds["evaluate teacher"] += evaluated / HELD_OUT / 2
        sure_of_class_0(model.fusion.heads[m], 6.0 * (m != CREMA_D.prioritised))
        teachers[m] = model
    student = model_of(CREMA_D, normalised).to(memory_format=layout)  # type: ignore[call-overload]
    starts: list[float] = []

    def order(epoch: int) -> list[int]:
        starts.append(time.process_time())
        return torch.randperm(TRAIN).tolist()

    train_reference(student, train, teachers, phases=[1, 1], order=order, batch_size=BATCH)
    seconds["alone"], seconds["joint"] = (
        (end - start) / TRAIN for start, end in zip(starts, [*starts[1:], time.process_time()], strict=True)
    )
    seconds["evaluate student"] = cpu_seconds(lambda: evaluate_plain(student, held_out)) / HELD_OUT
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
            cpu_seconds(lambda e=e: train(model, CPU, loaders["train"], criterion, optimizer, e))
            for e in epochs
        ]
        evaluated = cpu_seconds(lambda: peer.evaluate(model, CPU, loaders["val"], criterion))
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="checkout of the authors' program")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    peer = load_peer(given.peer) if given.peer else None
    torch.set_num_threads(1)
    data = made_up()
    sides: dict[str, Callable[[], Seconds]] = {
        "plain": lambda: loop(data, torch.contiguous_format, Clips),
        "generous": lambda: loop(data, torch.channels_last, InMemory),
    }
    if peer is not None:
        sides["peer"] = lambda: theirs(data, peer)
    sides["ours"] = lambda: ours(data)
    rounds: list[dict[str, Seconds]] = []
    for number in range(given.rounds):
        order = list(sides) if number % 2 else list(sides)[::-1]
        costs = {side: sides[side]() for side in order}
        rounds.append({side: of | {"whole": whole(of)} for side, of in costs.items()})
        write(rounds)


def write(rounds: list[dict[str, Seconds]]) -> None:
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
    write_result("recipe", rows, rounds=len(rounds), **shape, seconds=raw)


if __name__ == "__main__":
    main()
