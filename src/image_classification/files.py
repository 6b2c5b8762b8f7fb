"""Files that are complete or absent, and temporary folders that are always removed."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from image_classification.errors import DataError, UsageError

PARTIAL_SUFFIX = ".partial"
BUFFER_BYTES = 1 << 20
"""Buffer of a file that is written piece by piece."""

_MOST_NAME_BYTES = 255 - len(f".4194304{PARTIAL_SUFFIX}")
_SHOWN = 200  # characters of a path
_FOLDER_PREFIX = "image-classification-"
_LOCK = "in-use"

_open: set[Path] = set()  # the temporary folders of this process

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def named_in_errors(path: Path | str) -> Iterator[None]:
    """Name what is written in the error of a disk; a failed write has no file name of its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK_ERRORS:
            error.filename = str(path)
        raise


def check_target(path: Path, source: Path) -> None:
    """Refuse to write to the file that is being read, or where no file can be written.

    Raises:
        UsageError: both are the same file, by whatever name.
        DataError: see `check_writable`.
    """
    check_writable(path)
    if path.exists() and source.exists() and os.path.samefile(path, source):
        raise UsageError(f"{path} is also the file to read ({source}); name another file to write")


def check_writable(path: Path) -> None:
    """Refuse a path at which `written_beside` cannot write a file, before work is spent on it.

    Raises:
        DataError: it is a folder or a device, its name is too long, or its folder is read-only.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: expected a file to write, got a folder; name a file in it")
        if path.exists() and not path.is_file():
            reason = "it is a device, pipe or socket"
        elif len(os.fsencode(path.name)) > _MOST_NAME_BYTES:
            reason = f"its name has more than {_MOST_NAME_BYTES} bytes"
        else:
            reason = _reason_against(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise DataError(f"{_shown(path)}: expected a file to write, but {reason}; name another")


def check_writable_folder(folder: Path) -> None:
    """Refuse a folder in which no file can be written; it need not exist yet.

    Raises:
        DataError: it, or the folder that it would be in, is a file or read-only.
    """
    try:
        reason = _reason_against(folder)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise DataError(f"{_shown(folder)}: expected a folder to write, but {reason}; name another")


def _reason_against(folder: Path) -> str:
    while not folder.exists():  # it is made with the file
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is a file"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} is read-only for this user"
    return ""


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds.

    If the block raises, the temporary file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        with named_in_errors(path):
            yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_together(directory: Path, last: str) -> Iterator[Callable[[str], Path]]:
    """Yield a function from a file's name to its temporary path; all appear if the block succeeds.

    If the block raises, for example because the disk is full, the folder is left as it was. A
    process that is killed between the renames leaves no file named `last`, which vouches for the
    others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partials: dict[str, Path] = {}

    def partial(name: str) -> Path:
        return partials.setdefault(name, directory / f"{name}.{os.getpid()}{PARTIAL_SUFFIX}")

    try:
        yield partial
        (directory / last).unlink(missing_ok=True)
        for name in sorted(partials, key=lambda name: name == last):
            os.replace(partials[name], directory / name)
    finally:
        for path in partials.values():
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with written_beside(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8 with a final newline, whole or not at all."""
    write_bytes(path, (content.rstrip("\n") + "\n").encode("utf-8"))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty temporary folder and remove it after the block.

    If every process that uses it is killed, the next call of this function removes it: a lock on a
    file next to the yielded folder, which forked processes hold too, tells whether one still runs.
    """
    remove_abandoned_folders()
    owner, root = os.getpid(), Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    _open.add(root)
    lock = os.open(root / f"{_LOCK}{PARTIAL_SUFFIX}", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with suppress(OSError):  # without locks, as on some network disks, it is never abandoned
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(root / f"{_LOCK}{PARTIAL_SUFFIX}", root / _LOCK)  # visible only once locked
        content = root / "content"
        content.mkdir()
        yield content
    finally:
        if os.getpid() == owner:  # a forked process leaves through here too
            shutil.rmtree(root, ignore_errors=True)
            _open.discard(root)
        os.close(lock)


def remove_open_folders() -> None:
    """Remove the temporary folders of this process, which ends now."""
    for root in list(_open):
        shutil.rmtree(root, ignore_errors=True)


def remove_abandoned_folders() -> None:
    """Remove this user's temporary folders whose lock no process holds."""
    for root in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):  # it is in use, already removed, or not accessible
            if root.is_symlink() or root.stat().st_uid != os.geteuid():
                continue
            lock = os.open(root / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)
