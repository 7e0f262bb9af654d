"""The pipelines by name. Each name means: up to and including this stage, skipping what is fresh."""

from typing import Any

from kedro.pipeline import Pipeline, node, pipeline

from .pipelines import data_report, distill, evaluate, featurize, ingest, predict, previews, teachers
from .retraining import steps

TABLES = ["verdict", "result_table", "table_markdown", "table_latex", "table_csv"]


def _one(stage: str, function: Any, inputs: Any, outputs: Any, **about: Any) -> Pipeline:
    """The pipeline of one node, which is called as its function."""
    return Pipeline([node(function, inputs, outputs, tags=stage, **({"name": function.__name__} | about))])


def stages() -> dict[str, Pipeline]:
    """The stages by name, in their order. The data report belongs to `featurize`."""
    inputs, page = ["manifest", "features", "params:featurize"], ["data_page", "data_report"]
    store = _one("featurize", featurize.featurize_modalities, ["manifest", "params:featurize"], "features")
    report = _one("featurize", data_report.make_data_report, inputs, page, name="describe_data")
    of_teachers, of_students = ["features", "params:teachers"], ["features", "teachers", "params:distill"]
    preview, preview_students = previews.teachers_preview, previews.students_preview
    trained = ["manifest", "features", "data_report", "teachers", "students", "params:evaluate"]
    results = ["metrics", "metrics_summary", "figures", *TABLES, "report"]
    return {
        "ingest": _one("ingest", ingest.ingest_raw, "params:ingest", "manifest"),
        "featurize": store + report,
        "teachers": _one("teachers", teachers.train_teachers, of_teachers, "teachers", preview_fn=preview),
        "distill": _one(
            "distill", distill.train_students, of_students, "students", preview_fn=preview_students
        ),
        "evaluate": _one("evaluate", evaluate.evaluate_runs, trained, results),
    }


def retraining(first: Pipeline, others: Pipeline) -> Pipeline:
    """`first`, which is ingest, the gates, the `others` on data that have passed them, and the promotion."""
    settings, checked = ["params:retrain", "lineage"], ["manifest", "gates", "params:retrain"]
    made = ["students", "admitted_manifest", "features", "metrics_summary", "data_report", "report"]
    gates = _one("retrain", steps.check_gates, ["manifest", *settings], "gates")
    admission = _one("retrain", steps.admit_data, checked, "admitted_manifest")
    admitted = pipeline(others, inputs={"manifest": "admitted_manifest"})
    promotion = _one("retrain", steps.promote, [*made, *settings], "retrain", name="promote_challenger")
    return first + gates + admission + admitted + promotion


def register_pipelines() -> dict[str, Pipeline]:
    """`ingest → featurize → teachers → distill → evaluate`; `__default__` is the whole way. `predict` makes
    nothing but predictions; `retrain` is the whole way with gates behind `ingest` and the promotion at its
    end."""
    so_far, pipelines = Pipeline([]), {}
    for stage, nodes in stages().items():
        so_far += nodes
        pipelines[stage] = so_far
    pipelines["predict"] = _one(
        "predict", predict.predict_samples, ["model", "params:predict"], "predictions"
    )
    pipelines["retrain"] = retraining(pipelines["ingest"], so_far - pipelines["ingest"])
    return pipelines | {"__default__": so_far}
