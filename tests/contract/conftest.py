"""One trained artifact for the tests that need one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.jobs import run_train, write_job

HYPERPARAMETERS = {
    "num_layers": 20,
    "image_shape": "3,32,32",
    "resize": 36,
    "epochs": 2,
    "mini_batch_size": 8,
    "learning_rate": 0.05,
    "augmentation_type": "crop",
    "top_k": 2,
}


@pytest.fixture(scope="session")
def small_channels(
    tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders
) -> dict[str, Path]:
    """Class folders of three colors: train with 36 images, validation with 15."""
    root = tmp_path_factory.mktemp("channels")
    return {
        "train": write_class_folders(root / "train"),
        "validation": write_class_folders(root / "validation", per_class=5, seed=1),
    }


@pytest.fixture(scope="session")
def trained_job(tmp_path_factory: pytest.TempPathFactory, small_channels: dict[str, Path]) -> Path:
    """The tree of a finished job of the mxnet interface."""
    base = write_job(tmp_path_factory.mktemp("job") / "ml", HYPERPARAMETERS, small_channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    (base / "log").write_text(done.stdout)
    return base


EVIL = "<b>&blue"
"""A class name with markup."""


@pytest.fixture(scope="session")
def run_data(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    """Class folders of three colors, one of them named EVIL."""
    root = tmp_path_factory.mktemp("data") / "colors"
    return write_class_folders(root, classes=(EVIL, "green", "red"))


@pytest.fixture(scope="session")
def two_runs(run_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs: one that learns, and one of which little is to be expected."""
    import image_classification as ic
    from tests.contract.test_python import SETTINGS

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(jobs.BACKEND_VARIABLE, jobs.BACKEND)
        ic.train(run_data, output=root / "a", **SETTINGS)
        ic.train(run_data, output=root / "b", **SETTINGS | {"learning_rate": 1e-5, "epochs": 1})
    return root / "a", root / "b"


@pytest.fixture(scope="session")
def doubtful_job(
    tmp_path_factory: pytest.TempPathFactory,
    small_channels: dict[str, Path],
    write_class_folders: ClassFolders,
) -> Path:
    """A finished job whose model is wrong of eight validation images; a ninth is unreadable."""
    root = tmp_path_factory.mktemp("doubtful")
    doubtful = write_class_folders(root / "validation", per_class=20, seed=2)
    for number in range(8):
        name = f"blue{number:03d}.jpg"
        (doubtful / "blue" / name).rename(doubtful / "red" / name)
    (doubtful / "green" / "green000.jpg").write_bytes(b"not an image")
    given = HYPERPARAMETERS | {"max_bad_samples": 1, "keep_last_weights": "True"}
    # So slow that every backend and CPU ends at the eight wrong labels, whatever its last digits.
    given |= {"epochs": 8, "learning_rate": 0.005}
    given["tensorboard"] = "True"
    given["label_smoothing"] = 0.8  # so that the model is less sure than it is right
    channels = {"train": small_channels["train"], "validation": doubtful}
    base = write_job(root / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    (base / "log").write_text(done.stdout)
    return base
