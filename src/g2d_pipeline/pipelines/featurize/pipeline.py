from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.featurize.nodes import featurize_modalities


def create_pipeline() -> Pipeline:
    """Manifest → feature store."""
    inputs, name = ["manifest", "params:featurize"], "featurize_modalities"
    return Pipeline([node(featurize_modalities, inputs, "features", name=name, tags="featurize")])
