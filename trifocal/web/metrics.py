"""Metrics of the server, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from trifocal.web.limits import Workload

__all__ = ["METRICS_MEDIA", "Metrics"]

METRICS_MEDIA = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts of requests by path and status, their seconds and bytes, and the load of the server.

    Args:
        workload: whose load is reported.
    """

    def __init__(self, workload: Workload) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "trifocal_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "trifocal_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.received = Counter(
            "trifocal_received_bytes", "Bytes of the bodies of requests.", registry=self.registry
        )
        self.sent = Counter("trifocal_sent_bytes", "Bytes of the bodies of answers.", registry=self.registry)
        loads = {
            "trifocal_accepted_requests": (
                "Requests that are worked on, wait or are answered now.",
                lambda: workload.accepted,
            ),
            "trifocal_uploads": ("Bodies that are being received now.", lambda: workload.uploads),
            "trifocal_body_bytes": (
                "Bytes of the bodies in memory now.",
                lambda: workload.bytes_in_memory,
            ),
        }
        for name, (description, value) in loads.items():
            Gauge(name, description, registry=self.registry).set_function(value)

    def answered(self, path: str, status: int, seconds: float, size: int) -> None:
        """Count a request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        self.sent.inc(size)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self.registry)
