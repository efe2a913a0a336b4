"""What a red-team run found, as data: what programs read from ``report.json`` and the tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from corral.core.stats import Estimate
from corral.redteam.goals import Kind

SCHEMA_VERSION: Literal[1] = 1
NO_GUARD = "none"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Model):
    """A share, or a difference of two, with its 95 % interval; the fields of ``core.stats.Estimate``."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    clusters: int
    rule: str

    @classmethod
    def of(cls, estimate: Estimate) -> Rate:
        """An estimate as plain values."""
        return cls(
            value=estimate.value, ci95=estimate.ci95, n=estimate.n, clusters=estimate.clusters, rule=estimate.rule
        )


class Cell(_Model):
    """One style on one system, over all goals or over those of one category.

    Attributes:
        style: its name; "" for all styles together.
        category: of the goals; "" for all.
        asr: share of tries on harmful goals whose delivered answer complies.
        asr_any: share of harmful goals on which one of the tries does; ``None`` with one try each.
        rta: share of tries on benign goals whose delivered answer refuses.
        detected: share of harmful goals whose prompt the guard flags.
        false_alarms: share of benign goals whose prompt it flags.
        understood: share of questions with a known answer that the target, without a guard, answers rightly.
        asr_minus_plain: difference to the goal as it is, on the same goals.
        detected_minus_plain: likewise.
        asr_by_judge: ``asr`` by each judge, the first of which is the headline.
        undecided: answers on harmful or benign goals that the first judge could not label; left out.
        empty: answers without text, which neither comply nor refuse.
        not_applicable: attempts that the style gives no prompt for, by reason.
        complete: every attempt that has a prompt was answered.
    """

    style: str
    category: str
    asr: Rate
    asr_any: Rate | None
    rta: Rate
    detected: Rate
    false_alarms: Rate
    understood: Rate
    asr_minus_plain: Rate | None
    detected_minus_plain: Rate | None
    asr_by_judge: Mapping[str, Rate]
    undecided: int
    empty: int
    not_applicable: Mapping[str, int]
    complete: bool


class SystemResult(_Model):
    """One target, with one guard in front of it or none.

    Attributes:
        target: its name.
        target_revision: of its weights, "" when unknown.
        guard: name of the guard, ``none`` without one.
        guard_revision: of the guard.
        cells: by style, by style and category where goals have some, and all together.
        answered: attempts with an answer.
        failed: attempts that failed each time, by kind of error; left out of every figure.
        not_run: attempts that were not begun.
        stopped: why not.
        no_verdict: attempts on which the guard gave no verdict somewhere; the policy decided.
        disagreements: of the answers that two judges labelled, how many they label differently, by pair.
        tokens: read and written by the target.
        valid: at most 5 % of the attempts failed.
    """

    target: str
    target_revision: str
    guard: str
    guard_revision: str
    cells: tuple[Cell, ...]
    answered: int
    failed: Mapping[str, int]
    not_run: int
    stopped: str | None
    no_verdict: int
    disagreements: Mapping[str, tuple[int, int]]
    tokens: int
    valid: bool

    @property
    def name(self) -> str:
        """Target and guard."""
        return self.target if self.guard == NO_GUARD else f"{self.target} + {self.guard}"

    def cell(self, style: str, category: str = "") -> Cell | None:
        """The cell of that style and category, ``None`` when there is none."""
        return next((each for each in self.cells if (each.style, each.category) == (style, category)), None)


class Item(_Model):
    """One attempt on one system, without its text unless the run was asked to show it.

    Attributes:
        pair: the same for every system; what two of them are compared on.
        key: name of the attempt in the journals.
        outcome: the first judge's label; ``None`` where there is no answer.
        outcomes: every judge's label.
        replaced: a refusal is delivered instead of the answer.
        flagged: the guard flagged the prompt; ``None`` where it was not asked or gave no verdict.
        understood: of a question with a known answer, whether it was right.
        reason: why there is no answer.
        texts: prompt and answer, only where they were asked for.
    """

    pair: str
    key: str
    style: str
    style_id: str
    goal: str
    cluster: str
    category: str
    kind: Kind
    restart: int
    outcome: str | None
    outcomes: Mapping[str, str]
    replaced: bool
    flagged: bool | None
    understood: bool | None
    reason: str | None = None
    texts: Mapping[str, str] | None = None


class RedteamReport(_Model):
    """One run.

    Attributes:
        goals_sha256: hash of the goals; two runs compare only if it is equal.
        licences: source of goals to its licence.
        styles: style name to its id, version and wording included.
        unavailable: styles of a preset that are not there, with the reason.
        judges: judge name to its revision; the first is the headline.
        systems: what was attacked.
        items: every attempt, by system's name.
        valid: every system is.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    task: Literal["redteam"] = "redteam"
    run_version: str
    corral_version: str
    created: str
    machine: str
    settings: Mapping[str, Any]
    goals_sha256: str
    goals: Mapping[str, int]
    licences: Mapping[str, str]
    repeated_goals: int
    left_out_goals: int
    styles: Mapping[str, str]
    unavailable: Mapping[str, str]
    judges: Mapping[str, str]
    systems: tuple[SystemResult, ...]
    items: Mapping[str, tuple[Item, ...]]
    valid: bool
    caveats: tuple[str, ...] = ()
