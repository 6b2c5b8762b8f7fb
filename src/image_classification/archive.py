"""Unpacking a model.tar.gz that anybody may have packed: nothing outside, no links, no bombs."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path

from image_classification.errors import ArtifactError

_MOST_UNPACKED = 4 * 2**30  # many times the largest network; a few kilobytes can claim any size
_MOST_MEMBERS = 10_000  # empty files cost no bytes, but inodes and minutes
_MOST_HEADER = 2**20  # bytes of an extended header, which tarfile reads into memory


def unpack(archive: Path, directory: Path) -> None:
    """Unpack a model.tar.gz; paths out of it, links, devices and more than 4 GiB are refused."""
    size = 0
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            for count, member in enumerate(tar):
                size += member.size
                if count == _MOST_MEMBERS:
                    raise ArtifactError(f"{archive}: more than {_MOST_MEMBERS} members; refused")
                if size > _MOST_UNPACKED:
                    raise ArtifactError(
                        f"{archive}: {member.name!r} makes it {size} bytes, more than the "
                        f"{_MOST_UNPACKED} that are unpacked; refused"
                    )
                _unpack_member(tar, member, archive, directory)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ArtifactError(f"{archive}: not a usable model.tar.gz: {error}") from error


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
