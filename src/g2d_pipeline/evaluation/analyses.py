"""The paper's analyses (g2d.md §9) for any number of modalities and any method: runs in, tidy frames out.

Everything comes from stored outputs and histories. A run that lacks what an analysis needs has no rows."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .metrics import evaluate_predictions
from .records import MULTI, Run, ordered_runs, select

Rows = Iterator[dict[Any, Any]]
Scores = Mapping[tuple[str, str], float]  # (label of a run, split) → its selection metric
SPLITS = ("val", "test")
POINTS = 300  # samples of a projection
PROBED = {"classification": ("accuracy", "f1_macro"), "regression": ("rmse", "r2")}  # metrics of a probe
FRAMES: Mapping[str, tuple[str, ...]] = {
    "unimodal_curves": ("epoch", "split", "part", "metric", "value", "teacher"),
    "confidence": ("epoch", "modality", "confidence"),
    "gap": ("split", "first", "second", "distance"),
    "projection": ("sample_id", "target", "modality", "x", "y"),
    "alignment": ("split", "modality", "cosine"),
    "alignment_curves": ("epoch", "modality", "cosine"),
    "confidence_ratio": ("split", "modality", "student", "teacher", "ratio", "weakest"),
    "gradients": ("epoch", "modality", "grad_norm", "kappa"),
    "alpha_beta": ("alpha", "beta", "split", "metric", "value"),
    "probes": ("modality", "split", "metric", "value"),
    "robustness": ("modality", "corruption", "strength", "label", "metric", "value", "kept"),
    "shapley": ("part", "metric", "value"),
    "forwards": ("modality", "samples", "forwards"),
}
"""Name of a frame → its columns after `method`, (`fold`, where there are several,) and `seed`.

- `unimodal_curves` (Fig. 1): the selection metric by epoch of the whole ("multi") and of each modality inside
  a student, and of each teacher; `teacher`: what the modality's teacher reaches on the same split.
- `confidence` (Fig. 3): a teacher's mean confidence ρ on the training batches of a student's epoch.
- `gap` (Fig. 4): the distance of the centroids of two modalities' L2-normalised features.
- `projection` (Fig. 4): the two first principal components of those features of at most `POINTS` test
  samples, fitted on all modalities of a run together; of the first seed (and fold) of each method.
- `alignment` (Fig. 5): the mean cosine of student's and teacher's features, where they are equally wide;
  `alignment_curves`: on val, by epoch, of students that were trained with teachers.
- `confidence_ratio` (Fig. 6): mean confidence of a modality alone inside the student ÷ of its teacher;
  `weakest`: of the modality whose teacher is least confident on train.
- `gradients`: the norm of an encoder's gradient and its coefficient κ, means over an epoch's batches.
- `alpha_beta` (Table 7): the selection metric of the whole by α and β, where runs of one algorithm vary them.
- `probes`: what a linear model, fitted on val, reads from the frozen features of one modality: see `_probes`.
- `robustness`: a modality "absent" (strength 1) or corrupted; `label`: corruption and strength in words;
  `kept`: the share of the value of the same samples unharmed (of RMSE the inverse, of R² NaN).
- `shapley`: φ of accuracy, or of −RMSE in the target's unit; over the parts they sum to v(all) − v(∅).
- `forwards`: how many times an encoder ran over so many test samples to make the two."""

OF_TEACHERS = ("unimodal_curves", "probes")  # frames with rows of teachers, too, whose method is "unimodal"


def analysis_frames(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Every frame of `FRAMES`, runs in the order of all tables; those that need further forwards have no rows
    (see `robustness.robustness_frames`)."""
    runs = ordered_runs(runs)
    teachers = {(run.modality, run.fold, run.seed): run for run in runs if run.is_teacher}
    students = [run for run in runs if not run.is_teacher]
    first = {run.method: run for run in reversed(students)}
    scores = {(run.label, split): _score(run, split) for run in runs for split in SPLITS}
    per_run: dict[str, Callable[[Run], Rows]] = {
        "unimodal_curves": lambda run: _curves(run, _teachers_of(run, teachers), scores),
        "confidence": lambda run: _history(run, confidence="confidence"),
        "gap": _gap,
        "projection": lambda run: _projection(run) if first[run.method] is run else iter(()),
        "alignment": lambda run: _alignment(run, _teachers_of(run, teachers)),
        "alignment_curves": lambda run: _history(run, cosine="val/cosine"),
        "confidence_ratio": lambda run: _confidence_ratio(run, _teachers_of(run, teachers)),
        "gradients": lambda run: _history(run, grad_norm="grad_norm", kappa="kappa"),
        "alpha_beta": lambda run: _alpha_beta(run, students, scores),
        "probes": _probes,
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in FRAMES}
    for name, analyse in per_run.items():
        chosen = runs if name in OF_TEACHERS else students
        rows[name] = [{"method": run.method, **run.repeated, **row} for run in chosen for row in analyse(run)]
    return {name: frame_of(name, records, runs) for name, records in rows.items()}


