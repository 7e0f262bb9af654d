from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.data_report.nodes import make_data_report


def create_pipeline() -> Pipeline:
    """Manifest + feature store → data report."""
    inputs, outputs = ["manifest", "features", "params:featurize"], ["data_page", "data_report"]
    return Pipeline([node(make_data_report, inputs, outputs, name="describe_data", tags="featurize")])
