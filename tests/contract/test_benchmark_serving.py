"""scripts/benchmark serving measures our server without peers and lists the missing ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmark"


def test_our_server_is_measured_next_to_the_floor_and_missing_peers_are_listed(
    trained_job: Path, tmp_path: Path
) -> None:
    ran = subprocess.run(
        [str(BENCHMARK), "serving", "--model", str(trained_job / "model"), "--images", "4",
         "--seconds", "1", "--rounds", "1", "--only", "ours", "--work", str(tmp_path), "--json"],
        env={**os.environ, "PYTHON": sys.executable, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert set(result["contenders"]) == {"floor", "in-process", "ours"}
    ours = result["contenders"]["ours"]
    assert ours["per_second"] > 0 and ours["failed"] == 0 and ours["megabytes"] > 0
    faults = result["faults"]
    assert faults["ping_beside_half_open"]["statuses"].keys() == {"200"}
    assert faults["overload"]["statuses"].keys() == {"200", "503"}
    assert faults["killed"]["statuses"]["200"] > 0
    assert "pip install litserve" in result["skipped"]["litserve"]


def test_an_unknown_peer_is_refused() -> None:
    ran = subprocess.run(
        [str(BENCHMARK), "serving", "--python", "triton=/nowhere"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and "expected NAME=PATH" in ran.stderr
