"""Metrics of a model with a missing or corrupted modality, and the Shapley values of its modalities.

Models run here, so this module needs torch and is not imported with the package. Nothing is trained."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.features.kinds import stored_kind
from g2d_pipeline.features.kinds.base import Corruption
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.methods._shapley import Coalition, shapley
from g2d_pipeline.models.encoders.base import middle, train_mean
from g2d_pipeline.models.task import task_from_json
from g2d_pipeline.training.data import Array, Rows, chunks, take

from .analyses import PROBED, frame_of
from .metrics import evaluate_predictions, metric_spec
from .records import MULTI, Run, select

logger = logging.getLogger(__name__)

SEED = 2026  # of all corruptions: every model gets the same corrupted samples
MOST = 5  # modalities up to which all subsets are tried
TOLERANCE = 1e-2  # of logits that are computed again, perhaps on another device

Case = tuple[Run, TrainedFolder, FeatureStore]
Changes = Mapping[str, Callable[[Array], Array]]  # modality → a function of its stored samples `[n, …]`


def robustness_frames(
    cases: Iterable[Case], device: torch.device, samples: int | None = None
) -> dict[str, pd.DataFrame]:
    """The frames `robustness`, `shapley` and `forwards` (see `analyses.FRAMES`) of trained runs, on test.

    Each modality of each student is absent once, as `Fusion.logits_without` defines it; each modality,
    teachers' too, is corrupted as its kind defines it (`Kind.corruptions`), on at most `samples` samples, the
    same for all models. Only its encoder runs: the others' features are stored. A run whose outputs are
    missing, or whose model's logits are not those that are stored, is left out with a warning."""
    rows: dict[str, list[dict[str, Any]]] = {"robustness": [], "shapley": [], "forwards": []}
    runs = []
    for run, folder, store in cases:
        runs.append(run)
        try:
            model = SavedModel(run, folder, store, device)
        except ValueError as error:
            logger.warning("%s: left out of missing and corrupted modalities: %s", run.label, error)
            continue
        made = {"robustness": model.absent() + model.corrupted(samples), "shapley": model.shapley()}
        made["forwards"] = [
            {"modality": m, "samples": n, "forwards": passes} for (m, n), passes in model.forwards.items()
        ]
        for name in rows:
            rows[name] += [{"method": run.method, **run.repeated, **row} for row in made[name]]
    frames = {name: frame_of(name, records, runs) for name, records in rows.items()}
    passes, sizes = frames["forwards"]["forwards"], frames["forwards"]["samples"]
    message = "Missing and corrupted modalities: encoders ran %d times over test samples, %d samples in all."
    logger.info(message, passes.sum(), (passes * sizes).sum())
    return frames


