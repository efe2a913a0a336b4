"""What a guard is, and what it says.

A ``Guard`` turns conversations into ``Verdict`` objects, one each, in order. A verdict is an opinion about one target
(the prompt or the response); what to do about it is the policy's business (``guards/policy``). A guard that cannot
answer says so in ``status``: ``flagged`` is then ``None``, never false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from corral.core.errors import GuardError
from corral.data.messages import Conversation, Target, TargetChoice


class Status(StrEnum):
    """How a guard's answer came about; only ``OK`` is a verdict on the text.

    ``REFUSED``: a model that was asked in words declined to look. ``REJECTED``: an image or clip that cannot or may not
    be decoded.
    """

    OK = "ok"
    UNPARSEABLE = "unparseable"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    ERROR = "error"
    REFUSED = "refused"
    REJECTED = "rejected"

    @property
    def transient(self) -> bool:
        """Whether the guard failed, and not on what it read: another time there may be an answer, so none is kept."""
        return self in {Status.ERROR, Status.TIMEOUT}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guard said about one target.

    Attributes:
        target: the message that was judged.
        guard: name of the guard.
        revision: content hash or revision of its weights and settings.
        status: how the answer came about.
        flagged: the guard's own decision; ``None`` unless ``status`` is ok.
        p_harm: calibrated probability in [0, 1] that the target is harmful; 0.5 is the shipped operating point.
        p_refusal: the same that a response refuses; ``None`` where not judged.
        p_attack: the same that a prompt is an injection or jailbreak attempt; ``None`` where not judged.
        categories: ``taxonomy/code`` to a score in [0, 1].
        unanswered: questions beside harm (``refusal``, ``attack``) that the guard judges but could not answer here;
            their score is ``None``.
        windows: how many overlapping windows were read (0 when nothing was).
        context_dropped: tokens of older turns that no window had room for; the judged message itself is never cut.
        latency_ms: wall time of this item, its share of the batch.
        detail: why the status is not ok; never holds text of the conversation.

    Raises:
        GuardError: a score that is not finite or outside [0, 1], or ``flagged`` at odds with ``status``.
    """

    target: Target
    guard: str
    revision: str
    status: Status = Status.OK
    flagged: bool | None = None
    p_harm: float | None = None
    p_refusal: float | None = None
    p_attack: float | None = None
    categories: Mapping[str, float] = field(default_factory=dict, hash=False)
    unanswered: tuple[str, ...] = field(default=(), kw_only=True)
    windows: int = 1
    context_dropped: int = 0
    latency_ms: float = 0.0
    detail: str | None = None

    def __post_init__(self) -> None:
        if (self.flagged is not None) != (self.status is Status.OK):
            raise GuardError(f"guard `{self.guard}`: flagged is `{self.flagged}` with status `{self.status}`")
        named = {"p_harm": self.p_harm, "p_refusal": self.p_refusal, "p_attack": self.p_attack, **self.categories}
        for name, score in named.items():
            if score is not None and not (math.isfinite(score) and 0.0 <= score <= 1.0):
                raise GuardError(f"guard `{self.guard}`: {name} is `{score}`, not a probability")

    @classmethod
    def failed(cls, target: Target, guard: str, revision: str, status: Status, detail: str) -> Verdict:
        """A verdict that says why there is none."""
        return cls(target, guard, revision, status=status, windows=0, detail=detail)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Verdict:
        """The verdict of ``to_json``; other keys are not read, and what a guard adds of its own is lost."""
        known = {each.name: values[each.name] for each in fields(Verdict) if each.name in values}
        return Verdict(
            **{**known, "status": Status(values["status"]), "unanswered": tuple(values.get("unanswered", ()))}
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute list."""
        return {
            "target": self.target,
            "guard": self.guard,
            "revision": self.revision,
            "status": self.status.value,
            "flagged": self.flagged,
            "p_harm": self.p_harm,
            "p_refusal": self.p_refusal,
            "p_attack": self.p_attack,
            "categories": dict(self.categories),
            "unanswered": list(self.unanswered),
            "windows": self.windows,
            "context_dropped": self.context_dropped,
            "latency_ms": self.latency_ms,
            "detail": self.detail,
        }


@runtime_checkable
class Guard(Protocol):
    """Anything that judges conversations."""

    @property
    def name(self) -> str:
        """Short name, as in a policy's list of guards."""

    @property
    def revision(self) -> str:
        """Content hash or revision of weights and settings; the same revision gives the same scores."""

    @property
    def taxonomy(self) -> str:
        """Id of the taxonomy its category scores use, "" when it scores none."""

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; same length and order as given."""

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation in one call.

        A target that the conversation does not have (no reply yet) is absent from its dictionary.
        """
