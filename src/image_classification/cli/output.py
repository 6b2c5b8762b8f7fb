"""What a command prints as its result."""

from __future__ import annotations

import sys


def say(*lines: str) -> None:
    """Print lines; names that are not UTF-8 are shown with their bytes escaped."""
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())
