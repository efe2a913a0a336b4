"""What people say about decisions, and their labels as training data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import delete, insert, select

from corral.core.errors import ConfigError, NotFoundError
from corral.data.taxonomy import crosswalk, parse_code
from corral.serve.audit.database import Database
from corral.serve.audit.tables import DECISIONS, REVIEWS, of_tenant

LABELS: Final = ("harmful", "harmless", "unsure")
_LONGEST_NOTE: Final = 2000


def save_review(
    database: Database,
    decision_id: str,
    *,
    label: str,
    categories: Sequence[str],
    note: str,
    reviewer: str,
    tenant: str | None = None,
) -> None:
    """Record what a person says; a later review of the same decision replaces it. With ``tenant`` only of its own.

    Raises:
        ConfigError: another label, a note that is too long, or a category that does not exist.
        NotFoundError: no such decision.
        AuditError: the database failed.
    """
    if label not in LABELS:
        raise ConfigError(f"no label is named `{label}`", where="label", hint=f"Use {', '.join(LABELS)}.")
    if len(note) > _LONGEST_NOTE:
        raise ConfigError(f"a note has at most {_LONGEST_NOTE} characters", where="note")
    for code in categories:
        crosswalk(code, parse_code(code)[0])  # raises for a code that does not exist
    with database.write() as connection:
        known = select(DECISIONS.c.seq).where(DECISIONS.c.id == decision_id, *of_tenant(DECISIONS.c.tenant, tenant))
        if connection.scalar(known) is None:
            raise NotFoundError(f"there is no decision `{decision_id}`")
        connection.execute(delete(REVIEWS).where(REVIEWS.c.decision_id == decision_id))
        connection.execute(
            insert(REVIEWS).values(
                decision_id=decision_id,
                label=label,
                categories=json.dumps(list(categories)),
                note=note,
                reviewer=reviewer[:64],
                at_us=time.time_ns() // 1000,
            )
        )


def labelled_rows(database: Database, *, tenant: str | None = None) -> Iterator[dict[str, Any]]:
    """Reviewed decisions whose text was kept, as rows of ``data/examples.ModerationExample``; unsure ones left out.

    With ``tenant`` only of that tenant.

    Raises:
        AuditError: the database failed.
    """
    joined = REVIEWS.join(DECISIONS, REVIEWS.c.decision_id == DECISIONS.c.id)
    query = (
        select(DECISIONS, REVIEWS.c.label, REVIEWS.c.categories)
        .select_from(joined)
        .where(REVIEWS.c.label != "unsure", DECISIONS.c.content.is_not(None), *of_tenant(DECISIONS.c.tenant, tenant))
        .order_by(DECISIONS.c.seq)
    )
    with database.read() as connection:
        for row in connection.execute(query).mappings():
            messages = json.loads(row["content"])
            codes = json.loads(row["categories"])
            yield {
                "id": row["id"],
                "messages": messages,
                "target": "response" if messages[-1]["role"] == "assistant" else "prompt",
                "harmful": row["label"] == "harmful",
                "categories": dict.fromkeys(codes, True),
                "taxonomy": parse_code(codes[0])[0] if codes else "",
                "language": "" if row["language"] == "und" else row["language"],
                "source": "corral-serve-review",
            }
