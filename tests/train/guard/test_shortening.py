"""Long messages keep their first tokens."""

from __future__ import annotations

from pathlib import Path

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.models.loading import load_fast_tokenizer
from corral.train.guard.shortening import shorten_messages


def test_every_message_keeps_its_first_tokens_and_rows_keep_their_labels(tiny_base: Path) -> None:
    row = ModerationExample(Conversation.exchange("a" * 50, "short", id="7"), "response", harmful=True, id="7")
    (shortened,) = shorten_messages([row], load_fast_tokenizer(tiny_base), max_tokens=10)
    assert [message.text for message in shortened.conversation.messages] == ["a" * 10, "short"]
    assert (shortened.conversation.id, shortened.harmful, shortened.id) == ("7", True, "7")
