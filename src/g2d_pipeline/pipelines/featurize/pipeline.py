from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.featurize.nodes import featurize_modalities


def create_pipeline() -> Pipeline:
    """Manifest → feature store."""
    return Pipeline(
        [
            node(
                featurize_modalities,
                ["manifest", "params:featurize"],
                "features",
                name="featurize_modalities",
                tags="featurize",
            )
        ]
    )
