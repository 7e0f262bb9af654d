"""Trained models → numbers, figures, report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from g2d_pipeline.artefacts import FailedRun, Models, TrainedFolder
from g2d_pipeline.config import EvaluateSettings
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.evaluation import Evaluation, Failure
    from g2d_pipeline.evaluation.robustness import Case


def evaluate_runs(
    manifests: dict[str, Manifest],
    features: dict[str, FeatureStore],
    data: dict[str, Any],
    teachers: Models,
    students: Models,
    settings: EvaluateSettings,
) -> tuple[Callable[[], Any], ...]:
    """Functions that return metrics (tidy and nested), figures (SVG and CSV), verdict, result tables, report.
    The evaluation is computed once."""

    @cache
    def make() -> Evaluation:
        from g2d_pipeline.evaluation import evaluate

        samples = {split: samples_of(store, manifests[split]) for split, store in features.items()}
        by_repeat = {end: (samples[split], features[split]) for end, split in settings.splits.items()}
        cases, failures = read_runs(teachers, students, by_repeat)
        if not cases:
            raise TrainingError(f"No run is left to evaluate. {failures[0].label}: {failures[0].reason}")
        frames: dict[str, pd.DataFrame] = {}
        if settings.robustness:
            from g2d_pipeline.evaluation.robustness import robustness_frames
            from g2d_pipeline.models.multimodal import pick_device

            device = pick_device(settings.options.device)
            frames = robustness_frames(cases, device, settings.corrupted_samples)
        runs, meta = [run for run, *_ in cases], _meta(list(manifests.values()), data)
        return evaluate(runs, meta, _rankings(teachers), settings.configuration, data, failures, frames)

    return (
        lambda: make().metrics,
        lambda: make().metrics_json,
        lambda: make().figure_files,
        lambda: "".join(f"{sentence}\n" for sentence in make().verdict),
        lambda: make().table,
        *(partial(lambda form: make().table_files[form], form) for form in ("md", "tex", "csv")),
        lambda: make().report,
    )


def samples_of(store: FeatureStore, manifest: Manifest) -> pd.DataFrame:
    """A row per sample of the store: sample_id, split, target, and group where the manifest has groups."""
    table = manifest.table.filter(["sample_id", "group"])
    return store.index.merge(table, on="sample_id", how="left", validate="1:1")


def read_runs(
    teachers: Models, students: Models, data: Mapping[str, tuple[pd.DataFrame, FeatureStore]]
) -> tuple[list[Case], list[Failure]]:
    """The trained runs, each with its folder and store, and the failed ones. `data`: how a run's name ends →
    samples and store of its split."""
    from g2d_pipeline.evaluation import TEACHER, Failure, Run

    cases: list[Case] = []
    failures: list[Failure] = []
    for is_teacher, models in ((True, teachers), (False, students)):
        for name, run in models.items():
            first, fold = _parts(name)
            method, m = (TEACHER, first) if is_teacher else (first, "")
            if isinstance(run, FailedRun):
                failures.append(Failure(method, m, run.seed, run.reason, fold))
                continue
            (samples, store), info = data[name.partition("/")[2]], run.info
            tables = run.history, run.predictions
            tested = Run(method, m, info["seed"], *tables, info, fold, run.outputs(), samples)
            cases.append((tested, run, store))
    return cases, failures


def _rankings(teachers: Models) -> pd.DataFrame:
    """The confidence of each teacher on train and val, of folds and seeds that have all teachers."""
    import pandas as pd

    failed = {name.partition("/")[2] for name, run in teachers.items() if isinstance(run, FailedRun)}
    rows = []
    for name, run in teachers.items():
        if isinstance(run, TrainedFolder) and name.partition("/")[2] not in failed:
            (m, fold), info = _parts(name), run.info
            rows += [(fold, info["seed"], s, m, info["confidence"][s][m]) for s in ("train", "val")]
    frame = pd.DataFrame(rows, columns=["fold", "seed", "confidence_on", "modality", "confidence"])
    return frame if frame["fold"].any() else frame.drop(columns="fold")


def _parts(name: str) -> tuple[str, int]:
    """`g2d/fold2/seed0` → method or modality, and fold (0: none)."""
    first, *_ = name.split("/")
    fold = re.search(r"/fold([0-9]+)/", name)
    return first, int(fold[1]) if fold else 0


def _meta(manifests: list[Manifest], data: dict[str, Any]) -> dict[str, Any]:
    """`meta` of the first manifest, with the notes of all, and the counts and dropped samples after
    featurize; `draws`: counts of each split."""
    manifest = manifests[0]
    target = manifest.meta.get("target") or {}
    return manifest.meta | {
        "target_name": target.get("name", ""),
        "target_unit": target.get("unit", ""),
        "counts": {split: facts["samples"] for split, facts in data["splits"].items()},
        "notes": list(dict.fromkeys(note for m in manifests for note in m.meta["notes"])),
        "draws": data.get("draws", {}),
        "dropped": [*manifest.meta["dropped"], *data["dropped"]["at_featurize"]],
    }
