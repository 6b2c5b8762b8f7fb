"""Unpacks a model.tar.gz or a ZIP from anybody: no paths out of it, links, decompression bombs.

It also finds the model in what people give: below a top folder, or in an archive in a folder.
"""

from __future__ import annotations

import errno
import math
import re
import shlex
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from image_classification.errors import ArtifactError
from image_classification.files import named_in_errors, temporary_folder

_MOST_UNPACKED = 4 * 2**30  # many times the largest network; a few kilobytes can claim any size
_FREE_UNPACKED = 256 * 2**20  # for an archive of any size: constant weights shrink to nothing
_MOST_GROWTH = 100  # times the archive's size, beyond that; weights shrink to 0.9, text to a tenth
_MOST_HEADER = 2**17  # bytes of an extended header, which tarfile reads into memory
_MOST_NAME = 255  # bytes of a file's or a folder's name, as on Linux
_MOST_DEPTH = 64  # folders in folders
_BLOCK = 1 << 20
_MOST_DIRECTORY = 16 * 2**20  # bytes of a ZIP's directory, which zipfile reads into memory
_MOST_LEVELS = 4  # folders in folders in which a model is looked for
_MOST_FOLDERS = 1000  # in which it is looked for
_MOST_NESTED = 1  # archives in an archive, one in the other

# First bytes → (the name of the archive, tarfile's mode for it).
_FORMATS = {
    b"\x1f\x8b": ("gzip", "r:gz"),
    b"BZh": ("bzip2", "r:bz2"),
    b"\xfd7zXZ\0": ("xz", "r:xz"),
    b"PK\3\4": ("ZIP", ""),
    b"PK\5\6": ("ZIP", ""),
}
_ZIP_TAIL = 22 + 2**16  # bytes at the end of a ZIP that hold the end of its directory
_USTAR = slice(257, 262)  # of a tar header
_ADDRESS = re.compile(r"(?i)(arn(?=:)|[a-z][a-z0-9+.-]+(?=:/)):/*(.*)")
_ARCHIVE = re.compile(r"(?i).*\.(?:tar\.gz|tgz|tar|tar\.bz2|tar\.xz|zip)")


@dataclass(frozen=True)
class UnpackLimits:
    """What an archive can take, besides space on the disk.

    Attributes:
        members: files and folders; empty ones cost no bytes, but inodes and minutes.
        seconds: from the start to the last file.
    """

    members: int = 10_000
    seconds: float = math.inf


_USUAL_LIMITS = UnpackLimits()


def unpack(archive: Path, directory: Path, limits: UnpackLimits = _USUAL_LIMITS) -> None:
    """Unpack a model.tar.gz.

    Raises:
        ArtifactError: it is damaged, has paths outside the folder, links, devices or sparse files,
            is a decompression bomb, or exceeds the limits.
        OSError: there is no space on the disk.
    """
    deadline = time.monotonic() + limits.seconds
    for member in _members(archive, limits.members):
        _unpack_member(member, archive, directory, deadline)


@contextmanager
def unpacked(
    path: Path,
    limits: UnpackLimits = _USUAL_LIMITS,
    holding: Collection[str] = (),
    nested: int = _MOST_NESTED,
) -> Iterator[Path]:
    """Yield the folder at `path`, or a temporary folder with the unpacked archive at `path`.

    Args:
        path: a folder or an archive.
        limits: of each archive.
        holding: names of files. The folder that has one of them is yielded, if it is the only one
            below the folder, or in the only archive in it (or its `model.tar.gz`).
        nested: how many archives in an archive are unpacked, one in the other.

    Raises:
        ArtifactError: there is neither, or `unpack` refuses the archive.
    """
    if path.is_dir():
        found, archive = _look_for(path, holding)
        if found is None and archive is not None and nested >= 0:
            with unpacked(archive, limits, holding, nested) as folder:
                yield folder
        else:
            yield found or path
        return
    expected = f"{path}: expected a model.tar.gz or the folder unpacked from it, found"
    if address := _ADDRESS.fullmatch(str(path)):
        raise ArtifactError(_at_address(address[1].lower(), address[2]))
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({error})"
        raise ArtifactError(f"{expected} nothing{reason}") from error
    if not stat.S_ISREG(status.st_mode) or not status.st_size:  # files of /proc have no size either
        is_empty = stat.S_ISREG(status.st_mode)
        raise ArtifactError(f"{expected} {'an empty file' if is_empty else 'a device or a pipe'}")
    with temporary_folder() as folder, ExitStack() as stack:
        unpack(path, folder, limits)
        try:
            model = stack.enter_context(unpacked(folder, limits, holding, nested - 1))
        except ArtifactError as error:  # the user knows the archive, not where it was unpacked
            raise ArtifactError(str(error).replace(str(folder), str(path))) from error
        yield model


