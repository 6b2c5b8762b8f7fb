"""The reason of a failed script is its last error, and that of pip names the package."""

from __future__ import annotations

import logging
import socket
import time

import pytest

from image_classification.contract.paths import Cluster
from image_classification.script_mode import toolkit
from image_classification.script_mode.reasons import last_error, requirement_error

TRACE = ["Traceback (most recent call last):", '  File "train.py", line 3, in <module>', "    f()"]
IGNORED = ["Exception ignored in: <function Pool.__del__ at 0x7f>", *TRACE, "OSError: late"]
TORCHRUN = [
    "E1201 05:00:00.000 9 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: "
    "1) local_rank: 1 (pid: 12) of binary: /opt/venv/bin/python",
    *TRACE,
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    "=====================",
    "train.py FAILED",
    "---------------------",
    "Root Cause (first observed failure):",
    "[0]:",
    "  exitcode  : 1 (pid: 12)",
    "=====================",
]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        (["no data"], "no data"),
        (["step 1", *TRACE, "ValueError: no roses"], "ValueError: no roses"),
        ([*TRACE, "ValueError: no roses", *IGNORED], "ValueError: no roses"),
        (
            [*TRACE, "ValueError: no roses", "x.py:1: UserWarning: leaked", "  warnings.warn("],
            "ValueError: no roses",
        ),
        ([*TRACE, "ValueError: not 3", "but 1 file"], "ValueError: not 3 but 1 file"),
        (
            [*TRACE, "KeyError: 1", "", "During handling of the above", *TRACE, "OSError: b"],
            "OSError: b",
        ),
        ([*TRACE, "OSError: handled", *["epoch"] * 9, "cannot go on"], "cannot go on"),
        (
            [*(f"[rank1]: {line}" for line in [*TRACE, "ValueError: no roses"]), *TORCHRUN],
            "ValueError: no roses",
        ),
        (["no roses", *TORCHRUN], "no roses"),
        (['  File "train.py", line 1', "    if", "     ^", "SyntaxError: bad"], "SyntaxError: bad"),
    ],
)  # fmt: skip
def test_the_reason_is_the_last_error_of_the_script(lines: list[str], reason: str) -> None:
    assert last_error(lines) == reason


def test_the_reason_of_pip_tells_a_missing_network_from_a_missing_package() -> None:
    missing = [
        "ERROR: Could not find a version that satisfies the requirement petals (from versions: )",
        "ERROR: No matching distribution found for petals",
    ]
    assert requirement_error(missing) == (
        "Could not find a version that satisfies the requirement petals (from versions: ); "
        "No matching distribution found for petals"
    )
    retry = "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /petals/"
    assert "put the wheels of all requirements into" in requirement_error([retry, *missing])


def test_a_host_whose_name_cannot_be_resolved_delays_the_script_by_a_minute_at_most(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, asked = [0.0], []

    def resolve(host: str) -> str:
        asked.append(host)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "gethostbyname", resolve)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with caplog.at_level(logging.WARNING):
        toolkit.await_names(Cluster("algo-1", ("algo-1", "algo-2", "algo-3")))
    assert now[0] <= 62 and set(asked) == {"algo-2", "algo-3"}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the name of the host algo-2 cannot be resolved",
        "the name of the host algo-3 cannot be resolved",
    ]


def test_one_host_asks_for_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda host: pytest.fail(host))
    toolkit.await_names(Cluster("algo-1", ("algo-1",)))
