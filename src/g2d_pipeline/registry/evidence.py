"""What a model says of each sample of the evaluation set, kept with the version: all that promotion compares.

`evidence.parquet`: a row a sample, in the store's order, with `target` (class index, or a value in the
target's unit), `group` where there are groups, and a list column of logits for each part: `multi`, a modality
alone (`audio`) or missing (`without audio`). `evidence.json`: whose they are (`Header`)."""

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
from g2d_pipeline.models.task import Classification, Regression, Task

TABLE, HEADER = "evidence.parquet", "evidence.json"
COLUMNS = ("sample_id", "target", "group")
WITHOUT = "without "  # modality: the part that does without it


class Header(Strict):
    """Of the model: its run, task and modalities; `evaluation_set`: the hash of ids and targets."""

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
    """What `evidence.json` and `evidence.parquet` say; make it with `read_evidence`."""

    header: Header
    table: pd.DataFrame

    @cached_property
    def task(self) -> Task:
        h = self.header
        if h.task == "classification":
            return Classification(h.class_names)
        return Regression(**{key: value for key, value in h.scaling.items() if key != "name"})

    def logits(self, part: str) -> npt.NDArray[np.float32] | None:
        """Logits `[n, C]`; None where there are none. Without a modality that the model does not use, and
        from the only one that it uses, it says what it says anyway."""
        used = self.header.modalities
        unused = part.startswith(WITHOUT) and part.removeprefix(WITHOUT) not in used
        column = MULTI if unused or (part,) == used else part
        if column in COLUMNS or column not in self.table:
            return None
        return np.array(self.table[column].tolist(), np.float32)

    def infinite(self, part: str) -> list[str]:
        """The samples whose logits of this part are not finite."""
        logits = self.logits(part)
        if logits is None:
            return []
        return list(self.table["sample_id"].to_numpy()[~np.isfinite(logits).all(axis=1)])

    def run(self, name: str, parts: Sequence[str], at: npt.NDArray[Any] | None = None) -> Run:
        """A `Run` of method `name` that predicts these parts of it, as far as they are there and finite; `at`
        `[n]`: of some samples only, each for itself."""
        table = self.table if at is None else self.table[at].drop(columns="group")
        target = torch.tensor(table["target"].to_numpy())
        outputs: dict[str, npt.NDArray[Any]] = {"row": np.arange(len(table))}
        frames = []
        for part in parts:
            logits = self.logits(part)
            if logits is None or not np.isfinite(logits).all():
                continue
            chosen = outputs[f"logits/{part}"] = logits if at is None else logits[at]
            values = torch.from_numpy(chosen)
            certain = self.task.confidence(values, self.task.encode(target)).double().clamp(0, 1)
            columns = {"prediction": self.task.predict(values).numpy(), "confidence": certain.numpy()}
            frames.append(table[["sample_id", "target"]].assign(split="test", part=part, **columns))
        info = {"task": self.header.task, "modalities": [part for part in parts if part != MULTI]}
        columns_kept = table[[c for c in COLUMNS if c in table]]
        predictions = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        samples = columns_kept.assign(split="test").reset_index(drop=True)
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
    """Write what the trained model says of the evaluation set into a version's `folder`.

    The set: the samples of the test split in `samples` (`sample_id`, `split`, `target`, perhaps `group`, in
    the store's order), those of `ids` alone where given. `store`: needed where encoders exchange features
    (mmtm), which have to run again for a missing modality; everything else is stored. Raises DataError where
    ids are not among the test samples, or the run's outputs are missing or not those of the model."""
    run = replace(run, samples=samples)
    table = samples.iloc[run.rows("test")].reset_index(drop=True)
    at = _positions(table, ids, trained.path)
    architecture, whole = trained.info["architecture"], run.modality or MULTI
    try:
        model = SavedModel(run, trained, store, torch.device("cpu"))
        logits = {MULTI: run.output(f"logits/{whole}", "test")}
        for m in model.modalities if len(model.modalities) > 1 else ():
            logits[m] = run.output(f"logits/{m}", "test")
            logits[WITHOUT + m] = model.without(frozenset({m})).numpy()
    except (ValueError, KeyError) as error:
        raise DataError(f"{trained.path}: what it predicts can not be kept: {error.args[0]}") from error
    table = table.loc[at, [c for c in COLUMNS if c in table]].reset_index(drop=True)
    names = tuple(architecture["task"].get("class_names", ()))
    header = Header(
        **{"method": run.method, "modality": run.modality, "seed": run.seed, "fold": run.fold},
        task=run.info["task"],
        class_names=names,
        scaling={} if names else architecture["task"],
        unit=_unit(trained.path),
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


def _positions(table: pd.DataFrame, ids: Sequence[str] | None, path: Path) -> npt.NDArray[np.int64]:
    """Where the samples of the set are among the test samples, ascending."""
    known = pd.Index(table["sample_id"])
    wanted = known if ids is None else pd.Index(list(dict.fromkeys(ids)))
    if len(lacking := wanted.difference(known)):
        words = f"{len(lacking)} of {len(wanted)} samples of the evaluation set are not in the test split of"
        remedy = "Give them back to the raw data, or begin a new evaluation set."
        raise data_error(f"{words} {path}", lacking, remedy)
    at: npt.NDArray[np.int64] = np.sort(known.get_indexer(wanted))
    return at


def _unit(model: Path) -> str:
    file = model / "inputs.json"
    return str(json.loads(file.read_text("utf-8"))["target"].get("unit", "")) if file.is_file() else ""


def evaluation_set_hash(table: pd.DataFrame, class_names: Sequence[str]) -> str:
    """Of the ids and targets (classes by name) of samples in any order."""
    table = table.sort_values("sample_id")
    return fingerprint([table["sample_id"].tolist(), labels(table, class_names)])


def labels(table: pd.DataFrame, class_names: Sequence[str]) -> list[Any]:
    """The targets `[n]`: class names, or values."""
    values = table["target"].tolist()
    return [class_names[int(value)] for value in values] if class_names else values


def read_evidence(folder: Path) -> Evidence:
    """What `write_evidence` wrote. Raises DataError where a file is missing, damaged, or not what its header
    says."""
    try:
        header = Header.model_validate_json((folder / HEADER).read_bytes())
        table = pd.read_parquet(folder / TABLE)
        evidence = Evidence(header, table)
        width, hashed = evidence.task.outputs, evaluation_set_hash(table, header.class_names)
        parts = [MULTI, *(c for c in table.columns if c not in (*COLUMNS, MULTI))]
        shapes = {part: np.stack(table[part].tolist()).shape for part in parts}
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing: the version was registered without it.") from None
    except (ValidationError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        words = " ".join(str(error).split())[:300]
        raise DataError(
            f"The evidence in {folder} can not be read ({type(error).__name__}: {words})."
        ) from error
    wrong = [part for part, shape in shapes.items() if shape != (header.samples, width)]
    if wrong or hashed != header.evaluation_set:
        what = f"logits of {wrong[0]}" if wrong else "samples"
        raise DataError(f"The evidence in {folder} is damaged: {TABLE} has other {what} than {HEADER} says.")
    return evidence
