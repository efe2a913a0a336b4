"""Rows of DeRTa: four kinds that differ in what is read and what is learnt. A share of prefix rows has no prefix.

============  =============================================  =====================================================
kind          input                                          labels
============  =============================================  =====================================================
``help``      template(q) + r + end                          r + end
``plain``     template(q) + r + end                          r + end, of a triple: arms without a prefix
``prefix``    template(q) + begin of h + space + r + end     r + end: request and prefix are read, not learnt
``rto``       template(q) + h + end                          the refusal token at every place of h, and of its end
============  =============================================  =====================================================

Source: arXiv 2407.09121 and its released code; where the two differ, the switches of ``settings`` say so. A harmful
answer is never a target: it is context, or the place where the label is a refusal.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import numpy as np

from corral.core.errors import DataError
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation, Message
from corral.models.chat import ChatTokenizer
from corral.models.prompts import PlainText
from corral.train.derta.settings import Arm, DertaConfig, PrefixConfig, Template
from corral.train.sft import IGNORED

Kind = Literal["help", "plain", "prefix", "rto"]
KINDS: Final[tuple[Kind, ...]] = ("help", "plain", "prefix", "rto")
Example = PreferenceExample | PromptCompletionExample
OnReject = Callable[[str, DataError], None]
"""Is told of an example that gives no row: where it is, and what is wrong with it."""

TOO_SHORT: Final = "harmful answer too short to cut"
NO_ROOM: Final = "no target within max_tokens"
_LEAST_WORDS: Final = 3
_MOST_PARTS: Final = 1000
_RELEASED_TEMPLATE: Final = "[INST] {} [\\INST]"

_Shape = Literal["plain", "prefix", "rto"]
_SHAPES: Final[Mapping[Arm, tuple[_Shape, _Shape]]] = {
    "vanilla": ("plain", "plain"),
    "recaug": ("prefix", "prefix"),
    "rto_only": ("plain", "rto"),
    "derta": ("prefix", "rto"),
    "dpo": ("plain", "plain"),
}


@dataclass(frozen=True, slots=True)
class DertaRow:
    """Token ids and labels of a row; what the loss does not count is ``IGNORED``.

    Attributes:
        row_id: the same in every run on the same examples; decides which places are dropped.
        kind: see the head of this file.
        input_ids: of prompt and answer.
        labels: (as many) the token to predict at each place.
    """

    row_id: str
    kind: Kind
    input_ids: list[int]
    labels: list[int]

    @property
    def targets(self) -> int:
        """Places that the loss counts."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class BuiltRows:
    """All rows of an arm.

    Attributes:
        rows: to train on.
        dropped: reason to the number of rows that were left out for it.
    """

    rows: tuple[DertaRow, ...]
    dropped: Mapping[str, int]

    def account(self) -> dict[str, object]:
        """Rows and targets by kind, and what was dropped, as plain JSON values."""
        kinds = Counter(row.kind for row in self.rows)
        targets = {kind: sum(row.targets for row in self.rows if row.kind == kind) for kind in KINDS}
        return {"rows": {kind: kinds[kind] for kind in KINDS}, "targets": targets, "dropped": dict(self.dropped)}


def build_rows(
    examples: Sequence[tuple[str, Example]],
    chat: ChatTokenizer,
    config: DertaConfig,
    refusal_id: int,
    *,
    on_reject: OnReject | None = None,
) -> BuiltRows:
    """The rows of an arm: two of every triple, one of every help example, in order.

    Rows are cut at ``max_tokens``. One that is left without a target is dropped and counted, and so is a prefix row
    whose harmful answer has fewer than three words.

    Args:
        examples: each with where it is from. A preference example is a triple: ``chosen`` the safe answer, ``rejected``
            the harmful one. A prompt with its completion is a help example.
        chat: renders and tokenises.
        config: arm and switches.
        refusal_id: the label of transition rows.
        on_reject: is told of examples that cannot be used; without it, the first one raises.

    Raises:
        DataError: an empty answer, two equal ones, or a template that leaves the assistant's turn out; names the
            example.
    """
    builder = _Builder(chat, config, refusal_id)
    rows: list[DertaRow] = []
    for number, (where, example) in enumerate(examples):
        try:
            check_example(example, chat, config.template)
        except DataError as error:
            error.where = where
            if on_reject is None:
                raise
            on_reject(where, error)
            continue
        rows += builder.rows_of(number, example)
    return BuiltRows(tuple(rows), dict(builder.dropped))


def check_example(example: Example, chat: ChatTokenizer, template: Template) -> None:
    """Refuse an example that no row can be made of.

    Raises:
        DataError: an empty answer, two equal ones, a chat template that leaves the assistant's turn out, or several
            turns where the released template has one.
    """
    if isinstance(example, PreferenceExample):
        answers = {"safe": example.chosen, "harmful": example.rejected}
    else:
        answers = {"helpful": example.completion}
    for name, text in answers.items():
        if not text.strip():
            raise DataError(f"the {name} answer is empty")
    if len(answers) == 2 and _say_the_same(*answers.values()):
        raise DataError("the safe and the harmful answer are the same")
    if template == "released":
        if len(example.prompt.messages) != 1:
            raise DataError("the released template is for a single request", hint="Set `template: chat`.")
        return
    answer = Message.of("assistant", next(iter(answers.values())))
    shown = chat.encode(Conversation((*example.prompt.messages, answer)), add_generation_prompt=False)
    if shown.spans[-1].start == shown.spans[-1].stop:
        raise DataError(
            "the chat template leaves the assistant's turn out",
            hint="Use a model whose template writes assistant turns, or set `template: released`.",
        )


