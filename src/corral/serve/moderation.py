"""From what was asked to a recorded decision: the one path that every route takes.

Guards judge, the policy decides, the audit log commits; only then does the caller learn the outcome. In shadow mode the
same happens and nothing is acted on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from corral.core.files import canonical_json
from corral.data.languages import find_identifier
from corral.data.messages import Conversation
from corral.guards.base import Status, Verdict
from corral.guards.policy import Action, Decision
from corral.serve.audit.database import AuditError
from corral.serve.audit.log import AuditEntry, AuditLog
from corral.serve.content import content_hash, judged_text, kept_content
from corral.serve.policies import DEFAULT_TENANT, PolicyStore, ServePolicy
from corral.serve.pool import GuardPool
from corral.serve.telemetry import Metrics, span

Stage = Literal["input", "prompt", "response", "window", "post_hoc"]
_LANGUAGE_CHARS: Final = 400
UNDETERMINED: Final = "und"
"""What the log says of a text whose language cannot be told (ISO 639-2)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the tenant whose policy applies, and the key that was shown ("" on an open server)."""

    tenant: str
    key_id: str = ""
    name: str = ""
    scopes: frozenset[str] = frozenset()

    @property
    def sees(self) -> str | None:
        """The one tenant whose decisions and policies the console shows; ``None`` for the operator, who sees all.

        The operator's keys are those of the tenant ``default``, whose policy is everybody's.
        """
        return None if self.tenant == DEFAULT_TENANT else self.tenant


@dataclass(frozen=True, slots=True)
class Question:
    """What one request is judged under.

    Attributes:
        caller: who asks.
        request_id: of the request, in every row.
        route: of the request.
        policy: in force when the request came; a reload changes the next one.
        guards: that judge.
    """

    caller: Caller
    request_id: str
    route: str
    policy: ServePolicy
    guards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision that is in the audit log.

    Attributes:
        id: of its row.
        decision: what the policy says.
        taken: what is done: the decision's action, or ``allow`` in shadow mode.
    """

    id: str
    decision: Decision
    taken: Action

    @property
    def stopped(self) -> bool:
        """Whether the message must not go on: blocked, or left to a person who is not there."""
        return self.taken in (Action.BLOCK, Action.UNDECIDED)


