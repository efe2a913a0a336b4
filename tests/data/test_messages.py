"""Messages and conversations in OpenAI's shapes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.data.messages import (
    ROLES,
    AudioPart,
    Conversation,
    ImagePart,
    Message,
    TextPart,
    ToolCall,
)

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": "bread"}'}}

parts = st.one_of(
    st.builds(TextPart, st.text()),
    st.builds(ImagePart, st.text()),
    st.builds(AudioPart, st.text(), st.sampled_from(["wav", "mp3", ""])),
)
calls = st.builds(ToolCall, st.text(), st.text(), st.text())
messages = st.one_of(
    st.builds(lambda role, part: Message(role, (part,)), st.sampled_from(ROLES), parts),
    st.builds(lambda role, *two: Message(role, two), st.sampled_from(ROLES), parts, parts),
    st.builds(lambda part, call: Message("assistant", (part,), (call,)), parts, calls),
    st.builds(lambda *two: Message("assistant", (), two), calls, calls),
)
conversations = st.lists(messages, min_size=1, max_size=4).map(lambda found: Conversation(tuple(found)))


@given(conversations)
def test_what_is_written_is_read_back(conversation: Conversation) -> None:
    assert Conversation.from_openai(conversation.to_openai()) == conversation


@given(conversations)
def test_conversations_can_be_keys(conversation: Conversation) -> None:
    assert {conversation: 1}[Conversation(conversation.messages)] == 1


@pytest.mark.parametrize("role", ROLES)
def test_text_content_is_one_text_part_and_is_written_as_text(role: str) -> None:
    given = {"role": role, "content": "Hello"}
    message = Message.from_openai(given)
    assert message.content == (TextPart("Hello"),)
    assert message.to_openai() == given


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "a"}, TextPart("a")),
        ({"type": "input_text", "text": "a"}, TextPart("a")),
        ({"type": "output_text", "text": "a"}, TextPart("a")),
        ({"type": "refusal", "refusal": "I cannot."}, TextPart("I cannot.")),
        (IMAGE, ImagePart("https://example.org/cat.png")),
        ({"type": "input_image", "image_url": "https://example.org/cat.png"}, ImagePart("https://example.org/cat.png")),
        (AUDIO, AudioPart("UklGRg==", "wav")),
    ],
)
def test_typed_parts_of_both_apis_are_read(part: dict[str, Any], expected: object) -> None:
    assert Message.from_openai({"role": "user", "content": [part]}).content == (expected,)


def test_text_is_the_text_parts_and_tool_calls_by_line() -> None:
    value = {"role": "assistant", "content": [{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}]}
    assert Message.from_openai(value).text == "a\nb"
    assert Message.from_openai(value | {"tool_calls": [CALL]}).text == 'a\nb\nlook_up({"q": "bread"})'


def test_a_tool_call_may_stand_without_content() -> None:
    value = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    message = Message.from_openai(value)
    assert message.tool_calls == (ToolCall("c1", "look_up", '{"q": "bread"}'),)
    assert message.to_openai() == value


def test_a_refusal_beside_null_content_is_the_text_of_the_turn() -> None:
    message = Message.from_openai({"role": "assistant", "content": None, "refusal": "I cannot help."})
    assert message.text == "I cannot help."


def test_a_null_refusal_changes_nothing() -> None:
    assert Message.from_openai({"role": "assistant", "content": "Yes.", "refusal": None}).text == "Yes."


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        ("hello", "message", "expected an object"),
        ({"content": "x"}, "message.role", "role is missing"),
        ({"role": "narrator", "content": "x"}, "message.role", "unknown role `narrator`"),
        ({"role": ["user"], "content": "x"}, "message.role", "unknown role"),
        ({"role": "user"}, "message.content", "content is missing"),
        ({"role": "user", "content": None}, "message.content", "content is missing"),
        ({"role": "user", "content": []}, "message.content", "content is missing"),
        ({"role": "user", "content": 5}, "message.content", "expected text or a list of parts, got int"),
        ({"role": "user", "content": b"x"}, "message.content", "got bytes"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "message.content", "got dict"),
        ({"role": "user", "content": ["x"]}, "message.content[0]", "not a content part"),
        ({"role": "user", "content": [{"type": "video"}]}, "message.content[0]", "not a content part"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "message.content[0]", "not a content part"),
        ({"role": "user", "content": [IMAGE, {"type": "image_url"}]}, "message.content[1]", "not a content part"),
        ({"role": "assistant", "tool_calls": "x"}, "message.tool_calls", "expected a list"),
        ({"role": "assistant", "tool_calls": [{}]}, "message.tool_calls[0]", "`function.name`"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "message.tool_calls[0].function.arguments",
            "as JSON text",
        ),
    ],
)
def test_a_malformed_message_is_refused_with_its_field(value: object, where: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        Message.from_openai(value)
    assert error.value.where == where


def test_a_role_of_any_length_gives_a_short_message() -> None:
    with pytest.raises(DataError) as error:
        Message.from_openai({"role": "x" * 100_000, "content": "y"})
    assert len(error.value.message) < 100


def test_a_conversation_is_a_list_of_messages_or_an_object_that_holds_one() -> None:
    listed = [{"role": "user", "content": "Hello"}]
    assert Conversation.from_openai(listed) == Conversation.user("Hello")
    assert Conversation.from_openai({"messages": listed, "id": 5}) == Conversation.user("Hello", id="5")
    assert Conversation.from_openai({"messages": listed}, id="row 3") == Conversation.user("Hello", id="row 3")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hello", "expected a list of messages, got str"),
        (None, "expected a list of messages, got NoneType"),
        ([], "the list of messages is empty"),
        ({"text": "x"}, "no `messages`"),
        ({"messages": {"messages": []}}, "expected a list of messages, got dict"),
    ],
)
def test_what_is_not_a_conversation_is_refused(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Conversation.from_openai(value)


def test_a_malformed_message_is_named_by_its_index() -> None:
    with pytest.raises(DataError) as error:
        Conversation.from_openai(
            [{"role": "user", "content": "a"}, {"role": "user", "content": 1}], where="row.messages"
        )
    assert error.value.where == "row.messages[1].content"


def of(*roles: str) -> Conversation:
    return Conversation(tuple(Message.of(role, role) for role in roles))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("roles", "auto", "prompt", "response"),
    [
        (("user",), "prompt", 0, None),
        (("user", "assistant"), "response", 0, 1),
        (("system", "user", "assistant", "user"), "prompt", 3, None),
        (("user", "assistant", "tool"), "prompt", 2, None),
        (("user", "assistant", "tool", "assistant"), "response", 2, 3),
        (("assistant",), "response", None, 0),
        ((), "prompt", None, None),
    ],
)
def test_the_last_turn_says_what_is_judged(
    roles: tuple[str, ...], auto: str, prompt: int | None, response: int | None
) -> None:
    conversation = of(*roles)
    assert conversation.target() == auto
    assert conversation.target("prompt") == "prompt"
    assert conversation.judged_index("prompt") == prompt
    assert conversation.judged_index("response") == response
