"""How many threads a framework gets."""

from __future__ import annotations

import pytest

from image_classification.contract.process import framework_threads
from image_classification.errors import UserError


@pytest.mark.parametrize(
    ("setting", "threads"), [("", 4), ("1", 1), ("3", 3), ("9", 4), ("2,8", 2), (" 2 ", 2)]
)
def test_a_framework_gets_one_thread_per_cpu_or_omp_num_threads_if_that_is_less(
    monkeypatch: pytest.MonkeyPatch, setting: str, threads: int
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_CPU_COUNT", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert framework_threads() == threads


@pytest.mark.parametrize("setting", ["0", "all", "-1", "1.5"])
def test_a_bad_number_of_threads_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS must be an integer ≥ 1, got '{setting}'"):
        framework_threads()
