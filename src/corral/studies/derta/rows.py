"""Rows of the study: triples of request, safe and harmful answer; help rows; held-out probes of both kinds.

Harmful answers come from public sets by loader and are read, never learnt: they are the prefix that a safe answer
follows, the context at whose places the label is a refusal, or the rejected side. Requests of a sexual kind or that
speak of minors, and answers that do, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.data.examples import ModerationExample, PreferenceExample, PromptCompletionExample, prompt_key
from corral.data.messages import Conversation
from corral.data.never_answered import speaks_of_sex_or_minors
from corral.data.self_written.replies import helpful_answers, refusals
from corral.data.sources import load_source
from corral.data.splits import group_fraction
from corral.evals.refusal_curve import Probe
from corral.redteam.goals import Goal, load_goals
from corral.studies.derta.settings import DertaStudyConfig, RowsConfig
from corral.studies.derta.templated import templated_rows
from corral.studies.drawing import draw_mixture

Located = tuple[str, PreferenceExample | PromptCompletionExample]


@dataclass(frozen=True)
class StudyRows:
    """What is trained on, and what is probed.

    Attributes:
        triples: requests with a safe and a harmful answer.
        helps: requests with a helpful answer.
        harmful: held-out probes with harmful answers.
        helpful: held-out probes with helpful answers.
        lookalikes: harmless requests for the measure of over-refusal.
        account: plain JSON that depends on these rows alone.
    """

    triples: tuple[PreferenceExample, ...]
    helps: tuple[PromptCompletionExample, ...]
    harmful: tuple[Probe, ...]
    helpful: tuple[Probe, ...]
    lookalikes: tuple[Goal, ...]
    account: dict[str, Any]

    def examples(self) -> list[Located]:
        """Triples and help rows, each with its place."""
        named: list[Located] = [(f"triples[{i}]", each) for i, each in enumerate(self.triples)]
        return [*named, *((f"help[{i}]", each) for i, each in enumerate(self.helps))]


def draw_rows(config: DertaStudyConfig) -> StudyRows:
    """Draw everything; the same settings and sources give the same rows.

    Raises:
        ConfigError: an entry takes no row, or its source's licence does not let weights ship.
        NotFoundError: a source is not in the data folder.
        DataError: fewer rows than a study can be made of.
    """
    if config.toy:
        triples, helps, harmful, helpful = templated_rows(config.rows, config.seed)
        goals = [Goal(probe.cluster, probe.prompt.messages[-1].text, "benign") for probe in helpful]
    else:
        triples, helps, harmful, helpful = _public(config.rows, config.seed, config.training.refusal.word)
        goals = list(_lookalikes(config))
    for name, rows in (("triples", triples), ("harmful probes", harmful), ("helpful probes", helpful)):
        if len(rows) < 2:
            raise DataError(
                f"the sources give {len(rows)} {name}", where="rows", hint="Widen the lengths or the entries."
            )
    account = {
        "triples": len(triples),
        "help": len(helps),
        "harmful_probes": len(harmful),
        "helpful_probes": len(helpful),
        "lookalikes": len(goals),
        "sources": _by_source([*triples, *helps]),
        "rows_sha256": sha256_json(
            [[row.prompt.to_openai(), row.chosen, row.rejected] for row in triples]
            + [[row.prompt.to_openai(), row.completion] for row in helps]
            + [[probe.cluster, probe.answer] for probe in (*harmful, *helpful)]
        ),
    }
    return StudyRows(tuple(triples), tuple(helps), tuple(harmful), tuple(helpful), tuple(goals), account)


def _public(
    config: RowsConfig, seed: int, refusal_word: str
) -> tuple[list[PreferenceExample], list[PromptCompletionExample], list[Probe], list[Probe]]:
    clean_of = (*config.keep_clean_of, config.held_out)
    drawn = draw_mixture(config.harmful, keep_clean_of=clean_of, seed=seed).rows
    word = refusal_word if config.open_with_word else None
    triples = [_triple(row, seed, word) for row in _chosen(drawn, config, seed, harmful=True)]
    helpful = _chosen(draw_mixture(config.helpful, keep_clean_of=clean_of, seed=seed).rows, config, seed, harmful=False)
    written = [
        PromptCompletionExample(Conversation.user(p), a, "self_written", "Apache-2.0") for p, a in helpful_answers()
    ]
    from_sources = max(config.help - config.written, 0)
    helps = [
        *(PromptCompletionExample(_asked(row), row.text, row.source, row.licence) for row in helpful[:from_sources]),
        *written[: config.written],
    ]
    controls = [
        *(Probe(_asked(row), row.text, row.group) for row in helpful[from_sources:]),
        *(
            Probe(row.prompt, row.completion, prompt_key(row.prompt.messages[-1].text))
            for row in written[config.written :]
        ),
    ]
    held_out = _chosen(list(load_source(config.held_out)), config, seed, harmful=True)
    probes = [Probe(_asked(row), row.text, row.group) for row in held_out]
    controls.sort(key=lambda probe: group_fraction(probe.cluster, seed=seed))
    return triples[: config.triples], helps, probes[: config.probes], controls[: config.probes]


def _chosen(
    rows: Sequence[ModerationExample], config: RowsConfig, seed: int, *, harmful: bool
) -> list[ModerationExample]:
    """One answer a group, of the wanted kind and lengths, in an order drawn by the seed."""
    found: dict[str, ModerationExample] = {}
    for row in rows:
        if row.target == "response" and bool(row.harmful) is harmful and row.refusal is not True and _fits(row, config):
            found.setdefault(row.group, row)
    return [found[group] for group in sorted(found, key=lambda name: group_fraction(f"derta/{name}", seed=seed))]


def _fits(row: ModerationExample, config: RowsConfig) -> bool:
    shortest, longest = config.answer_chars
    asked = sum(len(message.text) for message in row.conversation.messages[:-1])
    if not (shortest <= len(row.text) <= longest and 0 < asked <= config.prompt_chars):
        return False
    return not any(speaks_of_sex_or_minors(message.text) for message in row.conversation.messages)


def _triple(row: ModerationExample, seed: int, word: str | None) -> PreferenceExample:
    key = f"{seed}/{row.group}"
    return PreferenceExample(
        _asked(row),
        chosen=refusals().draw(key) if word is None else refusals().draw_beginning(word, key),
        rejected=row.text,
        source=row.source,
        licence=row.licence,
    )


def _asked(row: ModerationExample) -> Conversation:
    return Conversation(row.conversation.messages[:-1])


def _lookalikes(config: DertaStudyConfig) -> Iterator[Goal]:
    for name, limit in config.probing.lookalikes.items():
        yield from load_goals([name], kind="benign", limit=limit, seed=config.seed).goals


def _by_source(rows: Sequence[PreferenceExample | PromptCompletionExample]) -> dict[str, int]:
    sources = [row.source for row in rows]
    return {name or "templated": sources.count(name) for name in dict.fromkeys(sources)}
