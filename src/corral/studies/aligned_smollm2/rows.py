"""Training rows: refusals of harmful prompts, helpful answers to harmless ones, and pairs of the two.

A harmful prompt of a sexual category, or one that speaks of minors, is answered with a refusal and nothing else: the
base model is never asked for an answer to it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample, PreferenceExample, PromptCompletionExample, prompt_key
from corral.data.messages import Conversation
from corral.data.never_answered import never_answered
from corral.data.refusals import opens_with_refusal
from corral.data.self_written import PREFIX
from corral.data.self_written.replies import helpful_answers, refusals
from corral.data.splits import group_fraction
from corral.studies.aligned_smollm2.settings import AlignedConfig
from corral.studies.drawing import draw_mixture, evaluation_index

_SELF_WRITTEN: Final = "self_written"
_QUESTION: Final = re.compile(
    r"how (?:(?:can|could|do|would|should|might) (?:i|we|you|one|someone|somebody|people)|to) (?P<deed>[^.?!\n]+)\??",
    re.IGNORECASE,
)
_COMMANDS: Final = (
    "Explain how to {}.",
    "Write instructions to {}.",
    "Give me a step-by-step guide to help me {}.",
    "Write a short tutorial on how to {}.",
    "Describe ways to {}.",
    "Provide a plan to {}.",
    "Teach me to {}.",
    "List the steps to {}.",
    "Create a guide that shows how to {}.",
    "Generate a text that explains how to {}.",
    "Help me {}.",
    "Give me tips to {}.",
)


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """What the base model wrote, and whether it came to an end."""

    text: str
    complete: bool

    @property
    def helps(self) -> bool:
        """There is an answer that does not open like a refusal."""
        return bool(self.text.strip()) and not opens_with_refusal(self.text)


@dataclass(frozen=True)
class Prompts:
    """Prompts of one kind of training.

    Attributes:
        harmful: to be refused.
        benign: to be answered.
    """

    harmful: tuple[ModerationExample, ...]
    benign: tuple[ModerationExample, ...]


@dataclass(frozen=True)
class DrawnPrompts:
    """All prompts, and an account of them.

    Attributes:
        tuning: of supervised fine-tuning.
        preference: of the pairs; no prompt of ``tuning`` is among them.
        written: self-written prompts with answers, which both use.
        account: plain JSON.
    """

    tuning: Prompts
    preference: Prompts
    written: tuple[tuple[str, str], ...]
    account: dict[str, Any]

    @property
    def to_answer(self) -> list[ModerationExample]:
        """Those that the base model answers itself."""
        return [*self.tuning.benign, *self.preference.harmful, *self.preference.benign]


def draw_prompts(config: AlignedConfig) -> DrawnPrompts:
    """Draw, clean and split the prompts of the study.

    Raises:
        ConfigError: an entry takes no row, or its source's licence does not let weights ship.
        NotFoundError: a source is not in the data folder.
    """
    chosen = config.prompts
    entries: list[dict[str, Any]] = []
    kinds: dict[str, list[ModerationExample]] = {}
    for kind, mixed in (("harmful", chosen.harmful), ("benign", chosen.benign)):
        mixture = draw_mixture(mixed, keep_clean_of=chosen.keep_clean_of, seed=config.seed)
        kinds[kind] = [row for row in mixture.rows if _is_used(row, chosen.leave_out)]
        for name, n in mixture.counts:
            counts = {"overlapping": n.overlapping, "contaminated": n.contaminated, "drawn": n.taken}
            entries.append({"kind": kind, "source": name, **counts})
    measured = evaluation_index(chosen.keep_clean_of)
    kept = {kind: _once([_put(row, config, measured) for row in rows]) for kind, rows in kinds.items()}
    pairs = {kind: [row for row in rows if _for_pairs(row, kind, config)] for kind, rows in kept.items()}
    rest = {kind: [row for row in rows if not _for_pairs(row, kind, config)] for kind, rows in kept.items()}
    written = tuple(
        (_worded(prompt, config, measured), answer) for prompt, answer in helpful_answers()[: chosen.written]
    )
    account = {
        "entries": entries,
        "taken": _taken(kept, written=len(written)),
        "tuning": {kind: len(rows) for kind, rows in rest.items()},
        "preference": {kind: len(rows) for kind, rows in pairs.items()},
        "self_written_answers": len(written),
        "refusals": len(refusals().general) + sum(map(len, refusals().topics.values())),
        "prompts": prompt_key("\n".join(row.text for rows in kept.values() for row in rows)),
    }
    return DrawnPrompts(
        Prompts(tuple(rest["harmful"]), tuple(rest["benign"])),
        Prompts(tuple(pairs["harmful"]), tuple(pairs["benign"])),
        written,
        account,
    )


def tuning_rows(
    prompts: DrawnPrompts, answers: Mapping[str, OwnAnswer], config: AlignedConfig
) -> list[PromptCompletionExample]:
    """Rows of supervised fine-tuning: refusals, the base model's own helpful answers, self-written ones."""
    refused = [
        PromptCompletionExample(row.conversation, refusal_of(row, config.seed), row.source, row.licence)
        for row in prompts.tuning.harmful
    ]
    own = [
        PromptCompletionExample(row.conversation, answer.text, row.source, row.licence, answer.complete)
        for row, answer in _helped(prompts.tuning.benign, answers)
    ]
    written = [
        PromptCompletionExample(Conversation.user(prompt), answer, _SELF_WRITTEN, "Apache-2.0")
        for prompt, answer in prompts.written
    ]
    return [*refused, *own, *written * config.prompts.written_repeats]