class SavedModel:
    """A trained model on the test samples of its store; `forwards` counts (modality, samples) → passes.

    `store`: None where no encoder has to run: nothing is corrupted, and there is no exchange. Raises
    ValueError where there are no test samples, or the run's outputs are not those of the model."""

    def __init__(
        self, run: Run, folder: TrainedFolder, store: FeatureStore | None, device: torch.device
    ) -> None:
        self.run, self.store, self.device = run, store, device
        self.model = folder.model().to(device)
        self.modalities = self.model.modalities
        architecture = run.info["architecture"]
        self.shapes = {m: about["shape"] for m, about in architecture["modalities"].items()}
        self.task, self.metrics = task_from_json(architecture["task"]), PROBED[run.info["task"]]
        self.forwards: Counter[tuple[str, int]] = Counter()
        self.rows = run.rows("test")
        self.target = run.samples["target"].to_numpy()[self.rows]
        if not len(self.rows):
            raise ValueError("it has no test samples")
        names = {m: f"feature/{m}" for m in self.modalities} | {MULTI: f"logits/{run.modality or MULTI}"}
        if missing := [name for name in names.values() if name not in run.outputs]:
            raise ValueError(f"its outputs lack {', '.join(missing)}")
        stored = {m: torch.from_numpy(run.output(name, "test")) for m, name in names.items()}
        logits = stored.pop(MULTI)
        self.features, self.all = stored, np.arange(len(self.rows))
        self.clean: dict[int, dict[str, float]] = {}
        if not torch.allclose(self.logits(self.all), logits, rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError("its stored features do not give its stored logits")

    @torch.no_grad()
    def logits(self, at: Rows, absent: Collection[str] = (), changes: Changes | None = None) -> Tensor:
        """Logits `[n, C]` of the test samples at these positions, in chunks. The encoders of changed
        modalities run, with an exchange all; the features of the others are stored."""
        changes, fusion, parts = changes or {}, self.model.fusion, []
        encoded = self.modalities if changes and self.model.exchange is not None else tuple(changes)
        for rows in chunks(at, [self.shapes[m] for m in encoded], self.device):
            features = {m: x[rows].to(self.device) for m, x in self.features.items() if m not in encoded}
            if encoded:
                inputs = {m: self._input(rows, m, changes.get(m)).to(self.device) for m in encoded}
                features = self.model(inputs, features=features).features
            logits = fusion.logits_without(features, absent) if absent else fusion(features)
            parts.append(logits.cpu())
        for m in encoded:
            self.forwards[m, len(at)] += 1
        return torch.cat(parts)

    def _input(self, at: Rows, modality: str, change: Callable[[Array], Array] | None) -> Tensor:
        """An encoder's input `[n, …]`: stored samples, changed, and of spectrograms the middle frames."""
        if self.store is None:
            raise ValueError("its encoders exchange features and have to run: the feature store is needed")
        x = take(self.store.arrays[modality], self.rows[at])
        if change is not None:
            x = torch.from_numpy(np.ascontiguousarray(change(x.numpy())))
        return middle(x, self.shapes[modality][-1])

    def values(self, logits: Tensor, at: Rows) -> dict[str, float]:
        """Metric → value of the test samples at these positions; NaN where logits are not finite."""
        if not logits.isfinite().all():
            return dict.fromkeys(self.metrics, np.nan)
        target = self.target[at]
        confidence = self.task.confidence(logits, self.task.encode(torch.as_tensor(target)))
        columns = {"prediction": self.task.predict(logits), "confidence": confidence.double().clamp(0, 1)}
        frame = pd.DataFrame({"target": target, **{name: x.numpy() for name, x in columns.items()}})
        values = evaluate_predictions(frame, self.run.info["task"])
        return {name: values[name] for name in self.metrics}

    def _rows(self, logits: Tensor, at: Rows, **labels: Any) -> list[dict[str, Any]]:
        if len(at) not in self.clean:
            self.clean[len(at)] = self.values(self.logits(at), at)
        rows = []
        for name, value in self.values(logits, at).items():
            part, whole = value, self.clean[len(at)][name]
            if not metric_spec(name).higher_is_better:
                part, whole = whole, part
            kept = part / whole if whole > 0 and name != "r2" else np.nan  # R² has no zero to count from
            rows.append({**labels, "metric": name, "value": value, "kept": kept})
        return rows

    def absent(self) -> list[dict[str, Any]]:
        """Rows of `robustness`: each modality of a student is missing from all samples."""
        labels = {"corruption": "absent", "strength": 1.0, "label": "absent"}
        return [
            row
            for m in (self.modalities if len(self.modalities) > 1 else ())
            for row in self._rows(self.without(frozenset({m})), self.all, modality=m, **labels)
        ]

    def without(self, absent: Coalition) -> Tensor:
        """Logits without some modalities. With an exchange, through which they reach the other encoders,
        their own encoders get the train mean."""

        def mean_of_train(modality: str, values: Array) -> Array:
            inputs = torch.from_numpy(np.asarray(values))
            mean: Array = train_mean(self.model.encoders[modality], inputs).cpu().numpy()
            return mean

        changes = {m: partial(mean_of_train, m) for m in absent if self.model.exchange is not None}
        return self.logits(self.all, absent, changes)

    def corrupted(self, samples: int | None) -> list[dict[str, Any]]:
        """Rows of `robustness`: each modality corrupted in every way and strength that its kind has."""
        if self.store is None:
            raise ValueError("the feature store is needed")
        at, rows = self.all, []
        if samples is not None and len(at) > samples:
            at = np.sort(np.random.default_rng(SEED).choice(at, samples, replace=False))
        for m in self.modalities:
            about = self.store.meta["modalities"][m]
            kind = stored_kind(about["kind"], about["settings"])
            for name, (template, strengths) in kind.corruptions.items():
                for strength in strengths:
                    corruption = Corruption(name, strength, about)
                    rng = np.random.default_rng([SEED, crc32(f"{m} {name} {strength}".encode())])
                    change = {m: partial(kind.corrupt, corruption=corruption, rng=rng)}
                    labels = {"modality": m, "corruption": name, "strength": strength}
                    labels["label"] = f"{name} {template.format(strength)}"
                    rows += self._rows(self.logits(at, (), change), at, **labels)
        return rows

    def shapley(self) -> list[dict[str, Any]]:
        """Rows of `shapley` of a student: φ of accuracy, or of −RMSE, over all subsets of its modalities; the
        worth of none is that of the best constant of train. No rows for more than `MOST` modalities."""
        if not 1 < len(self.modalities) <= MOST:
            return []
        name = self.metrics[0]
        sign = metric_spec(name).sign
        train = select(self.run.samples, split="train")["target"]
        best = train.mean() if name == "rmse" else train.mode().iloc[0]
        constant = pd.DataFrame({"target": self.target, "prediction": best, "confidence": 0.5})

        def worth(present: Coalition) -> float:
            if not present:
                return sign * evaluate_predictions(constant, self.run.info["task"])[name]
            return sign * self.values(self.without(frozenset(self.modalities) - present), self.all)[name]

        contributions = shapley(self.modalities, worth)
        return [{"part": m, "metric": name, "value": value} for m, value in contributions.items()]
