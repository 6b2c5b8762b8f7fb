"""Which of the artifact's files holds the user's handlers, if any."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract import environment
from image_classification.errors import UserError

CODE_FOLDER = "code"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnCode:
    """The user's file.

    Attributes:
        model_dir: the artifact's folder, what model_fn gets.
        program: the file's name in `code/`.
    """

    model_dir: Path
    program: str

    @property
    def folder(self) -> Path:
        """Where the file is, and what it imports."""
        return self.model_dir / CODE_FOLDER


def find_own_code(model_dir: Path) -> OwnCode | None:
    """The file that SAGEMAKER_PROGRAM names in the artifact's `code/`, or None.

    Raises:
        UserError: the name is not that of a Python module directly in that folder.
    """
    program = environment.PROGRAM.read()
    if not program:
        return None
    found = OwnCode(model_dir, program)
    if not (found.folder / program).is_file():
        _logger.info(
            "%s=%s, but the artifact has no %s/%s: the model's own answers are given",
            environment.PROGRAM.name,
            program,
            CODE_FOLDER,
            program,
        )
        return None
    if not (program.endswith(".py") and program[:-3].isidentifier()):
        raise UserError(
            f"{environment.PROGRAM.name}={program!r}: expected the name of a Python file directly "
            f"in the artifact's {CODE_FOLDER}/, such as inference.py"
        )
    if (found.folder / "requirements.txt").exists():
        _logger.warning(
            "%s/requirements.txt is not installed: a server needs no network; build an image that "
            "has what it lists",
            CODE_FOLDER,
        )
    return found
