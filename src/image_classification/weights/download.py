"""Fetches the published weights of backbones by an explicit table, and checks their hashes.

Nothing else in the package downloads, and only the user's own command calls this module.
"""

import hashlib
import http.client
import logging
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from image_classification.errors import ArtifactError
from image_classification.files import named_in_errors, temporary_folder

_MOST_BYTES = 2**30  # of a file; the largest in the table has 0.36 GB
_SECONDS = 60  # without a byte
_MOST_SECONDS = 3600.0  # for the content of a file
_MOST_REDIRECTS = 5
_BLOCK = 1 << 20
_SHARE_LOGGED = 0.2  # of the file, between two log lines

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A file of weights that its makers publish.

    Attributes:
        address: of the file.
        sha256: the beginning of its SHA-256.
        license: under which its makers publish it.
    """

    address: str
    sha256: str
    license: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return urlsplit(self.address).path.rpartition("/")[2]


def _torchvision(file: str) -> Published:
    name = f"https://download.pytorch.org/models/{file}.pth"
    return Published(name, file.rpartition("-")[2], "BSD-3-Clause")


# Backbone → torchvision's file IMAGENET1K_V1, whose name has the beginning of its SHA-256.
PUBLISHED: Mapping[str, Published] = {
    "resnet18_v1.5": _torchvision("resnet18-f37072fd"),
    "resnet34_v1.5": _torchvision("resnet34-b627a593"),
    "resnet50_v1.5": _torchvision("resnet50-0676ba61"),
    "resnet101_v1.5": _torchvision("resnet101-63fe2227"),
    "resnet152_v1.5": _torchvision("resnet152-394f9c45"),
    "wide_resnet50_2": _torchvision("wide_resnet50_2-95faca4d"),
    "wide_resnet101_2": _torchvision("wide_resnet101_2-32ee1156"),
    "resnext50_32x4d": _torchvision("resnext50_32x4d-7cdf4587"),
    "resnext101_32x8d": _torchvision("resnext101_32x8d-8ba56ff5"),
    "resnext101_64x4d": _torchvision("resnext101_64x4d-173b62eb"),
    "mobilenet_v2": _torchvision("mobilenet_v2-b0353104"),
    "efficientnet_b0": _torchvision("efficientnet_b0_rwightman-7f5810bc"),
    "efficientnet_b1": _torchvision("efficientnet_b1_rwightman-bac287d4"),
    "efficientnet_b2": _torchvision("efficientnet_b2_rwightman-c35c1473"),
    "efficientnet_b3": _torchvision("efficientnet_b3_rwightman-b3899882"),
    "efficientnet_b4": _torchvision("efficientnet_b4_rwightman-23ab8bcd"),
}


@contextmanager
def downloaded(
    backbone: str, published: Mapping[str, Published] = PUBLISHED
) -> Iterator[tuple[Path, Published]]:
    """Yield a temporary file with the published weights of a backbone, and their row.

    Raises:
        ArtifactError: the table lacks the backbone, the file cannot be fetched, or it is another.
        OSError: there is no space on the disk.
    """
    row = published.get(backbone)
    if row is None:
        raise ArtifactError(
            f"no published weights of {backbone} are known; known are {', '.join(published)}; give "
            f"a file of yours with --from FILE"
        )
    with temporary_folder() as folder:
        path = folder / row.file
        digest = _fetch(row.address, path)
        if not digest.startswith(row.sha256):
            raise ArtifactError(
                f"{row.address}: expected a file whose SHA-256 begins with {row.sha256}, got "
                f"{digest[: len(row.sha256)]}; nothing was kept: try again, or fetch the file by "
                "another way and give it with --from FILE"
            )
        yield path, row


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, none of them to an address that is less safe."""

    max_redirections = _MOST_REDIRECTS

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See the base class."""
        allowed = ("https",) if req.full_url.startswith("https:") else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise ArtifactError(f"{req.full_url}: refused to follow its redirect to {newurl[:200]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(address: str, path: Path) -> str:
    """Write what is at an address to `path`; return its SHA-256."""
    remedy = "try again, or fetch it by another way and give it with --from FILE"
    opener = urllib.request.build_opener(_Redirects)
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})  # noqa: S310 (the table's)
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            return _save(address, answer, path)
    except urllib.error.HTTPError as error:
        raise ArtifactError(f"{address}: {error.code} {error.reason}; {remedy}") from error
    except urllib.error.URLError as error:
        raise ArtifactError(f"{address} cannot be reached: {error.reason}; {remedy}") from error
    except (http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        raise ArtifactError(f"{address}: the answer broke off ({error!r}); {remedy}") from error
    except ValueError as error:  # the address in a redirect, or the length
        raise ArtifactError(
            f"{address}: an answer that is not HTTP ({str(error)[:100]}); {remedy}"
        ) from error


def _save(address: str, answer: Any, path: Path) -> str:
    length = answer.headers.get("Content-Length")
    size = int(length) if length is not None and length.isdecimal() else None
    _check_size(address, size or 0, path)
    _logger.info("Fetching %s%s", address, f" ({size / 1e6:.0f} MB)" if size else "")
    digest, count, logged = hashlib.sha256(), 0, 0
    deadline = time.monotonic() + _MOST_SECONDS
    with named_in_errors(path), path.open("wb") as file:
        while block := answer.read1(_BLOCK):  # what has arrived: a block may take hours
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} bytes in {_MOST_SECONDS:.0f} s")
            count += len(block)
            if count > _MOST_BYTES:
                _check_size(address, count, path)
            file.write(block)
            digest.update(block)
            if size and count - logged >= size * _SHARE_LOGGED:
                _logger.info("%.0f of %.0f MB", count / 1e6, size / 1e6)
                logged = count
    if size is not None and count != size:
        raise ConnectionError(f"{count} of {size} bytes")
    return digest.hexdigest()


def _check_size(address: str, size: int, path: Path) -> None:
    if size > _MOST_BYTES:
        raise ArtifactError(
            f"{address}: expected a file of at most {_MOST_BYTES} bytes, got {size} or more"
        )
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(ENOSPC, f"no space left on device: {size} bytes, {free} are free", str(path))
