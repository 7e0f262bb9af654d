"""A model's outputs for each sample of the evaluation set, kept with its version: what promotion compares.

`evidence.parquet`: a row a sample, in the store's order, with `target` (class index, or a value in the
target's unit), `group` if there are groups, and a list column of logits for each part: `multi`, a modality
alone (`audio`) or missing (`without audio`). `evidence.json`: the `Header`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import ConfigDict, Field, ValidationError

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config.base import Strict
from g2d_pipeline.config.base import Task as TaskName
from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.evaluation import MULTI, Run
from g2d_pipeline.evaluation.robustness import SavedModel
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.files import atomic_write, fingerprint
from g2d_pipeline.models.task import Task, task_from_json

TABLE, HEADER = "evidence.parquet", "evidence.json"
COLUMNS = ("sample_id", "target", "group")
WITHOUT = "without "  # + modality: the part in which it is missing


class Header(Strict):
    """The model's run, task and modalities; `evaluation_set`: the hash of ids and targets."""

    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = 1
    method: str
    modality: str = ""
    seed: int
    fold: int = 0
    task: TaskName
    class_names: tuple[str, ...] = ()
    scaling: dict[str, Any] = Field(default={})  # of a regression: `Regression.to_json`
    unit: str = ""
    modalities: tuple[str, ...]
    samples: int
    groups: int = 0
    evaluation_set: str


@dataclass(frozen=True)
class Evidence:
    """The contents of `evidence.json` and `evidence.parquet`; make it with `read_evidence`."""

    header: Header
    table: pd.DataFrame

    @cached_property
    def task(self) -> Task:
        h = self.header
        return task_from_json(h.scaling or {"name": h.task, "class_names": h.class_names})

    @property
    def labels(self) -> pd.Series:
        """Class names, or values, of the target `[n]`, by sample id."""
        return pd.Series(_labels(self.table, self.header.class_names), self.table["sample_id"], dtype=object)

    def logits(self, part: str) -> npt.NDArray[np.float32] | None:
        """Logits `[n, C]`; None if there are none. Those of all modalities without a modality that the model
        does not use, and from the only one that it uses."""
        used = self.header.modalities
        unused = part.startswith(WITHOUT) and part.removeprefix(WITHOUT) not in used
        column = MULTI if unused or (part,) == used else part
        if column in COLUMNS or column not in self.table:
            return None
        return np.array(self.table[column].tolist(), np.float32)

    def infinite(self, part: str) -> list[str]:
        """The samples whose logits of this part are not finite."""
        if (logits := self.logits(part)) is None:
            return []
        return list(self.table["sample_id"].to_numpy()[~np.isfinite(logits).all(axis=1)])

    def run(self, name: str, parts: Sequence[str], at: npt.NDArray[Any] | None = None) -> Run:
        """A `Run` of method `name` with the predictions of these parts, if they are there and finite; `at`
        `[n]`: of some samples only, each independent of the others."""
        table = self.table if at is None else self.table[at].drop(columns="group")
        target = self.task.encode(torch.tensor(table["target"].to_numpy()))
        outputs: dict[str, npt.NDArray[Any]] = {"row": np.arange(len(table))}
        frames = []
        for part in parts:
            logits = self.logits(part)
            if logits is None or not np.isfinite(logits).all():
                continue
            outputs[f"logits/{part}"] = logits if at is None else logits[at]
            values = torch.from_numpy(outputs[f"logits/{part}"])
            confidence = self.task.confidence(values, target).double().clamp(0, 1)
            columns = {"prediction": self.task.predict(values).numpy(), "confidence": confidence.numpy()}
            frames.append(table[["sample_id", "target"]].assign(split="test", part=part, **columns))
        info = {"task": self.header.task, "modalities": [part for part in parts if part != MULTI]}
        samples = table.filter(COLUMNS).assign(split="test").reset_index(drop=True)
        predictions = pd.concat(frames or [pd.DataFrame()], ignore_index=True)
        return Run(name, "", 0, pd.DataFrame(), predictions, info, 0, outputs, samples)


