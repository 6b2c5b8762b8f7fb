"""Attack 2: thousands of hostile requests at once, in a container of 1 GiB."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from adversary.ordinary import Seen, ordinary_callers
from adversary.pictures import hostile_pictures
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import GIB, attacked
from adversary.wire import counted, exchange, post

_SENDERS = 6
_PATIENCE = 60.0
_MOST_SECONDS = 900  # then the rest is not sent, and the goal is missed


def attack(setting: Setting) -> Iterator[Row]:
    """Yield the kills, the pings and the ordinary clients beside the flood."""
    made = hostile_pictures(min(setting.size.picture_bytes, 2 << 20))
    bodies = [make() for make in made.values()]
    say(f"sending {setting.size.hostile} hostile requests into 1 GiB")
    statuses: Counter[int] = Counter()
    numbers = iter(range(setting.size.hostile))
    is_over = threading.Event()
    with attacked(setting.model, setting.work, limit=GIB) as target:
        worker = target.worker
        target.forget_peak()

        def send(_: int) -> list[int]:
            seen = []
            while not is_over.is_set() and (number := next(numbers, None)) is not None:
                request = post(bodies[number % len(bodies)], "application/x-image")
                seen.append(exchange(target.port, request, _PATIENCE)[0])
                if number % 500 == 499:
                    say(f"{number + 1} sent, {target.kills()} kills")
            return seen

        with ordinary_callers(target.port, setting.photos) as seen:
            timer = threading.Timer(_MOST_SECONDS, is_over.set)
            timer.daemon = True
            timer.start()
            with ThreadPoolExecutor(_SENDERS) as pool:
                for status in itertools.chain(*pool.map(send, range(_SENDERS))):
                    statuses[status] += 1
            timer.cancel()
        kills, replaced = target.kills(), target.worker != worker
        peak, where = target.peak(), target.unlimited
        is_alive = target.is_running and target.ping() == 200
    sent = sum(statuses.values())
    memory = f"at most {peak >> 20} MiB" + (
        f"; {where}: without it a peak is judged" if where else ""
    )
    came = (
        f"{kills} kills, {'its process was replaced' if replaced else 'the same process'}, {memory}"
    )
    whole = sent == setting.size.hostile and is_alive and not kills and not replaced
    yield Row(
        "hostile requests in 1 GiB: kills", sent, came, "0 kills, the process stays",
        whole and (not where or peak <= GIB),
    )  # fmt: skip
    yield Row(
        "hostile requests in 1 GiB: their answers", sent, counted(statuses),
        "200, 400, 413 or 503 each", set(statuses) <= {200, 400, 413, 503},
    )  # fmt: skip
    yield from beside("hostile requests in 1 GiB", seen, setting)


def beside(attack: str, seen: Seen, setting: Setting) -> Iterator[Row]:
    """Yield the rows of the ordinary clients and of the pings beside an attack."""
    total = sum(seen.posts.values())
    yield Row(
        f"{attack}: ordinary clients", total, seen.callers(), "every one answered (200)",
        set(seen.posts) == {200},
    )  # fmt: skip
    bound = setting.size.ping_ms
    is_well = set(seen.pings) == {200} and seen.ping_ms[1] <= bound + seen.bare_ms[1]
    yield Row(
        f"{attack}: pings", sum(seen.pings.values()), seen.pinged(),
        f"all 200, p99 ≤ {bound:.0f} ms more than a bare server's", is_well,
    )  # fmt: skip
