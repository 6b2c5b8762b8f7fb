"""buildspec.yml, run like CodeBuild: phases in order, in one shell, with moto and a registry.

What CodeBuild does is documented in its build specification reference: variables of the project
win over `env.variables`; a failed command ends its phase; `build` needs install and pre_build to
have succeeded; `post_build` runs whenever `build` has started.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.registry.conftest import docker

PHASES = ("install", "pre_build", "build", "post_build")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Docker that builds, tests and pushes nothing, and writes down what it is asked for.
FAKE_DOCKER = """#!/bin/sh
echo "$*" >>"${0%/*}/commands"
case $1 in
image) echo 2000000000 ;;
create) echo container ;;
cp) mkdir -p "$3" ;;
run) echo 1 ;;
push) echo "digest: sha256:$(printf %064d 1) size: 1" ;;
esac
"""


@pytest.fixture(scope="module")
def buildspec() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((REPOSITORY / "buildspec.yml").read_text("utf-8")))


CodeBuild = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def codebuild(
    tmp_path: Path, buildspec: dict[str, Any], environment: dict[str, str], registry: str
) -> CodeBuild:
    """Run the phases with the variables of the project."""

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        variables = {
            **{name: str(value) for name, value in buildspec["env"]["variables"].items()},
            "CODEBUILD_RESOLVED_SOURCE_VERSION": COMMIT,
            "REGISTRY": registry,
            "TESTS": "help",  # the container suite runs elsewhere
            **settings,
        }
        script = tmp_path / "phases"
        script.write_text("\n".join(as_bash(buildspec["phases"])))
        command = [buildspec["env"]["shell"], str(script)]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment | variables, capture_output=True, text=True
        )

    return run


def as_bash(phases: dict[str, Any]) -> Iterator[str]:
    """Return the phases as one script that prints each phase and exits with the build's result."""
    yield "export CODEBUILD_BUILD_SUCCEEDING=1"
    for name in PHASES:
        condition = '[ "$CODEBUILD_BUILD_SUCCEEDING" = 1 ]'
        if name == "post_build":
            condition = '[ -n "${build_started:-}" ]'
        yield f"if {condition}; then echo 'PHASE {name}'"
        if name == "build":
            yield "build_started=1"
        yield "while :; do"
        for command in phases[name]["commands"]:
            yield f"eval {shlex.quote(command)} || {{ CODEBUILD_BUILD_SUCCEEDING=0; break; }}"
        yield "break; done; fi"
    yield '[ "$CODEBUILD_BUILD_SUCCEEDING" = 1 ]'


def phases_of(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.startswith("PHASE ")]


@pytest.mark.timeout(1800)  # the images may have to be built first
def test_a_tag_builds_tests_and_pushes_both_images_as_its_version(
    codebuild: CodeBuild, registry: str, ecr: Any, remove_images: Callable[[str], None]
) -> None:
    remove_images("0.0.0-codebuild")
    result = codebuild(CODEBUILD_WEBHOOK_TRIGGER="tag/v0.0.0-codebuild")
    assert result.returncode == 0, result.stdout + result.stderr
    assert phases_of(result.stdout) == list(PHASES)
    names = {
        "image-classification-train:0.0.0-codebuild-torch",
        "image-classification-serve:0.0.0-codebuild",
    }
    assert {f"pushed {registry}/{name}" for name in names} <= set(result.stdout.splitlines())
    repositories = [
        entry["repositoryName"] for entry in ecr.describe_repositories()["repositories"]
    ]
    assert {"image-classification-train", "image-classification-serve"} <= set(repositories)
    for name in names:
        label = docker("image", "inspect", "--format", "{{json .Config.Labels}}", name)
        assert '"org.opencontainers.image.version":"0.0.0-codebuild"' in label


