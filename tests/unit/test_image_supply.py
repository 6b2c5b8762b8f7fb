"""Platforms, scans and signatures of the images, with stubs of Docker and of the tools."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import botocore.session
import pytest

from tests.conftest import REPOSITORY

LOCKS = REPOSITORY / "containers" / "locks"
DIGEST = "sha256:" + "0" * 64
# Both images exist; only the train image was pushed.
DOCKER = f"""#!/bin/sh
case "$*" in
*RepoDigests*train*) echo registry.example/image-classification-train@{DIGEST} ;;
image*) ;;
create*) echo container ;;
cp*) for folder; do :; done; mkdir -p "$folder"; echo '{{}}' >"$folder/system.cdx.json" ;;
*VERSION_CODENAME*) echo debian bookworm ;;
run*) echo 1 ;;
buildx*) echo "Platforms: linux/amd64, linux/386" ;;
esac
"""
TOOL = """#!/bin/sh
echo "${0##*/} $*"
"""


def run_script(
    folder: Path, script: str, tools: dict[str, str], **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with Docker's stub and these tools alone on PATH, next to the system's programs.

    The version is one that nobody builds, so that no real SBOM is overwritten.
    """
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {"docker": DOCKER, **tools}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(folder),
        "VERSION": "0.0.0-stub",
    }
    try:
        return subprocess.run(
            ["bash", f"scripts/{script}"],
            cwd=REPOSITORY,
            env=environment | settings,
            capture_output=True,
            text=True,
        )
    finally:
        for image in ("train-0.0.0-stub-torch", "serve-0.0.0-stub"):
            sbom = REPOSITORY / "dist" / "sbom" / f"image-classification-{image}"
            for path in sbom.glob("*"):
                path.unlink()
            if sbom.is_dir():
                sbom.rmdir()


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", (LOCKS / f"{lock}.txt").read_text()))


@pytest.mark.parametrize("lock", ["serve-cpu", "train-torch-cpu"])
def test_an_arm64_image_has_the_versions_of_the_amd64_image_without_the_simd_resizer(
    lock: str,
) -> None:
    text = (LOCKS / f"{lock}-arm64.txt").read_text()
    assert pins(f"{lock}-arm64") == {
        name: version for name, version in pins(lock).items() if name != "cykooz-resizer"
    }
    for requirement in re.findall(r"(?m)^\S+==(?:.*\\\n)*.*", text):
        assert "--hash=sha256:" in requirement


def test_the_instances_named_for_arm64_are_those_of_the_platform() -> None:
    """SageMaker's service model lists the instance types of endpoints, and those of jobs."""
    page = (REPOSITORY / "docs" / "images.md").read_text("utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| serve on Graviton"))
    named = set(re.findall(r"`(ml\.\w+)`", row))
    shapes = botocore.session.get_session().get_service_model("sagemaker")
    graviton = re.compile(r"(ml\.[a-z]+\dg[a-z]*)\.")
    endpoints, jobs = (
        {found[1] for name in shapes.shape_for(shape).enum if (found := graviton.match(name))}
        for shape in ("ProductionVariantInstanceType", "TrainingInstanceType")
    )
    assert named and named <= endpoints
    assert not jobs, "the page says that jobs have no Graviton instances"


def test_a_build_for_a_platform_without_emulator_says_what_to_install(tmp_path: Path) -> None:
    done = run_script(tmp_path, "build", {}, PLATFORM="linux/arm64", PIP_EXTRA_INDEX_URL="x")
    assert done.returncode == 2
    assert "Docker cannot build for PLATFORM=linux/arm64 here, only for linux/amd64" in done.stderr
    assert "qemu-user-static" in done.stderr


