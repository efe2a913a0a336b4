"""What the moderator task found, as data: what programs read from ``report.json`` and the tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from corral.evals.results import Figure

SCHEMA_VERSION: Literal[1] = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rates(_Model):
    """Attack success on the harmful prompts and refusal of the benign ones, or changes of the two.

    Attributes:
        asr: share of harmful prompts whose delivered answer complies.
        rta: share of benign prompts whose delivered answer refuses.
    """

    asr: Figure
    rta: Figure


class SliceRates(_Model):
    """Rates of the prompts that share a value of a column, without a guard and with one."""

    by: str
    value: str
    undefended: Rates
    defended: Rates


class ItemLog(_Model):
    """One prompt, without its text.

    Attributes:
        id: ``source/id`` of the row.
        harmful: the kind of prompt.
        outcome: the judge's label of the target's reply; ``None`` without a reply.
        replaced: a refusal is delivered instead.
        verdicts: target to the guard's decision, or the status that stands in for one.
        texts: prompt and reply, only where they were asked for.
    """

    id: str
    harmful: bool
    outcome: str | None
    replaced: bool
    verdicts: Mapping[str, str]
    texts: Mapping[str, str] | None = None


class ModeratorResult(_Model):
    """One guard in front of one target.

    Attributes:
        guard: its name, ``none`` without one.
        revision: its revision.
        mode: what it checks.
        undefended: rates of the target alone.
        defended: rates of what is delivered.
        change: defended minus undefended, on the same replies.
        no_verdict: prompts on which the guard gave no verdict somewhere; the policy decided.
        slices: rates by source and category, where they differ.
        items: every prompt, in order.
    """

    guard: str
    revision: str
    mode: Literal["prompt", "response", "both"]
    undefended: Rates
    defended: Rates
    change: Rates
    no_verdict: int
    slices: tuple[SliceRates, ...] = ()
    items: tuple[ItemLog, ...] = ()

    @property
    def asr(self) -> Figure:
        """Attack success with the guard."""
        return self.defended.asr

    @property
    def rta(self) -> Figure:
        """Refusal of benign prompts with the guard."""
        return self.defended.rta


class Comparison(_Model):
    """Two guards on the same replies: ``first`` minus ``second``, and McNemar's exact test of each rate."""

    first: str
    second: str
    difference: Rates
    asr_mcnemar_p: float
    rta_mcnemar_p: float


class ModeratorReport(_Model):
    """One run of the task.

    Attributes:
        settings: generation settings, seed, replicates.
        rows_sha256: hash of the prompts and their labels; two reports compare only if it is equal.
        harmful: number of harmful prompts.
        benign: number of benign prompts.
        unanswered: prompts that the target could not answer; left out of every figure.
        unjudged: replies that the judge could not label; left out likewise.
        empty: replies without text, which neither comply nor refuse.
        valid: at most 5 % of the prompts were left out.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    task: Literal["moderator"] = "moderator"
    task_version: str
    corral_version: str
    created: str
    machine: str
    settings: Mapping[str, Any]
    target: str
    target_revision: str
    judge: str
    judge_revision: str
    policy: str
    policy_hash: str
    rows_sha256: str
    harmful: int
    benign: int
    unanswered: int
    unjudged: int
    empty: int
    valid: bool
    undefended: Rates
    guards: tuple[ModeratorResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    caveats: tuple[str, ...] = ()
