"""A made-up study: plausible runs for any number of modalities, either task, any seeds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.evaluation import (
    Evaluation,
    Results,
    Run,
    build_report,
    collect_metrics,
    evaluate,
    summarise,
)

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What `evaluate` takes."""

    runs: list[Run]
    meta: dict[str, Any]
    rankings: pd.DataFrame
    configuration: Configuration

    def evaluate(self) -> Evaluation:
        return evaluate(self.runs, self.meta, self.rankings, self.configuration)

    def page(self) -> str:
        """The report without its figures, which take most of the time."""
        metrics = collect_metrics(self.runs, self.meta["dataset"], self.meta["source"])
        summary = summarise(metrics)
        of = self.runs, self.meta, self.rankings, self.configuration
        return build_report(Results(summary, unit=self.meta["target_unit"] or ""), metrics, {}, *of)


def fabricate(
    modalities: Sequence[str] = ("audio", "image"),
    task: str = "classification",
    seeds: Sequence[int] = (0, 1),
    methods: Sequence[str] = ("joint", "g2d"),
    *,
    source: str = "raw",
    selection: str = "val",
    disagree: Sequence[int] = (),
    dataset: str = "made_up",
    samples: int = 200,
    epochs: int = 30,
    classes: int = 6,
) -> Study:
    """Runs whose teachers get better from the first modality to the last, and whose methods do so too."""
    metric = "accuracy" if task == "classification" else "rmse"
    skill = {m: 0.42 + 0.4 * i / max(1, len(modalities) - 1) for i, m in enumerate(modalities)}

    counts = {"train": 4 * samples, "val": samples // 2, "test": samples}
    common = np.random.default_rng(0)  # every run predicts the same samples
    targets = {
        split: common.integers(0, classes, n) if task == "classification" else common.uniform(0.05, 0.45, n)
        for split, n in counts.items()
    }
    tables = [
        pd.DataFrame(
            {"sample_id": [f"{split}-{i}" for i in range(n)], "split": split, "target": targets[split]}
        )
        for split, n in counts.items()
    ]
    table = pd.concat(tables, ignore_index=True).assign(group=lambda d: [f"g{i // 5}" for i in d.index])

    def predictions(rng: np.random.Generator, parts: dict[str, float]) -> pd.DataFrame:
        frames = []
        for split in ("val", "test"):
            target, n = targets[split], counts[split]
            for part, ability in parts.items():
                if task == "classification":
                    right = rng.random(n) < ability
                    prediction = np.where(right, target, (target + rng.integers(1, classes, n)) % classes)
                    confidence = np.where(right, rng.uniform(0.5, 1.0, n), rng.uniform(0.0, 0.4, n))
                else:
                    prediction = target + rng.normal(0, 0.08 * (1.05 - ability), n)
                    confidence = np.exp(-((prediction - target) ** 2) / (2 * 0.1**2))
                frames.append(
                    pd.DataFrame(
                        {
                            "sample_id": [f"{split}-{i}" for i in range(n)],
                            "split": split,
                            "part": part,
                            "target": target,
                            "prediction": prediction,
                            "confidence": confidence,
                        }
                    )
                )
        return pd.concat(frames, ignore_index=True)

    def outputs(rng: np.random.Generator, own: pd.DataFrame) -> dict[str, np.ndarray]:
        """Logits that predict what `own` says, and features of width 8 that know the target."""
        row = np.arange(counts["train"], len(table))
        arrays: dict[str, np.ndarray] = {"row": row}
        for part, frame in own.groupby("part", sort=False):
            confidence, prediction = frame["confidence"].to_numpy(), frame["prediction"].to_numpy()
            logits = prediction.astype(np.float32)[:, None]
            if task == "classification":
                target, at = frame["target"].to_numpy(), np.arange(len(frame))
                p = np.repeat((1 - confidence)[:, None] * 0.01 / classes, classes, axis=1)
                p[at, prediction] = np.where(prediction == target, 0, (1 - confidence) * 0.99)
                p[at, target] = confidence
                logits = np.log(np.clip(p, 1e-6, None)).astype(np.float32)
            arrays |= {f"logits/{part}": logits, f"confidence/{part}": confidence.astype(np.float32)}
            if part != "multi":
                means = np.random.default_rng(1).normal(size=(classes, 8))
                mean = means[np.digitize(frame["target"], np.linspace(0, frame["target"].max(), classes)) - 1]
                arrays[f"feature/{part}"] = (mean + rng.normal(size=mean.shape)).astype(np.float32)
        return arrays

    def rising(rng: np.random.Generator, top: float, late: float = 0.0) -> np.ndarray:
        """A learning curve; `late`: the share of the epochs after which it starts in earnest."""
        time = np.clip(np.arange(1, epochs + 1) - late * epochs, 0.3, None)
        curve = top * (1 - np.exp(-time / (0.18 * epochs))) + rng.normal(0, 0.012, epochs)
        return np.clip(curve, 0, 1) if metric == "accuracy" else np.clip(0.1 * (1.05 - curve), 0.001, None)

    def history(rng: np.random.Generator, parts: dict[str, float], method: str) -> pd.DataFrame:
        half = epochs // 2
        alone = modalities[:-1] or modalities
        phase, learning = np.ones(epochs, dtype=int), ["+".join(modalities)] * epochs
        if method == "g2d" and len(modalities) > 1:
            for e in range(epochs):
                phase[e] = (
                    1 + min(e * len(alone) // max(1, half), len(alone)) if e < half else len(modalities)
                )
                learning[e] = alone[phase[e] - 1] if e < half else "+".join(modalities)
        columns: dict[str, Any] = {"epoch": np.arange(1, epochs + 1), "phase": phase, "learning": learning}
        floor = 0.6 * (1 - max(parts.values()))
        loss = 1.8 * np.exp(-np.arange(epochs) / (0.2 * epochs)) + floor + np.abs(rng.normal(0, 0.02, epochs))
        columns |= {"lr": 1e-3, "loss/task": loss, "val/loss": 0.8 * loss + 0.35}
        total = loss.copy()
        if method == "g2d":
            columns["loss/feature_distillation"] = 0.5 * loss + 0.05
            columns["loss/logit_distillation"] = 0.35 * loss + 0.1
            total = total + 0.85 * loss + 0.15
        columns["loss/total"] = total
        for part, top in parts.items():
            for split in ("val",) if method == "unimodal" else ("val", "test"):
                late = 0.25 if method == "g2d" and part in modalities[1:] else 0.0
                columns[f"{split}/{part}"] = rising(rng, top, late)
        if method != "unimodal":
            for m in modalities:
                columns[f"kappa/{m}"] = [float(m in names.split("+")) for names in learning]
                columns[f"grad_norm/{m}"] = loss
                if method == "g2d":
                    columns[f"val/cosine/{m}"] = rising(rng, 0.8)
                    columns[f"confidence/{m}"] = np.clip(skill[m] + 0.1 + rng.normal(0, 0.01, epochs), 0, 1)
        return pd.DataFrame(columns)

    def run(method: str, modality: str, seed: int, parts: dict[str, float]) -> Run:
        rng = np.random.default_rng([seed, len(method), *map(ord, method + modality)])
        parts = {part: float(np.clip(a + rng.normal(0, 0.01), 0, 1)) for part, a in parts.items()}
        own = predictions(rng, parts)
        smp = {"tau": [epochs // 2], "ranking": "batch", "update": "skip", "confidence_on": "train"}
        return Run(
            method,
            modality,
            seed,
            history(rng, parts, method),
            own,
            {
                "task": task,
                "class_names": [f"class {i}" for i in range(classes)] if task == "classification" else [],
                "metric": metric,
                "selection": selection,
                "selected_epoch": epochs - seed,
                "modalities": [modality] if modality else list(modalities),
                "parameters": {"alpha": 1.0, "beta": 1.0} if method == "g2d" else {},
                "smp": smp if method == "g2d" else None,
                "fusion": "" if modality else "late",
            },
            outputs=outputs(rng, own),
            samples=table,
        )

    runs = [run("unimodal", m, seed, {m: skill[m]}) for seed in seeds for m in modalities]
    for i, method in enumerate(methods):
        loss = 0.16 - 0.12 * i / max(1, len(methods) - 1)
        parts = {"multi": min(0.97, skill[modalities[-1]] + 0.02 + 0.08 * i)}
        parts |= {m: a - (loss if m == modalities[0] else 0.03) for m, a in skill.items()}
        runs += [run(method, "", seed, parts) for seed in seeds]
    rows = []
    for seed in seeds:
        for on in ("train", "val"):
            values = [skill[m] + (0.11 if on == "train" else 0.0) for m in modalities]
            values = values[::-1] if on == "train" and seed in disagree else values
            rows += [(seed, on, m, v) for m, v in zip(modalities, values, strict=True)]
    meta = {
        "dataset": dataset,
        "task": task,
        "class_names": [f"class {i}" for i in range(classes)] if task == "classification" else [],
        "target_name": "emotion" if task == "classification" else "soil moisture",
        "target_unit": "" if task == "classification" else "m³/m³",
        "counts": counts,
        "source": source,
        "dropped": [
            {"file": "clip_0031.wav", "reason": "file is empty"},
            {"row": 17, "reason": "target is blank"},
        ],
        "notes": ["Speakers never cross splits."],
    }
    configuration = {
        "dataset": dataset,
        "method": methods[-1] if methods else "unimodal",
        "seeds": list(seeds),
    }
    rankings = pd.DataFrame(rows, columns=["seed", "confidence_on", "modality", "confidence"])
    return Study(runs, meta, rankings, configuration)


@functools.cache
def _evaluated(arguments: tuple[tuple[str, Any], ...]) -> Evaluation:
    return fabricate(**dict(arguments)).evaluate()


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """`fabricate`: a fresh study, for tests that change it."""
    return fabricate


@pytest.fixture
def evaluated() -> Callable[..., Evaluation]:
    """The evaluation of a fabricated study, made once for the same arguments: look, do not change."""

    def once(*arguments: Any, **keywords: Any) -> Evaluation:
        bound = inspect.signature(fabricate).bind(*arguments, **keywords)
        bound.apply_defaults()
        return _evaluated(tuple(bound.arguments.items()))

    return once
