from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.evaluate.nodes import evaluate_runs


def create_pipeline() -> Pipeline:
    """Trained models → metrics, figures, report."""
    inputs = ["manifest", "features", "data_report", "teachers", "students", "params:evaluate"]
    outputs = ["metrics", "metrics_summary", "result_figure", "history_figure", "result_table", "report"]
    return Pipeline([node(evaluate_runs, inputs, outputs, name="evaluate_runs", tags="evaluate")])
