"""What goes around a guard's prompt: the control tokens of the user's turn and the opening of the assistant's.

A released checkpoint's own chat template writes a prompt of its own, with its fixed taxonomy, around whatever it is
given; so it is replaced by these plain frames. ``chat`` leaves framing to the engine's template, for guards trained
from any instruction model.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from corral.core.errors import ConfigError, suggest
from corral.data.messages import Conversation
from corral.models.engines.base import Prompt

FrameName = Literal["chat", "inst", "llama_3", "llama_4", "wildguard"]
# Parts of the prompts that guards write; a template with one of them would write it twice.
_PROMPT_PARTS: Final = ("<BEGIN UNSAFE CONTENT CATEGORIES>", "Human user:")


@dataclass(frozen=True, slots=True)
class Frame:
    """Text before and after a user's turn, up to where the answer begins.

    Attributes:
        opening: beginning of sequence, and header of the user's turn.
        closing: end of the user's turn, and header of the assistant's with the newlines that follow it.
        control: tokens that a vocabulary must have for this frame.
    """

    opening: str
    closing: str
    control: tuple[str, ...]

    @property
    def chat_template(self) -> str:
        """The frame as a Jinja chat template of one message."""
        return f"{{{{ {json.dumps(self.opening)} + messages[0]['content'] + {json.dumps(self.closing)} }}}}"


def _headers(start: str, end: str, end_of_turn: str) -> Frame:
    return Frame(
        f"<|begin_of_text|>{start}user{end}\n\n",
        f"{end_of_turn}{start}assistant{end}\n\n",
        ("<|begin_of_text|>", start, end, end_of_turn),
    )


FRAMES: Final[dict[str, Frame]] = {
    "inst": Frame("<s>[INST] ", " [/INST]", ("<s>",)),
    "llama_3": _headers("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "llama_4": _headers("<|header_start|>", "<|header_end|>", "<|eot|>"),
    "wildguard": Frame("<s><|user|>\n[INST] ", " [/INST]\n<|assistant|>\n", ("<s>", "[INST]", "[/INST]")),
}


def check_frame(name: str) -> None:
    """Refuse a name that is no frame.

    Raises:
        ConfigError: no such frame.
    """
    if name != "chat" and name not in FRAMES:
        raise ConfigError(f"no frame `{name}`", where="frame", hint=suggest(name, ["chat", *FRAMES]))


def framed(text: str, frame: str) -> Prompt:
    """A prompt's text as what an engine completes: a conversation for ``chat``, else raw text.

    Raw text is parsed for control tokens by whoever tokenises it, which is why message text is escaped before.
    """
    if frame == "chat":
        return Conversation.user(text)
    return f"{FRAMES[frame].opening}{text}{FRAMES[frame].closing}"


def template_for(frame: str, vocabulary: Collection[str], own: str | None) -> str:
    """The chat template that frames prompts for a tokenizer.

    Args:
        frame: a frame that is used when the vocabulary knows its control tokens, or ``chat``.
        vocabulary: the tokenizer's control tokens.
        own: the tokenizer's own template.

    Raises:
        ConfigError: the frame does not fit and the own template is missing or writes a policy of its own.
    """
    if frame != "chat" and all(token in vocabulary for token in FRAMES[frame].control):
        return FRAMES[frame].chat_template
    if own is None:
        raise ConfigError(
            f"the tokenizer has neither the control tokens of frame `{frame}` nor a chat template",
            where="frame",
            hint=f"Choose a frame that fits the model: {', '.join(FRAMES)}.",
        )
    if any(part in own for part in _PROMPT_PARTS):
        raise ConfigError(
            "the model's chat template writes a policy of its own around the prompt",
            where="frame",
            hint=f"Choose the frame of the checkpoint's generation: {', '.join(FRAMES)}.",
        )
    return own
