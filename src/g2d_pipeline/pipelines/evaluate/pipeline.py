from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.evaluate.nodes import evaluate_runs


def create_pipeline() -> Pipeline:
    """Trained models → metrics, figures, report."""
    inputs = ["manifest", "features", "data_report", "teachers", "students", "params:evaluate"]
    tables = ["verdict", "result_table", "table_markdown", "table_latex", "table_csv"]
    outputs = ["metrics", "metrics_summary", "figures", *tables, "report"]
    return Pipeline([node(evaluate_runs, inputs, outputs, name="evaluate_runs", tags="evaluate")])