def test_arm64_has_images_of_torch_only(tmp_path: Path) -> None:
    tools = {"docker": DOCKER.replace("linux/386", "linux/arm64")}
    settings = {"PLATFORM": "linux/arm64", "BACKEND": "tensorflow"}
    done = run_script(tmp_path, "build", tools, **settings)
    assert done.returncode == 2
    assert "BACKEND=tensorflow: expected one of: torch (DEVICE=cpu, PLATFORM=linux" in done.stderr


def test_the_upgrades_of_the_base_are_repeated_every_week(tmp_path: Path) -> None:
    tools = {
        "docker": '#!/bin/sh\ncase $1 in image) echo 1 ;; *) echo "$*" ;; esac\n',
        "date": "#!/bin/sh\necho 2026-W49\n",
    }
    settings = {"BACKEND": "mxnet"}
    done = run_script(tmp_path, "build", tools, **settings)
    assert done.stdout.count("--build-arg UPGRADES=2026-W49 ") == 2, done.stdout + done.stderr
    for dockerfile in REPOSITORY.glob("containers/*/Dockerfile"):
        stages = dockerfile.read_text().split("\nFROM ")
        (base,) = (stage for stage in stages if stage.startswith("${BASE_IMAGE} AS base"))
        assert base.index("ARG UPGRADES") < base.index("RUN ")


@pytest.mark.parametrize("scanner", ["grype", "trivy"])
def test_a_scan_gives_every_image_to_the_scanner_on_path(scanner: str, tmp_path: Path) -> None:
    done = run_script(tmp_path, "scan", {scanner: TOOL})
    assert done.returncode == 0, done.stderr
    calls = [line for line in done.stdout.splitlines() if line.startswith(f"{scanner} ")]
    assert [re.search(r"image-classification-\w+", call)[0] for call in calls] == [  # type: ignore[index]
        "image-classification-train",
        "image-classification-serve",
    ]
    assert all("high" in call.lower() for call in calls)


def test_a_scan_that_finds_something_fails_and_names_the_images(tmp_path: Path) -> None:
    done = run_script(tmp_path, "scan", {"grype": "#!/bin/sh\ncase $1 in *serve*) exit 1; esac\n"})
    assert done.returncode == 1
    assert (
        "found grave vulnerabilities, or failed (above): image-classification-serve" in done.stderr
    )


@pytest.mark.parametrize(("found", "code"), [("", 0), ("zlib@1 CVE-2000-0001 open", 1)])
def test_debsbom_scans_the_debian_packages_and_pip_audit_the_lock(
    found: str, code: int, tmp_path: Path
) -> None:
    debsbom = f"#!/bin/sh\necho \"debsbom $*\" >&2\necho '{found}' | sed '/^$/d'\n"
    done = run_script(tmp_path, "scan", {"debsbom": debsbom, "pip-audit": TOOL})
    assert done.returncode == code, done.stderr
    assert "--distro bookworm --min-urgency high dist/sbom/" in done.stderr
    assert "--requirement containers/locks/train-torch-cpu.txt" in done.stdout
    assert (found in done.stdout) and (found == "" or "found grave vulnerabilities" in done.stderr)


@pytest.mark.parametrize(
    ("script", "setting", "named"),
    [("scan", "SCANNER", "install grype, trivy, or"), ("sign", "SIGNER", "install cosign")],
)
def test_without_a_tool_scan_and_sign_say_which_to_install(
    script: str, setting: str, named: str, tmp_path: Path
) -> None:
    done = run_script(tmp_path, script, {}, REGISTRY="registry.example")
    assert done.returncode == 2 and named in done.stderr
    (tmp_path / "other").mkdir()
    done = run_script(tmp_path / "other", script, {}, **{setting: "bash -c"})
    assert done.returncode == 2 and f"ClientError: {setting}=bash -c: expected" in done.stderr


