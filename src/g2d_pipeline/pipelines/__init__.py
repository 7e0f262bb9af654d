"""The stages as Kedro pipelines: thin nodes. Nothing heavy is imported before a node runs."""
