"""The parser of the commands: argparse, with mistakes said as every other mistake is."""

from __future__ import annotations

import argparse
from typing import NoReturn

from image_classification.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors begin with `ClientError: `; the exit code is 2.

    Its sub-commands are parsers of this class too.
    """

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, then how the command is used."""
        usage = self.format_usage()
        self.exit(UsageError.exit_code, f"{UsageError.prefix}: {message}\n{usage}")