def _at_address(scheme: str, rest: str) -> str:
    """Return the error about an address in place of a path, which has lost one of its slashes."""
    address = f"{scheme}:{'' if scheme == 'arn' else '//'}{rest}"
    commands = {
        "s3": "aws s3 cp",
        "gs": "gcloud storage cp",
        **dict.fromkeys(("http", "https"), "curl -LO"),
        "arn": "aws s3 cp the S3ModelArtifacts or ModelDataUrl of",
    }
    command = commands.get(scheme, "copy")
    target = " model.tar.gz" if command.endswith(" cp") else ""
    return (
        f"{address}: expected a path on this machine, found an address; download it first: "
        f"{command} {shlex.quote(address)}{target}"
    )


def _look_for(folder: Path, names: Collection[str]) -> tuple[Path | None, Path | None]:
    """Return the only folder with a file of these names, and the only archive, below `folder`."""
    if not names:
        return None, None
    level, archives = [folder], []
    for _ in range(_MOST_LEVELS):
        found = [place for place in level if any((place / name).is_file() for name in names)]
        if found:
            return (found[0] if len(found) == 1 else None), None
        entries = [e for place in level for e in islice(place.glob("[!.]*"), _MOST_FOLDERS)]
        archives += [e for e in entries if _ARCHIVE.fullmatch(e.name) and e.is_file()]
        folders = (e for e in entries if e.is_dir() and e.name != "__MACOSX")
        level = [e for e in islice(folders, _MOST_FOLDERS) if not e.is_symlink()]
    named = [archive for archive in archives if archive.name == "model.tar.gz"]
    return None, next((only[0] for only in (named, archives) if len(only) == 1), None)


def holds(path: Path, name: str, beside: str) -> bool:
    """Return whether a folder or an archive has a file `name` at the top, or next to `beside`.

    Raises:
        ArtifactError: the archive is damaged.
    """
    names = {file for file in file_names(path) if len(file.parts) <= _MOST_LEVELS}
    found = (file for file in names if file.name == name)
    return any(len(file.parts) == 1 or file.with_name(beside) in names for file in found)


def file_names(path: Path) -> Iterator[PurePosixPath]:
    """Yield the relative paths in a folder or an archive; ArtifactError as `unpack` raises it."""
    if path.is_dir():
        yield from (PurePosixPath(file.relative_to(path)) for file in path.rglob("*"))
        return
    if address := _ADDRESS.fullmatch(str(path)):
        raise ArtifactError(_at_address(address[1].lower(), address[2]))
    yield from (PurePosixPath(member.name) for member in _members(path))


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Name the archive and its format in errors of the block, which only reads it."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:  # each compression has its own errors, and so do strange headers
        if isinstance(error, _Refusal):
            reason = " ".join(str(error).split())[:500]
        elif isinstance(error, RecursionError):
            reason = "too many nested headers"
        elif isinstance(error, NotImplementedError):
            reason = "it uses an unsupported compression; pack it as tar.gz"
        else:
            reason = _kind_of(archive, error)
        raise ArtifactError(f"{archive}: not a usable model.tar.gz: {reason}") from error


class _Refusal(tarfile.ReadError):
    """A member that an artifact never has; the message says why."""


def _kind_of(archive: Path, error: Exception) -> str:
    """Name the format of an archive that cannot be read."""
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES):
        return f"it cannot be read ({error.strerror})"
    head = _head(archive)
    if not (name := _format_of(head)[0]):
        return f"not an archive, it begins with {head[:16]!r}"
    is_other = type(error) is tarfile.ReadError and str(error) in ("invalid header", "bad checksum")
    inside = ", or one without a tar archive inside" if is_other else ""
    return f"a damaged or incomplete {name} archive{inside}; copy it or pack it again"


def _head(archive: Path) -> bytes:
    if archive.exists() and not archive.is_file():  # opening a pipe would wait for a writer
        raise _Refusal("a device, a pipe or a folder")
    with archive.open("rb") as file:
        return file.read(512)


def _format_of(head: bytes) -> tuple[str, str]:
    """Return the name of an archive's format and tarfile's mode; "" if it begins as none does."""
    found = (row for magic, row in _FORMATS.items() if head.startswith(magic))
    return next(found, ("tar", "r:") if head[_USTAR] == b"ustar" else ("", "r:"))


@dataclass(frozen=True)
class _ArchiveMember:
    """A file, a folder or something else in an archive; `open` returns the content of a file."""

    name: str
    size: int
    is_file: bool
    is_folder: bool
    open: Callable[[], IO[bytes] | None]


def _members(archive: Path, most: int = _USUAL_LIMITS.members) -> Iterator[_ArchiveMember]:
    with _reading(archive):
        name, mode = _format_of(_head(archive))
    members = _zip_members(archive) if name == "ZIP" else _tar_members(archive, mode)
    size, grown = 0, _FREE_UNPACKED + _MOST_GROWTH * archive.stat().st_size
    for count, member in enumerate(members):
        if count == most:
            raise ArtifactError(f"{archive}: expected at most {most} files and folders, got more")
        size += member.size  # to list the next member of a tar, this one is decompressed
        limit = grown if size <= _MOST_UNPACKED else _MOST_UNPACKED
        if size > limit:
            raise ArtifactError(
                f"{archive}: expected at most {limit} bytes when unpacked, got {size} with "
                f"{member.name!r}; refused"
            )
        yield member


