"""Deciding about conversations with pictures and clips: one policy over what was said of each channel.

The judged message's text goes to the guards of text, its pictures and clips to the guard of media, and what readers
(a transcript of a clip's speech, the writing in a picture) find in them to the guards of text again. The policy decides
over all these verdicts, and every one stays in the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from corral.core.errors import MediaError, MissingDependencyError
from corral.data.media import MediaAccess
from corral.data.messages import Conversation, ImagePart, Message, Part, Target, TargetChoice, TextPart
from corral.guards.asking import ask, present_targets
from corral.guards.base import Status, Verdict
from corral.guards.failures import failure_detail
from corral.guards.media.base import MediaGuard, MediaVerdict
from corral.guards.moderator import Moderator
from corral.guards.policy import Decision

UNREAD = "media"
"""Guard named in verdicts on media that no guard could be asked about."""


class MediaReader(Protocol):
    """Finds words in an image or clip: speech, or writing."""

    @property
    def name(self) -> str:
        """Of the channel, such as ``transcript`` or ``writing``."""

    def read(self, data: bytes) -> str:
        """The words, "" when there are none."""


@dataclass(frozen=True)
class MediaChannel:
    """How images and clips are judged.

    Attributes:
        load: makes the guard when the first image or clip comes: its libraries are optional.
        access: what the image parts of messages may refer to.
        readers: whose words the guards of text judge too.
    """

    load: Callable[[], MediaGuard]
    access: MediaAccess = field(default_factory=MediaAccess)
    readers: Sequence[MediaReader] = ()


class MediaModerator(Moderator):
    """A moderator that judges images and clips beside text.

    Args:
        text: decides about text; its guards and policy are used.
        media: how images and clips are judged.
    """

    def __init__(self, text: Moderator, media: MediaChannel) -> None:
        super().__init__(text.guards, text.policy, specs=text.specs)
        self._media = media
        self._loaded: MediaGuard | None = None

    def check_many(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Decision]:
        """Decide about one message of each conversation, pictures and clips in it included; same length and order."""
        targets = [conversation.target(target) for conversation in conversations]
        mixed = {i for i, c in enumerate(conversations) if judged_pictures(c, targets[i])}
        plain = iter(
            super().check_many(
                [without_pictures(c) for i, c in enumerate(conversations) if i not in mixed], target=target
            )
        )
        return [
            self._decide(conversation, targets[i]) if i in mixed else next(plain)
            for i, conversation in enumerate(conversations)
        ]

    def check_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Decision]]:
        """Decide about prompt and response of each conversation; see ``Moderator.check_both``."""
        mixed = {i for i, c in enumerate(conversations) if any(judged_pictures(c, t) for t in present_targets(c))}
        plain = iter(super().check_both([without_pictures(c) for i, c in enumerate(conversations) if i not in mixed]))
        return [
            {target: self.check(conversation, target=target) for target in present_targets(conversation)}
            if i in mixed
            else next(plain)
            for i, conversation in enumerate(conversations)
        ]

    def check_media(self, data: bytes, *, target: Target = "prompt") -> tuple[Decision, MediaVerdict]:
        """Decide about one image or clip alone; also gives what was said of each frame."""
        found = self._guard().classify_media([data], target=target)[0]
        return self.policy.decide([found.verdict, *self._words(data, target)]), found

    def _decide(self, conversation: Conversation, target: Target) -> Decision:
        verdicts: list[Verdict] = []
        text = without_pictures(conversation)
        index = text.judged_index(target)
        if index is not None and has_more_than_pictures(text.messages[index]):
            verdicts += self._text_verdicts(text, target)
        for part in judged_pictures(conversation, target):
            verdicts += self._media_verdicts(part, target)
        return self.policy.decide(verdicts)

    def _text_verdicts(self, conversation: Conversation, target: Target) -> list[Verdict]:
        return [ask(guard, [conversation], target=target)[0] for guard in self.guards]

    def _media_verdicts(self, part: ImagePart, target: Target) -> list[Verdict]:
        try:
            data = self._media.access.read(part.url)
        except MediaError as error:
            return [Verdict.failed(target, UNREAD, "", Status.REJECTED, error.message)]
        try:
            found = self._guard().classify_media([data], target=target)[0].verdict
        except MissingDependencyError as error:
            return [Verdict.failed(target, UNREAD, "", Status.ERROR, f"{error.message} ({error.hint})")]
        except Exception as error:
            return [Verdict.failed(target, UNREAD, "", Status.ERROR, failure_detail("the media guard failed", error))]
        return [found, *self._words(data, target)]

    def _words(self, data: bytes, target: Target) -> list[Verdict]:
        """What the guards of text say of the words that readers find; a reader that fails gives no verdict."""
        verdicts: list[Verdict] = []
        for reader in self._media.readers:
            try:
                words = reader.read(data)
            except Exception as error:
                detail = failure_detail(f"the reader `{reader.name}` failed", error)
                verdicts.append(Verdict.failed(target, reader.name, "", Status.ERROR, detail))
                continue
            if words.strip():
                message = Message.of("user" if target == "prompt" else "assistant", words)
                said = self._text_verdicts(Conversation((message,)), target)
                verdicts += [replace(verdict, guard=f"{verdict.guard}:{reader.name}") for verdict in said]
        return verdicts

    def _guard(self) -> MediaGuard:
        if self._loaded is None:
            self._loaded = self._media.load()
        return self._loaded


def judged_pictures(conversation: Conversation, target: Target) -> list[ImagePart]:
    """Images of the judged message; those of earlier turns were judged in their turn."""
    index = conversation.judged_index(target)
    parts = () if index is None else conversation.messages[index].content
    return [part for part in parts if isinstance(part, ImagePart)]


def has_more_than_pictures(message: Message) -> bool:
    """Whether a message whose pictures were taken out still holds something: words, or sound, which guards refuse."""
    return bool(message.text.strip()) or any(not isinstance(part, TextPart) for part in message.content)


def without_pictures(conversation: Conversation) -> Conversation:
    """The conversation without its image parts; messages stay, with or without words."""
    if not any(isinstance(part, ImagePart) for message in conversation.messages for part in message.content):
        return conversation
    kept = (
        replace(m, content=tuple(p for p in m.content if not isinstance(p, ImagePart))) for m in conversation.messages
    )
    return replace(conversation, messages=tuple(kept))


def with_marks(conversation: Conversation) -> Conversation:
    """The conversation as guards of text read it where a guard of media judges the pictures of its last message.

    That message stands without its pictures, and what is not text in earlier ones, judged in its turn, as a mark.
    """
    if all(isinstance(part, TextPart) for message in conversation.messages for part in message.content):
        return conversation
    *earlier, last = conversation.messages
    marked = (replace(m, content=tuple(map(_mark, m.content))) for m in earlier)
    return replace(conversation, messages=(*marked, *without_pictures(Conversation((last,))).messages))


def _mark(part: Part) -> Part:
    if isinstance(part, TextPart):
        return part
    return TextPart("[image]" if isinstance(part, ImagePart) else "[audio]")
