"""Tokenising text so that nothing in it is read as a control token."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

from corral.core.errors import DataError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_BRACKETS = (("<", ">"), ("[", "]"))


class PlainTextEncoder:
    """Encodes anybody's text as ordinary tokens.

    Text without control tokens, which is nearly all, is encoded by the tokenizer itself. Only when a control token
    comes out is the text encoded again, by a copy that does not know them: the copy's ids agree with the tokenizer's
    everywhere else, and the tokenizer, which other threads may be using, is left as it is.

    Args:
        tokenizer: the model's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control_ids = control_token_ids(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids without control tokens, and without a beginning-of-sequence token.

        Raises:
            DataError: the vocabulary itself reads the text as a control token.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._control_ids.isdisjoint(ids):
            return ids
        ids = self._without_control.encode(text, add_special_tokens=False).ids
        if not self._control_ids.isdisjoint(ids):
            raise DataError("the tokenizer cannot tell the text from a control token")
        return ids

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of ``encode``, and where in the text each token ends, in characters.

        Tokens follow each other without gaps: one starts where the one before it ends. A character whose bytes are
        several tokens is counted to the first of them.

        Raises:
            DataError: the vocabulary itself reads the text as a control token.
        """
        # This copy has no post-processor either, which in many tokenizers takes blanks out of the offsets.
        encoding = self._without_control.encode(text, add_special_tokens=False)
        if not self._control_ids.isdisjoint(encoding.ids):
            raise DataError("the tokenizer cannot tell the text from a control token")
        return encoding.ids, [stop for _, stop in encoding.offsets]

    @cached_property
    def _without_control(self) -> Tokenizer:
        from tokenizers import Tokenizer

        definition = json.loads(self._tokenizer.to_str())
        definition["added_tokens"] = [
            token for token in definition["added_tokens"] if token["id"] not in self._control_ids
        ]
        # It refers to tokens that are gone, and nothing is added here anyway.
        definition["post_processor"] = None
        return Tokenizer.from_str(json.dumps(definition))


def control_token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the tokens that mean something other than their characters.

    These are the special added tokens, and added tokens in brackets such as ``<tool_call>`` that some models leave
    unmarked. Other added tokens (runs of spaces, words of an extended vocabulary) are text.
    """
    return frozenset(index for index, token in tokenizer.get_added_tokens_decoder().items() if _is_control(token))


def _is_control(token: AddedToken) -> bool:
    content = token.content.strip()
    return token.special or any(content.startswith(left) and content.endswith(right) for left, right in _BRACKETS)
