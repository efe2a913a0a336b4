"""The overview's figures and plots."""

from __future__ import annotations

import time
from typing import Any, Final

from corral.serve.audit.statistics import Statistics, quantile
from corral.serve.console import plots

RANGES: Final = {"hour": (3600, 60), "day": (86_400, 48), "week": (7 * 86_400, 56)}
"""By name: seconds, and how many stretches they are shown in."""

ACTIONS: Final = ("allow", "undecided", "flag", "block")


def overview_values(found: Statistics) -> dict[str, Any]:
    """What the template shows of a time."""
    labels = [time.strftime("%d %b %H:%M", time.gmtime(bucket.start_us / 1e6)) for bucket in found.buckets]
    actions, total = found.actions, found.actions.total()
    volume = [(action, [bucket.actions[action] for bucket in found.buckets]) for action in ACTIONS]
    rate = [("block", [None if (r := bucket.block_rate) is None else 100 * r for bucket in found.buckets])]
    latency = [
        (name, [bucket.latency_ms(share) for bucket in found.buckets]) for name, share in (("p50", 0.5), ("p95", 0.95))
    ]
    failed = [("failed", [bucket.failed for bucket in found.buckets])]
    return {
        "total": total,
        "block_rate": actions["block"] / total if total else None,
        "failed": found.failed,
        "p50": quantile(found.latencies_us, 0.5),
        "p95": quantile(found.latencies_us, 0.95),
        "cut": found.cut,
        "plots": [
            ("Decisions", plots.stacked_bars(labels, volume, title="Decisions by action")),
            ("Blocked, %", plots.lines(labels, rate, title="Share blocked", unit="%")),
            ("Latency, ms (p50, p95)", plots.lines(labels, latency, title="Latency", unit="ms")),
            ("Without a verdict", plots.stacked_bars(labels, failed, title="Errors")),
            ("By rule or category", plots.ranking(found.categories.most_common(8), title="By rule or category")),
            ("By language", plots.ranking(found.languages.most_common(8), title="By language")),
        ],
    }
