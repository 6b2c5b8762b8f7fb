"""The user's handlers, `code/inference.py` in the artifact, instead of ours.

Off unless the file is there and SAGEMAKER_PROGRAM names it: nothing else in an artifact executes.
A file for another server, such as JumpStart's inference.py, is read and left aside. This module
imports nothing of the user's; `handlers` runs the file through the sagemaker-inference package's
transformer.
"""

import difflib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract import environment
from image_classification.errors import UserError
from image_classification.serving.custom.definitions import read_definitions

CODE_FOLDER = "code"
FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")
"""What the file may define to replace ours; `pre_model_fn` and `model_warmup_fn` add to it."""

ADDED = ("pre_model_fn", "model_warmup_fn")
_OF_OTHERS = {
    "handler": "TensorFlow Serving",
    "input_handler": "TensorFlow Serving",
    "output_handler": "TensorFlow Serving",
    "handle": "TorchServe",
    "lambda_handler": "AWS Lambda",
    "EndpointHandler": "Hugging Face",
    "TritonPythonModel": "Triton",
}
_MOST_SCRIPTS = 20  # that are looked at, to warn of them
_BARE = {name.replace("_", ""): name for name in FUNCTIONS}
_CLOSE = 0.85  # of difflib, for `inputs_fn` and `predct_fn`
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

    None also for a file that defines only the functions of another server: it is read, not run.

    Raises:
        UserError: the name is not that of a Python module directly in that folder.
    """
    program = environment.PROGRAM.read()
    if not program:
        warn_of_unused_code(model_dir, f"{environment.PROGRAM.name} is not set")
        return None
    found = CustomCode(model_dir, program)
    if not (found.folder / program).is_file():
        files = ", ".join(name for name, _ in _scripts(model_dir)) or "no Python file"
        _logger.warning(
            "%s=%s, but the artifact has no %s/%s (it has %s): the model answers without your own "
            "code",
            *(environment.PROGRAM.name, program, CODE_FOLDER, program, files),
        )
        return None
    if others := _functions_of_others(found.folder / program):
        _logger.warning(
            "%s/%s does not run: it has %s and none of %s. The model answers without it; to "
            "silence this warning, unset %s",
            *(CODE_FOLDER, program, others, ", ".join(FUNCTIONS), environment.PROGRAM.name),
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


def warn_of_unused_code(model_dir: Path, reason: str) -> None:
    """Warn of Python files in the artifact, which do not run for this reason."""
    scripts = _scripts(model_dir)
    if not scripts:
        return
    shown = ", ".join(name for name, _ in scripts[:3])
    usable = [name for name, defined in scripts if set(FUNCTIONS) & set(defined)]
    cure = f"it defines none of {', '.join(FUNCTIONS)}"
    direct = [Path(name).name for name in usable if Path(name).parent == Path(CODE_FOLDER)]
    if direct:
        cure = f"to run it, set {environment.PROGRAM.name}={direct[0]}"
    elif usable:
        cure = f"to run it, move it into {CODE_FOLDER}/ and set {environment.PROGRAM.name}"
    elif others := _described(defined for _, names in scripts for defined in names):
        cure = (
            f"it has {others}: write {', '.join(FUNCTIONS[1:4])} instead, and set "
            f"{environment.PROGRAM.name}={Path(scripts[0][0]).name}"
        )
    _logger.warning(
        "The artifact contains %s, which does not run because %s; %s", shown, reason, cure
    )


def check_functions(program: str, defined: Iterable[str]) -> list[str]:
    """Return which of the functions a file defines, in the order of their calls.

    Warns of a file without any, and of functions of other servers.

    Args:
        program: the file's name in `code/`.
        defined: names of its functions and classes.

    Raises:
        UserError: it defines none, but misspelled ones.
    """
    names = set(defined)
    found = [name for name in (*FUNCTIONS, *ADDED) if name in names]
    others = _described(names)
    if found and others:
        _logger.warning(
            "%s/%s has %s; the server calls only its %s",
            *(CODE_FOLDER, program, others, ", ".join(found)),
        )
    if found:
        return found
    expected = f"{CODE_FOLDER}/{program} defines none of {', '.join(FUNCTIONS)}"
    if _misspelled(names):
        raise UserError(
            f"{expected}, but it has {others}: write input_fn(body, content_type), "
            "predict_fn(data, model) or output_fn(prediction, accept), or unset "
            f"{environment.PROGRAM.name}"
        )
    but = f", but it has {others}" if others else ""
    _logger.warning("%s%s: the model answers without it", expected, but)
    return found


def _functions_of_others(path: Path) -> str:
    """Describe the functions of other servers in a file that has none of ours; else ""."""
    defined = read_definitions(path, FUNCTIONS)
    names = set(defined.names)
    is_ours = not defined.is_complete or names & {*FUNCTIONS, *ADDED} or _misspelled(names)
    return "" if is_ours else _described(names)


def _described(names: Iterable[str]) -> str:
    """Describe the functions of other servers and the misspelled ones; "" if there are none."""
    unique = sorted(set(names) - {*FUNCTIONS, *ADDED})
    said = []
    for server in dict.fromkeys(_OF_OTHERS.values()):
        if theirs := [name for name in unique if _OF_OTHERS.get(name) == server]:
            said.append(f"{' and '.join(theirs)} of {server}")
    said += [f"{name} (did you mean {meant}?)" for name, meant in _misspelled(unique)]
    return ", ".join(said[:5])


def _misspelled(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return (name, the function of ours that it is close to) for each name like `predict_func`."""
    found = []
    for name in sorted(set(names) - {*FUNCTIONS, *ADDED}):
        bare = re.sub(r"func(?:tion)?$", "fn", name.lower()).replace("_", "")
        close = difflib.get_close_matches(bare, _BARE, 1, _CLOSE) if bare.endswith("fn") else []
        found += [(name, _BARE[match]) for match in close]
    return found


def _scripts(model_dir: Path) -> list[tuple[str, list[str]]]:
    """Return (path in the artifact, names that it defines) of Python files; runs nothing.

    Looks at the top of the artifact, in `code/` and one folder below.
    """
    found = []
    for pattern in (f"{CODE_FOLDER}/*.py", "*.py", f"{CODE_FOLDER}/*/*.py"):
        for path in sorted(model_dir.glob(pattern))[:_MOST_SCRIPTS]:
            if path.name == "__init__.py":
                continue
            names = list(read_definitions(path).names)
            found.append((path.relative_to(model_dir).as_posix(), names))
    return found
