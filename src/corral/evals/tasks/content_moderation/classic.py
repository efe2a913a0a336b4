"""The oldest moderator there is: a list of words. The other classic baseline is ``evals/baselines`` (bag of words)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target
from corral.evals.keywords import OneByOne
from corral.guards.base import Status, Verdict

HARM_WORDS: Final = (
    *("attack", "blood", "bomb", "corpse", "dead", "die", "gun", "kill", "killed", "killer", "killing", "murder"),
    *("murdered", "shoot", "shooting", "shot", "stab", "stabbing", "terror", "terrorist", "torture", "violence"),
    *(
        "weapon",
        "weapons",
        "cocaine",
        "drug",
        "drugs",
        "heroin",
        "overdose",
        "suicide",
        "naked",
        "nude",
        "porn",
        "rape",
    ),
    *("raped", "sex", "sexual", "sexy", "hate", "racist", "scum", "vermin", "whore", "bitch", "fuck", "fucking"),
    *("shit", "idiot", "stupid"),
)
"""A list such as many forums have, without slurs, which are not shipped."""


class KeywordModerator(OneByOne):
    """Flags a text that holds a word of a list, and is blind to what is said with it.

    A guard, so that it is measured like any other.
    """

    name = "keywords-harm"
    taxonomy = ""

    def __init__(self, words: Sequence[str] = HARM_WORDS) -> None:
        self._words = tuple(words)
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)

    @cached_property
    def revision(self) -> str:
        """Hash of the words."""
        return sha256_json(list(self._words))[:16]

    def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
        index = conversation.judged_index(target)
        if index is None:
            return Verdict.failed(target, self.name, self.revision, Status.ERROR, f"there is no {target} to judge")
        flagged = bool(self._pattern.search(conversation.messages[index].text))
        return Verdict(target, self.name, self.revision, flagged=flagged, p_harm=float(flagged))
