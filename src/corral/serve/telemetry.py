"""What the server tells about itself: Prometheus metrics (``corral_*``), spans, and log lines without content."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOGGER: Final = logging.getLogger("corral.serve")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_TRACER: Final = trace.get_tracer("corral.serve")


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"corral_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"corral_{name}", text, labels, buckets=buckets, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"corral_{name}", text, labels, registry=self.registry)

        self.requests = counter("requests", "Requests answered.", "route", "status")
        self.request_seconds = histogram("request_seconds", "Seconds until an answer began.", _SECONDS, "route")
        self.decisions = counter("decisions", "Decisions made.", "stage", "action", "mode")
        self.verdicts = counter("verdicts", "Verdicts of guards.", "guard", "status")
        self.guard_seconds = histogram("guard_seconds", "Seconds of one call of a guard.", _SECONDS, "guard")
        self.batch_items = histogram("batch_items", "Conversations in one call of a guard.", _SIZES, "guard")
        self.queue_seconds = histogram("queue_seconds", "Seconds that the oldest of a batch waited.", _SECONDS, "guard")
        self.queue_items = gauge("queue_items", "Conversations that wait for a guard.", "guard")
        self.queue_tokens = gauge("queue_tokens", "Estimated tokens that wait for a guard.", "guard")
        self.rejected = counter("rejected", "Requests that were not let in.", "reason")
        self.audit_rows = counter("audit_rows", "Rows committed to the audit log.")
        self.audit_seconds = histogram("audit_commit_seconds", "Seconds of one commit.", _SECONDS)
        self.audit_failures = counter("audit_failures", "Answers held back because no row could be committed.")
        self.upstream_seconds = histogram("upstream_seconds", "Seconds until the upstream answered.", _SECONDS)
        self.upstream_failures = counter("upstream_failures", "Calls of the upstream that failed.")
        self.model_measures = histogram(
            "model_measures", "What the model measured of itself while it answered.", _SHARES, "measure"
        )
        self.stream_stops = counter("stream_stops", "Streams that were stopped by a decision.")
        self.policy_reloads = counter("policy_reloads", "Policy files read again.", "result")
        self.policies_stale = gauge("policies_stale", "Tenants whose policy is not the one that its file holds now.")
        self.ready = gauge("ready", "1 when the last canary was classified.")

    def guard_observer(self, guard: str) -> Callable[[int, float, float], None]:
        """What a guard's queue tells its calls to."""
        seconds, items = self.guard_seconds.labels(guard), self.batch_items.labels(guard)
        waited = self.queue_seconds.labels(guard)

        def observe(count: int, took: float, wait: float) -> None:
            seconds.observe(took)
            items.observe(count)
            waited.observe(wait)

        return observe

    def observe_commit(self, rows: int, seconds: float) -> None:
        """What the audit log tells its commits to."""
        self.audit_rows.inc(rows)
        self.audit_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """An OpenTelemetry span, recorded where the operator installed an exporter; attributes never hold content."""
    return _TRACER.start_as_current_span(name, attributes=attributes)


class _JsonLines(logging.Formatter):
    """One JSON object a line; a traceback is reduced to its type, since its message may quote content."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)


def log(level: int, event: str, **fields: Any) -> None:
    """One line on the server's log; fields are ids, counts and times, never content or keys."""
    LOGGER.log(level, event, extra={"fields": fields})


def configure_logging() -> None:
    """JSON lines on standard error, for this server and uvicorn alike; no access log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("corral.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "corral.serve" else logging.WARNING)
