"""The whole evaluation in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from g2d_pipeline.charts import Chart, figure_files

from .analyses import analysis_frames
from .figures import make_figures
from .metrics import collect_metrics
from .notes import result_notes
from .plots import Frames
from .records import Failure, Run, history_frame, modality_order
from .report import build_report
from .summary_json import metrics_summary
from .table_files import table_files
from .tables import summarise, table_text


@dataclass(frozen=True)
class Evaluation:
    """Every number, the numbers over seeds, the same for JSON, figures, report, table with notes, and the
    table as files (see `table_files`).

    `frames`: those of `analyses.FRAMES`, by name; one that these runs can not fill has no rows."""

    metrics: pd.DataFrame
    summary: pd.DataFrame
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

    `manifest_meta`, `rankings`, `configuration` and `data`: see `build_report`; `failures`: the runs that are
    not there because their training failed; `frames`: what `robustness.robustness_frames` returns, where the
    models were run again. Raises ValueError where runs are missing, come twice, differ in
    task, or their predictions are unfit; the message names the run."""
    dataset, source = str(manifest_meta["dataset"]), str(manifest_meta["source"])
    if source not in ("raw", "sample"):
        raise ValueError(f"source {source!r}: expected 'raw' or 'sample'")
    unit = str(manifest_meta.get("target_unit") or "")
    metrics = collect_metrics(runs, dataset, source)
    summary = summarise(metrics, "test")
    notes = result_notes(runs, metrics, manifest_meta.get("counts") or {})
    first = next((run for run in runs if not run.is_teacher), runs[0])
    metric, modalities = str(first.info["metric"]), modality_order(runs)
    analyses = analysis_frames(runs) | dict(frames or {})
    history = history_frame(runs)
    figures = make_figures(Frames(dataset, source, modalities, metric, history, summary, unit, analyses))
    numbers = metrics_summary(metrics, summary, manifest_meta, rankings, failures, notes)
    report = build_report(
        metrics, summary, figures, runs, manifest_meta, rankings, configuration, data, failures, notes
    )
    table = table_text(summary, unit, None, failures, notes)
    files = table_files(summary, unit, failures)
    return Evaluation(metrics, summary, numbers, figures, report, table, files, analyses)
