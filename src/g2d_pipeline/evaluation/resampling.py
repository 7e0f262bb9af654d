"""The bootstrap over test samples, or over their groups: every metric of every run on the same resamples.

`scipy.stats.bootstrap` knows no groups, and gathers every resample of every metric by index. Here a resample
is a count for each sample and every metric a function of sums over samples: one matrix product gives the sums
of all runs and resamples (benchmarks/evaluation.py measures both)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from .metrics import NEAR_ZERO, class_probabilities, negative_log, run_parts
from .records import MULTI, Run, modality_order, ordered_runs

Floats = npt.NDArray[np.float64]

ENSEMBLE = "ensemble of teachers"
RESAMPLES, RNG_SEED = 1000, 0
CELLS = 5_000_000  # of the matrix of counts, units × resamples, that is held at a time


Piece = tuple[Run, str, str, pd.DataFrame]
"""Predictions of a run: split, part, and a row a sample."""


class Key(NamedTuple):
    """Which predictions: of a run, on a split, from a part."""

    method: str
    modality: str
    fold: int
    seed: int
    split: str
    part: str


@dataclass(frozen=True)
class Resampled:
    """The metrics of one part of one run: metric → its value on the samples, and on each resample `[R]`.

    `units`: how many samples, or groups of samples, were resampled; `samples`: of how many in all; `right`
    `[n]`: whether each is classified rightly (empty for a regression). `draw`: of which split of the data,
    numbered (folds, and splits of each seed, have other samples); `ratio`: samples here ÷ those of train."""

    values: Mapping[str, float]
    replicates: Mapping[str, Floats]
    units: int
    samples: int
    right: npt.NDArray[np.bool_]
    draw: int = 0
    ratio: float = 0.0


@dataclass(frozen=True)
class _Columns:
    """What a part's metrics are made of: named sums over samples `[units]`, and for a classification the
    rows of samples that are wrong by true and by predicted class, `[C, units]` each."""

    key: Key
    names: tuple[str, ...]
    sums: Floats
    missed: Any
    mistaken: Any
    right: npt.NDArray[np.bool_]


def resample(runs: Sequence[Run]) -> dict[Key, Resampled]:
    """Every part of every run on val and test, bootstrapped; runs with the same samples share the resamples.

    Groups (`group` of `Run.samples`), where there are any, are resampled as wholes: the samples of one are
    not independent. Raises ValueError, and names a run, where runs of one fold and seed have different
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
                    words = f"its samples of {split} are not those of {label}: train one anew"
                    raise ValueError(f"{run.label}: {words}")
                draws.setdefault(ids, []).append((run, *piece))
        for draw, pieces in enumerate(draws.values()):
            result |= _resample_split(pieces, draw)
    return result


def _resample_split(pieces: Sequence[Piece], draw: int) -> dict[Key, Resampled]:
    run, split, _, first = pieces[0]
    ids, target = first["sample_id"].to_numpy(), first["target"].to_numpy()
    codes, units = _units(run, ids)
    classes = 0
    if run.info["task"] == "classification":
        classes = 1 + int(max(frame[["target", "prediction"]].to_numpy().max() for *_, frame in pieces))
    columns = []
    for run, split, part, frame in pieces:
        key = Key(run.method, run.modality, run.fold, run.seed, split, part)
        columns.append(_columns(key, run, frame, codes, units, classes))
    centred = np.zeros(len(ids)) if classes else target - target.mean()
    common = _sum_units(np.stack([np.ones(len(ids)), centred, centred**2]), codes, units)
    true = _class_rows(target, codes, np.full(len(ids), classes > 0), (max(classes, 1), units))
    chunks: list[list[dict[str, Floats]]] = []
    for counts in _counts(units):
        shared = common @ counts
        of_class = true @ counts if classes else None
        sums = np.vstack([one.sums for one in columns]) @ counts
        rows = iter(np.split(sums, np.cumsum([len(one.names) for one in columns])[:-1]))
        chunks.append(
            [
                _classification(one, next(rows), shared[0], of_class, counts)
                if classes
                else _regression(one, next(rows), shared, float(np.var(target)))
                for one in columns
            ]
        )
    result, train = {}, int((run.samples["split"] == "train").sum()) if "split" in run.samples else 0
    for i, one in enumerate(columns):
        merged = {name: np.concatenate([chunk[i][name] for chunk in chunks]) for name in chunks[0][i]}
        values = {name: float(x[0]) for name, x in merged.items()}
        replicates = {name: x[1:] for name, x in merged.items()}
        ratio = len(ids) / train if train else 0.0
        result[one.key] = Resampled(values, replicates, units, len(ids), one.right, draw, ratio)
    return result


