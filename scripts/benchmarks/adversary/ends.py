"""Attack 5: the server's end under load: each request is answered, or the log counts it as lost."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from adversary.mutations import small_jpeg
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import Target, attacked
from adversary.wire import REFUSED, SILENT, connect, counted, exchange, post, receive

_UNDER_WAY = 0.7  # seconds between the last byte of a request and the signal
_LIGHT, _HEAVY = 5, 200  # pictures in a request
_OUTLASTING = 100  # heavy requests: minutes of work on two CPUs
_KILLED_AFTER = 30.0  # SageMaker sends SIGKILL so many seconds after SIGTERM
_PATIENCE = 60.0
_UNANSWERED = (REFUSED, SILENT)


def attack(setting: Setting) -> Iterator[Row]:
    """Yield a row for each way to end: SIGTERM, SIGKILL to the worker, SIGKILL to the first."""
    photo = small_jpeg(next(setting.photos.glob("*.jpg")).read_bytes())  # arrives in one piece
    light, heavy = (
        post(json.dumps([base64.b64encode(photo).decode()] * number).encode(), "application/json")
        for number in (_LIGHT, _HEAVY)
    )
    count = setting.size.ending
    yield _end(setting, "SIGTERM, work that fits", light, count, "stop")
    yield _end(setting, "SIGKILL to the process that computes", light, count, "kill")
    yield _end(setting, "SIGKILL to the first process", light, count, "kill first")
    if setting.size.has_long:
        yield _end(setting, "SIGTERM, work that outlasts 30 s", heavy, _OUTLASTING, "stop")


def _end(setting: Setting, name: str, request: bytes, count: int, way: str) -> Row:
    say(name)
    with attacked(setting.model, setting.work) as target:
        worker = target.worker
        with ThreadPoolExecutor(count) as pool:
            sent: list[float] = []

            def ask(_: int) -> int:
                try:
                    with connect(target.port, _PATIENCE) as connection:
                        connection.sendall(request)
                        sent.append(time.monotonic())
                        return receive(connection, time.monotonic() + _PATIENCE)[0]
                except OSError:
                    return REFUSED

            answers = pool.map(ask, range(count))
            while len(sent) < count:
                time.sleep(0.01)
            time.sleep(_UNDER_WAY)
            code = _signal(target, way, worker)
            statuses = Counter(answers)
        if way == "kill":
            returned = exchange(target.port, post(b"", "image/jpeg"), 30)[0] == 400
            target.send(signal.SIGTERM)
            code = target.exit_code(_KILLED_AFTER)
        else:
            returned = True
        lost = target.lost()
    unanswered = sum(statuses[status] for status in _UNANSWERED)
    came = f"{counted(statuses)}; {lost} in the log as lost; exit code {code}"
    came += "" if returned else "; it did not come back"
    expected = {"stop": code == (0 if not unanswered else 1) or (unanswered > 0 and bool(code))}
    is_right = expected.get(way, True) and returned and code is not None
    return Row(
        f"{name}: {count} requests under way", count, came,
        "0 unaccounted (answered + lost = sent), exit code 0 only if none is lost",
        unanswered == lost and is_right,
    )  # fmt: skip


def _signal(target: Target, way: str, worker: int) -> int | None:
    """End the server or a process of it; return the exit code, None if it still runs."""
    if way == "kill":
        target.send(signal.SIGKILL, worker)
        return None
    target.send(signal.SIGTERM if way == "stop" else signal.SIGKILL)
    return target.exit_code(_KILLED_AFTER)
