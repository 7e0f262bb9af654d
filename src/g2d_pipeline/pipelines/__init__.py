"""The stages as Kedro pipelines: thin nodes over the library. Nothing heavy is imported before a node
runs."""