def _units(run: Run, ids: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], int]:
    """The unit of each sample `[n]`, and how many there are: groups, else the samples themselves."""
    if "group" not in run.samples:
        return np.arange(len(ids)), len(ids)
    groups = run.samples.set_index("sample_id")["group"].reindex(ids)
    codes, names = pd.factorize(groups.where(groups.notna(), pd.Series(ids, index=groups.index)))
    return codes, len(names)


def _sum_units(values: Floats, codes: npt.NDArray[np.int64], units: int) -> Floats:
    """Columns a sample `[q, n]` → summed by unit `[q, units]`."""
    if len(codes) == units:
        return values[:, np.argsort(codes)]
    return np.stack([np.bincount(codes, row, units) for row in values])


def _class_rows(
    classes: npt.NDArray[Any],
    codes: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
    shape: tuple[int, int],
) -> Any:
    """How many of the `chosen` samples of each unit are of each class: sparse `[C, units]`."""
    where = (classes[chosen].astype(int), codes[chosen])
    return sparse.coo_array((np.ones(int(chosen.sum())), where), shape=shape).tocsr()


def _columns(
    key: Key, run: Run, frame: pd.DataFrame, codes: npt.NDArray[np.int64], units: int, classes: int
) -> _Columns:
    target, prediction = frame["target"].to_numpy(), frame["prediction"].to_numpy()
    if not classes:
        error = prediction - target
        values = {"rmse": error**2, "mae": np.abs(error), "bias": error}
        if (np.abs(target) > NEAR_ZERO * target.std()).all():
            values["mape"] = 100 * np.abs(error / target)
        right = np.zeros(0, bool)
        return _Columns(
            key, tuple(values), _sum_units(np.stack(list(values.values())), codes, units), 0, 0, right
        )
    right = target == prediction
    values = {"accuracy": right.astype(float), "nll": negative_log(frame["confidence"].to_numpy(float))}
    probabilities = class_probabilities(run, key.split, key.part, frame)
    if probabilities is not None:
        of_true = probabilities[np.arange(len(frame)), target.astype(int)]
        values["brier"] = (probabilities**2).sum(axis=1) - 2 * of_true + 1
    sums = _sum_units(np.stack(list(values.values())), codes, units)
    missed, mistaken = (_class_rows(x, codes, ~right, (classes, units)) for x in (target, prediction))
    return _Columns(key, tuple(values), sums, missed, mistaken, right)


def _counts(units: int) -> Iterator[Floats]:
    """How often each unit is drawn in each resample, `[units, …]` by pieces; the first column is all ones."""
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
    complete = [own for own in teachers.values() if len(own) == len(modalities) > 1]
    ensembles = [_ensemble([own[m] for m in modalities]) for own in complete]
    return [run for run in ensembles if not run.predictions.empty]


def _ensemble(teachers: Sequence[Run]) -> Run:
    first, frames, logits = teachers[0], [pd.DataFrame()], dict[str, Floats]()
    own = [{split: frame for split, _, frame in run_parts(run, [run.modality])} for run in teachers]
    for split in [split for split in ("val", "test") if all(split in one for one in own)]:
        frame = own[0][split].assign(part=MULTI)
        if first.info["task"] == "regression":
            frames.append(frame.assign(prediction=np.mean([one[split]["prediction"] for one in own], axis=0)))
            continue
        each = [
            class_probabilities(m, split, m.modality, one[split])
            for m, one in zip(teachers, own, strict=True)
        ]
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
