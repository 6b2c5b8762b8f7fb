"""`GET /metrics`: what this process has done, in Prometheus' text format.

The only module that imports prometheus-client; it is imported only if metrics are switched on.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from image_classification.serving.admission import memory_used
from image_classification.serving.observation import RequestRecord

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_STAGES = ("queue", "decode", "compute")


class Metrics:
    """Counters and histograms of one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        prefix = "image_classification"
        self._requests = Counter(
            f"{prefix}_requests", "Requests by status", ["status"], registry=registry
        )
        self._images = Counter(f"{prefix}_images", "Images the graph has run on", registry=registry)
        self._lost = Counter(
            f"{prefix}_requests_lost",
            "Requests without an answer because their process was killed",
            registry=registry,
        )
        self._stages = Histogram(
            f"{prefix}_stage_seconds",
            "Time of a request by stage",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            f"{prefix}_batch_size",
            "Images in the run of the graph that a request took part in",
            buckets=_SIZES,
            registry=registry,
        )
        self._in_flight = Gauge(
            f"{prefix}_requests_in_flight", "Requests waiting or worked on now", registry=registry
        )
        resident = Gauge(f"{prefix}_resident_bytes", "Memory of this process", registry=registry)
        resident.set_function(memory_used)

    def follow(self, in_flight: Callable[[], int], lost: int) -> None:
        """Show what the process works on.

        Args:
            in_flight: returns how many requests wait or are worked on now.
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
