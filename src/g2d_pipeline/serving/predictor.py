"""A trained model as a function of raw samples: a table or files in, a table or a file of predictions out."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.errors import SHOWN, ConfigError, DataError
from g2d_pipeline.features.cells import cells_state
from g2d_pipeline.features.inputs import FILE, read_inputs
from g2d_pipeline.features.kinds import ColumnKind
from g2d_pipeline.files import atomic_write, content_hash, fingerprint, locked
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.encoders.base import middle, train_mean
from g2d_pipeline.models.multimodal import pick_device, samples_at_once
from g2d_pipeline.models.task import Classification, task_from_json
from g2d_pipeline.serving.registered import local_path, registered_folder
from g2d_pipeline.serving.samples import BATCH, ID, Batch, read_samples

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CODE_ENDINGS = frozenset(all_suffixes())  # of Python; a plug-in's name in model.json could lead to it
TOGETHER = 64  # parts in a row group
EVERY = 10.0  # seconds between lines of the log
DIGEST, ATTRS = b"g2d.digest", b"PANDAS_ATTRS"  # keys of the file's metadata; the second one is pandas'


def load_model(path: str | Path, device: str = "cpu") -> Predictor:
    """The trained model in a folder (`data/06_models/<dataset>/students/<run>-…`), at a `file:` address, or
    registered: `models:/<dataset>@champion`, `models:/<dataset>/<number>` (see `registered`).

    Raises DataError if it is not registered, or a file of it is missing, damaged or of another version;
    ConfigError for an address of another kind. Nothing in the folder is executed: weights are safetensors,
    all else is JSON, and a folder that holds code is refused."""
    if (folder := local_path(str(path))) is None:
        scheme = str(path).partition(":")[0].lower()
        if scheme != "models":
            allowed = "a folder, file:///…, models:/<dataset>@champion"
            raise ConfigError(f"{path}: {scheme}: is no address of a model. Allowed: {allowed}")
        folder = registered_folder(str(path))
    return Predictor(folder.expanduser(), device)


class _Tally:
    """Counts of the samples that lack a modality, and of the faults, over tables of predictions."""

    def __init__(self) -> None:
        self.total, self.faulty = 0, 0
        self.missing, self.faults = Counter[str](), list[str]()

    def add(self, part: pd.DataFrame) -> pd.DataFrame:
        """Count a table of predictions, and return it."""
        self.total += len(part)
        self.missing.update(m for names in part["missing"] if names for m in names.split("+"))
        faulty = part[part["fault"] != ""]
        self.faulty += len(faulty)
        first = faulty.head(SHOWN - len(self.faults))
        self.faults += (first[ID] + ": " + first["fault"]).tolist()
        return part

    def log(self) -> None:
        """Warn of samples that lack a modality, and of faults."""
        if self.missing:
            counts = ", ".join(f"{m} in {n}" for m, n in sorted(self.missing.items()))
            message = "%d samples are predicted, some without a modality (column missing): %s"
            logger.warning(message, self.total, counts)
        if self.faulty:
            more = "; …" if self.faulty > len(self.faults) else ""
            message = "%d samples name what can not be used (column fault): %s%s"
            logger.warning(message, self.faulty, "; ".join(self.faults), more)


class Predictor:
    """A trained model with the transforms of raw files into its inputs (`inputs`). `info`: what `model.json`
    says; `version`: data set, method, seed and the hash of weights and transforms."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        if not folder.is_dir():
            raise DataError(f"There is no model {folder}. `kedro run --pipeline distill` makes one.")
        if code := next((f for f in folder.rglob("*") if f.suffix in CODE_ENDINGS), None):
            raise DataError(f"{code} is code: a model's folder has none, and this one is refused.")
        self.folder, self.device = folder, pick_device(device)
        self.inputs = read_inputs(folder)
        about = self.inputs.about
        try:
            trained = TrainedFolder(folder)
            self.info: dict[str, Any] = trained.info
            self.model: MultimodalModel = trained.model().to(self.device)
            architecture = self.info["architecture"]
            self.task = task_from_json(architecture["task"])
            self.shapes = {m: tuple(entry["shape"]) for m, entry in architecture["modalities"].items()}
            digest = fingerprint([content_hash(folder / name) for name in (WEIGHTS, FILE)])
            self.version = f"{about['dataset']}/{self.info['algorithm']}/seed{self.info['seed']}@{digest}"
        except DataError:
            raise
        except Exception as error:  # whatever a damaged file leads to
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise DataError(
                f"The model {folder} can not be read ({reason}). Install a package that it needs, copy its "
                "folder again, or train it again."
            ) from error
        if self.model.modalities != self.inputs.modalities:
            raise DataError(f"{folder}: {FILE} is of another model ({', '.join(self.inputs.modalities)})")
        self.modalities: tuple[str, ...] = self.model.modalities

    def predict(self, data: Any, *, root: Path | str | None = None, batch_size: int = BATCH) -> pd.DataFrame:
        """A row a sample of a table file, a DataFrame, a folder or a dictionary of arrays (`read_samples`).

        Columns: `sample_id`; `prediction`, a class name or a value in `attrs["unit"]`; `probability/<class>`;
        of each modality alone `prediction/<m>` and `confidence/<m>`, the probability of that prediction (of a
        regression `agreement/<m>` in (0, 1], ρ of Eq. 5 with the model's prediction as target); `missing`:
        modalities that the sample lacks, joined by +, without which it is predicted as the fusion defines it
        (null without any); `fault`: why a file or cell that is named can not be used; `model`. Raises
        what `read_samples` raises."""
        tally = _Tally()
        batches = read_samples(data, self.inputs, root, batch_size)
        table = pd.concat([tally.add(self.predict_batch(batch)) for batch in batches], ignore_index=True)
        tally.log()
        table.attrs.update(self.attributes)
        return table

    def export(self, path: Path | str, format: Literal["onnx", "torch"] = "onnx") -> Path:
        """Write the model for other programs, as `export.export_network` does. `about`, in the file: class
        names, target, modalities, version.

        Raises ConfigError for another format, or if the packages of the extra `export` are not installed."""
        from g2d_pipeline.serving.export import EXAMPLE, export_network

        example = {m: torch.from_numpy(self.inputs.empty(m, EXAMPLE)) for m in self.modalities}
        about = {**self.attributes, "class_names": self.inputs.about["class_names"]}
        model = self.model.to("cpu")
        try:
            return export_network(model, self.task, self.windows(example), Path(path), format, about)
        finally:
            model.to(self.device)

    @property
    def columns(self) -> dict[str, str]:
        """The columns of what `predict` returns, with their types in Arrow."""
        if isinstance(self.task, Classification):
            predicted, certainty = "string", "confidence"
            probabilities = {f"probability/{c}": "float" for c in self.task.class_names}
        else:
            predicted, certainty, probabilities = "double", "agreement", {}
        columns = {ID: "string", "prediction": predicted, **probabilities}
        for m in self.modalities:
            columns |= {f"prediction/{m}": predicted, f"{certainty}/{m}": "double"}
        return columns | dict.fromkeys(("missing", "fault", "model"), "string")

    @property
    def attributes(self) -> dict[str, str]:
        """`attrs` of what `predict` returns."""
        about, target = self.inputs.about, self.inputs.about["target"]
        named = {"target": target.get("name", ""), "unit": target.get("unit", "")}
        return named | {"task": about["task"], "source": about["source"], "model": self.version}

    # -------------------------------------------------------------------------------------------- one batch
    def predict_batch(self, batch: Batch) -> pd.DataFrame:
        """The predictions of a batch of samples; what can not be decoded is added to its faults."""
        logits = self.logits(self.encode(batch), batch.present)
        fused, present = logits["multi"], batch.present
        predictable = np.any(list(present.values()), axis=0)
        values = [batch.table[ID], self._predictions(fused, predictable)]
        if isinstance(self.task, Classification):
            values += [*np.where(predictable[:, None], fused.softmax(dim=1).numpy(), np.nan).T]
        for m in self.modalities:
            if isinstance(self.task, Classification):
                certainty = logits[m].softmax(dim=1).amax(dim=1)
            else:
                certainty = self.task.confidence(logits[m], self.task.activate(fused))
            values.append(self._predictions(logits[m], present[m]))
            values.append(np.where(present[m], certainty.double().numpy(), np.nan))
        rows = range(len(batch.table))
        values.append(["+".join(m for m in self.modalities if not present[m][i]) for i in rows])
        faults = (batch.faults.get(i, {}) for i in rows)
        values.append(["; ".join(f"{m}: {why}" for m, why in reasons.items()) for reasons in faults])
        return pd.DataFrame(dict(zip(self.columns, [*values, self.version], strict=True)))

    def encode(self, batch: Batch, blank: dict[str, set[int]] | None = None) -> dict[str, Tensor]:
        """Modality → what its encoder gets `[n, …]`, zeros where a sample lacks it; faults are added to the
        batch. `blank`: modality → a set that gets the rows, of those that have it, that hold nothing."""
        inputs = {}
        for m in self.modalities:
            values = self.inputs.empty(m, len(batch.table))
            if len(rows := np.flatnonzero(batch.present[m])):
                cells = batch.table.loc[rows, self.inputs.columns(m)].reset_index(drop=True)
                empty = None if blank is None else blank[m]
                values[rows], faults = self.inputs.encode(m, cells, batch.root, empty)
                batch.fault(m, {int(rows[k]): reason for k, reason in faults.items()})
                values[~batch.present[m]] = 0
            inputs[m] = torch.from_numpy(values)
        return self.windows(inputs)

    def windows(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the encoders get of stored samples: of spectrograms trained on in windows, the middle."""
        shapes = self.shapes
        return {
            m: x if tuple(x.shape[1:]) == shapes[m] else middle(x, shapes[m][-1]) for m, x in stored.items()
        }

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Tensor], present: dict[str, Any]) -> dict[str, Tensor]:
        """Part ("multi", or a modality) → logits `[n, C]`; zeros where a sample has nothing of it. Samples
        that lack the same modalities go through the model together, as many as are faster so."""
        count = len(next(iter(inputs.values())))
        logits = {part: torch.zeros(count, self.task.outputs) for part in ("multi", *self.modalities)}
        masks = np.stack([present[m] for m in self.modalities], axis=1)
        for pattern in np.unique(masks, axis=0):
            if pattern.any():
                rows = torch.from_numpy(np.flatnonzero((masks == pattern).all(axis=1)))
                absent = [m for m, is_present in zip(self.modalities, pattern, strict=True) if not is_present]
                for chunk in rows.split(samples_at_once(self.shapes.values(), self.device)):
                    outputs = self._forward({m: x[chunk] for m, x in inputs.items()}, absent)
                    for part, values in outputs.items():
                        logits[part][chunk] = values.float().cpu()
        return logits

    def _forward(self, inputs: dict[str, Tensor], absent: list[str]) -> dict[str, Tensor]:
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
        available = [m for m in self.modalities if m not in absent]
        return {"multi": fused} | {m: self.model.unimodal_logits(features, m) for m in available}

    def _predictions(self, logits: Tensor, known: Any) -> Any:
        """Class names or values `[n]`, null where they are not `known` `[n]`."""
        predicted = self.task.predict(logits).numpy()
        if not isinstance(self.task, Classification):
            return np.where(known, predicted, np.nan)
        names = np.array(self.task.class_names, object)[predicted]
        return pd.Series(np.where(known, names, None), dtype="str")


# ------------------------------------------------------------------------------------- predictions in a file
def write_predictions(
    predictor: Predictor, data: Any, file: Path, wait: bool = False, size: int = BATCH
) -> int:
    """Write what `Predictor.predict` returns of `data` to the parquet `file`; returns the number of samples.

    Memory does not grow with the samples. Parts are kept in a folder beside the file until it is whole: a
    part, or a whole file, of the same model, rows and files (by size and time) is not computed again.
    `wait` for another process that writes the file; else LockedError is raised."""
    parts = file.with_name(f"{file.name}.parts")
    with locked(file, wait):
        if (rows := _fresh(predictor, data, file, size)) is not None:
            logger.info("%s is fresh: %d samples.", file, rows)
            return rows
        parts.mkdir(parents=True, exist_ok=True)
        schema = pa.schema(predictor.columns)
        tally, digests, written, logged = _Tally(), list[str](), list[Path](), time.monotonic()
        for batch, digest in _digested(predictor, data, size):
            path = parts / f"{len(written):06d}-{digest}.parquet"
            if path.is_file():
                part = pd.read_parquet(path)
            else:
                part = predictor.predict_batch(batch)
                table = pa.Table.from_pandas(part, schema=schema, preserve_index=False)
                with atomic_write(path) as temporary:
                    pq.write_table(table.replace_schema_metadata(None), temporary)
            tally.add(part)
            digests.append(digest)
            written.append(path)
            if time.monotonic() - logged > EVERY:
                logged = time.monotonic()
                logger.info("%d samples are predicted", tally.total)
        metadata = {DIGEST: fingerprint(digests), ATTRS: json.dumps(predictor.attributes)}
        schema = pa.schema(schema, metadata=metadata)
        with atomic_write(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for start in range(0, len(written), TOGETHER):
                writer.write_table(pa.concat_tables(map(pq.read_table, written[start : start + TOGETHER])))
        tally.log()
        shutil.rmtree(parts, ignore_errors=True)
        return tally.total


def _digested(predictor: Predictor, data: Any, size: int) -> Iterator[tuple[Batch, str]]:
    """The batches, each with a hash of the model, its rows and its files (by size and time)."""
    for batch in read_samples(data, predictor.inputs, size=size):
        state = hashlib.blake2b(predictor.version.encode(), digest_size=8)
        state.update(pd.util.hash_pandas_object(batch.table, index=False).to_numpy().tobytes())
        state.update(np.stack(list(batch.present.values())).tobytes())
        state.update(repr(sorted(batch.faults.items())).encode())
        for m, kind in predictor.inputs.kinds.items():
            if not isinstance(kind, ColumnKind) and m in batch.table:
                state.update(cells_state(batch.table.loc[batch.present[m], m], batch.root))
        yield batch, state.hexdigest()


def _fresh(predictor: Predictor, data: Any, file: Path, size: int) -> int | None:
    """The number of samples of a whole file of this model and these data; None if there is none."""
    try:
        about = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return None
    expected = (about.metadata or {}).get(DIGEST, b"").decode()
    actual = fingerprint([digest for _, digest in _digested(predictor, data, size)])
    return int(about.num_rows) if actual == expected else None
