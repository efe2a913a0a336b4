"""What moderates: any guard of text and any guard of images and clips, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from corral.core.errors import MediaError
from corral.data.media import MediaLimits
from corral.data.media.access import read_file
from corral.data.messages import Conversation
from corral.data.taxonomy import crosswalk, qualified
from corral.evals.tasks.content_moderation.conditions import Condition
from corral.evals.tasks.content_moderation.items import Item, Modality
from corral.guards.asking import ask
from corral.guards.base import Guard, Status, Verdict
from corral.guards.media.base import MediaGuard

Support = Literal["exact", "broader", "narrower", "overall", "none"]
"""What a moderator has for a category: a category of its own, only an overall score of harm, or nothing."""

TAXONOMY: Final = "content_moderation"


class ItemModerator(Protocol):
    """Anything that judges items."""

    @property
    def name(self) -> str:
        """As reports print it."""

    @property
    def revision(self) -> str:
        """Content hash or revision; the same revision gives the same verdicts."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """What it can be shown."""

    def support(self, category: str) -> Support:
        """What it has for a category; ``none`` leaves the category's items out of its rates."""

    def judge(self, items: Sequence[Item], condition: Condition) -> list[Verdict]:
        """One verdict an item, in order, whatever happens."""


@dataclass(frozen=True)
class TextModerator:
    """A guard of text. With ``overall`` its score means harm of any kind, whatever categories it also scores."""

    guard: Guard
    overall: bool = False

    @property
    def name(self) -> str:
        """That of the guard."""
        return self.guard.name

    @property
    def revision(self) -> str:
        """That of the guard."""
        return self.guard.revision

    @property
    def modalities(self) -> frozenset[Modality]:
        """Text."""
        return frozenset({"text"})

    def support(self, category: str) -> Support:
        """By the crosswalk between our categories and the guard's."""
        return "overall" if self.overall else support_of(self.guard.taxonomy, category)

    def judge(self, items: Sequence[Item], condition: Condition) -> list[Verdict]:
        """See ``ItemModerator.judge``."""
        shown = [Conversation.user(condition.show_text(item.text), id=item.id) for item in items]
        return ask(self.guard, shown, target="prompt")


@dataclass(frozen=True)
class MediaModerator:
    """A guard of images and clips; ``categories`` are those that it knows, all of its taxonomy when empty."""

    guard: MediaGuard
    categories: tuple[str, ...] = ()
    limits: MediaLimits = field(default_factory=MediaLimits)

    @property
    def name(self) -> str:
        """That of the guard."""
        return self.guard.name

    @property
    def revision(self) -> str:
        """That of the guard."""
        return self.guard.revision

    @property
    def modalities(self) -> frozenset[Modality]:
        """Images and clips."""
        return frozenset({"image", "video"})

    def support(self, category: str) -> Support:
        """By the list of categories, else by the crosswalk."""
        if self.categories and category not in self.categories:
            return "none"
        return support_of(self.guard.taxonomy, category)

    def judge(self, items: Sequence[Item], condition: Condition) -> list[Verdict]:
        """See ``ItemModerator.judge``; what cannot be decoded has the status ``rejected``."""
        return [self._judge(item, condition) for item in items]

    def _judge(self, item: Item, condition: Condition) -> Verdict:
        if item.path is None:
            return Verdict.failed("prompt", self.name, self.revision, Status.REJECTED, "the item has no file")
        try:
            data = condition.show_media(read_file(item.path, self.limits), self.limits)
        except MediaError as error:
            return Verdict.failed("prompt", self.name, self.revision, Status.REJECTED, error.message)
        return self.guard.classify_media([data])[0].verdict


def support_of(taxonomy: str, category: str) -> Support:
    """What a guard of this taxonomy has for a category of ours; a guard without one has an overall score.

    An item whose harm is of no category of ours ("") is one for the overall score.
    """
    if not taxonomy or not category:
        return "overall"
    found = crosswalk(qualified(TAXONOMY, category), taxonomy)
    return found[0].relation if found else "none"
