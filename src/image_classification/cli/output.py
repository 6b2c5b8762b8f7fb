"""What a command prints as its result, and the contact sheets it draws."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from image_classification.data.files import check_target
from image_classification.data.formats import PNG_SIGNATURE
from image_classification.errors import UsageError


def say(*lines: str) -> None:
    """Print lines; names that are not UTF-8 are shown with their bytes escaped."""
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


def check_sheet(path: Path, sources: Iterable[Path]) -> None:
    """Refuse to draw over a file that is read, or over anything that is not an older sheet."""
    for source in sources:
        check_target(path, source)
    if path.exists():
        with path.open("rb") as existing:
            if existing.read(len(PNG_SIGNATURE)) not in (PNG_SIGNATURE, b""):
                raise UsageError(f"{path} exists and is no PNG: name another file for the sheet")
