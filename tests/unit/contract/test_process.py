"""How many threads a framework gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_classification.contract import process
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


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1000\n"}, 1000),
        ("0::/a/b\n", {"memory.max": "max\n", "a/memory.max": "300", "a/b/memory.max": "400"}, 300),
        ("9:cpu,memory:/a/b\n0::/\n", {"memory/a/b/memory.limit_in_bytes": "5000\n"}, 5000),
        ("9:memory:/docker/1\n", {"memory/memory.limit_in_bytes": "6000\n"}, 6000),
        ("9:cpu:/a\n", {"cpu/a/memory.limit_in_bytes": "7000\n"}, None),
    ],
)  # fmt: skip
def test_the_memory_limit_is_the_least_of_the_process_s_cgroups(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    membership: str,
    files: dict[str, str],
    expected: int | None,
) -> None:
    unlimited = process.memory_limit()
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(process, "_CGROUP", tmp_path)
    monkeypatch.setattr(process, "_MEMBERSHIP", tmp_path / "membership")
    limit = process.memory_limit()
    assert limit == expected if expected else limit >= unlimited
