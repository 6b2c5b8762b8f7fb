"""Runs a function over many items in threads: results in order, bounded memory."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_TASK_ITEMS = 8  # a task costs about 30 µs of interpreter time, an image 60 and more
_TASKS_PER_WORKER = 3  # at most; bounds memory to 24 results per worker


def in_order(
    process: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int,
    task_items: int = _TASK_ITEMS,
) -> Iterator[_Result]:
    """Yield `process(item)` of every item, in the order of `items` with any number of workers.

    An exception in `process` ends the iteration; work that has not started is dropped.

    Args:
        process: called from several threads.
        items: what to process.
        workers: threads.
        task_items: how many items a thread takes at a time; 1 for large ones.
    """
    executor = ThreadPoolExecutor(workers, thread_name_prefix="work")
    pending: deque[Future[list[_Result]]] = deque()

    def process_all(some: Sequence[_Item]) -> list[_Result]:
        return [process(item) for item in some]

    try:
        for start in range(0, len(items), task_items):
            pending.append(executor.submit(process_all, items[start : start + task_items]))
            if len(pending) > workers * _TASKS_PER_WORKER:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