def test_a_tag_with_device_cuda_builds_and_pushes_both_cuda_images(
    codebuild: CodeBuild, registry: str, tmp_path: Path
) -> None:
    """A dry run: the CUDA images are built and tested by `make test-cuda-images`."""
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    fake.write_text(FAKE_DOCKER)
    fake.chmod(0o755)
    version = "0.0.0-dry"
    path = f"{fake.parent}:{os.environ['PATH']}"
    try:
        result = codebuild(CODEBUILD_WEBHOOK_TRIGGER=f"tag/v{version}", DEVICE="cuda", PATH=path)
    finally:
        for folder in (REPOSITORY / "dist" / "sbom").glob(f"*{version}*"):
            shutil.rmtree(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert phases_of(result.stdout) == list(PHASES)
    asked = fake.with_name("commands").read_text().splitlines()
    builds = [set(line.split()) for line in asked if line.startswith("build ")]
    names = {
        "train-torch-cu13": f"image-classification-train:{version}-torch-cu13",
        "serve-cu12": f"image-classification-serve:{version}-cu12",
    }
    assert len(builds) == len(names)
    for words, (lock, name) in zip(builds, names.items(), strict=True):
        assert {"DEVICE=cuda", f"LOCK={lock}", name} <= words
        assert f"push {registry}/{name}" in asked
        assert f"create {name}" in asked  # for its SBOM


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trigger", ["", "branch/main"])
def test_a_build_without_a_tag_tests_the_images_and_pushes_nothing(
    codebuild: CodeBuild,
    registry: str,
    remove_images: Callable[[str], None],
    trigger: str,
) -> None:
    remove_images(COMMIT[:12])
    result = codebuild(CODEBUILD_WEBHOOK_TRIGGER=trigger)
    assert result.returncode == 0, result.stdout + result.stderr
    assert phases_of(result.stdout) == list(PHASES)
    assert f"built image-classification-serve:{COMMIT[:12]} " in result.stdout
    assert "no tag; nothing is pushed" in result.stdout
    assert "pushing" not in result.stdout
    assert f"{registry}/" not in docker("image", "ls", "--format", "{{.Repository}}/{{.Tag}}")


@pytest.mark.timeout(1800)
def test_a_tag_whose_tests_fail_is_not_pushed(
    codebuild: CodeBuild, remove_images: Callable[[str], None]
) -> None:
    remove_images("0.0.0-codebuild")
    result = codebuild(CODEBUILD_WEBHOOK_TRIGGER="tag/v0.0.0-codebuild", TESTS="no-such-target")
    assert result.returncode != 0
    assert phases_of(result.stdout) == list(PHASES)
    assert "the build failed; nothing is pushed" in result.stdout
    assert "pushing" not in result.stdout


def test_a_role_that_cannot_log_in_fails_before_the_build(
    codebuild: CodeBuild,
) -> None:
    result = codebuild(
        CODEBUILD_WEBHOOK_TRIGGER="tag/v0.0.0-codebuild", AWS_ENDPOINT_URL="http://127.0.0.1:1"
    )
    assert result.returncode != 0
    assert "ClientError: AWS gave no password" in result.stderr
    assert phases_of(result.stdout) == ["install", "pre_build"]


def test_without_privileged_mode_the_build_fails_with_a_hint(codebuild: CodeBuild) -> None:
    result = codebuild(DOCKER_HOST="unix:///nowhere/docker.sock")
    assert result.returncode != 0
    assert "switch on privileged mode" in result.stderr
    assert phases_of(result.stdout) == ["install"]


def test_every_target_in_the_buildspec_exists_in_the_makefile(
    buildspec: dict[str, Any],
) -> None:
    text = json.dumps(buildspec["phases"])
    targets = {name for words in re.findall(r"\bmake ([a-z -]+)", text) for name in words.split()}
    targets |= set(buildspec["env"]["variables"]["TESTS"].split())
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    assert {"build", "push"} <= targets
    assert [name for name in targets if f"\n{name}: ##" not in makefile] == []
