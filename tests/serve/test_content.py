"""What the log keeps of a text, and the secret that keys its hashes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.core.errors import ConfigError
from corral.data.messages import Conversation, ImagePart, Message, TextPart
from corral.serve.content import content_hash, judged_text, kept_content, load_secret, redacted


def test_the_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    secret = load_secret(tmp_path / "state")
    assert load_secret(tmp_path / "state") == secret
    path = tmp_path / "state" / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ConfigError):
        load_secret(tmp_path / "state")


def test_hashes_need_the_secret_and_take_any_text() -> None:
    assert content_hash(b"a" * 32, "x") != content_hash(b"b" * 32, "x")
    assert len(content_hash(b"a" * 32, "lone \ud800 surrogate")) == 64


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ann@example.org now", "write to [email] now"),
        ("call +44 20 7946 0123", "call [number]"),
        ("card 4111-1111-1111-1111.", "card [number]."),
        ("see https://example.org/a?b=c for 2 eggs", "see [link] for 2 eggs"),
    ],
)
def test_addresses_and_numbers_are_masked(text: str, masked: str) -> None:
    assert redacted(text) == masked


def test_what_is_kept_is_the_policys_choice() -> None:
    conversations = [Conversation.user("I am ann@example.org")]
    assert kept_content(conversations, "hash") is None
    assert json.loads(kept_content(conversations, "redacted") or "") == [{"role": "user", "content": "I am [email]"}]
    assert "ann@example.org" in (kept_content(conversations, "full") or "")


def test_pictures_are_kept_as_their_hash() -> None:
    message = Message("user", (TextPart("look"), ImagePart("data:image/png;base64,AAAA")))
    text = judged_text([Conversation((message,))])
    assert text.startswith("user: look\n[image ")
    assert "AAAA" not in text


def test_a_policy_may_keep_texts(start: Any) -> None:
    running = start(policies={"default": "content: redacted\n"})
    answer = running.moderate("mail ann@example.org")
    (row,) = running.rows_of(answer)
    assert json.loads(row["content"]) == [{"role": "user", "content": "mail [email]"}]
