"""Attack 3: tens of thousands of mutated requests; nothing may crash, fail or leak."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from adversary.mutations import mutate, valid_messages
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import Target, attacked
from adversary.wire import counted, exchange

_SENDERS, _BATCH = 64, 2500
_PATIENCE = 20.0  # seconds for an answer: half a request gets its 408 after the READ_TIMEOUT below
_WHOLE_PATIENCE = 30.0
_HALF_CLOSED = 0.6  # of the callers
_DOCUMENTED = {501, 503, 507}  # docs/http.md
_REPEATED = 2500  # of the requests come again, twice
_MOST_GROWTH = 8 << 20  # bytes, during the second time: 3 KiB for each of them
_SETTINGS = {"IMAGE_CLASSIFICATION_READ_TIMEOUT": "1", "IMAGE_CLASSIFICATION_PAGE": "true"}


def attack(setting: Setting) -> Iterator[Row]:
    """Yield the answers, the log and what is left behind."""
    count, seed = setting.size.fuzzed, setting.seed
    photo = next(setting.photos.glob("*.jpg")).read_bytes()
    messages = valid_messages(photo)
    statuses: Counter[int] = Counter()
    failed: list[int] = []
    with attacked(setting.model, setting.work, settings=_SETTINGS) as target:
        valid = [m.to_bytes() for m in messages if m.target == "/invocations"]
        first = [exchange(target.port, one, _WHOLE_PATIENCE) for one in valid]
        worker = target.worker

        def send(number: int) -> tuple[int, int]:
            chosen = random.Random(seed * 1_000_003 + number)  # noqa: S311 - no secret
            request = mutate(messages, chosen)
            closes = chosen.random() < _HALF_CLOSED
            return number, exchange(target.port, request, _PATIENCE, is_half_closed=closes)[0]

        before: dict[str, int] = {}
        with ThreadPoolExecutor(_SENDERS) as pool:
            step = min(_BATCH, -(-count // 3))
            for begin in range(0, count, step):
                end = min(count, begin + step)
                for number, status in pool.map(send, range(begin, end)):
                    statuses[status] += 1
                    if status >= 500 and status not in _DOCUMENTED:
                        failed.append(number)
                before = before or _left(target)  # each kind of process has started by now
                used = target.resident() >> 20
                say(f"{end} of {count} fuzzed requests, {len(failed)} failed, {used} MiB")
            # Each new picture may be the largest so far, so memory grows ever more slowly. It does
            # not grow while the same requests come again, unless each of them leaves something.
            again = count - min(_REPEATED, count // 10)
            held = []
            for _ in range(2):
                list(pool.map(send, range(again, count)))
                held.append(_left(target))
        after = held[-1]
        last = [exchange(target.port, one, _WHOLE_PATIENCE) for one in valid]
        crashes = (not target.is_running) + (target.worker != worker)
        tracebacks = target.output().count("Traceback (most recent call last)")
        code = _end(target)
    named = f"; requests {failed[:8]} of seed {seed}" if failed else ""
    yield Row(
        "fuzzed requests: answers", count, counted(statuses) + named,
        "no 5xx but 501, 503 and 507, which are documented", not failed,
    )  # fmt: skip
    wrong = sum(status != 200 for status, _ in first)
    same = sum(a == b for a, b in zip(first, last, strict=True))
    yield Row(
        "valid requests before and after them", len(valid),
        f"{same} with the same answer, {wrong} not answered with 200", "all the same, all 200",
        same == len(valid) and not wrong,
    )  # fmt: skip
    yield Row(
        "fuzzed requests: crashes and tracebacks", count,
        f"{crashes} processes ended, {tracebacks} tracebacks in the log, exit code {code}",
        "none, exit code 0", not crashes and not tracebacks and code == 0,
    )  # fmt: skip
    grown = after["bytes"] - held[-2]["bytes"]
    came = (
        f"memory {before['bytes'] >> 20} → {after['bytes'] >> 20} MiB, "
        f"{grown / (1 << 20):+.1f} MiB when {count - again} requests came again; "
    ) + ", ".join(f"{name} {before[name]} → {after[name]}" for name in _SLACK)
    is_clean = grown <= _MOST_GROWTH and all(
        after[name] <= before[name] + slack for name, slack in _SLACK.items()
    )
    yield Row(
        "fuzzed requests: what they leave", count, came,
        f"≤ {_MOST_GROWTH >> 20} MiB when they come again; no descriptor, thread, file or zombie",
        is_clean,
    )  # fmt: skip


_SLACK = {"descriptors": 4, "threads": 4, "files": 0, "zombies": 0}


def _left(target: Target) -> dict[str, int]:
    """Return what the server holds once its connections have timed out."""
    target.settle(10)
    time.sleep(1.6)  # READ_TIMEOUT, and a round of the server's loop
    return {
        "bytes": target.resident(),
        "descriptors": target.descriptors(),
        "threads": target.threads(),
        "files": target.files(),
        "zombies": target.zombies(),
    }


def _end(target: Target) -> int | None:
    target.send(signal.SIGTERM)
    return target.exit_code(30)
