"""The `image-classification` command.

Only the module of the command that is asked for is imported: all of them cost 0.24 s of CPU, which
every start of a server would pay. That one imports its framework when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from image_classification import __version__, logs
from image_classification.cli.command_line import Parser
from image_classification.contract.environment import LOG_LEVEL
from image_classification.contract.failure import report_failure
from image_classification.contract.process import disable_telemetry

_EXIT_INTERRUPTED = 130
_MODULES = {  # in the order of the help
    "lists": ("list",),
    "pack": ("pack",),
    "inspect": ("inspect", "rec2idx"),
    "preprocess": ("preprocess",),
    "check": ("check",),
    "train": ("train",),
    "models": ("evaluate", "serve", "export", "weights"),
    "predict": ("predict",),
    "describe": ("describe",),
}
"""Module beside this one → the commands it adds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for a user's mistake, 1 for a fault of ours."""
    words = sys.argv[1:] if arguments is None else arguments
    namespace = parser(words[0] if words else None).parse_args(words)
    disable_telemetry()
    try:
        logs.configure(LOG_LEVEL.read_integer(0), namespace.log_stream)
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


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line.

    Args:
        command: what it will be asked for; with any other word, or none, all commands are there.
    """
    top = Parser(
        prog="image-classification",
        description="Pack, train, evaluate and serve image classifiers.",
        epilog="example: image-classification train --base-dir /opt/ml",
    )
    top.add_argument("--version", action="version", version=__version__)
    # Results go to standard output; what a command says on its way goes to standard error.
    top.set_defaults(log_stream=sys.stderr)
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = [module for module, commands in _MODULES.items() if command in commands]
    for module in wanted or _MODULES:
        import_module(f"{__name__}.{module}").add_commands(subparsers)
    return top
