"""From moderation examples to exchanges with labels, for guards that judge a request and its reply in one answer.

Examples of one conversation (same source, same turns up to the request) are merged: a reply's exchange takes the labels
of the request from the request's own example, which then gives no exchange of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from corral.core.errors import DataError
from corral.data.examples import ModerationExample
from corral.data.messages import Message
from corral.guards.prompted.exchanges import Exchange, exchange_of

_RequestKey = tuple[str, tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class LabelledExchange:
    """An exchange and what is known about it.

    Attributes:
        exchange: with a response exactly when ``reply`` is given.
        harmful_request: harm of the request; ``None`` when unknown, or when its examples disagree.
        request: the request's own example; ``None`` where there is none or its examples disagree.
        reply: the reply's example; ``None`` for a request alone.
    """

    exchange: Exchange
    harmful_request: bool | None
    request: ModerationExample | None
    reply: ModerationExample | None


@dataclass(frozen=True, slots=True)
class ExchangeCounts:
    """What became of the examples that gave no exchange: merged into a reply's, or left out by reason."""

    merged: int
    left_out: Counter[str]


def labelled_exchanges(rows: Sequence[ModerationExample]) -> tuple[list[LabelledExchange], ExchangeCounts]:
    """The exchanges of examples, in their order."""
    requests = _requests(rows)
    replied = {_request_key(row) for row in rows if row.target == "response" and row.text.strip()}
    left_out: Counter[str] = Counter()
    merged = 0
    found: list[LabelledExchange] = []
    for row in rows:
        key = _request_key(row)
        if row.target == "prompt" and key in replied:
            merged += 1
            continue
        own = requests.get(key)
        reply = row if row.target == "response" else None
        exchange = _exchange(row, left_out)
        if exchange is not None:
            found.append(LabelledExchange(exchange, None if own is None else own.harmful, own, reply))
    return found, ExchangeCounts(merged, left_out)


def coin(text: str, index: int) -> bool:
    """A yes or no that the text alone decides, for an unknown answer before a known one.

    The known one comes after it, so something has to be written there. From this nothing can be learned, and what
    comes later follows both.
    """
    return bool(hashlib.sha256(f"{index}/{text}".encode(errors="surrogatepass")).digest()[0] % 2)


def _request_key(row: ModerationExample) -> _RequestKey:
    """Source and turns up to the request that the row is about."""
    index = row.conversation.judged_index("prompt")
    return row.source, row.conversation.messages[: 0 if index is None else index + 1]


def _requests(rows: Sequence[ModerationExample]) -> dict[_RequestKey, ModerationExample]:
    """The example of each request, where its examples agree about harm."""
    by_key: dict[_RequestKey, list[ModerationExample]] = {}
    for row in rows:
        if row.target == "prompt" and row.harmful is not None:
            by_key.setdefault(_request_key(row), []).append(row)
    return {key: members[0] for key, members in by_key.items() if len({row.harmful for row in members}) == 1}


def _exchange(row: ModerationExample, left_out: Counter[str]) -> Exchange | None:
    """The row as an exchange; ``None``, counted by its reason, for one that is left out."""
    try:
        exchange = exchange_of(row.conversation, reply=row.target == "response")
    except DataError:
        left_out["turns that the prompt cannot show"] += 1
        return None
    if row.target == "response" and exchange.response is None:
        left_out["no reply to judge"] += 1
        return None
    return exchange
