"""What guards are shown of ordinary chats, what is remembered of their verdicts, and asking guards within guards."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.core.errors import DataError
from corral.data.messages import Conversation, Message, Role, TargetChoice
from corral.guards.base import Verdict
from corral.guards.composition.cascade import Band, CascadeGuard
from corral.guards.composition.ensemble import EnsembleGuard
from corral.guards.composition.parts import guards_within
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.json_judge.guard import JsonJudgeGuard
from corral.guards.llama_guard.guard import LlamaGuard
from corral.guards.prompted.alternating import alternating, reads_turns_only
from corral.guards.prompted.turns import conversation_turns
from corral.guards.scripted import ScriptedGuard
from corral.guards.wildguard.guard import WildGuard
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine

BAD = "TRIGGER"


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def picture() -> str:
    image = pytest.importorskip("PIL.Image", reason="the media extra is not installed")
    out = io.BytesIO()
    image.new("RGB", (16, 16), "blue").save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
ORDINARY: dict[str, list[dict[str, Any]]] = {
    "system first": [message("system", "You are kind."), message("user", "hi")],
    "developer in between": [message("user", "hi"), message("developer", "Be brief."), message("user", "there")],
    "system last": [message("user", "hi"), message("system", "Answer in French.")],
    "two users": [message("user", "hi"), message("user", "there")],
    "two assistants": [message("user", "hi"), message("assistant", "hello"), message("assistant", "again")],
    "assistant first": [message("assistant", "Welcome!"), message("user", "hi")],
    "tools": [
        message("user", "hi"),
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        message("user", "and?"),
    ],
}


def said_of(prompt: Prompt, *, yes: str, no: str) -> str:
    text = prompt if isinstance(prompt, str) else "\n".join(each.text for each in prompt.messages)  # type: ignore[union-attr]
    return yes if BAD in text else no


def wildguard() -> WildGuard:
    lines = "Harmful request: {0}\nResponse refusal: no\nHarmful response: {0}"
    return WildGuard(
        ScriptedEngine(lambda p: said_of(p, yes=lines.format("yes"), no=lines.format("no")), name="scripted-engine"),
        decode="generate",
    )


def json_judge() -> JsonJudgeGuard:
    answer = '{{"flagged": {0}, "categories": [], "confidence": 0.8}}'
    engine = ScriptedEngine(
        lambda p: said_of(p, yes=answer.format("true"), no=answer.format("false")), name="scripted-engine"
    )
    return JsonJudgeGuard(engine, revision="1")


def llama_guard() -> LlamaGuard:
    def logprob(prompt: Prompt, completion: str) -> float:
        likely = said_of(prompt, yes="unsafe", no="safe") == completion
        return math.log(0.9 if likely else 0.05)

    engine = ScriptedEngine(lambda p: said_of(p, yes="unsafe\nS1", no="safe"), logprob=logprob, name="scripted-engine")
    return LlamaGuard(engine)


PROMPTED: dict[str, Callable[[], Any]] = {
    "wildguard": wildguard,
    "json judge": json_judge,
    "llama guard": llama_guard,
    "cascade": lambda: CascadeGuard(ScriptedGuard(rule=lambda *_: 0.5), wildguard(), band=Band()),
    "decoded": lambda: DeobfuscatingGuard(wildguard()),
}


@pytest.mark.parametrize("guard", PROMPTED)
def test_guards_that_read_turns_let_ordinary_chats_through_and_still_see_every_message(guard: str, start: Any) -> None:
    running = start(guards=[PROMPTED[guard]()])
    for shape, messages in ORDINARY.items():
        answer = running.chat(*messages).json()
        decision = answer["corral"]["decisions"][0]
        assert decision["status"] == "ok", (shape, decision["verdicts"])
        assert answer["choices"][0]["finish_reason"] == "stop", shape
        for index, each in enumerate(messages):
            if each["content"] is None:
                continue
            worse = [*messages[:index], {**each, "content": f"a {BAD} here"}, *messages[index + 1 :]]
            assert running.chat(*worse).json()["choices"][0]["finish_reason"] == "content_filter", (shape, index)


def test_pictures_of_earlier_turns_are_marks_to_guards_of_text(start: Any) -> None:
    running = start(guards=[wildguard()], media_guard="scripted-media")
    shown = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": picture()}}]
    answer = running.chat(message("user", shown), message("assistant", "A square."), message("user", "Thanks."))
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    verdicts = answer.json()["corral"]["decisions"][0]["verdicts"]
    # Three texts and one picture, judged once.
    assert [(each["guard"], each["status"]) for each in verdicts] == [
        ("wildguard", "ok"), ("scripted-media", "ok"), ("wildguard", "ok"), ("wildguard", "ok"),
    ]  # fmt: skip


def test_a_reply_alone_can_be_judged_by_a_guard_of_exchanges(start: Any) -> None:
    running = start(guards=[wildguard()])
    answer = running.moderate(["hello", f"a {BAD}"], corral={"target": "response"}).json()
    assert [result["flagged"] for result in answer["results"]] == [False, True]
    assert [decision["status"] for decision in answer["corral"]["decisions"]] == ["ok", "ok"]


ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
CHATS = st.lists(st.tuples(st.sampled_from(ROLES), st.integers(0, 99)), min_size=1, max_size=8)


@given(CHATS)
def test_any_chat_becomes_turns_with_its_last_message_whole_in_the_last(chat: list[tuple[Role, int]]) -> None:
    conversation = Conversation(tuple(Message.of(role, f"<{number}>") for role, number in chat))
    shown = alternating(conversation)
    turns = conversation_turns(shown, len(shown.messages) - 1)
    assert [turn.role for turn in turns] == ["User", "Agent"] * (len(turns) // 2) + ["User"] * (len(turns) % 2)
    assert turns[-1].text.endswith(conversation.messages[-1].text)
    assert shown.target() == conversation.target()
    # Of the rest, only system and developer messages are not shown.
    spoken = [m.text for m in conversation.messages[:-1] if m.role not in ("system", "developer")]
    assert "".join(turn.text for turn in turns).replace("\n", "") == "".join([*spoken, conversation.messages[-1].text])


def test_a_guard_that_reads_any_chat_is_shown_it_as_it_is() -> None:
    assert not reads_turns_only(ScriptedGuard())
    assert reads_turns_only(PROMPTED["decoded"]())
    strange = Conversation((Message.of("user", "a"), Message.of("user", "b")))
    with pytest.raises(DataError):
        conversation_turns(strange, 1)


class Down:
    """A guard that raises as long as ``is_down``."""

    revision = "1"
    taxonomy = ""

    def __init__(self, name: str = "down") -> None:
        self.name = name
        self.is_down = True

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        if self.is_down:
            raise RuntimeError("down")
        return [
            Verdict(each.target(target), self.name, self.revision, flagged=False, p_harm=0.01) for each in conversations
        ]

    def classify_both(self, conversations: Sequence[Conversation]) -> Any:
        raise NotImplementedError


def test_readiness_asks_the_guards_that_a_composition_seldom_asks(start: Any) -> None:
    down = Down()
    cheap = ScriptedGuard(rule=lambda text, _: 0.5 if "hmm" in text else 0.01)
    running = start(guards=[CascadeGuard(cheap, down, band=Band(low=0.2, high=0.8), name="careful")])
    assert running.moderate("hello").json()["results"][0]["flagged"] is False
    assert running.client.get("/readyz").status_code == 503
    assert "guard `careful/down`" in running.server.health.health.problems[0]
    down.is_down = False
    running.client.portal.call(running.server.health.check)
    assert running.client.get("/readyz").status_code == 200


def test_guards_within_guards_have_paths() -> None:
    inner = CascadeGuard(ScriptedGuard(), Down("costly"), band=Band(), name="inner")
    outer = EnsembleGuard([DeobfuscatingGuard(inner), Down()], name="outer", names=["read", "down"])
    paths = [path for path, _ in guards_within(outer)]
    assert paths == ["outer/read/inner/scripted", "outer/read/inner/costly", "outer/down"]
    assert list(guards_within(ScriptedGuard())) == []


def test_a_verdict_without_one_of_its_members_is_not_remembered(start: Any) -> None:
    down = Down()
    sure = ScriptedGuard(rule=lambda *_: 0.9)
    running = start(guards=[EnsembleGuard([sure, down], missing="flag")])

    def p_harm() -> float:
        return float(running.moderate("hello").json()["corral"]["decisions"][0]["p_harm"])

    assert p_harm() == pytest.approx(0.9)
    down.is_down = False
    # The mean of 0.9 and 0.01, not what was said without the second.
    assert p_harm() == pytest.approx(0.455)
    down.is_down = True
    assert p_harm() == pytest.approx(0.455)
