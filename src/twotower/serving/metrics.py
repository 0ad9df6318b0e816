"""`Metrics`: the service's Prometheus metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from twotower.extras import require
from twotower.serving.served import Served

METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names prometheus_client's folder of metrics shared by all workers."""

SECONDS = (0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the histogram's buckets."""


class Metrics:
    """Counts requests, their durations, what answers were based on, and bundles.

    Args:
        served: The bundle, whose version is read on every scrape.
        waiting: Returns the number of waiting requests.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self, served: Served, waiting: Callable[[], int]) -> None:
        client = require("prometheus_client", "serve")
        self._client, self._registry = client, client.CollectorRegistry()
        own: Any = {"registry": self._registry}
        self._requests = client.Counter(
            "twotower_requests", "Requests by route, method and status.", ["route", "method", "status"], **own
        )
        self._seconds = client.Histogram(
            "twotower_request_seconds",
            "Seconds from a request to its answer.",
            ["route"],
            buckets=SECONDS,
            **own,
        )
        self._bases = client.Counter(
            "twotower_answers", "Answers by what they were based on; popularity is the last resort.", ["basis"], **own
        )
        self._refused = client.Counter(
            "twotower_refused_requests",
            "Requests refused for their host or origin, answers that were not read, and connections above the limit.",
            ["reason"],
            **own,
        )
        self._failures = client.Counter("twotower_store_failures", "Requests that a store could not answer.", **own)
        self._bundles = _Bundles(served, waiting)
        self._registry.register(self._bundles)
        self._counter = cache(self._requests.labels)
        self._histogram = cache(self._seconds.labels)
        self._basis = cache(self._bases.labels)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one request."""
        self._counter(route, method, str(status)).inc()
        self._histogram(route).observe(seconds)

    def based_on(self, bases: Iterable[str]) -> None:
        """Counts what answers were based on."""
        for basis in bases:
            self._basis(basis).inc()

    def refused(self, reason: str) -> None:
        """Counts a request refused for its host or origin, an answer that is not read, or a connection too many."""
        self._refused.labels(reason).inc()

    def store_failed(self) -> None:
        """Counts a request that a store could not answer."""
        self._failures.inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        text: bytes = self._client.generate_latest(self._registry)
        if METRICS not in os.environ:
            return text
        # With several workers: counts summed over all, and this worker's values of everything else.
        together = self._client.CollectorRegistry()
        require("prometheus_client.multiprocess", "serve").MultiProcessCollector(together)
        together.register(self._bundles)
        summed: bytes = self._client.generate_latest(together)
        return summed


class _Bundles:
    """Metrics read on every scrape: the version served, swaps, refusals, and waiting requests."""

    def __init__(self, served: Served, waiting: Callable[[], int]) -> None:
        self.served, self.waiting = served, waiting

    def collect(self) -> Iterator[Any]:
        core = require("prometheus_client.core", "serve")
        info = core.GaugeMetricFamily("twotower_bundle", "1, with the version being served.", labels=["version"])
        info.add_metric([self.served.current.version], 1)
        yield info
        yield core.CounterMetricFamily("twotower_swaps", "Bundles swapped in.", self.served.swaps)
        yield core.CounterMetricFamily("twotower_refused_bundles", "Bundles refused.", self.served.refusals)
        yield core.GaugeMetricFamily("twotower_waiting_requests", "Requests waiting for the engine.", self.waiting())