@pytest.mark.parametrize("key", ["", "awskms:///alias/images"])
def test_cosign_signs_the_pushed_images_by_digest_and_attests_their_sboms(
    key: str, tmp_path: Path
) -> None:
    settings = {"REGISTRY": "registry.example", "SIGNING_KEY": key}
    done = run_script(tmp_path, "sign", {"cosign": TOOL}, **settings)
    assert done.returncode == 0, done.stderr
    calls = [line for line in done.stdout.splitlines() if line.startswith("cosign ")]
    given = f" --key {key}" if key else ""
    image = f"registry.example/image-classification-train@{DIGEST}"
    assert calls[0] == f"cosign sign --yes{given} {image}"
    assert calls[1].startswith(
        f"cosign attest --yes{given} --type cyclonedx --predicate dist/sbom/"
    )
    assert "not signed: registry.example has no image image-classification-serve" in done.stderr


def test_notation_signs_with_the_named_key(tmp_path: Path) -> None:
    settings = {"REGISTRY": "registry.example", "SIGNING_KEY": "mine"}
    done = run_script(tmp_path, "sign", {"notation": TOOL}, **settings)
    image = f"registry.example/image-classification-train@{DIGEST}"
    assert f"notation sign --key mine {image}\n" in done.stdout, done.stderr


def test_nothing_is_signed_before_a_push(tmp_path: Path) -> None:
    tools = {"docker": DOCKER.replace("*RepoDigests*train*", "no")}
    done = run_script(tmp_path, "sign", {"cosign": TOOL, **tools}, REGISTRY="registry.example")
    assert done.returncode == 2 and "ClientError: nothing to sign" in done.stderr


def test_the_hashes_of_an_sbom_are_those_of_the_installed_files(tmp_path: Path) -> None:
    sbom = tmp_path / "x.cdx.json"
    sbom.write_text(
        """{"components": [
        {"name": "A_b", "version": "1", "purl": "pkg:pypi/a-b@1"},
        {"name": "built_here", "version": "2"},
        {"name": "libc6", "purl": "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"},
        {"name": "glibc", "purl": "pkg:deb/debian/glibc@2.36-9%2Bdeb12u14?arch=source"},
        {"name": "gone", "purl": "pkg:deb/debian/gone@1?arch=all"}]}"""
    )
    (tmp_path / "pip.json").write_text(
        f"""{{"install": [{{"metadata": {{"name": "a.B", "version": "1"}},
        "download_info": {{"archive_info": {{"hashes": {{"sha256": "{"a" * 64}"}}}}}}}}]}}"""
    )
    # Two hashes are two files, of which the report tells the installed one.
    lock = f"a-b==1 \\\n    --hash=sha256:{'b' * 64} \\\n    --hash=sha256:{'c' * 64}\n"
    lock += f"built-here==2 \\\n    --hash=sha256:{'d' * 64}\n"
    (tmp_path / "lock.txt").write_text(lock)
    packages = "Package: libc6\nArchitecture: amd64\nVersion: 2.36-9+deb12u14\n"
    old = packages.replace("u14", "u13")
    (tmp_path / "a.apt").write_text(f"{packages}SHA256: {'e' * 64}\n\n{old}SHA256: {'f' * 64}\n")
    (tmp_path / "b.apt").write_text(
        "Package: glibc\nVersion: 2.36-9+deb12u14\nChecksums-Sha256:\n"
        f" {'1' * 64} 9 glibc.tar.xz\n {'2' * 64} 9 glibc_2.36-9.dsc\nHomepage: x\n"
    )
    script = REPOSITORY / "containers" / "add_hashes.py"
    files = [tmp_path / name for name in ("pip.json", "lock.txt", "a.apt", "b.apt")]
    subprocess.run(["python3", script, sbom, *files], check=True, env=os.environ)
    text = re.sub(r"\s", "", sbom.read_text())
    found = re.findall(
        r'"name":"(\w+)"[^{]*?(?:"hashes":\[\{"alg":"SHA-256","content":"(\w))', text
    )
    assert found == [("A_b", "a"), ("built_here", "d"), ("libc6", "e"), ("glibc", "2")]
