"""The end of the instruction is found in the real template, and a token that straddles it is not taken silently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.data.messages import Conversation, Message
from corral.models.chat import ChatTokenizer
from corral.models.positions import locate, template_hash, template_parts

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Where the template writes a newline right after the instruction, two newlines are one token of the test's tokenizer.
NEWLINE_AFTER = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n<|im_end|>{% endfor %}assistant:"


@pytest.fixture
def with_template(tokenizer):
    def make(template):
        copy = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="<|im_end|>")
        copy.chat_template = template
        return ChatTokenizer(copy)

    return make


def spelled(chat, ids):
    return chat.backend.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("template", "text", "last", "suffix"),
    [
        (None, "Bake 12 loaves", "s", "<|im_end|>\n<|im_start|>assistant\n"),
        (None, "ends in a newline\n", "\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (None, "digits 2026", "6", "<|im_end|>\n<|im_start|>assistant\n"),
        (LLAMA_3, "Bake 12 loaves", "s", "<|im_end|><|im_start|>assistant<|im_end|>\n\n"),
        (LLAMA_3, "trimmed\n", "d", "<|im_end|><|im_start|>assistant<|im_end|>\n\n"),
        (INST, "Bake 12 loaves", "s", " [/INST]"),
        (INST, "ends in a newline\n", "\n", " [/INST]"),
    ],
)
def test_instruction_and_suffix_are_told_apart(chat, with_template, template, text, last, suffix):
    chat = chat if template is None else with_template(template)
    found = locate(chat, Conversation.user(text))
    assert spelled(chat, [found.ids[found.t_inst]]) == last
    assert spelled(chat, found.ids[found.t_inst + 1 :]) == suffix
    assert found.t_post == len(found.ids) - 1
    assert not found.stepped_back


def test_an_emoji_of_several_tokens_ends_with_its_last_byte(chat):
    found = locate(chat, Conversation.user("nice 😀"))
    assert spelled(chat, found.ids[found.t_inst - 3 : found.t_inst + 1]) == "😀"


def test_a_token_shared_with_the_template_is_refused_and_can_be_stepped_over(with_template):
    chat = with_template(NEWLINE_AFTER)
    conversation = Conversation.user("hello\n")
    with pytest.raises(DataError, match="also holds text of the chat template") as caught:
        locate(chat, conversation)
    assert "step_back=True" in (caught.value.hint or "")
    found = locate(chat, conversation, step_back=True)
    assert found.stepped_back
    assert spelled(chat, [found.ids[found.t_inst]]) == "o"


def test_a_clean_end_is_not_stepped_over(chat):
    assert locate(chat, Conversation.user("hi"), step_back=True) == locate(chat, Conversation.user("hi"))


@given(st.text(min_size=1, max_size=30).filter(str.strip))
def test_the_ids_are_those_of_the_whole_chat_and_the_position_is_inside_it(chat, text):
    found = locate(chat, Conversation.user(text))
    assert found.ids == chat.encode(Conversation.user(text)).ids
    assert 0 <= found.instruction.start <= found.t_inst < found.t_post


def test_of_several_turns_the_last_is_located(chat):
    conversation = Conversation((*Conversation.exchange("one", "two").messages, Message.of("user", "three")))
    found = locate(chat, conversation)
    assert spelled(chat, found.ids[found.instruction]) == "three"


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_instruction_is_refused(chat, text):
    with pytest.raises(DataError, match="instruction is empty"):
        locate(chat, Conversation.user(text))


def test_a_conversation_that_ends_with_a_reply_is_refused(chat):
    with pytest.raises(DataError, match="does not end with an instruction"):
        locate(chat, Conversation.exchange("hi", "hello"))


def test_an_instruction_whose_end_is_beyond_the_limit_is_refused(chat):
    with pytest.raises(DataError, match="would be cut off"):
        locate(chat, Conversation.user("a" * 100), limit=50)
    with pytest.raises(DataError, match="end of the prompt is cut off"):
        locate(chat, Conversation.user("a" * 100), limit=110)


def test_a_template_that_leaves_the_message_out_is_refused(with_template):
    with pytest.raises(DataError, match="leaves the instruction out"):
        locate(with_template("nothing"), Conversation.user("hi"))


def test_system_text_that_the_template_adds_is_reported(with_template, chat):
    parts = template_parts(with_template(DEFAULT_SYSTEM))
    assert "Be kind." in parts.added_system
    assert parts.after == "<|im_end|>\n<|im_start|>assistant\n"
    assert template_parts(chat).added_system == ""


def test_templates_are_told_apart_by_their_hash(chat, with_template):
    assert template_hash(with_template(INST)) == template_hash(with_template(INST))
    assert template_hash(with_template(INST)) != template_hash(chat)
