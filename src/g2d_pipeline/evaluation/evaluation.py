"""The whole evaluation in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .breakdown import Breakdown, breakdown, over_runs
from .figures import make_figures
from .metrics import collect_metrics
from .notes import result_notes, val_unlike_test
from .records import Failure, Run, history_frame, modality_order, ordered_runs
from .report import build_report
from .resampling import ensemble_runs, resample
from .statistics import comparisons, intervals
from .summary_json import metrics_summary
from .tables import summarise, table_text
from .verdict import Sentence, verdict


@dataclass(frozen=True)
class Evaluation:
    """Every number (`metrics` with the intervals `low` and `high`), the numbers over seeds, what was compared
    with what, numbers by class, pair of classes and group, what they say, the same for JSON, figures, report,
    and table with verdict and notes."""

    metrics: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    breakdown: Breakdown
    verdict: list[Sentence]
    metrics_json: dict[str, Any]
    figures: dict[str, go.Figure]
    report: str
    table: str


def evaluate(
    runs: Sequence[Run],
    manifest_meta: Mapping[str, Any],
    rankings: pd.DataFrame,
    configuration: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    failures: Sequence[Failure] = (),
) -> Evaluation:
    """Evaluate `runs` (any order) on the test split.

    `manifest_meta`, `rankings`, `configuration` and `data`: see `build_report`; `failures`: the runs that are
    not there because their training failed. Raises ValueError where runs are missing, come twice, differ in
    task, or their predictions are unfit; the message names the run."""
    dataset, source = str(manifest_meta["dataset"]), str(manifest_meta["source"])
    if source not in ("raw", "sample"):
        raise ValueError(f"source {source!r}: expected 'raw' or 'sample'")
    unit = str(manifest_meta.get("target_unit") or "")
    metrics = collect_metrics(runs, dataset, source)
    resampled = resample([*runs, *ensemble_runs(runs)])
    metrics, compared = intervals(metrics, resampled), comparisons(runs, resampled)
    summary = summarise(metrics, "test")
    broken_down = breakdown(runs)
    notes = result_notes(runs, metrics, manifest_meta.get("counts") or {})
    apart = list(val_unlike_test(ordered_runs(runs)))
    sentences = verdict(summary, compared, unit=unit, rankings=rankings, apart=apart)
    first = next((run for run in runs if not run.is_teacher), runs[0])
    common = {"modalities": modality_order(runs), "dataset": dataset, "source": source}
    metric = str(first.info["metric"])
    figures = make_figures(history_frame(runs), summary, metric=metric, unit=unit, **common)
    further = {
        "comparisons": compared.to_dict(orient="records"),
        "per_class": over_runs(broken_down.per_class),
        "per_group": over_runs(broken_down.per_group),
        "verdict": [asdict(sentence) for sentence in sentences],
    }
    numbers = metrics_summary(metrics, summary, manifest_meta, rankings, failures, notes, **further)
    report = build_report(
        metrics, summary, figures, runs, manifest_meta, rankings, configuration, data, failures, notes,
        comparisons=compared, verdict=sentences,
    )  # fmt: skip
    table = table_text(summary, unit, None, failures, notes, compared, list(map(str, sentences)))
    return Evaluation(
        metrics, summary, compared, broken_down, sentences,
        numbers, figures, report, table,
    )  # fmt: skip
