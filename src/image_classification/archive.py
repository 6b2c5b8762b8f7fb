"""Unpacks a model.tar.gz from anybody: no paths out of it, no links, no decompression bombs."""

from __future__ import annotations

import errno
import math
import shutil
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from image_classification.errors import ArtifactError
from image_classification.files import named_in_errors, temporary_folder

_MOST_UNPACKED = 4 * 2**30  # many times the largest network; a few kilobytes can claim any size
_FREE_UNPACKED = 256 * 2**20  # for an archive of any size: constant weights shrink to nothing
_MOST_GROWTH = 100  # times the archive's size, beyond that; weights shrink to 0.9, text to a tenth
_MOST_HEADER = 2**17  # bytes of an extended header, which tarfile reads into memory
_MOST_NAME = 255  # bytes of a file's or a folder's name, as on Linux
_MOST_DEPTH = 64  # folders in folders
_BLOCK = 1 << 20

_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}


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
    size = 0
    grown = _FREE_UNPACKED + _MOST_GROWTH * archive.stat().st_size
    deadline = time.monotonic() + limits.seconds
    with _opened(archive) as tar:
        for member in _members(tar, archive, limits.members):
            size += member.size
            limit = grown if size <= _MOST_UNPACKED else _MOST_UNPACKED
            if size > limit:
                raise ArtifactError(
                    f"{archive}: expected at most {limit} bytes when unpacked, got {size} with "
                    f"{member.name!r}; refused"
                )
            _unpack_member(tar, member, archive, directory, deadline)


@contextmanager
def unpacked(path: Path, limits: UnpackLimits = _USUAL_LIMITS) -> Iterator[Path]:
    """Yield the folder at `path`, or a temporary folder with the unpacked archive at `path`.

    Raises:
        ArtifactError: there is neither, or `unpack` refuses the archive.
    """
    if path.is_dir():
        yield path
        return
    expected = f"{path}: expected a model.tar.gz or the folder unpacked from it, found"
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{expected} nothing ({error})") from error
    if not stat.S_ISREG(found.st_mode) or not found.st_size:  # files of /proc have no size either
        is_empty = stat.S_ISREG(found.st_mode)
        raise ArtifactError(f"{expected} {'an empty file' if is_empty else 'a device or a pipe'}")
    with temporary_folder() as folder:
        unpack(path, folder, limits)
        yield folder


def file_names(path: Path) -> Iterator[PurePosixPath]:
    """Yield the relative paths in a folder or an archive; ArtifactError if it is damaged."""
    if path.is_dir():
        yield from (PurePosixPath(file.relative_to(path)) for file in path.rglob("*"))
        return
    with _opened(path) as tar:
        yield from (PurePosixPath(member.name) for member in _members(tar, path))


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    with _reading(archive):
        tar = tarfile.open(archive, tarinfo=_Member)
    with tar:
        yield tar


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Name the archive and its compression in errors of the block, which only reads it."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:  # each compression has its own errors, and so do strange headers
        reason = "nested headers" if isinstance(error, RecursionError) else str(error)
        raise ArtifactError(
            f"{archive}: not a usable model.tar.gz: {_kind_of(archive)}"
            f"{' '.join(reason.split())[:500]}"
        ) from error


def _kind_of(archive: Path) -> str:
    """Name the compression of an archive that cannot be read, if there is one."""
    try:
        with archive.open("rb") as file:
            head = file.read(8)
    except OSError:
        return ""
    for magic, kind in _COMPRESSIONS.items():
        if head.startswith(magic):
            return f"a damaged or incomplete {kind} archive: "
    return ""


def _members(
    tar: tarfile.TarFile, archive: Path, most: int = _USUAL_LIMITS.members
) -> Iterator[tarfile.TarInfo]:
    count = 0
    while True:
        with _reading(archive):
            member = tar.next()
            if member is not None and member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
        if member is None:
            return
        if count == most:
            raise ArtifactError(f"{archive}: expected at most {most} files and folders, got more")
        count += 1
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
        yield member


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
            raise tarfile.ReadError(f"an extended header of {member.size} bytes")
        return member

    def _proc_gnusparse_00(self, member: tarfile.TarInfo, *_: object) -> None:
        raise _sparse(member.name)

    def _proc_gnusparse_01(self, member: tarfile.TarInfo, *_: object) -> None:
        raise _sparse(member.name)

    def _proc_gnusparse_10(self, member: tarfile.TarInfo, *_: object) -> None:
        raise _sparse(member.name)


def _sparse(name: str) -> tarfile.ReadError:
    """Return the error about a file with holes, which a few bytes can make as long as they claim.

    tarfile would also read the list of the holes into memory, however long.
    """
    return tarfile.ReadError(f"{name!r} is a sparse file; pack it with tar without --sparse")


def _unpack_member(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    archive: Path,
    directory: Path,
    deadline: float,
) -> None:
    # By hand, because Debian 12's Python has no extraction filters yet.
    name = member.name
    parts = [len(part.encode("utf-8", "surrogateescape")) for part in name.split("/")]
    if max(parts) > _MOST_NAME or len(parts) > _MOST_DEPTH:
        raise ArtifactError(
            f"{archive}: {name[:80]!r}… has {len(parts)} parts of up to {max(parts)} bytes: "
            f"expected at most {_MOST_DEPTH} parts of {_MOST_NAME}"
        )
    with _reading(archive):
        target = (directory / name).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ArtifactError(
            f"{archive}: {name!r} would be unpacked outside the folder; pack the artifact "
            "folder again"
        )
    with _reading(archive):
        content = tar.extractfile(member) if member.isfile() else None
    if content is None and not member.isdir():
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


def _check_space(member: tarfile.TarInfo, directory: Path) -> None:
    """Raise an OSError if the disk cannot hold the member, before anything is written."""
    free = shutil.disk_usage(directory).free
    if member.size > free:
        raise OSError(
            errno.ENOSPC,
            f"no space left on device: {member.name!r} has {member.size} bytes, {free} are free",
            str(directory),
        )
