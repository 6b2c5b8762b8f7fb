"""What the last lines of a script, or of pip, say went wrong, in one sentence."""

import re
from collections.abc import Iterator, Sequence

_RANK = re.compile(r"^\[rank\d+\]:\s?|^\[\d+,\d+\]<stderr>:?")  # torch's and mpirun's prefixes
_TRACEBACK = "Traceback (most recent call last)"
# Lines that may follow an error but do not say what it is: code, warnings, torchrun's own.
_NOISE = re.compile(
    r"^\s|^\W*$|Warning:|^\[?W\d{4}|torch/distributed/elastic|^Traceback \(most recent"
    r"|^During handling of|^The above exception was"
)
_MOST_LINES = 5  # of the message of one exception
_PIP = re.compile(r"^(?:ERROR|error): ?(.+)")
_NO_INDEX = re.compile(
    r"connection broken by|NewConnectionError|Temporary failure in name|Max retries|ConnectTimeout"
)


def last_error(lines: Sequence[str]) -> str:
    """Return the script's last error, "" without lines.

    It is the exception of the last traceback with the lines that follow it, if they are few, else
    the last line that is neither a warning nor code. Exceptions that Python ignores do not count,
    and if torchrun reports a failure, the words of the script before it do.
    """
    own = list(_without_ignored([_RANK.sub("", line) for line in lines]))
    cut = next((place for place, line in enumerate(own) if "ChildFailedError" in line), len(own))
    told = _without_noise(own[:cut])
    if told:
        own = own[:cut]
    else:
        told = _without_noise(own)
    if not told:
        return lines[-1].strip() if lines else ""
    raised = _exception_of_last_traceback(own)
    message = told if raised is None else _without_noise(own[raised:])
    return " ".join(message) if 0 < len(message) <= _MOST_LINES and raised is not None else told[-1]


def _without_noise(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines if not _NOISE.search(line)]


def _exception_of_last_traceback(lines: Sequence[str]) -> int | None:
    """Return the number of its line."""
    found, is_inside = None, False
    for place, line in enumerate(lines):
        if _TRACEBACK in line:
            is_inside = True
        elif is_inside and line.strip() and not line[0].isspace():
            found, is_inside = place, False
    return found


def _without_ignored(lines: Sequence[str]) -> Iterator[str]:
    """Leave out the exceptions that Python ignores, such as those of finalizers."""
    is_ignored = False
    for line in lines:
        if line.startswith("Exception ignored"):
            is_ignored = True
        elif not is_ignored:
            yield line
        elif not (line[:1].isspace() or _TRACEBACK in line):
            is_ignored = False  # the exception itself


def requirement_error(lines: Sequence[str]) -> str:
    """Return why pip did not install the requirements: its errors, which name the package."""
    told = [match[1] for line in lines if (match := _PIP.match(line.strip()))]
    reason = "; ".join(dict.fromkeys(told)) or last_error(lines) or "pip gave no reason"
    if any(_NO_INDEX.search(line) for line in lines):
        reason += (
            ". No package index can be reached: give the job a network, or put the wheels of all "
            "requirements into the folder wheels of the code"
        )
    return reason
