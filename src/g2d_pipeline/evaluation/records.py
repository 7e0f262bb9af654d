"""The input of evaluation: one `Run` per trained model, and the order of runs in tables and figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

TEACHER = "unimodal"  # the `method` of every teacher
MULTI = "multi"  # the `part` of a prediction made from all modalities; every other part is a modality's name
SELECTIONS = {
    "val": "best validation epoch",
    "last": "last epoch",
    "test": "selection on test (published protocol)",
}
"""`selection` → how the evaluated epoch was chosen, as text."""


class Labelled:
    """The identity of a run, and its label."""

    method: str
    modality: str
    seed: int
    fold: int

    @property
    def repeated(self) -> dict[str, int]:
        """`seed`, and before it `fold` where there are several: the columns of tables."""
        return ({"fold": self.fold} if self.fold else {}) | {"seed": self.seed}

    @property
    def label(self) -> str:
        """`g2d, seed 0`, or `unimodal · audio, fold 2, seed 0`."""
        numbers = (f"{name} {number}" for name, number in self.repeated.items())
        return ", ".join([row_label(self.method, self.modality), *numbers])


@dataclass(frozen=True)
class Run(Labelled):
    """One trained model, as its artefact describes it.

    `method` is `"unimodal"` for a teacher, and `modality` is then the teacher's; a student's `modality` is
    empty. `history` has a row an epoch, `predictions` a row per sample, split and part, `info` is the
    artefact's `model.json` (`task`, `metric`, `selection`, `selected_epoch`, `modalities` in the
    configuration's order, …). `fold`: of a cross-validation, from 1; 0: there is one split. `outputs`: the
    stored arrays (`artefacts.Trained`); `samples`: a row a sample of the feature store, `sample_id`, `split`,
    `target` and, where there are groups, `group`."""

    method: str
    modality: str
    seed: int
    history: pd.DataFrame
    predictions: pd.DataFrame
    info: dict[str, Any]
    fold: int = 0
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def is_teacher(self) -> bool:
        return self.method == TEACHER

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The rows `[n]` of a split in `samples`, ascending: the order of `output` and of the predictions."""
        return np.flatnonzero((self.samples["split"] == split).to_numpy())

    def output(self, name: str, split: str) -> npt.NDArray[Any]:
        """The stored array `name` (`logits/multi`, `feature/<m>`, …) of the samples of a split, `[n, …]`.

        Raises KeyError where it is not stored, ValueError where it is not stored for this split."""
        stored, rows = np.asarray(self.outputs["row"]), self.rows(split)
        at = np.searchsorted(stored, rows)
        if len(rows) and (at[-1] >= len(stored) or (stored[at] != rows).any()):
            raise ValueError(f"{self.label}: {name} is not stored for the {split} split")
        return np.asarray(self.outputs[name][at])


@dataclass(frozen=True)
class Failure(Labelled):
    """A run that has no model: its training failed, for this reason (a line)."""

    method: str
    modality: str
    seed: int
    reason: str
    fold: int = 0


def select(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows of `frame` whose columns have the values `equal`."""
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    return frame


def repeat_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that tell apart the runs of one method: `seed`, and before it `fold` where there is one."""
    return [column for column in ("fold", "seed") if column in frame]


def repeats_note(runs: int, folds: int) -> str:
    """`1 seed`, `3 seeds`, `5 folds`, or `5 folds × 3 seeds`; `folds` 0: there is one split."""
    seeds = runs // max(folds, 1)
    counts = [f"{folds} fold{'s' * (folds > 1)}"] * (folds > 0)
    return " × ".join(counts + [f"{seeds} seed{'s' * (seeds > 1)}"] * (seeds > 1 or not folds))


def row_label(method: str, modality: str) -> str:
    """The name of a run in tables and figures: `"unimodal · audio"`, of a student its method."""
    return f"{method} · {modality}" if modality else method


def modality_order(runs: Iterable[Run]) -> list[str]:
    """Every modality of `runs`, in the configuration's order (that of the runs with the most of them)."""
    lists = sorted((run.info.get("modalities") or [run.modality] for run in runs), key=len, reverse=True)
    return [m for m in dict.fromkeys(chain.from_iterable(lists)) if m]


def ordered_runs(runs: Sequence[Run]) -> list[Run]:
    """Teachers in the configuration's order, then methods by appearance; folds and seeds ascending."""
    names = [(TEACHER, m) for m in modality_order(runs)]
    names += dict.fromkeys((run.method, run.modality) for run in runs if not run.is_teacher)
    return sorted(runs, key=lambda run: (names.index((run.method, run.modality)), run.fold, run.seed))


def check_runs(runs: Sequence[Run]) -> str:
    """The one task of `runs`. Raises ValueError for none, a run that comes twice, and several tasks."""
    if not runs:
        raise ValueError("there are no runs to evaluate")
    seen: set[str] = set()
    for run in runs:
        if run.is_teacher != bool(run.modality):
            raise ValueError(f"run {run.label}: a teacher, and only a teacher, has a modality")
        if run.label in seen:
            raise ValueError(f"{run.label}, is there twice")
        seen.add(run.label)
    tasks = sorted({str(run.info["task"]) for run in runs})
    if len(tasks) > 1:
        raise ValueError(f"runs of different tasks cannot be compared: {', '.join(tasks)}")
    return tasks[0]


def history_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """All histories, concatenated, with `method`, `modality` (`fold`, where there are several) and `seed` in
    front. A column that a method does not log (say `loss/logit_distillation`) is NaN in its rows."""
    frames = []
    for run in ordered_runs(runs):
        labels = {"method": run.method, "modality": run.modality, **run.repeated}
        frames.append(pd.concat([pd.DataFrame(labels, run.history.index), run.history], axis=1))
    return pd.concat(frames, ignore_index=True)