def frame_of(name: str, rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> pd.DataFrame:
    """The frame `name` of `FRAMES` from its rows."""
    fold = ["fold"] * any(run.fold for run in runs)
    return pd.DataFrame(list(rows), columns=["method", *fold, "seed", *FRAMES[name]])


def _teachers_of(run: Run, teachers: Mapping[tuple[str, int, int], Run]) -> dict[str, Run]:
    """m → the teacher of the run's fold and seed, where there is one."""
    keys = {m: (m, run.fold, run.seed) for m in run.info["modalities"]}
    return {m: teachers[key] for m, key in keys.items() if key in teachers}


def _stored(run: Run, name: str, split: str) -> npt.NDArray[np.float64] | None:
    """A stored array as float64; None where the run has none for this split."""
    try:
        values = run.output(name, split)
    except (KeyError, ValueError):
        return None
    return values.astype(np.float64) if len(values) else None


def normalised(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Features `[n, D]` scaled to length 1 per sample; zeros stay zeros."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def _features(run: Run, split: str) -> dict[str, npt.NDArray[np.float64]]:
    """m → its normalised features `[n, D]`, where they are stored; padded with zeros to the greatest width,
    which keeps lengths and cosines."""
    stored = {m: _stored(run, f"feature/{m}", split) for m in run.info["modalities"]}
    present = {m: normalised(x) for m, x in stored.items() if x is not None}
    width = max((x.shape[1] for x in present.values()), default=0)
    return {m: np.pad(x, ((0, 0), (0, width - x.shape[1]))) for m, x in present.items()}


def _curves(run: Run, teachers: Mapping[str, Run], scores: Scores) -> Rows:
    for split in SPLITS:
        for part in [MULTI, *run.info["modalities"]]:
            if (column := f"{split}/{part}") in run.history:
                level = scores[teachers[part].label, split] if part in teachers else np.nan
                shared = {"split": split, "part": part, "metric": run.info["metric"]}
                scored = run.history[["epoch", column]].dropna()  # test is scored when it counts
                for epoch, value in scored.itertuples(index=False, name=None):
                    yield {"epoch": epoch, **shared, "value": value, "teacher": level}


def _score(run: Run, split: str) -> float:
    """The selection metric of the whole (of a teacher: its modality); NaN without predictions."""
    rows = select(run.predictions, split=split, part=run.modality or MULTI)
    return evaluate_predictions(rows, run.info["task"])[run.info["metric"]] if len(rows) else np.nan


def _history(run: Run, **columns: str) -> Rows:
    """Columns `<prefix>/<m>` of the history, by epoch and modality."""
    for m in run.info["modalities"]:
        logged = {f"{prefix}/{m}": name for name, prefix in columns.items()}
        if logged.keys() & set(run.history):
            frame = run.history.reindex(columns=["epoch", *logged]).rename(columns=logged)
            yield from frame.assign(modality=m).to_dict(orient="records")


def _gap(run: Run) -> Rows:
    for split in SPLITS:
        centroids = {m: x.mean(axis=0) for m, x in _features(run, split).items()}
        for (first, a), (second, b) in combinations(centroids.items(), 2):
            yield {"split": split, "first": first, "second": second, "distance": np.linalg.norm(a - b)}


def _projection(run: Run) -> Rows:
    from sklearn.decomposition import PCA

    features = _features(run, "test")
    every = np.concatenate(list(features.values())) if len(features) > 1 else np.empty((0, 0))
    if min(every.shape) < 2:
        return
    pca = PCA(2, svd_solver="covariance_eigh").fit(every)
    rows = run.rows("test")
    drawn = np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).astype(int)
    samples = run.samples.iloc[rows[drawn]][["sample_id", "target"]]
    for m, values in features.items():
        x, y = pca.transform(values[drawn]).T
        yield from samples.assign(modality=m, x=x, y=y).to_dict(orient="records")


def _alignment(run: Run, teachers: Mapping[str, Run]) -> Rows:
    for split in SPLITS:
        for m, teacher in teachers.items():
            a, b = (_stored(model, f"feature/{m}", split) for model in (run, teacher))
            if a is not None and b is not None and a.shape == b.shape:
                cosine = (normalised(a) * normalised(b)).sum(axis=1).mean()
                yield {"split": split, "modality": m, "cosine": cosine}


def _confidence_ratio(run: Run, teachers: Mapping[str, Run]) -> Rows:
    on_train = {m: _stored(teacher, f"confidence/{m}", "train") for m, teacher in teachers.items()}
    means = {m: values.mean() for m, values in on_train.items() if values is not None}
    weakest = min(means, key=means.__getitem__, default=None)
    for split in SPLITS:
        for m, teacher in teachers.items():
            a, b = (_stored(model, f"confidence/{m}", split) for model in (run, teacher))
            if a is not None and b is not None:
                ratio = a.mean() / b.mean() if b.mean() > 0 else np.nan
                values = {"student": a.mean(), "teacher": b.mean(), "ratio": ratio}
                yield {"split": split, "modality": m, **values, "weakest": m == weakest}


def _alpha_beta(run: Run, students: Sequence[Run], scores: Scores) -> Rows:
    """Where runs of the same algorithm differ in α or β."""

    def parameters(student: Run) -> tuple[Any, Any, Any]:
        values = student.info.get("parameters", {})
        return student.info.get("algorithm", student.method), values.get("alpha"), values.get("beta")

    algorithm, alpha, beta = parameters(run)
    varied = {p for p in map(parameters, students) if p[0] == algorithm}
    if None not in (alpha, beta) and len(varied) > 1:
        for split in SPLITS:
            value = {"metric": run.info["metric"], "value": scores[run.label, split]}
            yield {"alpha": alpha, "beta": beta, "split": split, **value}


def _probes(run: Run) -> Rows:
    """Rows of the frame `probes` (`modality`, `split`, `metric`, `value`): fitted on val, scored on test.

    Features `[n, D]` are standardised by val; scikit-learn's LogisticRegression (C = 1/D) or Ridge (α = D,
    the same penalty: that of C = 1 for features of length 1) is fitted on val, as students store no features
    of train; teachers are treated alike, so that the two compare. The rows of val show how well it fits its
    own data. No rows where features are missing, or val has one value of the target only."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    task = str(run.info["task"])
    target = {split: run.samples["target"].to_numpy()[run.rows(split)] for split in SPLITS}
    for m in run.info["modalities"]:
        try:
            features = {split: run.output(f"feature/{m}", split) for split in target}
        except (KeyError, ValueError):
            continue
        if not all(map(len, features.values())) or len(np.unique(target["val"])) < 2:
            continue
        width = features["val"].shape[1]
        logistic = LogisticRegression(C=1 / width, max_iter=1000)
        probe = make_pipeline(StandardScaler(), logistic if task == "classification" else Ridge(alpha=width))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(features["val"].astype(np.float64), target["val"])
        for split, x in features.items():
            frame = pd.DataFrame({"target": target[split], "prediction": probe.predict(x), "confidence": 0.5})
            values = evaluate_predictions(frame, task)
            for metric in PROBED[task]:
                yield {"modality": m, "split": split, "metric": metric, "value": values[metric]}
