"""What a model is worth where a modality is missing or corrupted, and what each modality contributes to it.

Models run here, so this module needs torch and is not imported with the package. Nothing is trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.errors import DataError
from g2d_pipeline.features.kinds import stored_kind
from g2d_pipeline.features.kinds.base import Corruption
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.methods._shapley import Coalition, shapley
from g2d_pipeline.models.task import task_from_json
from g2d_pipeline.training.data import Rows, take
from g2d_pipeline.training.feature_cache import CHUNK

from .analyses import frame_of
from .metrics import HEADLINE_METRICS, evaluate_predictions, metric_spec
from .records import MULTI, Run

logger = logging.getLogger(__name__)

SEED = 2026  # of all corruptions: every model gets the same corrupted samples
MOST = 5  # modalities up to which all subsets are tried
METRICS = {task: names[:2] for task, names in HEADLINE_METRICS.items()}
TOLERANCE = 1e-2  # of logits computed again, on another machine perhaps

Case = tuple[Run, TrainedFolder, FeatureStore]


def robustness_frames(
    cases: Iterable[Case], device: torch.device, samples: int | None = None
) -> dict[str, pd.DataFrame]:
    """`robustness`, `shapley` and `forwards` (columns: `analyses.FRAMES`) of trained runs, on test.

    Every modality of every student is absent once, as `Fusion.logits_without` defines it; every modality,
    teachers' too, is corrupted as its kind defines it (`Kind.corruptions`), on at most `samples` samples, the
    same for all models. Encoders of other modalities do not run: their features are stored. `kept`: the share
    of the value on the same samples unharmed; where lower is better, the inverse. `shapley`: φ of accuracy or
    of −RMSE over all subsets of at most five modalities, v(∅) being the best constant of train.
    `forwards`: how many times an encoder ran over how many samples. A run whose outputs are missing, or whose
    model says something else than what is stored, is left out with a warning."""
    rows: dict[str, list[dict[str, Any]]] = {"robustness": [], "shapley": [], "forwards": []}
    runs = []
    for run, folder, store in cases:
        runs.append(run)
        try:
            tested = Tested(run, folder, store, device)
            values = {
                "robustness": [*tested.absent(), *tested.corrupted(samples)],
                "shapley": tested.shapley(),
            }
        except (DataError, KeyError, ValueError) as error:
            logger.warning("%s: no missing or corrupted modalities are tried: %s", run.label, error)
            continue
        values["forwards"] = [
            {"modality": m, "samples": n, "forwards": count} for (m, n), count in tested.forwards.items()
        ]
        for name, own in values.items():
            rows[name] += [{"method": run.method, **run.repeated, **row} for row in own]
    frames = {name: frame_of(name, own, runs) for name, own in rows.items()}
    counted = frames["forwards"]
    passes, encoded = counted["forwards"].sum(), (counted["forwards"] * counted["samples"]).sum()
    words = "Missing and corrupted modalities: encoders ran %d times over test samples (%d samples in all)."
    logger.info(words, passes, encoded)
    return frames


class Tested:
    """A trained model on the test samples of its store; `forwards` counts (modality, samples) → passes."""

    def __init__(self, run: Run, folder: TrainedFolder, store: FeatureStore, device: torch.device) -> None:
        self.run, self.store, self.device = run, store, device
        self.model = folder.model().to(device)
        self.modalities = self.model.modalities
        self.shapes = {m: of["shape"] for m, of in run.info["architecture"]["modalities"].items()}
        self.task = task_from_json(run.info["architecture"]["task"])
        self.metrics = METRICS[run.info["task"]]
        self.forwards: Counter[tuple[str, int]] = Counter()
        self.rows = run.rows("test")
        self.target = run.samples["target"].to_numpy()[self.rows]
        stored = run.output(f"logits/{run.modality or MULTI}", "test")
        self.features = {m: torch.from_numpy(run.output(f"feature/{m}", "test")) for m in self.modalities}
        everything = np.arange(len(self.rows))
        if not np.allclose(self.logits(everything), stored, rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError("its saved model and features do not give the stored logits")

    @torch.no_grad()
    def logits(
        self, at: Rows, absent: Sequence[str] = (), corrupted: tuple[str, Corruption] | None = None
    ) -> Tensor:
        """Logits `[n, C]` of the test samples at these positions, by chunks as they were in training."""
        chunks = []
        rng = np.random.default_rng([SEED, crc32(repr(corrupted and (corrupted[0], corrupted[1].name)).encode())])
        for start in range(0, len(at), CHUNK):
            part = at[start : start + CHUNK]
            features = {m: x[part].to(self.device) for m, x in self.features.items()}
            if corrupted:
                m, corruption = corrupted
                features = self._encode(part, features, {m: self._corrupted(part, m, corruption, rng)})
            elif absent and self.model.exchange is not None:  # others have been told what it says
                features = self._encode(part, features, {m: self._train_mean(part, m) for m in absent})
            logits = self.model.fusion.logits_without(features, absent) if absent else self.model.fusion(features)
            chunks.append(logits.cpu())
        encoded = [corrupted[0]] if corrupted else absent if self.model.exchange is not None else []
        for m in self.modalities if encoded and self.model.exchange is not None else encoded:
            self.forwards[m, len(at)] += 1
        return torch.cat(chunks)

    def _encode(self, at: Rows, features: dict[str, Tensor], changed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features where the inputs of some modalities are `changed`; with an exchange all encoders run."""
        if self.model.exchange is not None:
            changed = {m: self._input(at, m) for m in self.modalities} | changed
            features = {}
        known = {m: x for m, x in features.items() if m not in changed}
        return self.model(changed, features=known).features
