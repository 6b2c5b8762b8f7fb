"""Published weights are fetched on demand, from a table, and kept only if their hash is right."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import threading
import time
import urllib.request
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from image_classification.backends.backbones import BACKBONES
from image_classification.errors import ArtifactError
from image_classification.weights import download
from image_classification.weights.download import PUBLISHED, Published, downloaded

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: whole, truncated, endless, elsewhere, absent."""

    def do_GET(self) -> None:
        path = self.path
        if path.startswith("/moved"):
            self.send_response(302)
            self.send_header(
                "Location",
                {
                    "/moved": "/whole",
                    "/moved-away": "file:///etc/passwd",
                    "/moved-nowhere": "http://[nowhere/",
                }[path],
            )
            self.end_headers()
        elif path == "/circle":
            self.send_response(302)
            self.send_header("Location", "/circle")
            self.end_headers()
        elif path == "/absent":
            self.send_error(404)
        else:
            self.send_response(200)
            lengths = {
                "/huge": 2**40,
                "/truncated": len(CONTENT) + 1,
                "/slow": 2**20,
                "/digits": "9" * 5000,
            }
            length = lengths.get(path, len(CONTENT))
            if path != "/without-length":
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(CONTENT)
            with suppress(OSError):  # until the client gives up
                while path == "/slow":
                    self.wfile.write(b"x")
                    time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which must be empty after each test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def fetched(address: str, sha256: str = DIGEST[:8]) -> bytes:
    with downloaded("x", {"x": Published(address, sha256, "MIT")}) as (path, row):
        assert row.license == "MIT"
        return path.read_bytes()


@pytest.mark.parametrize("path", ["whole", "without-length", "moved"])
def test_a_file_is_fetched_whole_also_after_a_redirect(
    address: str, path: str, temporary: Path
) -> None:
    assert fetched(f"{address}/{path}") == CONTENT
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("truncated", "broke off"),
        ("absent", "404 Not Found; try again, or fetch it by another way"),
        ("moved-away", "Redirection to url 'file:///etc/passwd' is not allowed"),
        ("circle", "infinite loop|redirect"),
        ("moved-nowhere", "not HTTP .Invalid IPv6 URL"),
        ("digits", "not HTTP .Exceeds the limit"),
        ("huge", "at most 1073741824 bytes, got 1099511627776"),
    ],
)
def test_a_download_that_fails_says_why_and_leaves_nothing(
    address: str, path: str, reason: str, temporary: Path
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        fetched(f"{address}/{path}")
    assert not list(temporary.iterdir())


def test_a_download_ends_in_time_although_bytes_arrive(
    address: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MOST_SECONDS", 0.2)
    with pytest.raises(ArtifactError, match=r"broke off.*bytes in 0 s.*--from FILE"):
        fetched(address + "/slow")
    assert not list(temporary.iterdir())


def test_no_redirect_leads_from_https_to_http() -> None:
    request = urllib.request.Request("https://example.com/x")
    with pytest.raises(ArtifactError, match="refused to follow its redirect to http://"):
        download._Redirects().redirect_request(request, None, 302, "", {}, "http://example.com/x")


def test_a_file_with_another_hash_is_not_kept(address: str, temporary: Path) -> None:
    with pytest.raises(ArtifactError, match=f"begins with 0123abcd, got {DIGEST[:8]}"):
        fetched(f"{address}/whole", "0123abcd")
    assert not list(temporary.iterdir())


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"127\.0\.0\.1:9/x cannot be reached"):
        fetched("http://127.0.0.1:9/x")


def test_a_full_disk_is_found_before_the_file_is_fetched(
    address: str, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(OSError, match="no space left on device: 7000 bytes, 1 are free"):
        fetched(f"{address}/whole")
    assert not list(temporary.iterdir())


def test_a_file_that_grows_beyond_the_limit_is_refused_on_the_way(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MOST_BYTES", 1000)
    with pytest.raises(ArtifactError, match="at most 1000 bytes, got 7000 or more"):
        fetched(f"{address}/without-length")


def test_an_unknown_backbone_is_an_error_with_those_that_are_known() -> None:
    with pytest.raises(ArtifactError, match=r"published weights of resnet20 .* resnet50_v1\.5"):
        with downloaded("resnet20"):
            pass


def test_the_table_names_backbones_of_ours_https_addresses_and_hashes() -> None:
    for name, row in PUBLISHED.items():
        assert name in BACKBONES
        assert row.address.startswith("https://") and row.sha256 in row.file and row.license
        assert len(row.sha256) >= 8 and int(row.sha256, 16) >= 0
