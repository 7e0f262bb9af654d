from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.predict.nodes import predict_samples


def create_pipeline() -> Pipeline:
    """A trained model + raw samples → predictions."""
    inputs = ["model", "params:predict"]
    return Pipeline([node(predict_samples, inputs, "predictions", name="predict_samples", tags="predict")])
