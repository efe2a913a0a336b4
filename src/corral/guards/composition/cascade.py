"""A cascade: a cheap guard judges everything, a costly one only what the cheap one is uncertain of.

Two stages with a reject option (Chow 1970; Viola and Jones 2001). The cheap guard's harm score decides: outside the
band its verdict stands, inside (ends included) the costly guard's. ``band`` fits the band on a development split. When
the guard whose word was needed gives none, neither does the cascade: a cheap guard that failed on a text is not
replaced, because nothing says that the text was harmless enough to need no look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import ask, ask_both, ask_where, present_targets
from corral.guards.base import Guard, Status, Verdict
from corral.guards.composition.base import ComposedGuard
from corral.guards.composition.verdict import ComposedVerdict, Part

Score = Annotated[float, Field(ge=0, le=1)]


class Band(Config):
    """Harm scores of the cheap guard that it is uncertain at, both ends included, and how they were chosen.

    Attributes:
        low: below it the cheap guard's word that a text is harmless stands.
        high: above it its word that a text is harmful stands.
        split: name of the development split that it was fitted on, "" when it was given.
        rule: how it was chosen.
        n: rows of that split.
        share: share of them inside the band.
        agreement: share of them on which the cascade decides as the costly guard does.
        agreement_ci95: Wilson's interval of that share.
        guards: name to revision of the guards that it was fitted with, the cheap one first.
    """

    schema_version: Literal[1] = 1
    low: Score = 0.2
    high: Score = 0.8
    split: str = ""
    rule: str = "given"
    n: Annotated[int, Field(ge=0)] = 0
    share: Score | None = None
    agreement: Score | None = None
    agreement_ci95: tuple[Score, Score] | None = None
    guards: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if self.low > self.high:
            raise ValueError(f"the band begins at {self.low} and ends at {self.high}; give the lower end first")
        return self

    def holds(self, p_harm: float | None) -> bool:
        """Whether a score is inside, ends included; a guard without a score is uncertain of everything."""
        return p_harm is None or self.low <= p_harm <= self.high


class CascadeGuard(ComposedGuard):
    """Asks a costly guard only where a cheap one is uncertain.

    Args:
        cheap: judges everything. One without a harm score is uncertain of everything.
        costly: judges what falls into the band.
        band: where the cheap guard is uncertain.
        name: name of the cascade; by default made of its parts'.
        names: names of the two within the cascade; by default their own.

    Raises:
        ConfigError: both parts have one name.
    """

    def __init__(
        self, cheap: Guard, costly: Guard, *, band: Band, name: str | None = None, names: Sequence[str] | None = None
    ) -> None:
        inner = names or (cheap.name, costly.name)
        super().__init__(
            (cheap, costly),
            inner,
            kind="cascade",
            name=name or f"cascade({','.join(inner)})",
            settings=[band.low, band.high],
        )
        self.cheap = cheap
        self.costly = costly
        self.band = band

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        first = ask(self.cheap, conversations, target=target)
        rows = [row for row, verdict in enumerate(first) if self._uncertain(verdict)]
        second = dict(zip(rows, ask(self.costly, [conversations[row] for row in rows], target=target), strict=True))
        return [self._joined(verdict, second.get(row)) for row, verdict in enumerate(first)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response; the costly guard is asked about both at once where both are uncertain."""
        first = ask_both(self.cheap, conversations)
        wanted = [
            [target for target in present_targets(each) if self._uncertain(answers[target])]
            for each, answers in zip(conversations, first, strict=True)
        ]
        second = ask_where(self.costly, conversations, wanted)
        return [
            {target: self._joined(answers[target], second[row].get(target)) for target in present_targets(each)}
            for row, (each, answers) in enumerate(zip(conversations, first, strict=True))
        ]

    def _uncertain(self, verdict: Verdict) -> bool:
        return verdict.status is Status.OK and self.band.holds(verdict.p_harm)

    def _joined(self, cheap: Verdict, costly: Verdict | None) -> ComposedVerdict:
        said = (cheap,) if costly is None else (cheap, costly)
        parts = [Part(name, verdict) for name, verdict in zip(self.part_names, said, strict=False)]
        decider = parts[-1]
        if decider.verdict.status is not Status.OK:
            return self._unanswered(decider, parts)
        base = cheap if costly is None else _with_other_answers(costly, cheap)
        return self._composed(base, parts, decided_by=decider.guard)


def _with_other_answers(costly: Verdict, cheap: Verdict) -> Verdict:
    """The costly guard's verdict, with the cheap one's answers to questions beside harm that the costly one has not.

    Without them a rule of the policy about attacks would hold outside the band and not inside.
    """
    kept = {
        field: getattr(cheap, field)
        for field, question in (("p_attack", "attack"), ("p_refusal", "refusal"))
        if getattr(costly, field) is None and question not in costly.unanswered
    }
    open_ones = [
        question
        for field, question in (("p_attack", "attack"), ("p_refusal", "refusal"))
        if field in kept and question in cheap.unanswered
    ]
    return replace(costly, **kept, unanswered=(*costly.unanswered, *open_ones)) if kept else costly