def _tar_members(archive: Path, mode: str) -> Iterator[_ArchiveMember]:
    with _reading(archive):
        tar = tarfile.open(archive, mode, tarinfo=_Member)  # type: ignore[call-overload]
    with tar:
        while True:
            with _reading(archive):
                member = tar.next()
                if member is not None and member.size < 0:
                    raise _Refusal(f"{member.name!r} has {member.size} bytes")
            if member is None:
                return
            tar.members.clear()  # else it keeps them all
            content = partial(tar.extractfile, member)
            yield _ArchiveMember(member.name, member.size, member.isfile(), member.isdir(), content)


def _zip_members(archive: Path) -> Iterator[_ArchiveMember]:
    with _reading(archive):
        _check_directory(archive)
        packed = zipfile.ZipFile(archive)
    with packed:
        for member in packed.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            with _reading(archive):
                if member.flag_bits & 1:
                    raise _Refusal(f"{member.filename!r} has a password; pack it without")
            name = member.filename if "/" in member.filename else member.filename.replace("\\", "/")
            yield _ArchiveMember(
                name,
                member.file_size,
                not name.endswith("/") and kind in (0, stat.S_IFREG),
                name.endswith("/"),
                partial(packed.open, member),
            )


def _check_directory(archive: Path) -> None:
    """Refuse a ZIP whose directory would fill the memory, before zipfile reads it."""
    with archive.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - _ZIP_TAIL))
        tail = file.read()
    is_plain = tail[-22:-18] == b"PK\5\6" and tail.endswith(b"\0\0")  # without a comment
    start = len(tail) - 22 if is_plain else tail.rfind(b"PK\5\6")
    if start < 0:
        raise zipfile.BadZipFile
    if tail[max(0, start - 20) : start].startswith(b"PK\6\7"):
        raise _Refusal("a ZIP64, which holds more than an artifact; pack it as model.tar.gz")
    if int.from_bytes(tail[start + 12 : start + 16], "little") > _MOST_DIRECTORY:
        raise _Refusal(f"a directory of more than {_MOST_DIRECTORY} bytes")


class _Member(tarfile.TarInfo):
    """A member; an extended header that would fill the memory is refused before it is read."""

    _EXTENDED = (
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    )

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse(member.name)
        if member.type in cls._EXTENDED and member.size > _MOST_HEADER:
            raise _Refusal(f"an extended header of {member.size} bytes")
        return member

    def _proc_gnusparse_00(self, member: tarfile.TarInfo, *_: object) -> None:
        raise _sparse(member.name)

    def _proc_gnusparse_01(self, member: tarfile.TarInfo, *_: object) -> None:
        raise _sparse(member.name)

    def _proc_gnusparse_10(self, member: tarfile.TarInfo, *_: object) -> None:
        raise _sparse(member.name)


def _sparse(name: str) -> _Refusal:
    """Return the error about a file with holes: a few bytes can claim any length."""
    return _Refusal(f"{name!r} is a sparse file; pack it with tar without --sparse")


def _unpack_member(member: _ArchiveMember, archive: Path, directory: Path, deadline: float) -> None:
    # By hand, because Debian 12's Python has no extraction filters yet.
    name = member.name
    parts = [len(part.encode("utf-8", "surrogateescape")) for part in name.split("/")]
    if max(parts) > _MOST_NAME or len(parts) > _MOST_DEPTH:
        raise ArtifactError(
            f"{archive}: {name[:80]!r}… has {len(parts)} parts of up to {max(parts)} bytes: "
            f"expected at most {_MOST_DEPTH} parts of {_MOST_NAME}"
        )
    if "\0" in name:
        raise ArtifactError(f"{archive}: {name[:80]!r} contains a null byte")
    target = (directory / name).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ArtifactError(
            f"{archive}: {name!r} would be unpacked outside the folder; pack the artifact "
            "folder again"
        )
    with _reading(archive):
        content = member.open() if member.is_file else None
    if content is None and not member.is_folder:
        raise ArtifactError(
            f"{archive}: {name!r} is a link or a device; pack regular files and folders only"
        )
    try:
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.size:
            _check_space(member, target.parent)
        with named_in_errors(target), target.open("wb") as file:
            while True:
                if time.monotonic() > deadline:
                    raise ArtifactError(
                        f"{archive}: unpacking takes too long: expected a smaller archive, or one "
                        "with fewer files"
                    )
                with _reading(archive):
                    block = content.read(_BLOCK)
                if not block:
                    return
                file.write(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ArtifactError(f"{archive}: {name!r} is both a file and a folder") from error


def _check_space(member: _ArchiveMember, directory: Path) -> None:
    """Raise an OSError if the disk cannot hold the member, before anything is written."""
    free = shutil.disk_usage(directory).free
    if member.size > free:
        raise OSError(
            errno.ENOSPC,
            f"no space left on device: {member.name!r} has {member.size} bytes, {free} are free",
            str(directory),
        )
