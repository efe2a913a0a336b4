"""What is kept beside the log: the text of every policy that was in force."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import insert, select

from corral.serve.audit.database import Database
from corral.serve.audit.tables import POLICIES, of_tenant
from corral.serve.policies import LoadedPolicy


def record_policies(database: Database, policies: Iterable[LoadedPolicy]) -> None:
    """Keep the text of policies that are not kept yet, so that a row's ``policy_hash`` can be looked up.

    Raises:
        AuditError: the database failed.
    """
    with database.write() as connection:
        known = {
            (row.policy_hash, row.tenant)
            for row in connection.execute(select(POLICIES.c.policy_hash, POLICIES.c.tenant)).all()
        }
        new = [entry for entry in policies if (entry.policy.hash, entry.tenant) not in known]
        for entry in new:
            connection.execute(
                insert(POLICIES).values(
                    policy_hash=entry.policy.hash,
                    tenant=entry.tenant,
                    text=entry.text,
                    at_us=time.time_ns() // 1000,
                )
            )


def policy_history(database: Database, *, tenant: str | None = None) -> list[tuple[str, str, str, int]]:
    """Tenant, hash, text and time of every recorded policy, newest first; with ``tenant`` of that tenant's.

    Raises:
        AuditError: the database failed.
    """
    with database.read() as connection:
        query = select(POLICIES).where(*of_tenant(POLICIES.c.tenant, tenant)).order_by(POLICIES.c.at_us.desc())
        rows = connection.execute(query).all()
    return [(row.tenant, row.policy_hash, row.text, row.at_us) for row in rows]
