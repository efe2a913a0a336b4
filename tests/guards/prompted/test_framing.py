"""Chat formats as text, and as the chat template of a tokenizer."""

import pytest

from corral.core.errors import ConfigError
from corral.guards.prompted.framing import FRAMES, framed, template_for

GOLDEN = {
    "inst": "<s>[INST] P [/INST]",
    "llama_3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nP<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "llama_4": (
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nP<|eot|><|header_start|>assistant<|header_end|>\n\n"
    ),
    "wildguard": "<s><|user|>\n[INST] P [/INST]\n<|assistant|>\n",
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_frame_as_text(name):
    assert framed("P", name) == GOLDEN[name]


@pytest.mark.parametrize("name", FRAMES)
def test_the_frame_as_a_chat_template_is_the_same_text(name):
    from jinja2 import Environment

    rendered = Environment(autoescape=False).from_string(FRAMES[name].chat_template)
    assert rendered.render(messages=[{"role": "user", "content": "P"}]) == GOLDEN[name]


def test_the_own_template_is_used_when_the_vocabulary_lacks_the_control_tokens():
    assert template_for("llama_3", ["<s>"], "own") == "own"
    assert template_for("chat", FRAMES["llama_3"].control, "own") == "own"
    assert template_for("llama_3", FRAMES["llama_3"].control, "own") == FRAMES["llama_3"].chat_template


@pytest.mark.parametrize("part", ["<BEGIN UNSAFE CONTENT CATEGORIES>", "Human user:"])
def test_a_template_that_writes_its_own_policy_is_refused(part):
    with pytest.raises(ConfigError, match="policy of its own"):
        template_for("chat", [], f"{{{{ '{part}' }}}}")


def test_no_template_at_all_is_refused():
    with pytest.raises(ConfigError, match="chat template"):
        template_for("inst", [], None)
