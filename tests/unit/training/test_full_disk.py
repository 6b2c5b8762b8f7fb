"""A disk without room at the end of a job: the artifact comes first, and then what fits."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from image_classification.contract.paths import JobPaths
from image_classification.training import job
from image_classification.training.loop import LastWeights
from image_classification.training.results import Results
from tests.unit.training.test_report_pages import results  # noqa: F401


def no_space(path: object) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", str(path))


def test_an_artifact_that_does_not_fit_is_written_without_the_last_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    results: Results,  # noqa: F811
) -> None:
    written: list[Results] = []

    def write(path: Path, results: Results, engine: Any) -> str:
        if results.last_weights is not None:
            raise no_space(path / "weights-last.safetensors")
        written.append(results)
        return "the artifact"

    monkeypatch.setattr(job, "write_artifact", write)
    engine: Any = None
    given = replace(results, last_weights=LastWeights({}, 0))
    with caplog.at_level(logging.WARNING):
        assert job._write(JobPaths(tmp_path), given, engine) == "the artifact"
    assert len(written) == 1 and "weights-last.safetensors: use a larger volume" in caplog.text
    with pytest.raises(OSError, match="weights"):
        monkeypatch.setattr(
            job, "write_artifact", lambda *_: (_ for _ in ()).throw(no_space("weights"))
        )
        job._write(JobPaths(tmp_path), results, engine)


def test_predictions_that_do_not_fit_are_a_warning_and_the_artifact_is_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    results: Results,  # noqa: F811
) -> None:
    monkeypatch.setattr(job, "write_artifact", lambda *_: "the artifact")

    def write(path: Path, _: Results) -> None:
        raise no_space(path)

    monkeypatch.setattr(job, "write_predictions", write)
    engine: Any = None
    with caplog.at_level(logging.WARNING):
        assert job._write(JobPaths(tmp_path), results, engine) == "the artifact"
    path = JobPaths(tmp_path).output_data / job.PREDICTIONS_FILE
    assert f"while writing {path}: use a larger volume; the job ends without the" in caplog.text


def test_a_job_whose_tensorboard_file_cannot_be_created_goes_on_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("google_crc32c")
    paths = JobPaths(tmp_path)
    paths.tensorboard.parent.mkdir(parents=True)
    paths.tensorboard.write_bytes(b"no folder")
    request: Any = SimpleNamespace(paths=paths, settings=SimpleNamespace(tensorboard=True))
    with caplog.at_level(logging.WARNING):
        observers = job._observers(request)
    assert len(observers) == 1 and "training goes on without TensorBoard's file" in caplog.text
