"""The serving benchmark's table and its goals."""

from __future__ import annotations

from typing import Any

_HEAD = ("", "req/s, 16", "of floor", "CPU ms", "p99, 16", "p50, 1", "p99, 1", "MB", "start s")
_WIDTHS = (28, 11, 10, 8, 9, 8, 8, 6, 9)


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    rows = result["contenders"]
    lines = [str(result["machine"]), str(result["photographs"]), ""]
    lines.append("".join(f"{word:>{width}}" for word, width in zip(_HEAD, _WIDTHS, strict=True)))
    floor = rows["floor"]["per_second"]
    keys = ("per_second", "share", "cpu_ms", "p99_ms_16", "p50_ms", "p99_ms", "megabytes",
            "start_seconds")  # fmt: skip
    for name, row in rows.items():
        figures = {**row, "share": row["per_second"] / floor}
        digits = {"per_second": 0, "megabytes": 0, "share": 2, "start_seconds": 2}
        cells = [
            f"{figures[key]:{width}.{digits.get(key, 1)}f}" if key in figures else " " * width
            for key, width in zip(keys, _WIDTHS[1:], strict=True)
        ]
        lines.append(f"{name:<{_WIDTHS[0]}}" + "".join(cells))
    lines += ["", *_goals(result)]
    lines += [f"skipped {name}: {command}" for name, command in result["skipped"].items()]
    return "\n".join(lines)


def device_table(shares: dict[str, dict[str, float]]) -> str:
    """Return how busy the batcher kept a fake device, as text."""
    lines = []
    for name, row in shares.items():
        goal = " (goal ≥ 0.95)" if name.startswith("64 clients, 2") else ""
        lines.append(
            f"{name}: busy {row['busy_share']:.2f}{goal}, {row['images_per_second']:.0f} images/s "
            f"in batches of {row['mean_batch']:.1f}"
        )
    return "\n".join(lines)


def _goals(result: dict[str, Any]) -> list[str]:
    rows = result["contenders"]
    ours = rows.get("ours")
    if ours is None:
        return []
    floor, alone = rows["floor"], rows["in-process"]
    goals = [("requests/s, share of the floor", ours["per_second"] / floor["per_second"], "≥ 0.90")]
    goals.append(("p99 of one client : in process", ours["p99_ms"] / alone["p99_ms"], "≤ 1.3"))
    for kind, goal in (("torch", "≥ 3"), ("onnx", "≥ 1.2")):
        peers = {name: row["per_second"] for name, row in rows.items() if name.endswith(kind)}
        if peers:
            best = max(peers, key=lambda name: peers[name])
            goals.append((f"requests/s : {best}", ours["per_second"] / peers[best], goal))
    goals.append(("MB", ours["megabytes"], "< 400"))
    goals.append(("start to ping, s", ours["start_seconds"], "< 2"))
    faults = result["faults"]
    goals.append(
        ("ping p99 beside 64 clients, ms", faults["ping_beside_64_clients"]["p99_ms"], "≤ 50")
    )
    goals.append(
        ("ping p99 beside 40 half-open, ms", faults["ping_beside_half_open"]["p99_ms"], "≤ 50")
    )
    overload = faults["overload"]
    goals.append(("4 × overload: goodput of peak", overload["share_of_peak"], "≥ 0.9"))
    goals.append(("4 × overload: p99 of accepted, ms", overload["p99_ms"], "bounded"))
    goals.append(("4 × overload: p99 of refusals, ms", overload["refused_p99_ms"], "≤ 100"))
    killed = faults["killed"]
    goals.append(("kill -9: longest gap, ms", killed["longest_gap_ms"], "< 1000"))
    broken = sum(n for status, n in killed["statuses"].items() if status != "200")
    goals.append(("kill -9: requests without an answer", broken, "those in flight"))
    return [f"{name}: {value:.2f} (goal {goal})" for name, value, goal in goals]
