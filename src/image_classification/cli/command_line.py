"""The parser of the commands: argparse, with mistakes said as every other mistake is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from image_classification.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors begin with `ClientError: `; the exit code is 2.

    Its sub-commands are parsers of this class too.
    """

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, then how the command is used."""
        usage = self.format_usage()
        self.exit(UsageError.exit_code, f"{UsageError.prefix}: {message}\n{usage}")


def add_command(
    subparsers: _SubParsersAction[argparse.ArgumentParser], name: str, text: str, example: str
) -> argparse.ArgumentParser:
    """A command with what it does in a phrase, and an example."""
    return subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(command: argparse.ArgumentParser) -> None:
    """`--model`, for a command that reads an artifact."""
    command.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="artifact folder or model.tar.gz"
    )


def check_top_k(top_k: int | None) -> None:
    """A UsageError for less than 1."""
    if top_k is not None and top_k < 1:
        raise UsageError(f"--top-k {top_k}: expected 1 or more")
