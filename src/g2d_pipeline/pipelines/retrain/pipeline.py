from kedro.pipeline import Pipeline, node, pipeline

from g2d_pipeline.pipelines.retrain.nodes import admit_data, check_gates, promote


def create_pipeline(ingest: Pipeline, stages: Pipeline) -> Pipeline:
    """`ingest`, the gates, the `stages` right of it on data that have passed them, and the promotion."""
    settings = "params:retrain"
    gates = [
        node(check_gates, ["manifest", settings, "lineage"], "gates", name="check_gates", tags="retrain"),
        node(
            admit_data,
            ["manifest", "gates", settings],
            "admitted_manifest",
            name="admit_data",
            tags="retrain",
        ),
    ]
    inputs = ["students", "admitted_manifest", "features", "metrics_summary", "data_report", "report"]
    promotion = node(
        promote, [*inputs, settings, "lineage"], "retrain", name="promote_challenger", tags="retrain"
    )
    admitted = pipeline(stages, inputs={"manifest": "admitted_manifest"})
    return ingest + Pipeline(gates) + admitted + Pipeline([promotion])
