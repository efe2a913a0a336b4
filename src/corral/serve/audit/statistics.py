"""Counts over time for the console's plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select

from corral.serve.audit.database import Database
from corral.serve.audit.tables import DECISIONS, of_tenant

MOST_ROWS: Final = 20_000
"""Rows that are looked at; of a busier time the newest."""


@dataclass(slots=True)
class Bucket:
    """One stretch of time."""

    start_us: int
    actions: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    latencies_us: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Decisions."""
        return self.actions.total()

    @property
    def block_rate(self) -> float | None:
        """Share that was blocked, ``None`` without decisions."""
        return self.actions["block"] / self.total if self.total else None

    def latency_ms(self, share: float) -> float | None:
        """A quantile of the latencies, in milliseconds."""
        return quantile(self.latencies_us, share)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What happened in a time.

    Attributes:
        buckets: of equal length, oldest first.
        categories: how many decisions named each category or rule.
        languages: by guessed language.
        latencies_us: of every decision.
        cut: there were more rows than are looked at.
    """

    buckets: Sequence[Bucket]
    categories: Counter[str]
    languages: Counter[str]
    latencies_us: Sequence[int]
    cut: bool

    @property
    def actions(self) -> Counter[str]:
        """Over the whole time."""
        return sum((bucket.actions for bucket in self.buckets), Counter[str]())

    @property
    def failed(self) -> int:
        """Decisions for which a guard gave no verdict."""
        return sum(bucket.failed for bucket in self.buckets)


def gather(database: Database, *, since_us: int, until_us: int, buckets: int, tenant: str | None = None) -> Statistics:
    """Count the decisions of a time; with ``tenant`` that tenant's.

    Raises:
        AuditError: the database failed.
    """
    columns = (
        DECISIONS.c.at_us, DECISIONS.c.action, DECISIONS.c.failed, DECISIONS.c.latency_us, DECISIONS.c.reasons,
        DECISIONS.c.language,
    )  # fmt: skip
    query = select(*columns).where(
        DECISIONS.c.at_us >= since_us, DECISIONS.c.at_us < until_us, *of_tenant(DECISIONS.c.tenant, tenant)
    )
    with database.read() as connection:
        rows = connection.execute(query.order_by(DECISIONS.c.seq.desc()).limit(MOST_ROWS + 1)).all()
    width = max(1, (until_us - since_us) // buckets)
    found = [Bucket(since_us + index * width) for index in range(buckets)]
    categories: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    latencies: list[int] = []
    for at_us, action, failed, latency_us, reasons, language in rows[:MOST_ROWS]:
        bucket = found[min(buckets - 1, (at_us - since_us) // width)]
        bucket.actions[action] += 1
        bucket.failed += failed
        bucket.latencies_us.append(latency_us)
        latencies.append(latency_us)
        languages[language] += 1
        categories.update({_rule(reason) for reason in json.loads(reasons)})
    return Statistics(found, categories, languages, latencies, len(rows) > MOST_ROWS)


def quantile(values_us: Sequence[int], share: float) -> float | None:
    """The smallest value that at least this share does not exceed, in milliseconds."""
    if not values_us:
        return None
    ordered = sorted(values_us)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e3


def _rule(reason: str) -> str:
    """The rule in ``guard:rule:action``; guards' names may hold colons too."""
    return reason.rpartition(":")[0].rpartition(":")[2]
