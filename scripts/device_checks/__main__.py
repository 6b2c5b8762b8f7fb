"""Check that image classification works on this machine's GPU: results, speed and error messages.

Runs the checks one after another and writes report.md and report.json after each of them. A check
that hangs or crashes is recorded, and the next one runs. Nothing is installed or downloaded.

exit status: 0 all goals are reached; 1 a goal is missed, or a check did not end; 2 the command
line is wrong, a package or the GPU is missing, or the report cannot be written.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from device_checks import report
from device_checks.catalog import CHECKS, PACKAGES, Check
from device_checks.report import Report, Result
from device_checks.session import CannotWriteError, Session

_PROGRAM = "scripts/device-check"
_PHOTOGRAPHS = (".jpg", ".jpeg")
_JPEG = b"\xff\xd8\xff"
_MOST_MINUTES = 24 * 60


class _WrongUse(Exception):
    """The command cannot be run; the text has what to do."""


def main(arguments: Sequence[str] | None = None, checks: Sequence[Check] = CHECKS) -> int:
    """Run the command; `checks` are those that there are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a terminal may lack ≤, or parts of a path
    options = _options(checks).parse_args(arguments)
    if options.list:
        lines = [f"{c.name:14} {c.title} (at most {c.seconds:.0f} s)" for c in checks]
        with suppress(BrokenPipeError):  # a reader such as `head`
            print("\n".join(lines), flush=True)
        return 0
    try:
        session = _session(options, checks)
    except _WrongUse as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    try:
        session.run()
    except CannotWriteError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(session.work, ignore_errors=True)
    verdict = session.report.verdict
    print(f"{verdict}: {session.report.folder / report.MARKDOWN}", flush=True)
    return 0 if verdict == report.PASSED else 1


def _options(checks: Sequence[Check]) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(_PROGRAM, description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add(
        "--cpu",
        action="store_true",
        help="run every step on the CPU with tiny sizes; goals about speed are not judged",
    )
    add(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[check.name for check in checks],
        help="run only these checks",
    )
    add("--list", action="store_true", help="print the checks and end")
    add("--minutes", type=_minutes, default=10.0, help="for all checks together (default: 10)")
    add(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder with photographs (JPEG); default: generated pictures",
    )
    add(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("local-run/device-check"),
        help="folder of the report (default: local-run/device-check)",
    )
    return parser


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST_MINUTES:
        raise argparse.ArgumentTypeError(
            f"expected minutes, more than 0 and at most {_MOST_MINUTES}, got {text!r}"
        )
    return value


def _session(options: argparse.Namespace, checks: Sequence[Check]) -> Session:
    selected = [check for check in checks if not options.only or check.name in options.only]
    _require_packages(selected)
    if not options.cpu:
        _require_gpu()
    if options.photos is not None:
        _require_photographs(options.photos)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        _lock(options.output)
        for name in (report.MARKDOWN, report.JSON, report.LOG):
            (options.output / name).unlink(missing_ok=True)  # of an earlier run
        work = Path(tempfile.mkdtemp(prefix="device-check-"))
        (work / "shared").mkdir()
    except OSError as error:
        raise _WrongUse(
            f"cannot write {error.filename}: {error.strerror}; name another folder with --output, "
            "or set TMPDIR to a folder with space"
        ) from error
    results = [
        Result(check, reason="" if check in selected else report.NOT_SELECTED) for check in checks
    ]
    photographs = options.photos.absolute() if options.photos else None
    setting = {
        "device": "CPU, tiny sizes" if options.cpu else "GPU",
        "minutes at most": options.minutes,
        "photographs": str(photographs) if photographs else "generated",
    }
    kept = Report(options.output.absolute(), results, setting)
    return Session(kept, work, options.cpu, photographs, 60 * options.minutes)


def _lock(folder: Path) -> None:
    """Keep other runs from writing to the folder while this process lives; else a _WrongUse."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _WrongUse(
            f"another run writes its report to {folder}: wait for its end, or name another folder "
            "with --output"
        ) from error
    except OSError:  # a file system without locks
        os.close(handle)


def _require_packages(checks: Sequence[Check]) -> None:
    """Raise _WrongUse if this interpreter lacks a module; nothing is imported."""
    needed = dict.fromkeys(module for check in checks for module in check.modules)
    missing = [module for module in needed if find_spec(module) is None]
    if not missing:
        return
    names = [PACKAGES.get(module, module) for module in missing]
    others = [c.name for c in checks if not set(missing) & set(c.modules)]
    way = f", or leave out what needs them: --only {' '.join(others)}" if others else ""
    raise _WrongUse(
        f"{sys.executable} has no {', '.join(names)}: set PYTHON to an interpreter that has them, "
        f"install them there (the versions in constraints.txt are tested), or put them on "
        f"PYTHONPATH (pip install --target DIR {' '.join(names)}){way}"
    )


def _require_gpu() -> None:
    from image_classification.devices.machine import device_files

    if not device_files():
        raise _WrongUse(
            "this machine has no NVIDIA GPU (/dev/nvidia0): run this on a machine with one (docker "
            "run needs --gpus all), or use --cpu"
        )


def _require_photographs(folder: Path) -> None:
    found = folder.rglob("*") if folder.is_dir() else ()
    if not any(map(_is_photograph, found)):
        raise _WrongUse(
            f"--photos {folder}: expected a folder with photographs (JPEG files with the ending "
            f"{' or '.join(_PHOTOGRAPHS)}), found {'none' if folder.is_dir() else 'no folder'}"
        )


def _is_photograph(path: Path) -> bool:
    if path.suffix.lower() not in _PHOTOGRAPHS:
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_JPEG)) == _JPEG
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
