"""The user's handlers, `code/inference.py` in the artifact, instead of ours.

Off unless the file is there and SAGEMAKER_PROGRAM names it: nothing else in an artifact executes.
This module imports nothing of the user's; `handlers` runs the file through the sagemaker-inference
package's transformer.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract import environment
from image_classification.errors import UserError

CODE_FOLDER = "code"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CustomCode:
    """The user's file of handlers.

    Attributes:
        model_dir: the artifact's folder, which model_fn gets.
        program: the file's name in `code/`.
    """

    model_dir: Path
    program: str

    @property
    def folder(self) -> Path:
        """The folder of the file and of what it imports."""
        return self.model_dir / CODE_FOLDER


def find_custom_code(model_dir: Path) -> CustomCode | None:
    """Find the file that SAGEMAKER_PROGRAM names in the artifact's `code/`; None without one.

    Raises:
        UserError: the name is not that of a Python module directly in that folder.
    """
    program = environment.PROGRAM.read()
    if not program:
        return None
    found = CustomCode(model_dir, program)
    if not (found.folder / program).is_file():
        _logger.info(
            "%s=%s, but the artifact has no %s/%s: the model answers without your own code",
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
            "%s/requirements.txt is not installed, because a server has no network: build an image "
            "with the packages it lists",
            CODE_FOLDER,
        )
    return found
