"""Attack 1: each hostile image alone: its CPU seconds and peak memory."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from adversary.pictures import hostile_pictures
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import GIB, Target, attacked
from adversary.wire import REFUSED, SILENT, counted, exchange, post

CPU_SECONDS, SHARE = 2.0, 0.40
_ENOUGH = 2.5 * CPU_SECONDS  # then the goal is missed far enough, and the server is killed
_PATIENCE = 60.0  # seconds by the clock
_LARGE = re.compile(r"64 MP|frames|canvas")  # the pictures that could take memory
_SHOWN = 6  # of the worst in a row; --json has all


@dataclass(frozen=True)
class Cost:
    """What one picture cost."""

    name: str
    size: int
    status: int
    cpu: float
    memory: int

    def __str__(self) -> str:
        status = {REFUSED: "no answer", SILENT: "no answer in time"}.get(self.status, self.status)
        figures = f"{self.cpu:.2f} s, {self.memory >> 20} MiB, {status}"
        return f"{self.name} ({self.size:,} bytes): {figures}"


def attack(setting: Setting) -> Iterator[Row]:
    """Yield the CPU time at the default limits, then the memory within a limit of 1 GiB."""
    pictures = hostile_pictures(setting.size.picture_bytes)
    costs, deaths, _ = measure(setting, list(pictures), 0)
    dear = [cost for cost in costs if cost.cpu > CPU_SECONDS]
    came = f"{len(dear)} above; " + _worst(costs, "cpu")
    yield Row(
        "hostile images: CPU seconds of each", len(costs), came,
        f"≤ {CPU_SECONDS:.0f} s each", not dear,
    )  # fmt: skip
    yield _answers(costs, deaths, "hostile images: answers")
    large_ones = [name for name in pictures if setting.size.has_long or _LARGE.search(name)]
    costs, deaths, target = measure(setting, large_ones, GIB)
    large = [cost for cost in costs if cost.memory > SHARE * GIB]
    came = f"{len(large)} above; " + _worst(costs, "memory")
    where = "in a cgroup of 1 GiB" if target.cgroup else f"beyond the model; {target.unlimited}"
    yield Row(
        f"hostile images: peak memory, {where}", len(costs), came,
        f"≤ {SHARE * 100:.0f}% of 1 GiB beyond the model", not large,
    )  # fmt: skip
    yield _answers(costs, deaths, "hostile images in 1 GiB: answers")


def measure(setting: Setting, names: list[str], limit: int) -> tuple[list[Cost], int, Target]:
    """Send the pictures one by one; return their costs and how many processes ended of them."""
    pictures = hostile_pictures(setting.size.picture_bytes)
    costs: list[Cost] = []
    deaths = 0
    photo = next(setting.photos.glob("*.jpg")).read_bytes()
    left = list(names)
    while left:
        with attacked(setting.model, setting.work, limit=limit) as target:
            for _ in range(5):
                exchange(target.port, post(photo, "image/jpeg"), 20)
            target.settle(5)
            base, worker = target.used(), target.worker
            while left:
                name = left.pop(0)
                cost = _send(target, name, pictures[name](), base)
                costs.append(cost)
                if cost.cpu > CPU_SECONDS or cost.memory > SHARE * GIB or cost.status < 400:
                    say(str(cost))
                if target.worker != worker or target.kills():
                    deaths += 1
                    break
                if cost.status == SILENT or cost.cpu > _ENOUGH:  # it may burn on for hours
                    target.kill()
                    break
    return costs, deaths, target


def _send(target: Target, name: str, data: bytes, base: int) -> Cost:
    target.forget_peak()
    before, end = target.settle(1), time.monotonic() + _PATIENCE
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(exchange(target.port, post(data, "application/x-image"), _PATIENCE)[0])

    asking = threading.Thread(target=ask, daemon=True)  # killing the server ends it
    asking.start()
    while asking.is_alive() and target.cpu_seconds() - before < _ENOUGH:
        asking.join(0.02)
    cpu = target.settle(end - time.monotonic(), before + _ENOUGH) - before
    status = statuses[0] if statuses else SILENT
    return Cost(name, len(data), status, cpu, target.peak() - base)


def _answers(costs: list[Cost], deaths: int, attack: str) -> Row:
    statuses = Counter(cost.status for cost in costs)
    wrong = [cost for cost in costs if cost.status not in (200, 400, 413)]
    came = counted(statuses) + f"; {deaths} processes ended"
    if wrong:
        came += "; " + "; ".join(map(str, wrong[:_SHOWN]))
    return Row(
        attack, len(costs), came, "200, 400 or 413 each, no process ends", not (wrong or deaths)
    )


def _worst(costs: list[Cost], figure: str) -> str:
    ordered = sorted(costs, key=lambda cost: -getattr(cost, figure))
    return "worst: " + "; ".join(map(str, ordered[:_SHOWN]))
