"""`make login create-repository push` with a registry that requires ECR's password."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.registry.conftest import Run, docker

VERSION = "0.0.0-push-test"


@pytest.fixture
def images(tmp_path: Path, registry: str, remove_images: Callable[[str], None]) -> dict[str, str]:
    """Two images of a few bytes with the names that `make build` gives."""
    remove_images(VERSION)
    names = {
        "train": f"image-classification-train:{VERSION}-torch",
        "serve": f"image-classification-serve:{VERSION}",
    }
    for role, name in names.items():
        folder = tmp_path / role
        folder.mkdir()
        (folder / "role").write_text(role)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY role /\n")
        docker("build", "--quiet", "--tag", name, str(folder))
    return names


def test_after_login_and_create_repository_both_images_can_be_pushed_and_pulled_by_digest(
    make: Run, registry: str, images: dict[str, str], environment: dict[str, str], password: str
) -> None:
    result = make("login", "create-repository", "push", REGISTRY=registry, VERSION=VERSION)
    assert result.returncode == 0, result.stderr
    assert password not in result.stdout + result.stderr
    digests = [
        line.rsplit(" ", 1)[1]
        for line in result.stdout.splitlines()
        if line.startswith("image_uri")
    ]
    assert len(digests) == 2
    for name, by_digest in zip(images.values(), digests, strict=True):
        assert by_digest.startswith(f"{registry}/{name.partition(':')[0]}@sha256:")
        pushed = docker("image", "inspect", "--format", "{{.Id}}", name)
        docker("image", "rm", name, f"{registry}/{name}")
        docker("pull", by_digest, env=environment)
        assert docker("image", "inspect", "--format", "{{.Id}}", by_digest) == pushed
        docker("image", "rm", by_digest)


def test_push_without_a_login_fails_and_suggests_make_login(
    make: Run, registry: str, images: dict[str, str]
) -> None:
    result = make("push", REGISTRY=registry, VERSION=VERSION)
    assert result.returncode != 0
    assert f"ClientError: {registry} refused {registry}/{images['train']}" in result.stderr
    assert "run make login" in result.stderr
    assert "image_uri" not in result.stdout


def test_push_reports_a_missing_image_and_pushes_the_other_one(
    make: Run, registry: str, images: dict[str, str]
) -> None:
    docker("image", "rm", images["train"])
    result = make("login", "push", REGISTRY=registry, VERSION=VERSION)
    assert result.returncode == 0, result.stderr
    assert (
        f"not pushed: the image {images['train']} does not exist (run make build-train)"
        in result.stderr
    )
    assert f"pushed {registry}/{images['serve']}" in result.stdout
    assert "image-classification-train" not in result.stdout


def test_push_without_images_suggests_make_build(make: Run, registry: str) -> None:
    result = make("push", REGISTRY=registry, VERSION="0.0.0-never-built")
    assert result.returncode != 0
    assert "ClientError: nothing to push" in result.stderr
    assert "run make build" in result.stderr


def test_repositories_are_created_once_with_immutable_tags_and_scanning(
    make: Run, registry: str, ecr: Any
) -> None:
    team = f"{registry}/vision"
    first = make("create-repository", REGISTRY=team)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count(": created") == 2
    second = make("create-repository", REGISTRY=team)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count(": already exists") == 2
    names = [f"vision/image-classification-{image}" for image in ("train", "serve")]
    for entry in ecr.describe_repositories(repositoryNames=names)["repositories"]:
        assert entry["imageTagMutability"] == "IMMUTABLE"
        assert entry["imageScanningConfiguration"] == {"scanOnPush": True}


@pytest.mark.parametrize("target", ["login", "create-repository", "push"])
def test_a_missing_region_is_an_error_that_tells_how_to_set_it(
    make: Run, images: dict[str, str], target: str
) -> None:
    result = make(target, VERSION=VERSION, AWS_REGION="")
    assert result.returncode != 0
    assert "ClientError: no AWS region: give REGION=" in result.stderr


def test_a_registry_in_another_region_is_refused(make: Run) -> None:
    result = make(
        "login", REGION="eu-west-1", REGISTRY="1" * 12 + ".dkr.ecr.us-east-1.amazonaws.com"
    )
    assert result.returncode != 0
    assert "ClientError: REGION=eu-west-1, but REGISTRY=" in result.stderr


@pytest.mark.parametrize(
    ("region", "domain"), [("eu-west-1", "amazonaws.com"), ("cn-north-1", "amazonaws.com.cn")]
)
def test_the_default_registry_is_the_accounts_ecr_in_the_region(
    environment: dict[str, str], region: str, domain: str
) -> None:
    show = ["bash", "-euc", '. scripts/registry-name; find_registry; echo "$REGISTRY"']
    result = subprocess.run(
        show, cwd=REPOSITORY, env={**environment, "REGION": region}, capture_output=True, text=True
    )
    assert result.stdout == f"123456789012.dkr.ecr.{region}.{domain}\n", result.stderr


def test_a_version_that_is_not_a_valid_tag_is_refused(make: Run) -> None:
    result = make("push", VERSION="release/1.0")
    assert result.returncode != 0
    assert "ClientError: VERSION=release/1.0" in result.stderr
