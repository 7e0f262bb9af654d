"""What a model is worth where a modality is missing or corrupted, and what each modality contributes to it.

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
from g2d_pipeline.methods._shared import Coalition, shapley
from g2d_pipeline.models.encoders.base import middle, train_mean
from g2d_pipeline.models.task import task_from_json
from g2d_pipeline.training.data import Array, Rows, chunks, take

from .analyses import PROBED, frame_of
from .metrics import evaluate_predictions, metric_spec
from .records import MULTI, Run

logger = logging.getLogger(__name__)

SEED = 2026  # of all corruptions: every model gets the same corrupted samples
MOST = 5  # modalities up to which all subsets are tried
TOLERANCE = 1e-2  # of logits that are computed again, perhaps on another device

Case = tuple[Run, TrainedFolder, FeatureStore]
Changes = Mapping[str, Callable[[Array], Array]]  # modality → what is done to its stored samples `[n, …]`


def robustness_frames(
    cases: Iterable[Case], device: torch.device, samples: int | None = None
) -> dict[str, pd.DataFrame]:
    """The frames `robustness`, `shapley` and `forwards` (see `analyses.FRAMES`) of trained runs, on test.

    Each modality of each student is absent once, as `Fusion.logits_without` defines it; each modality,
    teachers' too, is corrupted as its kind defines it (`Kind.corruptions`), on at most `samples` samples, the
    same for all models. Only its encoder runs: the others' features are stored. A run whose outputs are
    missing, or whose model says something else than what is stored, is left out with a warning."""
    rows: dict[str, list[dict[str, Any]]] = {"robustness": [], "shapley": [], "forwards": []}
    runs = []
    for run, folder, store in cases:
        runs.append(run)
        try:
            saved_model = SavedModel(run, folder, store, device)
        except ValueError as error:
            logger.warning("%s: left out of missing and corrupted modalities: %s", run.label, error)
            continue
        labels = {"method": run.method, **run.repeated}
        values, contributions = saved_model.absent() + saved_model.corrupted(samples), saved_model.shapley()
        counts = [{"modality": m, "samples": n, "forwards": c} for (m, n), c in saved_model.forwards.items()]
        for name, own in (("robustness", values), ("shapley", contributions), ("forwards", counts)):
            rows[name] += [labels | row for row in own]
    frames = {name: frame_of(name, own, runs) for name, own in rows.items()}
    counted = frames["forwards"]
    logger.info(
        "Missing and corrupted modalities: encoders ran %d times over test samples, %d samples in all.",
        counted["forwards"].sum(),
        (counted["forwards"] * counted["samples"]).sum(),
    )
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
        """Logits `[n, C]` of the test samples at these positions, in chunks as everywhere."""
        parts, encoded = [], self._encoded(changes or {})
        for some in chunks(at, [self.shapes[m] for m in encoded], self.device):
            features = self._features(some, changes or {})
            fuse = self.model.fusion
            parts.append((fuse.logits_without(features, absent) if absent else fuse(features)).cpu())
        for m in encoded:
            self.forwards[m, len(at)] += 1
        return torch.cat(parts)

    def _encoded(self, changes: Changes) -> Collection[str]:
        """The modalities whose encoders run: with an exchange all."""
        return self.modalities if changes and self.model.exchange is not None else list(changes)

    def _features(self, at: Rows, changes: Changes) -> dict[str, Tensor]:
        """m → `[n, D_m]`, stored where the encoder gets what it got in training."""
        encoded = self._encoded(changes)
        known = {m: x[at].to(self.device) for m, x in self.features.items() if m not in encoded}
        inputs = {m: self._input(at, m, changes.get(m)).to(self.device) for m in encoded}
        features: dict[str, Tensor] = self.model(inputs, features=known).features if encoded else known
        return features

    def _input(self, at: Rows, modality: str, change: Callable[[Array], Array] | None) -> Tensor:
        """What an encoder gets `[n, …]`: stored samples, changed, and of spectrograms the middle frames."""
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
        rows = []
        for m in self.modalities if len(self.modalities) > 1 else ():
            logits = self.without(frozenset({m}))
            labels = {"modality": m, "corruption": "absent", "strength": 1.0, "label": "absent"}
            rows += self._rows(logits, self.all, **labels)
        return rows

    def without(self, absent: Coalition) -> Tensor:
        """Logits without some modalities. With an exchange, which tells the other encoders what they say,
        their encoders get the train mean."""

        def mean_of_train(modality: str, values: Array) -> Array:
            inputs = torch.from_numpy(np.asarray(values))
            mean: Array = train_mean(self.model.encoders[modality], inputs).cpu().numpy()
            return mean

        changes = {m: partial(mean_of_train, m) for m in absent if self.model.exchange is not None}
        return self.logits(self.all, absent, changes)

    def corrupted(self, samples: int | None) -> list[dict[str, Any]]:
        """Rows of `robustness`: each modality corrupted in every way and strength that its kind has."""
        at, rows = self.all, []
        if self.store is None:
            raise ValueError("the feature store is needed")
        if samples is not None and len(at) > samples:
            at = np.sort(np.random.default_rng(SEED).choice(at, samples, replace=False))
        for m in self.modalities:
            about = self.store.meta["modalities"][m]
            kind = stored_kind(about["kind"], about["settings"])
            for name, (words, strengths) in kind.corruptions.items():
                for strength in strengths:
                    corruption = Corruption(name, strength, about)
                    rng = np.random.default_rng([SEED, crc32(f"{m} {name} {strength}".encode())])
                    change = {m: partial(kind.corrupt, corruption=corruption, rng=rng)}
                    labels = {"modality": m, "corruption": name, "strength": strength}
                    label = f"{name} {words.format(strength)}"
                    rows += self._rows(self.logits(at, (), change), at, **labels, label=label)
        return rows

    def shapley(self) -> list[dict[str, Any]]:
        """Rows of `shapley` of a student: φ of accuracy, or of −RMSE, over all subsets of its modalities; the
        worth of none is that of the best constant of train. No rows for more than `MOST` modalities."""
        if not 1 < len(self.modalities) <= MOST:
            return []
        name = self.metrics[0]
        sign = 1.0 if metric_spec(name).higher_is_better else -1.0

        def worth(present: Coalition) -> float:
            if not present:
                return sign * self._constant(name)
            return sign * self.values(self.without(frozenset(self.modalities) - present), self.all)[name]

        contributions = shapley(self.modalities, worth)
        return [{"part": m, "metric": name, "value": value} for m, value in contributions.items()]

    def _constant(self, metric: str) -> float:
        train = self.run.samples.loc[self.run.samples["split"] == "train", "target"]
        best = train.mean() if metric == "rmse" else train.mode().iloc[0]
        frame = pd.DataFrame({"target": self.target, "prediction": best, "confidence": 0.5})
        return evaluate_predictions(frame, self.run.info["task"])[metric]
