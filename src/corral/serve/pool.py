"""The guards of a server, each behind its queue, and verdicts that are known already.

Every conversation asked about ends with the message to be judged, so that one batch holds prompts and responses alike.
Each guard is shown what it can read of an ordinary chat (``_shown``); the judged message is always whole in it.
Whatever goes wrong on the way (a guard that raises, hangs, or is out of order) becomes a verdict without an answer;
only a full queue is the caller's business.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from corral.core.errors import CorralError
from corral.core.files import canonical_json
from corral.data.media import MediaAccess
from corral.data.messages import Conversation, ImagePart, Target
from corral.guards.asking import ask
from corral.guards.base import Guard, Status, Verdict
from corral.guards.composition.parts import guards_within
from corral.guards.composition.specs import GuardSpec
from corral.guards.composition.verdict import leaves
from corral.guards.failures import failure_detail
from corral.guards.loading import load_guard
from corral.guards.media.base import MediaGuard
from corral.guards.media.moderator import UNREAD, has_more_than_pictures, judged_pictures, with_marks
from corral.guards.prompted.alternating import alternating, reads_turns_only
from corral.serve.batching import Batcher, BatchLimits, In, Observe, OutOfOrderError

_CHARS_PER_TOKEN: Final = 3
_CONTEXT_CHARS: Final = 1500
_TURN_TOKENS: Final = 8
_IMAGE_TOKENS: Final = 256
_Key = tuple[str, str, bytes]
"""Guard, revision, and a digest of the conversation."""


def estimated_tokens(conversation: Conversation) -> int:
    """Roughly what judging the last message costs, in tokens: for admission only, nothing is cut by it."""
    *context, judged = conversation.messages
    before = min(sum(len(message.text) for message in context), _CONTEXT_CHARS)
    return (len(judged.text) + before) // _CHARS_PER_TOKEN + _TURN_TOKENS


class _Text(NamedTuple):
    """What a guard's thread is asked; the guard may be one within the guard whose thread it is."""

    guard: Guard
    conversation: Conversation


def _judged(texts: Sequence[_Text]) -> list[Verdict]:
    """A verdict each, in order; texts for the same guard are asked in one call."""
    found: dict[int, Verdict] = {}
    for guard in {id(text.guard): text.guard for text in texts}.values():
        rows = [row for row, text in enumerate(texts) if text.guard is guard]
        found |= zip(rows, ask(guard, [texts[row].conversation for row in rows]), strict=True)
    return [found[row] for row in range(len(texts))]


@dataclass(frozen=True, slots=True)
class _Picture:
    url: str
    target: Target


@dataclass(slots=True)
class _Question:
    """What is asked of one guard: answered already (``known``), or waiting for ``future``."""

    guard: str
    revision: str
    target: Target
    known: Verdict | None = None
    future: asyncio.Future[Verdict] | None = None


class _LazyMedia:
    """The media guard, loaded with the first picture; runs in its queue's thread only. It follows no address."""

    def __init__(self, load: Callable[[], MediaGuard]) -> None:
        self._load = load
        self._access = MediaAccess()
        self._guard: MediaGuard | None = None

    def judge(self, pictures: Sequence[_Picture]) -> list[Verdict]:
        return [self._verdict(picture) for picture in pictures]

    def _verdict(self, picture: _Picture) -> Verdict:
        try:
            data = self._access.read(picture.url)
        except CorralError as error:
            return Verdict.failed(picture.target, UNREAD, "", Status.REJECTED, error.message)
        try:
            self._guard = self._guard or self._load()
            return self._guard.classify_media([data], target=picture.target)[0].verdict
        except CorralError as error:
            return Verdict.failed(picture.target, UNREAD, "", Status.ERROR, error.message)
        except Exception as error:
            return Verdict.failed(
                picture.target, UNREAD, "", Status.ERROR, failure_detail("the media guard failed", error)
            )


