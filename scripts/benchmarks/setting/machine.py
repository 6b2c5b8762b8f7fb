"""The machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_LOAD_BEFORE = os.getloadavg()[0]


def machine() -> dict[str, object]:
    """Return the CPU, the number of cores and the load at the start."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text("utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "load_before": round(_LOAD_BEFORE, 2)}
