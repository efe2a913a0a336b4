"""Moderates a file or stream in batches, in bounded memory, and continues where an interrupted run stopped.

Every item of the input gives exactly one row or one reject, in order; so the number of both says where to go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol

from corral.cli.moderation_input import Given, fingerprint, read_given
from corral.cli.moderation_output import Writer, held_interrupts, preview_of
from corral.cli.moderation_parts import explanation
from corral.cli.moderation_rows import Tally, both_row, decision_row, missing_verdicts
from corral.cli.output import remark
from corral.core.errors import DataError, UserError
from corral.core.journal import Journal
from corral.core.progress import progress
from corral.data.messages import TARGETS, Conversation, Target
from corral.data.readers import RejectedRow
from corral.guards.composition.costs import CostMeter
from corral.guards.moderator import Moderator
from corral.guards.policy import Decision

TargetOption = Literal["auto", "prompt", "response", "both"]
_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """The row of one conversation.

    Attributes:
        where: path and line of the conversation.
        conversation: what was judged.
        row: what programs read.
        decisions: what the row was made from.
    """

    where: str
    conversation: Conversation
    row: dict[str, Any]
    decisions: Mapping[Target, Decision]


def judge(
    moderator: Moderator, conversations: Sequence[Conversation], target: TargetOption
) -> list[dict[Target, Decision]]:
    """Decide about each conversation in one call: about one message, or about prompt and response."""
    if target == "both":
        return moderator.check_both(conversations)
    decisions = moderator.check_many(conversations, target=target)
    return [{c.target(target): decision} for c, decision in zip(conversations, decisions, strict=True)]


def row_of(conversation: Conversation, decisions: Mapping[Target, Decision], target: TargetOption) -> dict[str, Any]:
    """What programs read about one conversation."""
    if target == "both":
        return both_row(conversation.id, decisions)
    (decision,) = decisions.values()
    return decision_row(conversation.id, decision)


@dataclass(slots=True)
class Stream:
    """A file or stream to moderate, and how.

    Attributes:
        moderator: guards and policy.
        source: the input.
        target: what to judge.
        format: format of the input; ``None`` tells it by name or content.
        batch_size: items read and judged at once.
        strict: stop at the first row that cannot be read.
        show_content: give writers the beginning of each text.
        show_progress: a bar on standard error, if that is a terminal.
        explain: add to each row what the parts of compositions said.
        settings: what beside input, guards, policy and target the rows depend on.
        tally: counts, those of earlier sessions included.
        costs: what compositions spent, in this session.
    """

    moderator: Moderator
    source: Path | IO[bytes]
    target: TargetOption = "auto"
    format: str | None = None
    batch_size: int = 64
    strict: bool = False
    show_content: bool = False
    show_progress: bool = False
    explain: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    costs: CostMeter = field(default_factory=CostMeter)

    def to_writer(self, writer: Writer) -> None:
        """Write every row to standard output; each rejected row is told on standard error as it is met.

        Raises:
            DataError: the input holds no rows, or with ``strict`` one that cannot be read.
        """
        items = self._items()
        try:
            printing = _Printing(writer, self.target, show_content=self.show_content)
            self._run(items, printing, _Problems(tell_each_reject=True))
        finally:
            writer.close()

    def to_journal(self, path: Path) -> None:
        """Add the rows that are missing to a journal, and rejected rows to its reject file; the first are told.

        Raises:
            DataError: as ``to_writer``.
            UserError: the file was written under other settings, or its input was a stream, which cannot be re-read.
        """
        items = self._items()
        settings = self._fingerprint()
        with Journal.open(path, fingerprint=settings) as journal:
            if journal.resumed:
                self._resume(journal, repeatable=settings["input"] is not None)
            try:
                self._run(islice(items, journal.resumed, None), _Journaling(journal), _Problems())
            finally:
                if journal.rejects:
                    remark(f"Rejected rows are in {path}.rejects.jsonl")

    def _resume(self, journal: Journal, *, repeatable: bool) -> None:
        if not repeatable:
            raise UserError(
                "holds rows of standard input or a pipe, which cannot be read again from where they end",
                where=str(journal.path),
                hint="Choose another file, or remove this one to start over.",
            )
        remark(f"{journal.path}: {journal.resumed:,} rows are there already")
        for row in journal.entries():
            self.tally.add(row)
        self.tally.rejected = journal.rejects

    def _items(self) -> Iterator[Given]:
        """The items, once it is known that there are any."""
        items = read_given(self.source, self.format)
        first = next(items, None)
        if first is None:
            where = str(self.source) if isinstance(self.source, Path) else "standard input"
            raise DataError("holds no rows, so nothing was judged", where=where)
        return chain([first], items)

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "input": fingerprint(self.source),
            "input_format": self.format,
            "target": self.target,
            "guards": {guard.name: guard.revision for guard in self.moderator.guards},
            "policy": self.moderator.policy.hash,
            **self.settings,
            **({"explain": True} if self.explain else {}),
        }

    def _run(self, items: Iterator[Given], sink: _Sink, problems: _Problems) -> None:
        try:
            with progress(None, "Moderating") if self.show_progress else nullcontext() as bar:
                while batch := list(islice(items, self.batch_size)):
                    readable, broken = _up_to_reject(batch) if self.strict else (batch, None)
                    self._put(self._answers(readable), sink, problems)
                    if bar is not None:
                        bar.advance(len(batch))
                    if broken is not None:
                        raise DataError(
                            broken.reason, where=broken.where, hint="Without --strict such rows are set aside."
                        )
        finally:
            problems.report()

    def _answers(self, batch: Sequence[Given]) -> list[Answer | RejectedRow]:
        """Rows of a batch; rejected ones keep their places."""
        conversations = [given.content for given in batch if isinstance(given.content, Conversation)]
        decided = iter(judge(self.moderator, conversations, self.target))
        answers: list[Answer | RejectedRow] = []
        for given in batch:
            if isinstance(given.content, RejectedRow):
                answers.append(given.content)
            else:
                decisions = next(decided)
                row = row_of(given.content, decisions, self.target)
                row |= explanation(decisions) if self.explain else {}
                for decision in decisions.values():
                    for verdict in decision.verdicts:
                        self.costs.add(verdict)
                answers.append(Answer(given.where, given.content, row, decisions))
        return answers

    def _put(self, answers: list[Answer | RejectedRow], sink: _Sink, problems: _Problems) -> None:
        with held_interrupts():
            for item in answers:
                if isinstance(item, RejectedRow):
                    sink.reject(item)
                    self.tally.rejected += 1
                    problems.rejected(item)
                else:
                    sink.row(item)
                    self.tally.add(item.row)
                    problems.answered(item)
            sink.flush()


class _Sink(Protocol):
    """Where answers go."""

    def row(self, answer: Answer) -> None: ...
    def reject(self, row: RejectedRow) -> None: ...
    def flush(self) -> None: ...


class _Printing:
    """Rows to standard output."""

    def __init__(self, writer: Writer, target: TargetOption, *, show_content: bool) -> None:
        self._writer = writer
        self._target = target
        self._show_content = show_content

    def row(self, answer: Answer) -> None:
        self._writer.write(answer.row, _previews(answer.conversation, self._target) if self._show_content else None)

    def reject(self, row: RejectedRow) -> None:
        """Nothing: a stream of rows has no place for it, and it is reported on standard error."""

    def flush(self) -> None:
        sys.stdout.flush()


class _Journaling:
    """Rows to a journal, rejected rows to its reject file."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.flush = journal.flush

    def row(self, answer: Answer) -> None:
        self._journal.append(answer.row)

    def reject(self, row: RejectedRow) -> None:
        self._journal.reject(row.path, row.line, row.reason, row.raw)


