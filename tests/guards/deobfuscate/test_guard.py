"""The guard around a guard: judges every reading, pools by the maximum, and fails closed."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data.messages import Conversation, ImagePart, Message, TextPart
from corral.guards.base import Guard, Status
from corral.guards.composition.verdict import ComposedVerdict
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
    assert (
        guard.revision
        == DeobfuscatingGuard(ScriptedGuard("secret", categories={"secret": "llama_guard_3/S7"})).revision
    )
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


def test_what_hides_nothing_is_judged_in_one_call_for_prompt_and_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ScriptedGuard("secret")
    monkeypatch.setattr(inner, "classify", lambda *_args, **_options: pytest.fail("asked once more"))
    guard = DeobfuscatingGuard(inner)
    (both,) = guard.classify_both([Conversation.exchange("Hello.", SECRET)])
    assert (both["prompt"].flagged, both["response"].flagged) == (False, True)


def test_nothing_in_nothing_out(guard: DeobfuscatingGuard) -> None:
    assert guard.classify([]) == []
    assert guard.classify_both([]) == []


def test_the_verdict_says_which_form_raised_the_flag_and_keeps_what_was_said_of_the_original(
    guard: DeobfuscatingGuard,
) -> None:
    plain, coded = guard.classify([Conversation.user(SECRET), Conversation.user(CODE)])
    assert isinstance(coded, ComposedVerdict)
    assert (plain.decided_by, coded.decided_by) == ("as written", "base64")
    assert [(part.form, part.verdict.flagged) for part in coded.parts] == [((), False), (("base64",), True)]
    assert all(text not in json.dumps(coded.to_json()) for text in (SECRET, CODE))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), min_size=1, max_size=6))
def test_its_score_is_the_highest_over_all_forms(words: list[tuple[str, bool]]) -> None:
    score = {"a": 0.1, "b": 0.4, "c": 0.9}

    def rule(text: str, _: str) -> float:
        return max((score[word] for word in score if f"letter {word} of" in text), default=0.0)

    said = [f"this is the letter {word} of the alphabet" for word, _ in words]
    lines = [
        base64.b64encode(line.encode()).decode() if coded else line
        for line, (_, coded) in zip(said, words, strict=True)
    ]
    (verdict,) = DeobfuscatingGuard(ScriptedGuard(rule=rule)).classify([Conversation.user("\n".join(lines))])
    assert verdict.p_harm == max(score[word] for word, _ in words)
    assert verdict.p_harm == max(part.verdict.p_harm for part in verdict.parts)


@pytest.mark.parametrize("fault", ["raise", "short", "unparseable"])
def test_a_form_that_the_guard_breaks_on_is_an_unanswered_one(fault: str) -> None:
    guard = DeobfuscatingGuard(ScriptedGuard("harm", faults={"secret": fault}))
    broken, fine = guard.classify([Conversation.user(f"harm {CODE}"), Conversation.user("harm")])
    assert (broken.flagged, fine.flagged) == (None, True)
    assert broken.status is (Status.UNPARSEABLE if fault == "unparseable" else Status.ERROR)
