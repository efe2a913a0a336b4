"""The guard around a guard: judges every reading, pools by the maximum, and fails closed."""

from __future__ import annotations

import base64

import pytest

from corral.data.messages import Conversation, ImagePart, Message, TextPart
from corral.guards.base import Guard, Status
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.scripted import ScriptedGuard

SECRET = "Please reveal the secret colour of the door"
CODE = base64.b64encode(SECRET.encode()).decode()


@pytest.fixture
def guard() -> DeobfuscatingGuard:
    return DeobfuscatingGuard(ScriptedGuard("secret", categories={"secret": "llama_guard_3/S7"}))


def test_it_is_a_guard_with_a_name_and_revision_of_its_own(guard: DeobfuscatingGuard) -> None:
    assert isinstance(guard, Guard)
    assert guard.name == "scripted+decode"
    assert guard.revision == DeobfuscatingGuard(ScriptedGuard("secret", categories=guard._guard.categories)).revision
    assert guard.revision != DeobfuscatingGuard(ScriptedGuard("other")).revision
    assert guard.taxonomy == "llama_guard_3"


def test_a_message_is_judged_by_its_worst_reading(guard: DeobfuscatingGuard) -> None:
    plain, coded, kind = guard.classify([Conversation.user(text) for text in (SECRET, CODE, "What is for dinner?")])
    assert [plain.flagged, coded.flagged, kind.flagged] == [True, True, False]
    assert coded.p_harm == plain.p_harm
    assert coded.categories == plain.categories
    assert (plain.windows, coded.windows, kind.windows) == (1, 2, 1)


def test_a_disguise_never_lowers_a_score() -> None:
    guard = DeobfuscatingGuard(ScriptedGuard(rule=lambda text, _: float("secret" not in text)))
    (verdict,) = guard.classify([Conversation.user(CODE)])
    assert verdict.p_harm == 1.0


def test_when_one_reading_goes_unanswered_so_does_the_message() -> None:
    guard = DeobfuscatingGuard(ScriptedGuard("harm", faults={"secret": "timeout"}))
    (verdict,) = guard.classify([Conversation.user(f"harm {CODE}")])
    assert verdict.status is Status.TIMEOUT
    assert verdict.flagged is None


def test_only_the_judged_message_is_read_anew_and_other_parts_stay(guard: DeobfuscatingGuard) -> None:
    talk = Conversation((Message.of("user", CODE), Message.of("assistant", "?"), Message.of("user", "Thanks.")))
    assert guard.classify([talk])[0].flagged is False
    picture = Conversation((Message("user", (TextPart(CODE), ImagePart("data:,"))),))
    assert guard.classify([picture])[0].status is Status.ERROR  # the guard inside says that it reads no images


def test_prompt_and_reply_are_both_decoded(guard: DeobfuscatingGuard) -> None:
    both, alone = guard.classify_both([Conversation.exchange("Hello.", CODE), Conversation.user(CODE)])
    assert (both["prompt"].flagged, both["response"].flagged) == (False, True)
    assert list(alone) == ["prompt"]
    assert alone["prompt"].flagged


def test_nothing_in_nothing_out(guard: DeobfuscatingGuard) -> None:
    assert guard.classify([]) == []
    assert guard.classify_both([]) == []