class _Problems:
    """What went wrong with rows, told on standard error, never their text.

    Rejected rows are told as they are met, or like those without a verdict: the first at the end. Rows that were judged
    without their older turns are counted.
    """

    def __init__(self, *, tell_each_reject: bool = False) -> None:
        self._tell_each_reject = tell_each_reject
        self._lines: dict[str, list[str]] = {"rejected": [], "without a verdict": []}
        self._counts = dict.fromkeys(self._lines, 0)
        self._without_context = 0

    def rejected(self, row: RejectedRow) -> None:
        line = f"{row.where}: {row.reason}"
        if self._tell_each_reject:
            self._counts["rejected"] += 1
            remark(line)
        else:
            self._note("rejected", line)

    def answered(self, answer: Answer) -> None:
        if missing := missing_verdicts(answer.decisions.values()):
            self._note("without a verdict", f"{answer.where}: {'; '.join(missing)}")
        verdicts = (verdict for decision in answer.decisions.values() for verdict in decision.verdicts)
        self._without_context += any(verdict.context_dropped for verdict in verdicts)

    def report(self) -> None:
        for kind, lines in self._lines.items():
            count = self._counts[kind]
            if count:
                remark(f"{_rows(count)} {kind}{':' if lines else ''}")
                for line in lines:
                    remark(f"  {line}")
                if lines and count > _LISTED:
                    remark(f"  and {count - _LISTED:,} more")
        if self._without_context:
            remark(f"{_rows(self._without_context)} had older turns that the guard's window had no room for")

    def _note(self, kind: str, line: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= _LISTED:
            self._lines[kind].append(line)


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def _up_to_reject(batch: list[Given]) -> tuple[list[Given], RejectedRow | None]:
    """The items before the first that cannot be read, and why it cannot."""
    for index, given in enumerate(batch):
        if isinstance(given.content, RejectedRow):
            return batch[:index], given.content
    return batch, None


def _previews(conversation: Conversation, choice: TargetOption) -> dict[Target, str]:
    """The beginning of each judged message."""
    targets = TARGETS if choice == "both" else (conversation.target(choice),)
    indices = {target: conversation.judged_index(target) for target in targets}
    return {t: preview_of(conversation.messages[i].text) for t, i in indices.items() if i is not None}
