"""Attack 7: small requests next to bulk ones that keep every thread busy."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

from adversary.mutations import record
from adversary.ordinary import ordinary_callers
from adversary.other_bombs import gif, growing_codes
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import attacked
from adversary.wire import counted, exchange, post

_BULKS = 3
_PATIENCE = 90.0


def attack(setting: Setting) -> Iterator[Row]:
    """Yield a small request's time next to three bulk requests, and what the bulk ones got."""
    size = setting.size
    tiny = gif(1, 1, data=growing_codes(1))
    tiny = tiny[:13] + tiny[13 + 768 :]  # without its palette
    tiny = tiny[:10] + b"\0" + tiny[11:]
    bulk = post(record(tiny) * size.bulk_images, "application/x-recordio")
    say(f"small requests next to {_BULKS} of {size.bulk_images} images ({len(bulk):,} bytes)")
    statuses: Counter[int] = Counter()
    is_over = threading.Event()
    with attacked(setting.model, setting.work) as target:
        with ordinary_callers(target.port, setting.photos, clients=1) as alone:
            time.sleep(size.seconds)

        def ask() -> None:
            while not is_over.is_set():
                status = exchange(target.port, bulk, _PATIENCE)[0]
                if size.has_long or not is_over.is_set():
                    statuses[status] += 1
                is_over.wait(0.5)  # a refused one asks again

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(_BULKS)]
        for one in asking:
            one.start()
        time.sleep(1)
        with ordinary_callers(target.port, setting.photos, clients=1) as beside:
            time.sleep(2 * size.seconds)
        is_over.set()
        if not size.has_long:  # the end of what they compute is not waited for
            target.kill()
        for one in asking:
            one.join()
    ratio = beside.post_ms[1] / max(1.0, alone.post_ms[1])
    yield Row(
        f"small requests next to {_BULKS} bulk ones", sum(beside.posts.values()),
        f"p99 {alone.post_ms[1]:.0f} ms alone, {beside.post_ms[1]:.0f} ms beside ({ratio:.1f} ×); "
        + beside.callers(),
        f"p99 ≤ {size.slowdown:.0f} × its own, every one answered (200)",
        set(beside.posts) == {200} and ratio <= size.slowdown,
    )  # fmt: skip
    yield Row(
        f"bulk requests of {size.bulk_images} images", sum(statuses.values()),
        counted(statuses) or "none ended in this time",
        "200 each, or refused at once with the number that fits", None,
    )  # fmt: skip
