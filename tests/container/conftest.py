"""Fixtures of the container suite: images, and an artifact trained in a container."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.container.engine import BACKENDS, SERVE_IMAGE, docker, run, train_image
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import write_job


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.timeout(600))


_FIGURES: dict[str, str] = {}


@pytest.fixture(scope="session")
def record_figure() -> Callable[[str, str], None]:
    """Return a function that prints a measured value at the end of the run."""
    return _FIGURES.__setitem__


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _FIGURES:
        terminalreporter.section("figures")
        for name, value in sorted(_FIGURES.items()):
            terminalreporter.line(f"{name}: {value}")


@pytest.fixture(scope="session", params=BACKENDS)
def image(request: pytest.FixtureRequest) -> str:
    """The train image of each backend."""
    return _built(train_image(request.param))


@pytest.fixture(scope="session")
def serve_image() -> str:
    """The serve image."""
    return _built(SERVE_IMAGE)


def _built(name: str) -> str:
    if docker("image", "inspect", name).returncode:
        pytest.fail(f"there is no image {name}: `make test-container` builds it")
    return name


@pytest.fixture(scope="session")
def channels(
    tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders
) -> dict[str, Path]:
    """Class folders in three colors."""
    root = tmp_path_factory.mktemp("channels")
    return {
        "train": write_class_folders(root / "train"),
        "validation": write_class_folders(root / "validation", per_class=5, seed=1),
    }


@pytest.fixture(scope="session")
def trained(
    image: str, channels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The /opt/ml of a job that ran in a container of `image`."""
    base = write_job(tmp_path_factory.mktemp("trained") / "ml", HYPERPARAMETERS, channels)
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    (base / "log").write_text(done.stdout)
    return base


@pytest.fixture(scope="session")
def flowers(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty photographs of each of five flowers, as class folders."""
    root = tmp_path_factory.mktemp("flowers")
    for folder in sorted((shared / "data" / "flowers").iterdir()):
        if folder.is_dir():
            (root / folder.name).mkdir()
            for path in sorted(folder.glob("*.jpg"))[:40]:
                shutil.copy(path, root / folder.name)
    return root