class Moderation:
    """Guards, policies, log and metrics in one."""

    def __init__(
        self, pool: GuardPool, policies: PolicyStore, audit: AuditLog, metrics: Metrics, *, secret: bytes
    ) -> None:
        self.pool = pool
        self.policies = policies
        self.audit = audit
        self.metrics = metrics
        self._secret = secret
        self._identifier = find_identifier()

    def question(
        self,
        caller: Caller,
        request_id: str,
        route: str,
        added_guards: Sequence[str] = (),
        *,
        policy_of: str | None = None,
    ) -> Question:
        """What a request is judged under; clients may add guards and never remove one.

        Args:
            caller: who asks, and whose rows they are.
            request_id: of the request.
            route: of the request.
            added_guards: asked on top of the policy's.
            policy_of: a tenant whose policy is tried out; the caller's own by default.

        Raises:
            NotFoundError: a guard that is not loaded.
        """
        policy = self.policies.of(policy_of or caller.tenant)
        return Question(caller, request_id, route, policy, self.policies.guards_of(policy, added_guards))

    async def decide(
        self,
        question: Question,
        judged: Sequence[Conversation],
        stage: Stage,
        *,
        measures: Mapping[str, float] | None = None,
    ) -> Outcome:
        """One decision over the last messages of several conversations; see ``decide_each``."""
        return (await self.decide_each(question, [judged], stage, measures=[measures or {}]))[0]

    async def decide_each(
        self,
        question: Question,
        groups: Sequence[Sequence[Conversation]],
        stage: Stage,
        *,
        measures: Sequence[Mapping[str, float]] | None = None,
    ) -> list[Outcome]:
        """A decision about each group of messages, recorded; each conversation ends with its judged message.

        Args:
            question: what is judged under.
            groups: of conversations.
            stage: of the request.
            measures: of each group, what the model measured of itself while it wrote it (``chat/measures``).

        Raises:
            QueueFullError: a guard's queue has no room.
            AuditError: the rows could not be committed.
        """
        started = time.perf_counter()
        flat = [conversation for group in groups for conversation in group]
        with span("corral.judge", stage=stage, conversations=len(flat)):
            verdicts = iter(await self.pool.judge(flat, question.guards))
        decided = [question.policy.decide([verdict for _ in group for verdict in next(verdicts)]) for group in groups]
        latency_us = round(1e6 * (time.perf_counter() - started))
        shadow = question.policy.mode == "shadow"
        outcomes = [Outcome(uuid.uuid4().hex, each, Action.ALLOW if shadow else each.action) for each in decided]
        measured = measures or [{} for _ in groups]
        entries = [
            self._entry(question, group, outcome, stage, latency_us=latency_us, measures=of_group)
            for group, outcome, of_group in zip(groups, outcomes, measured, strict=True)
        ]
        await self.record(entries)
        for outcome, of_group in zip(outcomes, measured, strict=True):
            self._count(outcome, question.policy, stage)
            for name, value in of_group.items():
                self.metrics.model_measures.labels(name).observe(value)
        return outcomes

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Commit rows.

        Raises:
            AuditError: they could not be committed.
        """
        try:
            with span("corral.audit", rows=len(entries)):
                await self.audit.append(entries)
        except AuditError:
            self.metrics.audit_failures.inc()
            raise

    def hash_of(self, text: str) -> str:
        """The keyed hash under which a text stands in the log."""
        return content_hash(self._secret, text)

    def _entry(
        self,
        question: Question,
        group: Sequence[Conversation],
        outcome: Outcome,
        stage: Stage,
        *,
        latency_us: int,
        measures: Mapping[str, float],
    ) -> AuditEntry:
        text = judged_text(group)
        decision = outcome.decision
        return AuditEntry(
            id=outcome.id,
            at_us=time.time_ns() // 1000,
            request_id=question.request_id,
            tenant=question.caller.tenant,
            key_id=question.caller.key_id,
            route=question.route,
            stage=stage,
            action=decision.action.value,
            taken=outcome.taken.value,
            flagged=decision.flagged,
            failed=any(verdict.status is not Status.OK for verdict in decision.verdicts),
            policy=f"{question.policy.id} {question.policy.version}"[:255],
            policy_hash=decision.policy_hash,
            reasons=canonical_json(list(decision.reasons)),
            verdicts=canonical_json([verdict.to_json() for verdict in decision.verdicts]),
            language=self._language(group),
            chars=len(text),
            latency_us=latency_us,
            content_hash=self.hash_of(text),
            content=kept_content(group, question.policy.content),
            measures=canonical_json(dict(measures)) if measures else None,
        )

    def _language(self, group: Sequence[Conversation]) -> str:
        """Of the judged messages, for statistics."""
        shown = " ".join(conversation.messages[-1].text[:_LANGUAGE_CHARS] for conversation in group)
        return self._identifier.identify([shown[-_LANGUAGE_CHARS:]])[0] or UNDETERMINED

    def _count(self, outcome: Outcome, policy: ServePolicy, stage: Stage) -> None:
        self.metrics.decisions.labels(stage, outcome.decision.action.value, policy.mode).inc()
        for verdict in outcome.decision.verdicts:
            self.metrics.verdicts.labels(verdict.guard, verdict.status.value).inc()


def status_of(verdicts: Sequence[Verdict]) -> Status:
    """One status for several verdicts: the first that is not ok; nobody having judged is an error."""
    return next((v.status for v in verdicts if v.status is not Status.OK), Status.OK if verdicts else Status.ERROR)
