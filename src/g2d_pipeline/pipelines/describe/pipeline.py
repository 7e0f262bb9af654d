from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.describe.nodes import describe_dataset


def create_pipeline() -> Pipeline:
    """Manifest + feature store → data report."""
    return Pipeline(
        [
            node(
                describe_dataset,
                ["manifest", "features", "params:featurize"],
                ["data_report", "data_page"],
                name="describe_data",
                tags="featurize",
            )
        ]
    )
