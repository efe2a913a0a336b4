"""A cascade: a cheap guard judges everything, a costly one only what the cheap one is uncertain of.

Two stages with a reject option (Chow 1970; Viola and Jones 2001). The cheap guard's harm score decides: outside the
band its verdict stands, inside (ends included) the costly guard's. ``band`` fits the band on a development split. When
the guard whose word was needed gives none, neither does the cascade: a cheap guard that failed on a text is not
replaced, because nothing says that the text was harmless enough to need no look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from corral.core.config import Config
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import ask, ask_both, present_targets
from corral.guards.base import Guard, Status, Verdict
from corral.guards.composition.verdict import (
    ComposedVerdict,
    Part,
    common_taxonomy,
    composed,
    distinct_names,
    unanswered,
)

Score = Annotated[float, Field(ge=0, le=1)]
_VERSION: Final = 1
"""Raised whenever the same parts and settings give other verdicts."""


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


class CascadeGuard:
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
        self, cheap: Guard, costly: Guard, *, band: Band, name: str | None = None, names: tuple[str, str] | None = None
    ) -> None:
        self.cheap = cheap
        self.costly = costly
        self.band = band
        self._names = distinct_names(names or (cheap.name, costly.name), where="cascade")
        self._name = name or f"cascade({','.join(self._names)})"
        parts = [[part, guard.revision] for part, guard in zip(self._names, (cheap, costly), strict=True)]
        self._revision = sha256_json(["cascade", _VERSION, parts, band.low, band.high])[:16]

    @property
    def parts(self) -> dict[str, Guard]:
        """The two, by their names within the cascade."""
        return dict(zip(self._names, (self.cheap, self.costly), strict=True))

    @property
    def name(self) -> str:
        """Name of the cascade."""
        return self._name

    @property
    def revision(self) -> str:
        """Hash of both parts' names and revisions and of the band."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Taxonomy of both parts; "" when they differ."""
        return common_taxonomy((self.cheap, self.costly))

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        first = ask(self.cheap, conversations, target=target)
        rows = [row for row, verdict in enumerate(first) if self._uncertain(verdict)]
        second = dict(zip(rows, ask(self.costly, [conversations[row] for row in rows], target=target), strict=True))
        return [self._joined(verdict, second.get(row)) for row, verdict in enumerate(first)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response; the costly guard is asked about both at once where both are uncertain."""
        first = ask_both(self.cheap, conversations)
        second: list[dict[Target, Verdict]] = [{} for _ in conversations]
        wanted = [
            [target for target in present_targets(each) if self._uncertain(answers[target])]
            for each, answers in zip(conversations, first, strict=True)
        ]
        pairs = [row for row, targets in enumerate(wanted) if len(targets) > 1]
        for row, answers in zip(pairs, ask_both(self.costly, [conversations[row] for row in pairs]), strict=True):
            second[row] = answers
        both: tuple[Target, ...] = ("prompt", "response")
        for target in both:
            rows = [row for row, targets in enumerate(wanted) if targets == [target]]
            asked = ask(self.costly, [conversations[row] for row in rows], target=target)
            for row, verdict in zip(rows, asked, strict=True):
                second[row][target] = verdict
        return [
            {target: self._joined(answers[target], second[row].get(target)) for target in present_targets(each)}
            for row, (each, answers) in enumerate(zip(conversations, first, strict=True))
        ]

    def _uncertain(self, verdict: Verdict) -> bool:
        if verdict.status is not Status.OK:
            return False
        return verdict.p_harm is None or self.band.low <= verdict.p_harm <= self.band.high

    def _joined(self, cheap: Verdict, costly: Verdict | None) -> ComposedVerdict:
        parts = [Part(self._names[0], cheap)] + ([] if costly is None else [Part(self._names[1], costly)])
        decider = parts[-1]
        if decider.verdict.status is not Status.OK:
            return unanswered(decider, parts, guard=self.name, revision=self.revision)
        base = cheap if costly is None else _with_other_answers(costly, cheap)
        return composed(base, parts, guard=self.name, revision=self.revision, decided_by=decider.guard)


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
