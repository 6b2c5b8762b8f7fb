"""Fixtures of every test: a clean environment, the shared real data if it exists, class folders."""

from __future__ import annotations

import io
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

# Before NumPy is imported: with threads its small products take eight times longer.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from tests.contract import jobs

try:
    import hypothesis
except ImportError:  # in an environment of SageMaker's SDK
    hypothesis = None  # type: ignore[assignment]

REPOSITORY = Path(__file__).parent.parent
SHARED = Path(os.environ.get("IMAGE_CLASSIFICATION_SHARED", REPOSITORY.parent / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--backend`, the backend of the contract tests that train."""
    parser.addoption(
        "--backend",
        default="torch",
        help="what the jobs of the contract tests run on (default: torch)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make `--backend` the default backend of jobs, as the image of a backend does."""
    # A run of the suite depends on the code alone; HYPOTHESIS_PROFILE=default searches further.
    if hypothesis is not None:
        hypothesis.settings.register_profile("repeatable", derandomize=True)
        hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
    jobs.BACKEND = os.environ[jobs.BACKEND_VARIABLE] = config.getoption("--backend")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell's background processes ignore Ctrl-C; the tests' processes would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    found = str(SHARED) if SHARED.is_dir() else "absent"
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{versions}, jobs on {jobs.BACKEND}, shared data: {found}"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variables of the developer's shell from the tests."""
    for name in list(os.environ):
        if name.startswith(("SAGEMAKER_", "SM_", "IMAGE_CLASSIFICATION_", "TRAINING_JOB")):
            if name != "IMAGE_CLASSIFICATION_SHARED":
                monkeypatch.delenv(name)
    monkeypatch.setenv(jobs.BACKEND_VARIABLE, jobs.BACKEND)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and record vectors."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data is not at {SHARED}; set IMAGE_CLASSIFICATION_SHARED")
    return SHARED


ClassFolders = Callable[..., Path]


@pytest.fixture(scope="session")
def write_class_folders() -> ClassFolders:
    """Return a function that writes class folders of noisy JPEGs, with a color per class."""

    def write(
        root: Path,
        classes: tuple[str, ...] = ("blue", "green", "red"),
        per_class: int = 12,
        size: tuple[int, int] = (40, 48),
        seed: int = 0,
    ) -> Path:
        generator = np.random.default_rng(seed)
        for index, name in enumerate(classes):
            folder = root / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                pixels = generator.integers(0, 90, (*size, 3))
                pixels[..., (index + 2) % 3] += 120
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / f"{name}{number:03d}.jpg", quality=95)
        return root

    return write


@pytest.fixture
def jpeg() -> bytes:
    """One small JPEG."""
    body = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(body, "JPEG")
    return body.getvalue()
