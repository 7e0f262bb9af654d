"""Evaluation: the predictions and histories of trained runs in, numbers, tables, figures and one report out.

Needs neither torch nor Kedro. `evaluate` does everything; the other functions are its parts."""

from .analyses import FRAMES, analysis_frames
from .evaluation import Evaluation, evaluate
from .figures import make_figures
from .metrics import METRICS, Breakdown, Metric, breakdown, collect_metrics, evaluate_predictions
from .plots import Frames
from .records import MULTI, TEACHER, Failure, Run, history_frame, modality_order
from .report import build_report
from .resampling import ENSEMBLE, ensemble_runs, resample
from .statistics import comparisons, intervals
from .summary_json import metrics_summary, ranking_disagreements, teacher_orders
from .tables import Results, render_table, seed_table, summarise, summary_table, table_text
from .verdict import Sentence, verdict
