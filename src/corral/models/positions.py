"""Where in a rendered chat the instruction ends, and where the model begins to answer.

``t_inst`` is the last token of the user's instruction, ``t_post`` the last token of the whole prompt, after what the
template adds (``[/INST]``, or the end of the turn and the assistant's header). They are found in the model's own
template, by character offsets of the tokens, never by counting a known suffix: a special token is always a token of
its own, but plain text such as ``[/INST]`` may merge with the instruction's last characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Message
from corral.models.chat import ChatTokenizer

_PROBES: Final = ("corral-probe-one", "corral-probe-two", "corral-probe-three")


@dataclass(frozen=True, slots=True)
class LocatedPrompt:
    """A prompt's tokens and the two positions.

    Attributes:
        ids: the whole prompt, ending where the assistant begins.
        instruction: tokens of the last message that is not the assistant's.
        stepped_back: the last token of the instruction was shared with the template, so ``t_inst`` is the one before.
    """

    ids: tuple[int, ...]
    instruction: slice
    stepped_back: bool = False

    @property
    def t_inst(self) -> int:
        """Index of the instruction's last token."""
        return int(self.instruction.stop) - 1

    @property
    def t_post(self) -> int:
        """Index of the prompt's last token."""
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class TemplateParts:
    """What a chat template writes around one user message.

    Attributes:
        before: all of it before the message.
        after: all of it after the message, up to where the assistant begins.
        added_system: of ``before``, what is more than the opening of a user's turn: a system text that the template
            adds of its own accord, without a leading beginning-of-sequence token; "" for none.
    """

    before: str
    after: str
    added_system: str


def locate(
    chat: ChatTokenizer, conversation: Conversation, *, step_back: bool = False, limit: int | None = None
) -> LocatedPrompt:
    """The tokens of a conversation with the assistant's turn opened, and its positions.

    Args:
        chat: the model's tokenizer.
        conversation: ends with the message to be read, the user's as a rule.
        step_back: take the token before one that holds both the instruction's end and template text.
        limit: tokens that the model reads.

    Raises:
        DataError: an empty instruction, one that the template leaves out, a shared last token without ``step_back``,
            or positions beyond ``limit``.
    """
    index = len(conversation.messages) - 1
    if index < 0 or conversation.messages[index].role == "assistant":
        raise DataError("the conversation does not end with an instruction", where="messages")
    if not conversation.messages[index].text.strip():
        raise DataError("the instruction is empty", where=f"messages[{index}]")
    encoded = chat.encode(conversation)
    span, shared = encoded.spans[index], encoded.shared_ends[index]
    if span.start == span.stop:
        raise DataError("the chat template leaves the instruction out", where=f"messages[{index}]")
    if limit is not None and len(encoded.ids) > limit:
        cut = "cut off" if span.stop > limit else "kept, but the end of the prompt is cut off"
        raise DataError(
            f"the prompt has {len(encoded.ids)} tokens, {limit} are read: the end of the instruction would be {cut}",
            where=f"messages[{index}]",
            hint="Shorten it, or read it in windows.",
        )
    if shared and not (step_back and span.stop - 1 > span.start):
        raise DataError(
            "the instruction's last token also holds text of the chat template",
            where=f"messages[{index}]",
            hint="Take the token before it with step_back=True."
            if span.stop - 1 > span.start
            else "It is the only token.",
        )
    return LocatedPrompt(encoded.ids, slice(span.start, span.stop - shared), shared)


def template_parts(chat: ChatTokenizer) -> TemplateParts:
    """What the template writes around a single user message.

    Raises:
        DataError: the template writes the message twice or not at all.
        UserError: the tokenizer has no chat template.
    """
    first, answer, second = _PROBES
    rendered = chat.render(Conversation.user(first))
    before, found, after = rendered.partition(first)
    if not found or first in after:
        raise DataError("the chat template does not write a user's message once", where="chat_template")
    exchange = Conversation((*Conversation.exchange(first, answer).messages, Message.of("user", second)))
    try:
        between = chat.render(exchange).partition(answer)[2].partition(second)[0]
    except DataError:  # a template that takes one turn only: nothing to compare with
        return TemplateParts(before, after, "")
    backwards = zip(reversed(before), reversed(between), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
    opening = before[len(before) - same :]
    bos = chat.tokenizer.bos_token or ""
    return TemplateParts(before, after, before.removesuffix(opening).removeprefix(bos).strip())


def template_hash(chat: ChatTokenizer) -> str:
    """16 hex digits of the template's source and the control tokens that it writes.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    chat.render(Conversation.user(_PROBES[0]))
    tokenizer = chat.tokenizer
    return sha256_json([tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token])[:16]
