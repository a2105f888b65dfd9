"""The command line. This module stays light: `parrot --help` loads Click and nothing of the service."""

import sys


def main() -> None:
    """Run the command in `sys.argv` and end the process with its exit status."""
    from parrot.cli.root import run

    sys.exit(run(sys.argv[1:]))
