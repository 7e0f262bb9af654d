"""`python -m g2d_pipeline` and the console script: `kedro run` from the project's folder."""

from __future__ import annotations

from pathlib import Path

from kedro.framework.startup import bootstrap_project


def main() -> None:
    """Run the command line of the project in the current folder."""
    bootstrap_project(Path.cwd())
    from g2d_pipeline.cli import cli

    cli()


if __name__ == "__main__":
    main()
