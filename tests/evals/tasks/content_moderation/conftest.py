"""A small matrix: texts with the word TRIGGER are harmful, and a scripted guard finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corral.evals.tasks.content_moderation.items import Item, content_hash


def text(id: str, words: str, category: str = "benign", kind: str = "plain", cluster: str = "") -> Item:
    return Item(
        id=id,
        modality="text",
        style="other",
        category=category,
        benign_kind="" if category != "benign" else kind,  # type: ignore[arg-type]
        language="en",
        source="made",
        licence="",
        cluster=cluster or id,
        text=words,
        content_hash=content_hash(words.encode()),
    )


@pytest.fixture
def make_text() -> Callable[..., Item]:
    return text


@pytest.fixture
def items() -> list[Item]:
    rows: list[Any] = [
        text("h1", "a TRIGGER in a text", "hate"),
        text("h2", "nothing to find", "violence"),
        text("h3", "another TRIGGER", ""),
        text("p1", "plain words"),
        text("p2", "more plain words"),
        text("s1", "a TRIGGER warning", kind="sensitive"),
        text("s2", "a history of wars", kind="sensitive"),
        text("u1", "REFUSE this", "hate"),
    ]
    return rows
