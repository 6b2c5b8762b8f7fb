"""Unpacks a model.tar.gz from anybody: no paths out of it, no links, no decompression bombs."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from image_classification.errors import ArtifactError
from image_classification.files import named_in_errors, temporary_folder

_MOST_UNPACKED = 4 * 2**30  # many times the largest network; a few kilobytes can claim any size
_MOST_MEMBERS = 10_000  # empty files cost no bytes, but inodes and minutes
_MOST_HEADER = 2**20  # bytes of an extended header, which tarfile reads into memory


def unpack(archive: Path, directory: Path) -> None:
    """Unpack a model.tar.gz; refuse paths out of it, links, devices and more than 4 GiB."""
    size = 0
    with _opened(archive) as tar:
        for member in _members(tar, archive):
            size += member.size
            if size > _MOST_UNPACKED:
                raise ArtifactError(
                    f"{archive}: expected at most {_MOST_UNPACKED} bytes when unpacked, got {size} "
                    f"with {member.name!r}; refused"
                )
            _unpack_member(tar, member, archive, directory)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield the folder at `path`, or a temporary folder with the unpacked archive at `path`.

    Raises:
        ArtifactError: there is neither, or `unpack` refuses the archive.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise ArtifactError(
            f"{path}: expected a model.tar.gz or the folder unpacked from it, found nothing"
        )
    with temporary_folder() as folder:
        unpack(path, folder)
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
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            yield tar
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ArtifactError(f"{archive}: not a usable model.tar.gz: {error}") from error


def _members(tar: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        if count == _MOST_MEMBERS:
            raise ArtifactError(f"{archive}: more than {_MOST_MEMBERS} members; refused")
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
        if member.type in cls._EXTENDED and member.size > _MOST_HEADER:
            raise tarfile.ReadError(f"an extended header of {member.size} bytes")
        return member


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, directory: Path
) -> None:
    # By hand, because Debian 12's Python has no extraction filters yet.
    target = (directory / member.name).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ArtifactError(
            f"{archive}: {member.name!r} would be unpacked outside the folder; pack the artifact "
            "folder again"
        )
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise ArtifactError(
            f"{archive}: {member.name!r} is a link or a device; pack regular files and folders only"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with named_in_errors(target), target.open("wb") as file:
        shutil.copyfileobj(content, file)
