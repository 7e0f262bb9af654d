"""A trained model as a function of raw samples: a table or files in, a table of predictions out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.errors import SHOWN, ConfigError, DataError
from g2d_pipeline.features.inputs import FILE, read_inputs
from g2d_pipeline.files import content_hash, fingerprint
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.encoders.base import middle, train_mean
from g2d_pipeline.models.multimodal import pick_device, samples_at_once
from g2d_pipeline.models.task import Classification, task_from_json
from g2d_pipeline.serving.registered import registered_folder
from g2d_pipeline.serving.samples import BATCH, ID, Batch, open_samples

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CODE_ENDINGS = frozenset(all_suffixes())  # of Python; a plug-in's name in model.json could lead to it


def load_model(path: str | Path, device: str = "cpu") -> Predictor:
    """The trained model in a folder (`data/06_models/<dataset>/students/<run>-…`), at a `file:` address, or
    registered: `models:/<dataset>@champion`, `models:/<dataset>/<number>` (see `registered`).

    Raises DataError where it is not registered, or a file of it is missing, damaged or of another version;
    ConfigError for an address of another kind. Nothing in the folder is executed: weights are safetensors,
    all else is JSON, and a folder that holds code is refused."""
    address = urlsplit(str(path))
    if address.scheme == "file":
        path = url2pathname(address.path)
    elif address.scheme == "models":
        path = registered_folder(str(path))
    elif len(address.scheme) > 1:  # one letter is a drive of Windows
        allowed = "a folder, file:///…, models:/<dataset>@champion"
        raise ConfigError(f"{path}: {address.scheme}: is no address of a model. Allowed: {allowed}")
    return Predictor(Path(path).expanduser(), device)


class Tally:
    """Counts what samples lack."""

    def __init__(self) -> None:
        self.total, self.faulty = 0, 0
        self.missing, self.faults = Counter[str](), list[str]()

    def add(self, part: pd.DataFrame) -> pd.DataFrame:
        """Count a table of predictions, and return it."""
        self.total += len(part)
        for names, count in part["missing"].value_counts().items():
            self.missing.update(dict.fromkeys(filter(None, str(names).split("+")), int(count)))
        faulty = part[part["fault"] != ""]
        self.faulty += len(faulty)
        some = faulty.head(SHOWN - len(self.faults))
        self.faults += [f"{sample}: {fault}" for sample, fault in zip(some[ID], some["fault"], strict=True)]
        return part

    def log(self) -> None:
        """Say how many samples lack a modality, and what can not be used."""
        if self.missing:
            counts = ", ".join(f"{m} in {n}" for m, n in sorted(self.missing.items()))
            words = "%d samples are predicted, some without a modality (column missing): %s"
            logger.warning(words, self.total, counts)
        if self.faulty:
            more = "; …" if self.faulty > len(self.faults) else ""
            words = "%d samples name what can not be used (column fault): %s%s"
            logger.warning(words, self.faulty, "; ".join(self.faults), more)


class Predictor:
    """A model with all that turns a raw file into its input. `inputs`: that; `info`: what `model.json` says;
    `version`: data set, method, seed and the hash of weights and transforms."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        if not folder.is_dir():
            raise DataError(f"There is no model {folder}. `kedro run --pipeline distill` makes one.")
        if code := next((f for f in folder.rglob("*") if f.suffix in CODE_ENDINGS), None):
            raise DataError(f"{code} is code: a model's folder has none, and this one is refused.")
        self.folder, self.device = folder, pick_device(device)
        self.inputs = read_inputs(folder)
        with _reading(folder):
            trained = TrainedFolder(folder)
            self.info: dict[str, Any] = trained.info
            self.model: MultimodalModel = trained.model().to(self.device)
            architecture = self.info["architecture"]
            self.task = task_from_json(architecture["task"])
            self.shapes = {m: tuple(about["shape"]) for m, about in architecture["modalities"].items()}
            digest = fingerprint([content_hash(folder / name) for name in (WEIGHTS, FILE)])
            self.version = (
                f"{self.inputs.about['dataset']}/{self.info['algorithm']}/seed{self.info['seed']}@{digest}"
            )
        if self.model.modalities != self.inputs.modalities:
            raise DataError(f"{folder}: {FILE} is of another model ({', '.join(self.inputs.modalities)})")

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.model.modalities

    def predict(self, data: Any, *, root: Path | str | None = None, batch_size: int = BATCH) -> pd.DataFrame:
        """A row a sample of a table file, a DataFrame, a folder or a dictionary of arrays (`open_samples`).

        Columns: `sample_id`; `prediction`, a class name or a value in `attrs["unit"]`; `probability/<class>`;
        of each modality alone `prediction/<m>` and `confidence/<m>`, the probability of that prediction (of a
        regression `agreement/<m>` in (0, 1], ρ of Eq. 5 with the model's prediction as target); `missing`:
        modalities that the sample lacks, joined by +, without which it is predicted as the fusion defines it
        (null without any); `fault`: why a file or cell that is named can not be used; `model`. Raises
        what `open_samples` raises."""
        tally = Tally()
        with open_samples(data, self.inputs, root, batch_size) as batches:
            parts = [tally.add(self.predict_batch(batch)) for batch in batches]
        tally.log()
        whole = pd.concat(parts, ignore_index=True)
        whole.attrs.update(self.attributes)
        return whole

    def export(self, path: Path | str, format: Literal["onnx", "torch"] = "onnx") -> Path:
        """Write the model for other programs; see `export.export_model`."""
        from g2d_pipeline.serving.export import export_model

        return export_model(self, Path(path), format)

    @property
    def columns(self) -> list[str]:
        """Of what `predict` returns."""
        names, certainty = [], "agreement"
        if isinstance(self.task, Classification):
            names, certainty = [f"probability/{c}" for c in self.task.class_names], "confidence"
        alone = [f"{prefix}/{m}" for m in self.modalities for prefix in ("prediction", certainty)]
        return [ID, "prediction", *names, *alone, "missing", "fault", "model"]

    @property
    def attributes(self) -> dict[str, str]:
        """`attrs` of what `predict` returns."""
        about, target = self.inputs.about, self.inputs.about["target"]
        named = {"target": target.get("name", ""), "unit": target.get("unit", "")}
        return named | {"task": about["task"], "source": about["source"], "model": self.version}

    # -------------------------------------------------------------------------------------------- one batch
    def predict_batch(self, batch: Batch) -> pd.DataFrame:
        """The predictions of a batch of samples; what can not be decoded is noted in it."""
        inputs = self.encode(batch)
        logits = self.logits(inputs, batch.present)
        count, some = len(batch.table), np.any(list(batch.present.values()), axis=0)
        parts: dict[str, Any] = {ID: batch.table[ID], "prediction": self._predictions(logits["multi"], some)}
        if isinstance(self.task, Classification):
            values = np.where(some[:, None], logits["multi"].softmax(dim=1).numpy(), np.nan)
            parts |= {f"probability/{c}": values[:, k] for k, c in enumerate(self.task.class_names)}
        for m in self.modalities:
            known = batch.present[m]
            parts[f"prediction/{m}"] = self._predictions(logits[m], known)
            name, certainty = self._certainty(logits["multi"], logits[m])
            parts[f"{name}/{m}"] = np.where(known, certainty.numpy(), np.nan)
        lacking = [[m for m in self.modalities if not batch.present[m][i]] for i in range(count)]
        parts["missing"] = ["+".join(names) for names in lacking]
        faults = [batch.faults.get(i, {}) for i in range(count)]
        parts["fault"] = ["; ".join(f"{m}: {reason}" for m, reason in reasons.items()) for reasons in faults]
        return pd.DataFrame(parts).assign(model=self.version)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Modality → its inputs `[n, …]` as stored, zeros where a sample lacks it."""
        inputs = {}
        for m in self.modalities:
            values = self.inputs.empty(m, len(batch.table))
            if len(rows := np.flatnonzero(batch.present[m])):
                cells = batch.table.loc[rows, self.inputs.columns(m)].reset_index(drop=True)
                values[rows], faults = self.inputs.encode(m, cells, batch.root)
                batch.fault(m, {int(rows[k]): reason for k, reason in faults.items()})
                values[~batch.present[m]] = 0
            inputs[m] = torch.from_numpy(values)
        return self.windows(inputs)

    def windows(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the encoders get of stored samples: of spectrograms trained on in windows, the middle."""
        whole = {m: tuple(x.shape[1:]) == self.shapes[m] for m, x in stored.items()}
        return {m: x if whole[m] else middle(x, self.shapes[m][-1]) for m, x in stored.items()}

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Tensor], present: dict[str, Any]) -> dict[str, Tensor]:
        """Part ("multi", or a modality) → logits `[n, C]`; zeros where there is nothing to tell them from.
        Samples that lack the same modalities go through the model together, as many as are faster so."""
        count = len(next(iter(inputs.values())))
        logits = {part: torch.zeros(count, self.task.outputs) for part in ("multi", *self.modalities)}
        masks = np.stack([present[m] for m in self.modalities], axis=1)
        for pattern in np.unique(masks, axis=0):
            if pattern.any():
                rows = torch.from_numpy(np.flatnonzero((masks == pattern).all(axis=1)))
                available = [m for m, is_present in zip(self.modalities, pattern, strict=True) if is_present]
                for some in rows.split(samples_at_once(self.shapes.values(), self.device)):
                    outputs = self._forward({m: x[some] for m, x in inputs.items()}, available)
                    for part, values in outputs.items():
                        logits[part][some] = values.float().cpu()
        return logits

    def _forward(self, inputs: dict[str, Tensor], available: list[str]) -> dict[str, Tensor]:
        absent = [m for m in self.modalities if m not in available]
        moved = {m: x.to(self.device) for m, x in inputs.items()}
        known = {}
        for m in absent:
            encoder = self.model.encoders[m]
            if self.model.exchange is None:
                known[m] = torch.zeros(len(moved[m]), int(encoder.width), device=self.device)  # type: ignore[arg-type]
            else:  # its encoder runs with the others, and sees the train mean
                moved[m] = train_mean(encoder, moved[m])
        output = self.model(moved, features=known)
        features, fused = output.features, output.logits
        if absent:
            fused = self.model.fusion.logits_without(features, absent)
        return {"multi": fused} | {m: self.model.unimodal_logits(features, m) for m in available}

    def _predictions(self, logits: Tensor, known: Any) -> Any:
        predicted = self.task.predict(logits).numpy()
        if not isinstance(self.task, Classification):
            return np.where(known, predicted, np.nan)
        names = np.array(self.task.class_names, object)[predicted]
        return pd.Series(np.where(known, names, None), dtype="str")

    def _certainty(self, fused: Tensor, unimodal: Tensor) -> tuple[str, Tensor]:
        if isinstance(self.task, Classification):
            return "confidence", unimodal.softmax(dim=1).amax(dim=1).double()
        return "agreement", self.task.confidence(unimodal, self.task.activate(fused)).double()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Whatever is raised inside, where a file of the model is damaged, becomes a DataError of the folder."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise DataError(
            f"The model {folder} can not be read ({type(error).__name__}: {words}). Install a package that "
            "it needs, copy its folder again, or train it again."
        ) from error