def loaded_guards(specs: Iterable[GuardSpec]) -> list[Guard]:
    """The guards, loaded in a thread that ends.

    A thread that has computed keeps OpenMP's helpers for as long as it lives, and where all threads together have more
    of them than there are processors, GNU's OpenMP puts helpers to sleep between any two operations: guards that were
    loaded in the main thread ran at three quarters of their speed in the threads that serve.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="load") as thread:
        return list(thread.map(load_guard, specs))


class GuardPool:
    """Guards behind queues.

    Args:
        guards: of text; names differ.
        limits: of each queue.
        timeout: seconds until a missing verdict is one of status ``timeout``.
        cache_size: verdicts kept; 0 keeps none.
        media: loads the guard of images.
        observe: makes, from a guard's name, what is told of its calls.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        limits: BatchLimits,
        *,
        timeout: float,
        cache_size: int = 0,
        media: Callable[[], MediaGuard] | None = None,
        observe: Callable[[str], Observe] | None = None,
    ) -> None:
        self.guards: Mapping[str, Guard] = {guard.name: guard for guard in guards}
        self.timeout = timeout
        self._turns_only = {guard.name for guard in guards if reads_turns_only(guard)}
        self._batchers = {
            guard.name: Batcher(guard.name, _judged, limits, observe=observe and observe(guard.name))
            for guard in guards
        }
        self._pictures = (
            Batcher(UNREAD, _LazyMedia(media).judge, limits, observe=observe and observe(UNREAD))
            if media is not None
            else None
        )
        self._cache: OrderedDict[_Key, Verdict] = OrderedDict()
        self._cache_size = cache_size

    @property
    def waiting(self) -> dict[str, tuple[int, int]]:
        """By guard: items and estimated tokens that wait."""
        return {name: batcher.waiting for name, batcher in self._batchers.items()}

    @property
    def quiet_seconds(self) -> float:
        """How long no guard has computed anything; 0 while one does or has to."""
        return min(batcher.quiet_seconds for batcher in self._all_batchers())

    @property
    def in_order(self) -> bool:
        """Whether every guard takes submissions."""
        return all(batcher.in_order for batcher in self._batchers.values())

    async def judge(self, conversations: Sequence[Conversation], guards: Sequence[str]) -> list[list[Verdict]]:
        """What each guard, in the order given, says of the last message of each conversation.

        Raises:
            QueueFullError: a queue has no room; nothing was asked.
        """
        asked: list[list[_Question]] = [[] for _ in conversations]
        try:
            for name in guards:
                self._ask_text(self.guards[name], conversations, asked)
            if self._pictures is not None:
                self._ask_pictures(self._pictures, conversations, asked)
            return await self._answers(asked)
        finally:
            _give_up(asked)

    async def judge_everywhere(self, conversation: Conversation) -> dict[str, Verdict]:
        """What every guard says, and every guard within one that is made of others, whether that would ask it or not.

        By name; a guard within another by its path, such as ``careful/costly``.

        Raises:
            QueueFullError: a queue has no room.
        """
        paths: list[str] = []
        asked: list[list[_Question]] = []
        try:
            for name, guard in self.guards.items():
                places = [(name, guard), *guards_within(guard)]
                questions = [_Question(each.name, each.revision, conversation.target()) for _, each in places]
                paths += [path for path, _ in places]
                asked.append(questions)
                texts = [_Text(each, conversation) for _, each in places]
                tokens = [estimated_tokens(conversation)] * len(texts)
                _submit(self._batchers[name], questions, texts, tokens, self.timeout)
            verdicts = [verdict for found in await self._answers(asked) for verdict in found]
            return dict(zip(paths, verdicts, strict=True))
        finally:
            _give_up(asked)

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Answer what waits for at most so long, and take no more."""
        for batcher in self._all_batchers():
            batcher.close(drain_seconds=drain_seconds)

    def _all_batchers(self) -> list[Batcher[Any, Verdict]]:
        """Those of text, and of pictures where there are any."""
        return [*self._batchers.values(), *([self._pictures] if self._pictures is not None else [])]

    def _ask_text(self, guard: Guard, conversations: Sequence[Conversation], asked: Sequence[list[_Question]]) -> None:
        new: list[tuple[_Question, Conversation, _Key]] = []
        for index, conversation in enumerate(conversations):
            text = self._shown(guard, conversation)
            if text is None:
                continue
            key = (guard.name, guard.revision, _digest(text))
            question = _Question(guard.name, guard.revision, text.target(), known=self._known(key))
            asked[index].append(question)
            if question.known is None:
                new.append((question, text, key))
        _submit(
            self._batchers[guard.name],
            [question for question, _, _ in new],
            [_Text(guard, text) for _, text, _ in new],
            [estimated_tokens(text) for _, text, _ in new],
            self.timeout,
        )
        for question, _, key in new:
            if question.future is not None:
                question.future.add_done_callback(partial(self._remember, key))

    def _shown(self, guard: Guard, conversation: Conversation) -> Conversation | None:
        """What a guard of text is shown of a chat; ``None`` where the judged message is pictures and nothing else."""
        text = conversation
        if self._pictures is not None:
            text = with_marks(conversation)
            if _pictures(conversation) and not has_more_than_pictures(text.messages[-1]):
                return None
        return alternating(text) if guard.name in self._turns_only else text

    def _ask_pictures(
        self,
        batcher: Batcher[_Picture, Verdict],
        conversations: Sequence[Conversation],
        asked: Sequence[list[_Question]],
    ) -> None:
        questions: list[_Question] = []
        pictures: list[_Picture] = []
        for index, conversation in enumerate(conversations):
            for part in _pictures(conversation):
                pictures.append(_Picture(part.url, conversation.target()))
                questions.append(_Question(UNREAD, "", conversation.target()))
                asked[index].append(questions[-1])
        _submit(batcher, questions, pictures, [_IMAGE_TOKENS] * len(pictures), self.timeout)

    async def _answers(self, asked: Sequence[Sequence[_Question]]) -> list[list[Verdict]]:
        pending = [question.future for questions in asked for question in questions if question.future is not None]
        if pending:
            await asyncio.wait(pending, timeout=self.timeout)
        return [[self._verdict(question) for question in questions] for questions in asked]

    def _verdict(self, question: _Question) -> Verdict:
        if question.known is not None:
            return question.known
        failed = partial(Verdict.failed, question.target, question.guard, question.revision)
        future = question.future
        if future is None or not future.done():
            return failed(Status.TIMEOUT, f"no verdict within {self.timeout:g} s")
        if future.cancelled():
            return failed(Status.ERROR, "the guard was stopped")
        if (error := future.exception()) is not None:
            return failed(Status.ERROR, failure_detail("the guard failed", error))
        return future.result()

    def _known(self, key: _Key) -> Verdict | None:
        if (verdict := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
        return verdict

    def _remember(self, key: _Key, future: asyncio.Future[Verdict]) -> None:
        if self._cache_size == 0 or future.cancelled() or future.exception() is not None:
            return
        if _is_complete(verdict := future.result()):
            self._cache[key] = verdict
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)


def _is_complete(verdict: Verdict) -> bool:
    """Whether everybody who was asked answered: what one of several said in place of another is said again anew."""
    return verdict.status is Status.OK and all(leaf.status is Status.OK for _, leaf in leaves(verdict))


def _submit(
    batcher: Batcher[In, Verdict],
    questions: Sequence[_Question],
    values: Sequence[In],
    tokens: Sequence[int],
    timeout: float,
) -> None:
    """Queue the questions; a guard that is out of order answers each with an error."""
    if not questions:
        return
    try:
        futures = batcher.submit(values, tokens, timeout=timeout)
    except OutOfOrderError as error:
        for question in questions:
            question.known = Verdict.failed(
                question.target, question.guard, question.revision, Status.ERROR, error.message
            )
        return
    for question, future in zip(questions, futures, strict=True):
        question.future = future


def _give_up(asked: Sequence[Sequence[_Question]]) -> None:
    """Take back the questions that have no answer: they timed out, or the caller went away."""
    for question in (question for questions in asked for question in questions):
        if question.future is not None:
            question.future.cancel()


def _pictures(conversation: Conversation) -> list[ImagePart]:
    return judged_pictures(conversation, conversation.target())


def _digest(conversation: Conversation) -> bytes:
    """What stands for a conversation in memory: never its text."""
    return hashlib.sha256(canonical_json(conversation.to_openai()).encode()).digest()
