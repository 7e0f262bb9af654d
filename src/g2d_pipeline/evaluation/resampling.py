"""The bootstrap over test samples, or over their groups: every metric of every run on the same resamples.

`scipy.stats.bootstrap` knows no groups, and gathers every resample of every metric by index. Here a resample
is a count for each sample and every metric a function of sums over samples: one matrix product gives the sums
of all runs and resamples (benchmarks/evaluation.py measures both)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from .metrics import NEAR_ZERO, class_probabilities, negative_log, run_parts
from .records import MULTI, Run, modality_order, ordered_runs, select

Floats = npt.NDArray[np.float64]

ENSEMBLE = "ensemble of teachers"
RESAMPLES, RNG_SEED = 1000, 0
CELLS = 5_000_000  # of the matrix of counts, units × resamples, that is held at a time


Piece = tuple[Run, str, str, pd.DataFrame]  # run, split, part, and a row per sample
Units = npt.NDArray[np.int64]  # the unit (group, or the sample itself) of each sample `[n]`


class Key(NamedTuple):
    """Identifies the predictions of a run on a split from a part."""

    method: str
    modality: str
    fold: int
    seed: int
    split: str
    part: str


@dataclass(frozen=True)
class Resampled:
    """The metrics of one part of one run: metric → its value on the samples, and on each resample `[R]`.

    `units`: number of samples, or of groups of samples, that were resampled; `samples`: number of samples;
    `right` `[n]`: whether each is classified correctly (empty for a regression); `draw`: number of the split
    of the data (folds, and splits of each seed, have other samples); `ratio`: samples ÷ those of train."""

    values: Mapping[str, float]
    replicates: Mapping[str, Floats]
    units: int
    samples: int
    right: npt.NDArray[np.bool_]
    draw: int = 0
    ratio: float = 0.0


@dataclass(frozen=True)
class _Columns:
    """The terms of a part's metrics: named sums over the samples of each unit `[q, units]`, and for a
    classification the counts of wrong samples by true and by predicted class, sparse `[C, units]` each."""

    key: Key
    names: tuple[str, ...]
    sums: Floats
    missed: Any = 0
    mistaken: Any = 0
    right: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))


def resample(runs: Sequence[Run]) -> dict[Key, Resampled]:
    """Every part of every run on val and test, bootstrapped; runs with the same samples share the resamples.

    Groups (`group` of `Run.samples`), where there are any, are resampled as wholes: the samples of one are
    not independent. Raises ValueError, which names a run, where runs of one fold and seed have different
    samples."""
    parts = [MULTI, *modality_order(runs)]
    result: dict[Key, Resampled] = {}
    for split in ("val", "test"):
        draws: dict[tuple[str, ...], list[Piece]] = {}
        first: dict[tuple[int, int], tuple[str, tuple[str, ...]]] = {}
        for run in sorted(ordered_runs(runs), key=lambda run: run.fold):
            for piece in (p for p in run_parts(run, parts) if p[0] == split):
                ids = tuple(piece[2]["sample_id"])
                label, expected = first.setdefault((run.fold, run.seed), (run.label, ids))
                if ids != expected:
                    reason = f"its samples of {split} are not those of {label}: train one anew"
                    raise ValueError(f"{run.label}: {reason}")
                draws.setdefault(ids, []).append((run, *piece))
        for draw, pieces in enumerate(draws.values()):
            result |= _resample_split(pieces, draw)
    return result


def _resample_split(pieces: Sequence[Piece], draw: int) -> dict[Key, Resampled]:
    run, *_, first = pieces[0]
    ids, target = first["sample_id"].to_numpy(), first["target"].to_numpy()
    codes, units = _units(run, ids)
    classes = 0
    if run.info["task"] == "classification":
        classes = 1 + int(max(frame[["target", "prediction"]].to_numpy().max() for *_, frame in pieces))
    columns = [_columns(piece, codes, units, classes) for piece in pieces]
    centred = np.zeros(len(ids)) if classes else target - target.mean()
    common = _sum_units(np.stack([np.ones(len(ids)), centred, centred**2]), codes, units)
    true = _count_classes(target[: len(ids) * (classes > 0)], codes, max(classes, 1), units)
    ends = np.cumsum([len(one.names) for one in columns])[:-1]
    chunks: list[list[dict[str, Floats]]] = []
    for counts in _counts(units):
        shared = common @ counts
        class_counts = true @ counts if classes else None
        sums = np.split(np.vstack([one.sums for one in columns]) @ counts, ends)
        chunks.append(
            [
                _classification(one, rows, shared[0], class_counts, counts)
                if classes
                else _regression(one, rows, shared, float(np.var(target)))
                for one, rows in zip(columns, sums, strict=True)
            ]
        )
    train = int((run.samples["split"] == "train").sum()) if "split" in run.samples else 0
    ratio = len(ids) / train if train else 0.0
    result = {}
    for one, *parts in zip(columns, *chunks, strict=True):
        merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        values = {name: float(x[0]) for name, x in merged.items()}
        replicates = {name: x[1:] for name, x in merged.items()}
        result[one.key] = Resampled(values, replicates, units, len(ids), one.right, draw, ratio)
    return result


def _units(run: Run, ids: npt.NDArray[Any]) -> tuple[Units, int]:
    """The unit of each sample `[n]`, and the number of units: groups, else the samples themselves."""
    if "group" not in run.samples:
        return np.arange(len(ids)), len(ids)
    groups = run.samples.set_index("sample_id")["group"].reindex(ids)
    codes, names = pd.factorize(groups.where(groups.notna(), pd.Series(ids, index=groups.index)))
    return codes, len(names)


def _sum_units(values: Floats, codes: Units, units: int) -> Floats:
    """Values by sample `[q, n]` → their sums by unit `[q, units]`."""
    if len(codes) == units:
        return values[:, np.argsort(codes)]
    return np.stack([np.bincount(codes, row, units) for row in values])


def _count_classes(labels: npt.NDArray[Any], codes: Units, classes: int, units: int) -> Any:
    """The number of samples with each label in each unit, sparse `[C, units]`."""
    places = (labels.astype(int), codes[: len(labels)])
    return sparse.coo_array((np.ones(len(labels)), places), shape=(classes, units)).tocsr()


def _columns(piece: Piece, codes: Units, units: int, classes: int) -> _Columns:
    run, split, part, frame = piece
    key = Key(run.method, run.modality, run.fold, run.seed, split, part)
    target, prediction = frame["target"].to_numpy(), frame["prediction"].to_numpy()
    if not classes:
        error = prediction - target
        values = {"rmse": error**2, "mae": np.abs(error), "bias": error}
        if (np.abs(target) > NEAR_ZERO * target.std()).all():
            values["mape"] = 100 * np.abs(error / target)
        return _Columns(key, tuple(values), _sum_units(np.stack(list(values.values())), codes, units))
    right = target == prediction
    values = {"accuracy": right.astype(float), "nll": negative_log(frame["confidence"].to_numpy(float))}
    probabilities = class_probabilities(run, split, part, frame)
    if probabilities is not None:
        p_true = probabilities[np.arange(len(frame)), target.astype(int)]
        values["brier"] = (probabilities**2).sum(axis=1) - 2 * p_true + 1
    sums = _sum_units(np.stack(list(values.values())), codes, units)
    missed, mistaken = (
        _count_classes(x[~right], codes[~right], classes, units) for x in (target, prediction)
    )
    return _Columns(key, tuple(values), sums, missed, mistaken, right)


def _counts(units: int) -> Iterator[Floats]:
    """How often each unit is drawn in each resample, `[units, …]` in chunks; the first column is all ones."""
    rng = np.random.default_rng(RNG_SEED)
    step = max(1, CELLS // units)
    yield np.ones((units, 1))
    for start in range(0, RESAMPLES, step):
        n = min(step, RESAMPLES - start)
        drawn = rng.integers(0, units, (n, units)) + units * np.arange(n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n * units).reshape(n, units).T.astype(float, order="C")


def _classification(one: _Columns, sums: Floats, n: Floats, true: Any, counts: Floats) -> dict[str, Floats]:
    """The metrics on each resample: `sums` `[q, R]`, `n` samples `[R]`, `true`: of each class `[C, R]`."""
    right = true - one.missed @ counts
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.nanmean(right / np.where(true > 0, true, np.nan), axis=0)
        either = true + right + one.mistaken @ counts
        f1 = np.nanmean(2 * right / np.where(either > 0, either, np.nan), axis=0)
    means = dict(zip(one.names, sums / n, strict=True))
    return means | {"balanced_accuracy": recall, "f1_macro": f1}


def _regression(one: _Columns, sums: Floats, shared: Floats, variance: float) -> dict[str, Floats]:
    n, total, squares = shared
    means = dict(zip(one.names, sums / n, strict=True))
    spread = squares / n - (total / n) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one target has no R²
        r2 = np.where(spread > 1e-12 * variance, 1 - means["rmse"] / spread, np.nan)
    return means | {"rmse": np.sqrt(means["rmse"]), "r2": r2}


def ensemble_runs(runs: Sequence[Run]) -> list[Run]:
    """A run for each seed (and fold) that has all teachers, two or more: the mean of their softmax, or of
    their predictions in a regression. Method `ENSEMBLE`; `logits/multi` are the log-probabilities."""
    modalities, teachers = modality_order(runs), dict[tuple[int, int], dict[str, Run]]()
    for run in runs:
        if run.is_teacher:
            teachers.setdefault((run.fold, run.seed), {})[run.modality] = run
    complete = [one for one in teachers.values() if len(one) == len(modalities) > 1]
    ensembles = [_ensemble([by_modality[m] for m in modalities]) for by_modality in complete]
    return [run for run in ensembles if not run.predictions.empty]


def _ensemble(teachers: Sequence[Run]) -> Run:
    first, frames, logits = teachers[0], [pd.DataFrame()], dict[str, Floats]()
    for split in ("val", "test"):
        tables = [select(run.predictions, split=split, part=run.modality) for run in teachers]
        if any(table.empty for table in tables):
            continue
        frame = tables[0].assign(part=MULTI)
        if first.info["task"] == "regression":
            frames.append(frame.assign(prediction=np.mean([t["prediction"] for t in tables], axis=0)))
            continue
        pairs = zip(teachers, tables, strict=True)
        each = [class_probabilities(run, split, run.modality, table) for run, table in pairs]
        known = [p for p in each if p is not None]
        if len(known) == len(teachers):
            mean = np.mean(known, axis=0)
            true = mean[np.arange(len(mean)), frame["target"].to_numpy().astype(int)]
            frames.append(frame.assign(prediction=mean.argmax(axis=1), confidence=true))
            logits[split] = np.log(np.clip(mean, np.finfo(float).tiny, 1.0))
    outputs: dict[str, npt.NDArray[Any]] = {}
    if logits:
        row = np.concatenate([first.rows(split) for split in logits])
        order = np.argsort(row)
        outputs = {"row": row[order], f"logits/{MULTI}": np.concatenate(list(logits.values()))[order]}
    predictions = pd.concat(frames, ignore_index=True)
    return replace(first, method=ENSEMBLE, modality="", predictions=predictions, outputs=outputs)
