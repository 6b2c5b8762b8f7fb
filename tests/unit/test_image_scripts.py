"""The scripts of the images without Docker: names of images, options of docker run, cuda-compat."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from image_classification.contract import gpus
from tests.conftest import REPOSITORY

LOCKS = REPOSITORY / "containers" / "locks"

FAKE_DOCKER = """#!/bin/sh
if [ "$1" = image ]; then exit 0; fi
printf '%s\\n' "$@"
"""
DRIVERS = {
    "470": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC",
    "580": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
}


def sh(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"BACKEND", "DEVICE", "CUDA", "PLATFORM", "VERSION", "OUTPUT"}
    inherited = {name: value for name, value in os.environ.items() if name not in settings}
    return subprocess.run(
        [*map(str, command)],
        cwd=REPOSITORY,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


def name_of(image: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return sh(
        "bash", "-euc", f". scripts/image-names; image_name {image}", VERSION="1.2", **settings
    )


@pytest.mark.parametrize(
    ("image", "settings", "tag"),
    [
        ("train", {}, "1.2-torch"),
        ("serve", {"CUDA": "/usr/local/cuda"}, "1.2"),
        ("train", {"DEVICE": "cuda"}, "1.2-torch-cu13"),
        ("train", {"DEVICE": "cuda", "BACKEND": "tensorflow"}, "1.2-tensorflow-cu12"),
        ("train", {"DEVICE": "cuda", "BACKEND": "mxnet", "CUDA": "11"}, "1.2-mxnet-cu11"),
        ("serve", {"DEVICE": "cuda"}, "1.2-cu12"),
        ("serve", {"DEVICE": "cuda", "CUDA": "13"}, "1.2-cu13"),
        ("serve", {"PLATFORM": "linux/amd64"}, "1.2"),
        ("serve", {"PLATFORM": "linux/arm64"}, "1.2-arm64"),
        ("train", {"PLATFORM": "linux/arm64"}, "1.2-torch-arm64"),
    ],
)
def test_the_tag_of_an_image_ends_in_its_cuda_version_or_in_arm64(
    image: str, settings: dict[str, str], tag: str
) -> None:
    assert name_of(image, **settings).stdout.strip() == f"image-classification-{image}:{tag}"


IMAGES_PAGE = (REPOSITORY / "docs" / "images.md").read_text("utf-8")
IMAGES_TABLE = IMAGES_PAGE.partition("\n## Which image do I need?\n")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| ([^|]+) \| `([^`]+)` \| `make build-(\w+)([^`]*)` \|$", re.MULTILINE)
WANTED = ROW.findall(IMAGES_TABLE)


def test_the_page_about_images_begins_with_the_command_that_builds_each_image() -> None:
    named = [name for _, name, _, _ in WANTED]
    script = "\n".join(
        f"({settings or ':'}; . scripts/image-names; image_name {image})"
        for _, _, image, settings in WANTED
    )
    built = sh("bash", "-euc", script, VERSION="1.2").stdout.split()
    assert built == [name.replace("<version>", "1.2") for name in named]
    locks = {re.sub("-cpu(?=-arm64|$)", "", path.stem) for path in LOCKS.glob("*.txt")}
    tags = {name.removeprefix("image-classification-").replace(":<version>", "") for name in named}
    assert tags == {lock for lock in locks if lock.startswith(("train", "serve"))}


def test_the_instances_in_the_table_of_images_have_a_gpu_for_which_the_image_has_code() -> None:
    families = {f"ml.{family.name}": family for family in gpus.FAMILIES}
    rows = {row.name: row for row in (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES)}
    checked = 0
    for purpose, name, image, _ in WANTED:
        row = rows.get(f"{image}-{name.partition('<version>-')[2]}")
        if name.endswith("-arm64"):
            continue
        for family in re.findall(r"`(ml\.\w+)`", purpose):
            assert row and row.computes_on(families[family].capability), (name, family)
            checked += 1
    assert checked > 5


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"DEVICE": "cuda", "CUDA": "12"}, "CUDA=12: expected 13 for the image train"),
        ({"CUDA": "13"}, "CUDA=13: expected DEVICE=cuda with it, got DEVICE=cpu"),
        ({"PLATFORM": "arm64"}, "PLATFORM=arm64: expected linux/amd64 or linux/arm64"),
        (
            {"PLATFORM": "linux/arm64", "DEVICE": "cuda"},
            "PLATFORM=linux/arm64: expected DEVICE=cpu with it, got DEVICE=cuda",
        ),
    ],
)
def test_a_variant_that_an_image_does_not_have_is_refused(
    settings: dict[str, str], reason: str
) -> None:
    done = name_of("train", **settings)
    assert done.returncode == 2 and f"ClientError: {reason}" in done.stderr


@pytest.mark.parametrize("script", ["train-local", "serve-local"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_containers_on_gpus_get_all_of_them_and_shared_memory_for_nccl(
    script: str, device: str, tmp_path: Path
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    for channel in ("train", "validation"):
        (tmp_path / "data" / channel).mkdir(parents=True)
    done = sh(
        REPOSITORY / "scripts" / script,
        tmp_path / "data",
        DEVICE=device,
        OUTPUT=str(tmp_path / "run"),
        PATH=f"{docker.parent}:{os.environ['PATH']}",
    )
    options = done.stdout.split()
    assert done.returncode == 0, done.stderr
    assert "IMAGE_CLASSIFICATION_DEVICE" in options  # passes into the container, if it is set
    given = {name: name in options for name in ("--gpus", "--shm-size", "memlock=-1")}
    assert given == dict.fromkeys(given, device == "cuda")


@pytest.fixture(scope="module")
def compat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like NVIDIA's package cuda-compat of driver 535, whose cuInit returns $CUINIT."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler for the stub of the driver")
    folder = tmp_path_factory.mktemp("compat")
    source = '#include <stdlib.h>\nint cuInit(unsigned flags) { return atoi(getenv("CUINIT")); }\n'
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", folder / "libcuda.so.535.183.01"]
    subprocess.run(command, input=source, text=True, check=True)
    (folder / "libcuda.so.1").symlink_to("libcuda.so.535.183.01")
    return folder


@pytest.mark.parametrize(
    ("driver", "result", "is_used", "message"),
    [
        ("470", "0", True, "the host's driver is 470.57.02; cuda-compat 535.183.01 is used"),
        (
            "470",
            "804",
            False,
            "is not used, because this GPU or driver does not support it (cuInit: 804)",
        ),
        ("580", "0", False, ""),
        ("none", "0", False, ""),
    ],
)
def test_cuda_compat_is_used_if_the_hosts_driver_is_older_and_the_gpu_supports_it(
    driver: str, result: str, is_used: bool, message: str, compat: Path, tmp_path: Path
) -> None:
    version = tmp_path / "version"
    if driver in DRIVERS:
        version.write_text(DRIVERS[driver] + "\nGCC version:  gcc version 10.2.1\n")
    done = sh(REPOSITORY / "containers" / "cuda-compat", compat, version, CUINIT=result)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ([str(compat)] if is_used else [])
    assert message in done.stderr and (message or not done.stderr)


def test_an_image_without_cuda_compat_starts_without_a_word(tmp_path: Path) -> None:
    done = sh(REPOSITORY / "containers" / "cuda-compat", tmp_path, "/proc/driver/nvidia/version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def install_compat(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return sh(REPOSITORY / "containers" / "install-cuda-compat", source, target)


@pytest.mark.parametrize("form", ["folder", "package"])
def test_cuda_compat_is_installed_from_a_folder_or_a_package(
    form: str, compat: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "usr" / "compat"
    source.mkdir()
    if form == "package":
        if shutil.which("dpkg-deb") is None:
            pytest.skip("there is no dpkg-deb on this machine")
        tree = tmp_path / "tree"
        shutil.copytree(compat, tree / "usr/local/cuda-12.2/compat", symlinks=True)
        (tree / "DEBIAN").mkdir()
        control = "Package: cuda-compat-12-2\nVersion: 535.183.01\nArchitecture: amd64\n"
        (tree / "DEBIAN" / "control").write_text(
            control + "Maintainer: nobody <nobody@example.com>\nDescription: a stub\n"
        )
        built = sh("dpkg-deb", "--build", tree, source / "cuda-compat.deb")
        assert built.returncode == 0, built.stderr
    else:
        shutil.copytree(compat, source, symlinks=True, dirs_exist_ok=True)
    done = install_compat(source, target)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in target.iterdir()) == [
        "libcuda.so.1",
        "libcuda.so.535.183.01",
    ]
    assert (target / "libcuda.so.1").resolve() == target / "libcuda.so.535.183.01"


def test_a_folder_without_cuda_compat_is_refused_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.txt").touch()
    done = install_compat(tmp_path / "source", tmp_path / "compat")
    assert done.returncode == 2
    assert "ClientError: COMPAT: expected a package cuda-compat (.deb)" in done.stderr
    assert "readme.txt" in done.stderr


def test_a_build_without_cuda_compat_installs_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    assert install_compat(tmp_path / "source", tmp_path / "compat").returncode == 0
    assert not (tmp_path / "compat").exists()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder like the programs of the serve image, and the tools that its scripts call."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("serve", "python3"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("option", ["--help", "-h", "help"])
def test_help_of_an_image_lists_the_programs_that_it_has(option: str, programs: Path) -> None:
    done = sh("/bin/sh", REPOSITORY / "containers" / "entrypoint", option, PATH=str(programs))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("image-classification python3 -m image_classification --ver")
    assert "\n  serve       answer requests on port 8080" in done.stdout
    assert "\n  train " not in done.stdout and "-p 8080:8080 IMAGE serve" in done.stdout


def test_an_image_tells_its_version_and_refuses_what_it_does_not_have(programs: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return sh("/bin/sh", REPOSITORY / "containers/entrypoint", *arguments, PATH=str(programs))

    assert run("--version").stdout == "python3 -m image_classification --version\n"
    assert run("serve", "a b").stdout == "serve a b\n"
    for arguments, reason in (
        ((), "--help lists them), got 'nothing'"),
        (("--port",), "got '--port'"),
        (("train",), "this image has no program train"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("ClientError: ")
        assert reason in done.stderr


def test_a_build_names_everything_that_is_missing_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "sed", "grep", "tr", "paste", "mktemp", "rm", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    environment = {"PATH": str(folder), "PIP_EXTRA_INDEX_URL": "", "PIP_INDEX_URL": ""}
    done = sh("bash", "scripts/build", "train", "serve", WHEELS_IMAGE="", **environment)
    assert done.returncode == 2 and done.stderr.startswith("ClientError: cannot build train serve")
    assert "no program docker" in done.stderr and "set PIP_EXTRA_INDEX_URL" in done.stderr
    done = sh("bash", "scripts/build", "serve", COMPAT="/no/such", DEVICE="cuda", **environment)
    assert "no program docker" in done.stderr and "COMPAT=/no/such" in done.stderr
    assert "PIP_EXTRA_INDEX_URL" not in done.stderr


def test_the_weights_of_a_build_are_a_folder_with_a_file_for_one_of_its_backbones(
    tmp_path: Path,
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"; cat >/dev/null\n")
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "resnet50-0676ba61.pth").touch()
    settings = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "BACKEND": "tensorflow",
        "PRETRAINED": "efficientnet_lite0 resnet50_v1.5",
        "WEIGHTS": str(tmp_path / "public"),
    }
    done = sh("bash", "scripts/build", "train", **settings)
    assert done.returncode == 2
    assert "got resnet50-0676ba61.pth" in done.stderr and "efficientnet_lite0.pth" in done.stderr
    (tmp_path / "public" / "resnet50_v1.5.pth").touch()
    done = sh("bash", "scripts/build", "train", **settings)
    assert "WEIGHTS_IMAGE=image-classification-weights:build" in done.stdout, done.stderr


def test_the_labels_of_an_image_tell_its_source_its_time_and_its_base(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "git").write_text(
        "#!/bin/sh\ncase $1 in log) echo 2026-11-30T10:00:00+00:00;; remote) "
        "echo https://user:secret@example.com/you/images.git;; *) echo 1234567;; esac\n"
    )
    for name in ("docker", "git"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = sh("bash", "scripts/build", "serve", PATH=path, BASE_IMAGE="mine/debian:12")
    assert "org.opencontainers.image.source=https://example.com/you/images\n" in done.stdout
    assert "org.opencontainers.image.created=2026-11-30T10:00:00+00:00\n" in done.stdout
    assert "org.opencontainers.image.base.name=mine/debian:12\n" in done.stdout
    assert "user:" not in done.stdout
