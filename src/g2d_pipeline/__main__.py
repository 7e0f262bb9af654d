"""`python -m g2d_pipeline` and the console script: `kedro run` of the project in the current folder, or of
another one's settings (`--conf-source`: a folder, or the archive that `kedro package` makes)."""

import sys
from collections.abc import Sequence

from kedro.framework.project import configure_project


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; without the name of a command, options are those of `run`."""
    configure_project("g2d_pipeline")
    from g2d_pipeline.cli import cli

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments = ["run", *arguments]
    cli(arguments)


if __name__ == "__main__":
    main()
