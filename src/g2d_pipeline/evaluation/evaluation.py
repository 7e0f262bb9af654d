"""The whole evaluation in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from g2d_pipeline.charts import Chart, figure_files

from .analyses import analysis_frames
from .figures import make_figures
from .metrics import Breakdown, breakdown, collect_metrics, over_runs
from .notes import result_notes, val_unlike_test
from .plots import Frames
from .records import Failure, Run, history_frame, modality_order, ordered_runs
from .report import build_report
from .resampling import ensemble_runs, resample
from .statistics import comparisons, intervals
from .summary_json import metrics_summary
from .tables import Results, summarise, table_files, table_text
from .verdict import Sentence, verdict


@dataclass(frozen=True)
class Evaluation:
    """Every number (`metrics` with the intervals `low` and `high`, of mAP and ECE none), the numbers over
    seeds, the comparisons, numbers by class, pair of classes and group, the verdict, the same for JSON,
    figures, report, table with verdict and notes, and the table as files (see `table_files`).

    `frames`: those of `analyses.FRAMES`, by name; without rows where the runs lack the data."""

    metrics: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    breakdown: Breakdown
    verdict: list[Sentence]
    metrics_json: dict[str, Any]
    figures: dict[str, Chart]
    report: str
    table: str
    table_files: dict[str, str]
    frames: dict[str, pd.DataFrame]

    @property
    def figure_files(self) -> dict[str, str]:
        """Every figure as SVG and its data as CSV: file name → text."""
        return figure_files(self.figures)


def evaluate(
    runs: Sequence[Run],
    manifest_meta: Mapping[str, Any],
    rankings: pd.DataFrame,
    configuration: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    failures: Sequence[Failure] = (),
    frames: Mapping[str, pd.DataFrame] | None = None,
) -> Evaluation:
    """Evaluate `runs` (any order) on the test split.

    `manifest_meta`, `rankings`, `configuration` and `data`: see `build_report`; `failures`: the runs whose
    training failed; `frames`: the result of `robustness.robustness_frames`, where the models were run again.
    Raises ValueError where runs are missing, come twice, differ in task, or their
    predictions are unfit; the message names the run."""
    dataset, source = str(manifest_meta["dataset"]), str(manifest_meta["source"])
    if source not in ("raw", "sample"):
        raise ValueError(f"source {source!r}: expected 'raw' or 'sample'")
    unit = str(manifest_meta.get("target_unit") or "")
    metrics = collect_metrics(runs, dataset, source)
    resampled = resample([*runs, *ensemble_runs(runs)])
    metrics, compared = intervals(metrics, resampled), comparisons(runs, resampled)
    summary, broken_down = summarise(metrics, "test"), breakdown(runs)
    analyses = analysis_frames(runs) | dict(frames or {})
    notes = result_notes(runs, metrics, manifest_meta.get("counts") or {})
    sentences = verdict(
        summary,
        compared,
        unit=unit,
        shapley=analyses["shapley"],
        probes=analyses["probes"],
        rankings=rankings,
        apart=list(val_unlike_test(ordered_runs(runs))),
    )
    first = next((run for run in runs if not run.is_teacher), runs[0])
    header = (dataset, source, modality_order(runs), str(first.info["metric"]))
    tables = analyses | {"confusion": broken_down.confusion}
    classes = manifest_meta.get("class_names") or ()
    figures = make_figures(Frames(*header, history_frame(runs), summary, compared, unit, tables, classes))
    further = {
        "comparisons": compared.to_dict(orient="records"),
        "per_class": over_runs(broken_down.per_class),
        "per_group": over_runs(broken_down.per_group),
        "verdict": [asdict(sentence) for sentence in sentences],
    }
    numbers = metrics_summary(metrics, summary, manifest_meta, rankings, failures, notes, **further)
    results = Results(summary, compared, failures, unit)
    inputs = manifest_meta, rankings, configuration, data
    report = build_report(results, metrics, figures, runs, *inputs, notes, sentences)
    table = table_text(results, None, notes, list(map(str, sentences)))
    files = table_files(results)
    return Evaluation(
        metrics, summary, compared, broken_down, sentences,
        numbers, figures, report, table, files, analyses,
    )  # fmt: skip