def write_evidence(
    folder: Path,
    run: Run,
    trained: TrainedFolder,
    samples: pd.DataFrame,
    ids: Sequence[str] | None = None,
    *,
    store: FeatureStore | None = None,
) -> None:
    """Write the outputs of a trained model for the evaluation set into a version's `folder`.

    The set: the samples of the test split in `samples` (`sample_id`, `split`, `target`, perhaps `group`, in
    the store's order), or only those of `ids`. `store`: needed if encoders exchange features (mmtm), which
    have to run again for a missing modality; everything else is stored. Raises DataError if ids are not among
    the test samples, or the run's outputs are missing or not those of the model."""
    run = replace(run, samples=samples)
    table = samples.iloc[run.rows("test")].filter(COLUMNS).reset_index(drop=True)
    known = pd.Index(table["sample_id"])
    wanted = known if ids is None else pd.Index(ids).unique()
    if len(missing := wanted.difference(known)):
        headline = f"{len(missing)} of {len(wanted)} samples of the evaluation set are not in the test split"
        remedy = "Give them back to the raw data, or begin a new evaluation set."
        raise data_error(f"{headline} of {trained.path}", missing, remedy)
    at = np.sort(known.get_indexer(wanted))
    table = table.iloc[at].reset_index(drop=True)
    try:
        model = SavedModel(run, trained, store, torch.device("cpu"))
        logits = {MULTI: run.output(f"logits/{run.modality or MULTI}", "test")}
        for m in model.modalities if len(model.modalities) > 1 else ():
            logits[m] = run.output(f"logits/{m}", "test")
            logits[WITHOUT + m] = model.without(frozenset({m})).numpy()
    except (ValueError, KeyError) as error:
        raise DataError(f"{trained.path}: what it predicts can not be kept: {error.args[0]}") from error
    task, inputs = trained.info["architecture"]["task"], trained.path / "inputs.json"
    target = json.loads(inputs.read_text("utf-8"))["target"] if inputs.is_file() else {}
    names = tuple(task.get("class_names", ()))
    header = Header(
        **{"method": run.method, "modality": run.modality, "seed": run.seed, "fold": run.fold},
        task=run.info["task"],
        class_names=names,
        scaling={} if names else task,
        unit=str(target.get("unit", "")),
        modalities=model.modalities,
        samples=len(table),
        groups=table["group"].nunique() if "group" in table else 0,
        evaluation_set=evaluation_set_hash(table, names),
    )
    table = table.assign(**{part: list(values[at]) for part, values in logits.items()})
    with atomic_write(folder / TABLE) as path:
        table.to_parquet(path, index=False)
    with atomic_write(folder / HEADER) as path:
        path.write_text(json.dumps(header.model_dump(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def evaluation_set_hash(table: pd.DataFrame, class_names: Sequence[str]) -> str:
    """A hash of the ids and targets (classes by name) of samples in any order."""
    table = table.sort_values("sample_id")
    return fingerprint([table["sample_id"].tolist(), _labels(table, class_names)])


def _labels(table: pd.DataFrame, class_names: Sequence[str]) -> list[Any]:
    values = table["target"].tolist()
    return [class_names[int(value)] for value in values] if class_names else values


def read_evidence(folder: Path) -> Evidence:
    """The evidence of a version. Raises DataError if a file is missing or damaged, or the table is not that
    of the header."""
    try:
        header = Header.model_validate_json((folder / HEADER).read_bytes())
        table = pd.read_parquet(folder / TABLE)
        evidence = Evidence(header, table)
        shape, actual = (
            (header.samples, evidence.task.outputs),
            evaluation_set_hash(table, header.class_names),
        )
        parts = [MULTI, *(c for c in table.columns if c not in (*COLUMNS, MULTI))]
        wrong = [part for part in parts if np.stack(table[part].tolist()).shape != shape]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing: the version was registered without it.") from None
    except (ValidationError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DataError(f"The evidence in {folder} can not be read ({reason}).") from error
    if wrong or actual != header.evaluation_set:
        other = f"logits of {wrong[0]}" if wrong else "samples"
        raise DataError(f"The evidence in {folder} is damaged: {TABLE} has other {other} than {HEADER} says.")
    return evidence
