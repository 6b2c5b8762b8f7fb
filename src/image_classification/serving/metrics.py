"""`GET /metrics`: what this process has done, in Prometheus' text format.

The only module that imports prometheus-client; it is imported only if metrics are switched on.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from image_classification.serving.admission import memory_used
from image_classification.serving.observation import RequestRecord

_MILLISECONDS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_STAGES = ("queue", "decode", "compute")


class Metrics:
    """Counters and histograms of one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ours: dict[str, Any] = {"namespace": "image_classification", "registry": self._registry}
        self._requests = Counter("requests", "Requests by status", ["status"], **ours)
        self._images = Counter("images", "Images the graph has run on", **ours)
        lost = "Requests without an answer because their process was killed"
        self._lost = Counter("requests_lost", lost, **ours)
        seconds = [milliseconds / 1000 for milliseconds in _MILLISECONDS]
        stages = "Time of a request by stage"
        self._stages = Histogram("stage_seconds", stages, ["stage"], buckets=seconds, **ours)
        batch = "Images in the run of the graph that a request took part in"
        self._batches = Histogram("batch_size", batch, buckets=_SIZES, **ours)
        self._in_flight = Gauge("requests_in_flight", "Requests waiting or in progress", **ours)
        resident = Gauge("resident_bytes", "Memory of this process", **ours)
        resident.set_function(memory_used)

    def follow(self, in_flight: Callable[[], int], lost: int) -> None:
        """Show the requests that the process works on, and those lost before it.

        Args:
            in_flight: returns how many requests are waiting or in progress.
            lost: requests that ended with processes killed before this one.
        """
        self._in_flight.set_function(in_flight)
        self._lost.inc(lost)

    def observe(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        self._requests.labels(str(record.status)).inc()
        if record.images:
            self._images.inc(record.images)
            self._batches.observe(record.batch_size)
            for stage in _STAGES:
                milliseconds: float = getattr(record, f"{stage}_ms")
                self._stages.labels(stage).observe(milliseconds / 1000)

    def text(self) -> bytes:
        """Return the whole text."""
        return generate_latest(self._registry)
