"""Reading a model.tar.gz that anybody may have packed: nothing outside, no links, no bombs."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from image_classification.errors import ArtifactError

_MOST_UNPACKED = 4 * 2**30  # many times the largest network; a few kilobytes can claim any size
_MOST_MEMBERS = 10_000  # empty files cost no bytes, but inodes and minutes
_MOST_HEADER = 2**20  # bytes of an extended header, which tarfile reads into memory


def unpack(archive: Path, directory: Path) -> None:
    """Unpack a model.tar.gz; paths out of it, links, devices and more than 4 GiB are refused."""
    size = 0
    with _opened(archive) as tar:
        for member in _members(tar, archive):
            size += member.size
            if size > _MOST_UNPACKED:
                raise ArtifactError(
                    f"{archive}: {member.name!r} makes it {size} bytes, more than the "
                    f"{_MOST_UNPACKED} that are unpacked; refused"
                )
            _unpack_member(tar, member, archive, directory)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder at `path`, or that of the archive at `path`, which goes at the end of the block.

    Raises:
        ArtifactError: there is neither, or `unpack` refuses the archive.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise ArtifactError(f"{path}: expected a model.tar.gz or its folder, found nothing")
    with tempfile.TemporaryDirectory(prefix="image-classification-") as folder:
        unpack(path, Path(folder))
        yield Path(folder)


def file_names(path: Path) -> Iterator[PurePosixPath]:
    """Relative paths of what is in a folder or an archive; ArtifactError if it is damaged."""
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
    """A member whose header is not read where its size alone would take the memory of others."""

    _HEADERS = (
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    )

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in self._HEADERS and self.size > _MOST_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, directory: Path
) -> None:
    """One member; written by hand, because Debian 12's Python has no extraction filters yet."""
    target = (directory / member.name).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ArtifactError(f"{archive}: {member.name!r} lies outside the archive; refused")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise ArtifactError(f"{archive}: {member.name!r} is a link or a device; refused")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)
