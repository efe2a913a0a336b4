"""The one place where conversations become token ids.

Two promises. There is never a second beginning-of-sequence token: a chat template writes its own, raw text gets one
only when the tokenizer asks for it and the text does not already start with it. And text that people wrote never
becomes a control token: a message that spells ``<|im_end|>`` is read as those ten characters, so it cannot end its turn
or open another one.

A chat template is any Jinja program, so the second promise is kept around it: the template is rendered with a
placeholder for every message, and the rendered text is split there into the template's own words and the messages'.
The whole is then tokenised as usual, which gives the ids that the model was trained on; only if a control token falls
into a message are the pieces tokenised apart, that message with control tokens unknown to the tokenizer. A template
sees a placeholder where it would test what a message says (to strip an earlier turn's reasoning, for example); such
tests are false.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from corral.core.errors import DataError, UserError
from corral.data.messages import Conversation, Message, TextPart
from corral.models.plain_text import PlainTextEncoder, control_token_ids
from corral.models.prompts import PlainText, Prefilled, Unescaped

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# Templates write the role as given; the ones that know "developer" treat it as a system message.
_TEMPLATE_ROLES: Final = {"developer": "system"}
# Python's and Jinja's `strip` remove it, and no template writes it: its absence shows that the template trims.
_TRIM_PROBE: Final = "\u2003"


class _Piece(NamedTuple):
    """A run of rendered text; ``message`` is the index of the message it is from, ``None`` for the template's words."""

    text: str
    message: int | None


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A tokenised conversation.

    Attributes:
        ids: token ids of the whole.
        spans: for each message, the slice of ``ids`` that holds its text, without the template's framing but for a
            token that the two share (two newlines may be one token); empty where the template leaves the message out.
        shared_ends: for each message, whether its last token holds characters that come after its text as well.
    """

    ids: tuple[int, ...]
    spans: tuple[slice, ...]
    shared_ends: tuple[bool, ...]


class ChatTokenizer:
    """Renders and tokenises conversations and raw text for one model.

    Args:
        tokenizer: a fast tokenizer with or without a chat template. It is not changed, and truncation that its file
            or another caller switches on has no effect here.

    Attributes:
        tokenizer: as given.
        backend: the ``tokenizers`` object that encodes and decodes.

    Raises:
        UserError: the tokenizer has no fast backend.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(f"`{type(tokenizer).__name__}` is not a fast tokenizer", hint="Provide a tokenizer.json.")
        self.tokenizer = tokenizer
        # A copy of our own: truncation and padding are states of a tokenizer that its wrapper sets at every call.
        self.backend: Tokenizer = type(backend).from_str(backend.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self._plain = PlainTextEncoder(self.backend)
        self._control_ids = control_token_ids(self.backend)

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> str:
        """The text that ``encode`` tokenises, for people to read; tokenising it again would trust its content.

        Raises:
            DataError: a part that is not text, or a conversation that the template refuses.
            UserError: the tokenizer has no chat template.
        """
        return "".join(piece.text for piece in self._pieces(conversation, add_generation_prompt))

    def encode(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> EncodedChat:
        """Token ids of a conversation under the model's chat template.

        Tool calls are rendered as text, one ``name(arguments)`` a line, since templates differ in which they know.

        Args:
            conversation: text only.
            add_generation_prompt: end with the opening of the assistant's turn.

        Raises:
            DataError: a part that is not text, or a conversation that the template refuses.
            UserError: the tokenizer has no chat template.
        """
        pieces = self._pieces(conversation, add_generation_prompt)
        return self._encode_whole(pieces, len(conversation.messages)) or self._encode_apart(pieces, conversation)

    def encode_raw(self, text: str) -> list[int]:
        """Token ids of text that a program wrote: control tokens are recognised, so it must hold no user's words.

        The tokenizer's own beginning-of-sequence token is added unless the text starts with it.
        """
        bos = self.tokenizer.bos_token
        return list(self.backend.encode(text, add_special_tokens=not (bos and text.startswith(bos))).ids)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of anybody's text, without a beginning-of-sequence token and without control tokens."""
        return self._plain.encode(text)

    def encode_text_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of ``encode_text``, and where in the text each token ends (see ``PlainTextEncoder``)."""
        return self._plain.encode_with_ends(text)

    def encode_prompt(self, prompt: Conversation | str | Prefilled | PlainText | Unescaped) -> list[int]:
        """Token ids to generate from: a conversation with the assistant's turn opened, raw text, or see ``prompts``.

        Raises:
            DataError: no tokens at all, or a conversation that cannot be rendered.
            UserError: the tokenizer has no chat template.
        """
        match prompt:
            case str():
                ids = self.encode_raw(prompt)
            case Prefilled(conversation, prefix):
                ids = [*self.encode(conversation).ids, *self.encode_text(prefix)]
            case PlainText(text):
                ids = [*self.encode_raw(""), *self.encode_text(text)] if text else []
            case Unescaped(conversation):
                ids = self.encode_raw(self.render(conversation))
            case _:
                ids = list(self.encode(prompt).ids)
        if not ids:
            raise DataError("the prompt is empty")
        return ids

    def encode_completion(
        self, prompt: Conversation | str | Prefilled | PlainText | Unescaped, completion: str
    ) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the completion that follows it.

        After a conversation the completion is the assistant's text. After raw text the two are tokenised as one and
        split at the prompt's length, spaces at the prompt's end going to the completion, as EleutherAI's
        lm-evaluation-harness does; the numbers of published tables rest on this.

        Raises:
            DataError: either side has no tokens, or the conversation cannot be rendered.
            UserError: the tokenizer has no chat template.
        """
        if not isinstance(prompt, str):
            prompt_ids, completion_ids = self.encode_prompt(prompt), self.encode_text(completion)
        else:
            stripped = prompt.rstrip()
            prompt_ids = self.encode_prompt(stripped)
            completion_ids = self.encode_raw(prompt + completion)[len(prompt_ids) :]
        if not completion_ids:
            raise DataError("the completion is empty")
        return prompt_ids, completion_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def _encode_whole(self, pieces: Sequence[_Piece], messages: int) -> EncodedChat | None:
        """Tokenise the rendered text in one go; ``None`` when that reads a control token from a message."""
        encoding = self.backend.encode("".join(piece.text for piece in pieces), add_special_tokens=False)
        owner = [piece.message for piece in pieces for _ in piece.text]
        bounds: dict[int, tuple[int, int]] = {}
        shared: dict[int, bool] = {}
        for index, (token, (start, stop)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
            owners = {message for message in owner[start:stop] if message is not None}
            if owners and token in self._control_ids:
                return None
            for message in owners:
                bounds[message] = (bounds.get(message, (index, index))[0], index + 1)
                shared[message] = owner[stop - 1] != message
        return EncodedChat(
            tuple(encoding.ids),
            tuple(slice(*bounds.get(m, (0, 0))) for m in range(messages)),
            tuple(shared.get(m, False) for m in range(messages)),
        )

    def _encode_apart(self, pieces: Sequence[_Piece], conversation: Conversation) -> EncodedChat:
        ids: list[int] = []
        bounds: dict[int, tuple[int, int]] = {}
        for piece in pieces:
            start = len(ids)
            if piece.message is None:
                ids += self.backend.encode(piece.text, add_special_tokens=False).ids
            else:
                ids += self._message_ids(conversation.messages[piece.message], piece.text)
                bounds[piece.message] = (bounds.get(piece.message, (start, start))[0], len(ids))
        count = len(conversation.messages)
        spans = tuple(slice(*bounds.get(m, (0, 0))) for m in range(count))
        return EncodedChat(tuple(ids), spans, (False,) * count)

    def _message_ids(self, message: Message, text: str) -> list[int]:
        """Ids of what a message says, encoded apart from the template around it; ``text`` as the template trims it."""
        del message
        return self._plain.encode(text)

    def _pieces(self, conversation: Conversation, add_generation_prompt: bool) -> list[_Piece]:
        texts = [_text(message, f"messages[{i}]") for i, message in enumerate(conversation.messages)]
        nonce = secrets.token_hex(8)
        rendered = self._apply_template(
            [
                {
                    "role": _TEMPLATE_ROLES.get(message.role, message.role),
                    "content": f"{_TRIM_PROBE}{nonce}-{i};{_TRIM_PROBE}",
                }
                for i, message in enumerate(conversation.messages)
            ],
            add_generation_prompt,
        )
        return _split(rendered, nonce, texts)

    def _apply_template(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                [list(messages)],
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
                **self.tokenizer.special_tokens_map,
            )
        except TemplateError as error:
            raise DataError(f"the model's chat template refuses the conversation: {error}") from error
        return str(rendered[0])

    @cached_property
    def _template(self) -> str:
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:
            raise UserError(
                "the tokenizer has no chat template", hint="Use an instruction-tuned model, or prompt it with raw text."
            ) from error


def _text(message: Message, where: str) -> str:
    for i, part in enumerate(message.content):
        if not isinstance(part, TextPart):
            raise DataError("a text model cannot read an image or audio part", where=f"{where}.content[{i}]")
    return message.text


def _split(rendered: str, nonce: str, texts: Sequence[str]) -> list[_Piece]:
    """Cut rendered text at the placeholders, putting back each message trimmed as the template trimmed its probe."""
    placeholder = re.compile(f"({_TRIM_PROBE}?){nonce}-([0-9]+);({_TRIM_PROBE}?)")
    pieces: list[_Piece] = []
    position = 0
    for match in placeholder.finditer(rendered):
        pieces.append(_Piece(rendered[position : match.start()], None))
        index = int(match[2])
        text = texts[index] if match[1] else texts[index].lstrip()
        pieces.append(_Piece(text if match[3] else text.rstrip(), index))
        position = match.end()
    pieces.append(_Piece(rendered[position:], None))
    return [piece for piece in pieces if piece.text]
