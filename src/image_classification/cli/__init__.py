"""The `image-classification` command. A sub-command imports its framework when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from image_classification import __version__, logs
from image_classification.cli import check, describe, models, predict, preprocess, records, train
from image_classification.cli.command_line import Parser
from image_classification.contract import environment
from image_classification.contract.failure import report_failure

_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for a user's mistake, 1 for a fault of ours."""
    namespace = parser().parse_args(arguments)
    environment.disable_telemetry()
    try:
        logs.configure(environment.LOG_LEVEL.read_integer(0), namespace.log_stream)
        code: int = namespace.run(namespace)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        return report_failure(error, getattr(namespace, "failure_file", None))
    return code


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="image-classification",
        description="Pack, train, evaluate and serve image classifiers.",
        epilog="example: image-classification train --base-dir /opt/ml",
    )
    top.add_argument("--version", action="version", version=__version__)
    # Results go to standard output; what a command says on its way goes to standard error.
    top.set_defaults(log_stream=sys.stderr)
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (records, preprocess, check, train, models, predict, describe):
        group.add_commands(subparsers)
    return top
