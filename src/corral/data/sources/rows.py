"""From one row of an upstream file to moderation examples: the vocabulary that the readers of all families share.

A reader is a mapper per file. A mapper is a pure function of a ``SourceRow`` that returns examples; rows whose judged
text is null or blank give none. Labels are conservative: what the source does not say is ``None``, never false.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

from corral.core.errors import DataError
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation, Message, Role, Target
from corral.data.sources.record import Source
from corral.data.taxonomy import qualified

LLAMA_GUARD_3: Final = "llama_guard_3"
NO_CATEGORIES: Final[Mapping[str, bool]] = MappingProxyType({})
BENIGN_CATEGORIES: Final[Mapping[str, bool]] = MappingProxyType(
    {qualified(LLAMA_GUARD_3, f"S{number}"): False for number in range(1, 15)}
)
"""Every category false: for text that its source calls benign as a whole."""

Meaning = TypeVar("Meaning")


def llama_guard_3(**labels: bool | None) -> Mapping[str, bool]:
    """Qualified Llama Guard 3 categories, leaving out those whose label is unknown: ``llama_guard_3(S10=True)``."""
    return {qualified(LLAMA_GUARD_3, code): label for code, label in labels.items() if label is not None}


def category_true(code: str | None) -> Mapping[str, bool]:
    """One category that holds, or none; nothing is said about the others."""
    return llama_guard_3(**{code: True}) if code else NO_CATEGORIES


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of one file, with typed access that reports a malformed value by path and line."""

    source: Source
    file: str
    line: int
    where: str
    value: Mapping[str, Any]
    lookup: Lookup

    def text(self, column: str) -> str:
        """A text column; null reads as "".

        Raises:
            DataError: the column is missing or holds something else.
        """
        value = self._get(column)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise DataError(f"expected text in `{column}`, got {type(value).__name__}", where=self.where)
        return value

    def number(self, column: str) -> float:
        """A numeric column.

        Raises:
            DataError: the column is missing or holds something else.
        """
        value = self._get(column)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"expected a number in `{column}`, got {type(value).__name__}", where=self.where)
        return value

    def label(self, column: str, meanings: Mapping[Any, Meaning]) -> Meaning:
        """What the value of a label column means.

        Raises:
            DataError: the column is missing or holds a value that the source does not define.
        """
        value = self._get(column)
        try:
            return meanings[value]
        except (KeyError, TypeError):
            known = ", ".join(f"`{name}`" for name in meanings)
            raise DataError(
                f"unknown label `{value}` in `{column}`", where=self.where, hint=f"The source defines {known}."
            ) from None

    def joined(self, file: str, column: str) -> SourceRow:
        """The row of another file of the source that has the same value in ``column``.

        Raises:
            DataError: there is none.
        """
        key = self._get(column)
        found = self.lookup(file, column).get(key)
        if found is None:
            raise DataError(f"`{column}` {key} is not in `{file}`", where=self.where)
        return found

    def example(
        self,
        conversation: Conversation,
        target: Target,
        *,
        used: Collection[str],
        group: str,
        harmful: bool | None = None,
        refusal: bool | None = None,
        attack: bool | None = None,
        categories: Mapping[str, bool] = NO_CATEGORIES,
        language: str | None = None,
        part: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> ModerationExample:
        """An example with the provenance of this row.

        Args:
            used: columns that the conversation carries; the others go to ``raw``.
            language: for a file without a language column in a set of several languages.
            part: tells the examples of one row apart in their id.
            extra: added to ``raw``.
        """
        carried = {*used, "lang", "split", "eval_overlap"}
        raw = {column: value for column, value in self.value.items() if column not in carried}
        return ModerationExample(
            conversation,
            target,
            harmful=harmful,
            refusal=refusal,
            attack=attack,
            categories=dict(categories),
            taxonomy=LLAMA_GUARD_3 if categories else "",
            language=language or self.value.get("lang", self.source.language),
            source=self.source.name,
            licence=self.source.licence,
            id=f"{self.file}:{self.line}:{part}" if part else f"{self.file}:{self.line}",
            group=group,
            split=self.value.get("split", ""),
            eval_overlap=tuple(self.value.get("eval_overlap", ())),
            raw={**raw, **(extra or {})},
        )

    def prompt(
        self,
        column: str,
        *,
        harmful: bool | None = None,
        attack: bool | None = None,
        categories: Mapping[str, bool] = NO_CATEGORIES,
        group: str | None = None,
        language: str | None = None,
        part: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> Iterator[ModerationExample]:
        """The example that judges a text column as a user message; none when it is blank."""
        text = self.text(column)
        if text.strip():
            yield self.example(
                Conversation.user(text),
                "prompt",
                used=(column,),
                group=group or prompt_key(text),
                harmful=harmful,
                attack=attack,
                categories=categories,
                language=language,
                part=part,
                extra=extra,
            )

    def response(
        self,
        prompt_column: str,
        response_column: str = "response",
        *,
        harmful: bool | None = None,
        refusal: bool | None = None,
        categories: Mapping[str, bool] = NO_CATEGORIES,
        group: str | None = None,
        part: str = "",
        joined: SourceRow | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Iterator[ModerationExample]:
        """The example that judges a response to a prompt; none when either is blank.

        ``joined`` is a row of another file, where the prompt is there.
        """
        prompt = (joined or self).text(prompt_column)
        response = self.text(response_column)
        if prompt.strip() and response.strip():
            yield self.example(
                Conversation.exchange(prompt, response),
                "response",
                used=(prompt_column, response_column),
                group=group or prompt_key(prompt),
                harmful=harmful,
                refusal=refusal,
                categories=categories,
                part=part,
                extra=extra,
            )

    def _get(self, column: str) -> Any:
        try:
            return self.value[column]
        except KeyError:
            raise DataError(f"no column `{column}`", where=self.where) from None


Lookup = Callable[[str, str], Mapping[Any, SourceRow]]
"""``lookup(file, column)``: the rows of another file of the same source, keyed by a column."""

Mapper = Callable[[SourceRow], Iterator[ModerationExample]]


@dataclass(frozen=True, slots=True)
class Reader:
    """How to read one source: a mapper per file (named without folder and ending) and a note on its labels.

    A file of the source without a mapper is read by joins, or not at all (the note then says so).
    """

    note: str
    mappers: Mapping[str, Mapper]


def prompts(
    column: str = "prompt",
    *,
    harmful: bool | None = None,
    attack: bool | None = None,
    categories: Mapping[str, bool] = NO_CATEGORIES,
    language: str | None = None,
) -> Mapper:
    """A mapper for files whose every prompt has the same labels."""

    def read(row: SourceRow) -> Iterator[ModerationExample]:
        return row.prompt(column, harmful=harmful, attack=attack, categories=categories, language=language)

    return read


def labelled_prompts(
    label: str, meanings: Mapping[Any, bool | None], *, column: str = "prompt", category: str | None = None
) -> Mapper:
    """A mapper for files with one label column, whose values mean harmful, harmless or unknown.

    With ``category`` the label says as much about that Llama Guard 3 category as about harm.
    """

    def read(row: SourceRow) -> Iterator[ModerationExample]:
        harmful = row.label(label, meanings)
        categories = llama_guard_3(**{category: harmful}) if category else NO_CATEGORIES
        return row.prompt(column, harmful=harmful, categories=categories)

    return read


def turns(*spoken: tuple[Role, str]) -> tuple[Message, ...]:
    """Messages from (role, text) pairs, leaving out blank ones."""
    return tuple(Message.of(role, text) for role, text in spoken if text.strip())