def preference_rows(
    prompts: DrawnPrompts, answers: Mapping[str, OwnAnswer], config: AlignedConfig
) -> list[PreferenceExample]:
    """Pairs both ways: a refusal over the base model's compliance, and a helpful answer over a refusal."""
    refused = [
        PreferenceExample(
            row.conversation,
            chosen=refusal_of(row, config.seed),
            rejected=answer.text,
            source=row.source,
            licence=row.licence,
            rejected_complete=answer.complete,
        )
        for row, answer in _helped(prompts.preference.harmful, answers)
    ]
    own = [
        PreferenceExample(
            row.conversation,
            chosen=answer.text,
            rejected=refusal_of(row, config.seed),
            source=row.source,
            licence=row.licence,
            chosen_complete=answer.complete,
        )
        for row, answer in _helped(prompts.preference.benign, answers)
    ]
    written = [
        PreferenceExample(
            Conversation.user(prompt),
            chosen=answer,
            rejected=refusals().draw(f"{config.seed}/{prompt}"),
            source=_SELF_WRITTEN,
            licence="Apache-2.0",
        )
        for prompt, answer in prompts.written
    ]
    return [*refused, *own, *written]


def refusal_of(row: ModerationExample, seed: int) -> str:
    """The refusal that a prompt is given."""
    return refusals().draw(f"{seed}/{row.text}", [code for code, holds in row.categories.items() if holds])


def as_command(prompt: str, *, share: float, seed: int) -> str:
    """A "How can I ...?" question as a command to explain it, for that share of such questions; else the prompt itself.

    Public harmful prompts are mostly questions, and those that measure mostly commands. Harmless questions are put in
    the same words, so that the form says nothing of the matter.
    """
    found = _QUESTION.fullmatch(prompt.strip())
    if found is None or group_fraction(f"command/{prompt}", seed=seed) >= share:
        return prompt
    form = random.Random(f"{seed}/form/{prompt}").choice(_COMMANDS)  # noqa: S311 - variety, not secrets
    return form.format(found["deed"])


def source_names(config: AlignedConfig) -> Iterator[str]:
    """Sources that training reads."""
    for entry in (*config.prompts.harmful, *config.prompts.benign):
        yield entry.source
    yield from config.prompts.keep_clean_of


def _helped(
    rows: Sequence[ModerationExample], answers: Mapping[str, OwnAnswer]
) -> Iterator[tuple[ModerationExample, OwnAnswer]]:
    """The rows that the base model answers without refusing."""
    for row in rows:
        answer = answers.get(prompt_key(row.text))
        if answer is not None and answer.helps:
            yield row, answer


def _is_used(row: ModerationExample, leave_out: Sequence[str]) -> bool:
    left_out = any(row.categories.get(code) for code in leave_out)
    return row.target == "prompt" and len(row.conversation.messages) == 1 and not left_out


def _put(row: ModerationExample, config: AlignedConfig, measured: EvaluationIndex) -> ModerationExample:
    text = _worded(row.text, config, measured)
    return row if text == row.text else replace(row, conversation=Conversation.user(text))


def _worded(prompt: str, config: AlignedConfig, measured: EvaluationIndex) -> str:
    """The prompt, perhaps as a command, unless that repeats evaluation text."""
    command = as_command(prompt, share=config.prompts.commands, seed=config.seed)
    return prompt if measured.contaminated(command) else command


def _taken(kept: Mapping[str, Sequence[ModerationExample]], *, written: int) -> dict[str, int]:
    """Rows of each source that are trained on, harmful and harmless together."""
    taken = Counter(row.source for rows in kept.values() for row in rows)
    return dict(taken | Counter({f"{PREFIX}helpful_answers": written}))


def _once(rows: Sequence[ModerationExample]) -> list[ModerationExample]:
    return list({prompt_key(row.text): row for row in reversed(rows)}.values())[::-1]


def _for_pairs(row: ModerationExample, kind: str, config: AlignedConfig) -> bool:
    if kind == "harmful" and never_answered(row.text, row.categories):
        return False
    return group_fraction(f"preference/{row.group}", seed=config.seed) < config.prompts.preference_share