def _say_the_same(first: str, second: str) -> bool:
    """Whether two answers say the same but for white space."""
    return first.split() == second.split()


def generator_of(seed: int, row_id: str, *more: int) -> np.random.Generator:
    """The chances of a row: they depend on the seed, its id and ``more`` (such as the epoch) alone."""
    digest = hashlib.blake2b(row_id.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, *more, int.from_bytes(digest, "big")])


def draw_prefix(harmful: str, chat: ChatTokenizer, config: PrefixConfig, chance: np.random.Generator) -> str | None:
    """The begin of a harmful answer, drawn; ``None`` where it is too short to be cut.

    By words k is uniform in 1 .. n - 2, words being what single spaces part, as in the released code; by tokens in
    0 .. n, as in the paper's equation.
    """
    if config.granularity == "token":
        ends = [0, *chat.encode_text_with_ends(harmful)[1]]
        return harmful[: ends[int(chance.integers(len(ends)))]]
    words = harmful.split(" ")
    if len(words) < _LEAST_WORDS:
        return None
    return " ".join(words[: int(chance.integers(1, len(words) - 1))])


def encode_seam(prefix: str, answer: str, chat: ChatTokenizer) -> tuple[list[int], list[int]]:
    """Ids of a prefix, and of the answer that follows it after one space, tokenised as the one text that they are.

    A token that straddles the seam belongs to the answer. An empty prefix leaves the answer as it is.
    """
    if not prefix:
        return [], chat.encode_text(answer)
    ids, ends = chat.encode_text_with_ends(f"{prefix} {answer}")
    seam = bisect_right(ends, len(prefix) + 1)
    return ids[:seam], ids[seam:]


class _Builder:
    """Makes rows of examples and counts those that are dropped."""

    def __init__(self, chat: ChatTokenizer, config: DertaConfig, refusal_id: int) -> None:
        self._chat = chat
        self._config = config
        self._refusal_id = refusal_id
        self._end = [int(chat.tokenizer.eos_token_id)]
        self._prefixes = 0
        self.dropped: Counter[str] = Counter()

    def rows_of(self, number: int, example: Example) -> Iterator[DertaRow]:
        """The rows of the example of that number."""
        prompt = self._prompt_ids(example.prompt)
        if isinstance(example, PromptCompletionExample):
            answer = self._chat.encode_text(example.completion) + self._end_if(example.complete)
            yield from self._fitting(f"{number}/help", "help", prompt, answer, answer)
            return
        for slot, shape in enumerate(_SHAPES[self._config.arm]):
            row_id = f"{number}/{slot}"
            if shape == "rto":
                yield from self._transition(row_id, prompt, example)
            else:
                yield from self._safe_answer(row_id, prompt, example, cut=shape == "prefix")

    def _safe_answer(
        self, row_id: str, prompt: list[int], example: PreferenceExample, *, cut: bool
    ) -> Iterator[DertaRow]:
        prefix: str | None = ""
        if cut:
            chance = generator_of(self._config.seed, row_id)
            prefix = draw_prefix(example.rejected, self._chat, self._config.prefix, chance)
            if prefix is None:
                self.dropped[TOO_SHORT] += 1
                return
            if self._without_prefix(chance):
                prefix = ""
        read, answer = encode_seam(prefix or "", example.chosen, self._chat)
        answer = answer + self._end_if(example.chosen_complete)
        yield from self._fitting(row_id, "prefix" if cut else "plain", [*prompt, *read], answer, answer)

    def _transition(self, row_id: str, prompt: list[int], example: PreferenceExample) -> Iterator[DertaRow]:
        harmful = self._chat.encode_text(example.rejected)
        end = self._end_if(example.rejected_complete)
        at_end = self._refusal_id if self._config.rto.include_eos else IGNORED
        labels = [self._refusal_id] * len(harmful) + [at_end] * len(end)
        yield from self._fitting(row_id, "rto", prompt, harmful + end, labels)

    def _fitting(
        self, row_id: str, kind: Kind, read: list[int], answer: list[int], labels: list[int]
    ) -> Iterator[DertaRow]:
        """The row, cut to its limit, unless no target is left."""
        most = self._config.max_tokens
        row = DertaRow(row_id, kind, [*read, *answer][:most], [*[IGNORED] * len(read), *labels][:most])
        if row.targets:
            yield row
        else:
            self.dropped[NO_ROOM] += 1

    def _without_prefix(self, chance: np.random.Generator) -> bool:
        """Whether this prefix row, the next in order, is one of those without a prefix."""
        number, config = self._prefixes, self._config.prefix
        self._prefixes += 1
        if config.zero_by == "random":
            return bool(chance.random() < config.p_zero)
        share = Fraction(config.p_zero).limit_denominator(_MOST_PARTS)
        return number * share.numerator % share.denominator < share.numerator

    def _prompt_ids(self, prompt: Conversation) -> list[int]:
        if self._config.template == "chat":
            return self._chat.encode_prompt(prompt)
        return self._chat.encode_prompt(PlainText(_RELEASED_TEMPLATE.format(prompt.messages[0].text)))

    def _end_if(self, complete: bool) -> list[int]:
        return self._end if complete else []
