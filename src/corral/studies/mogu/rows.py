"""The instructions of the study: those that train, another draw for every seed, and those that measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from corral.core.errors import DataError
from corral.core.files import sha256_file, sha256_json
from corral.data.examples import ModerationExample, prompt_key
from corral.data.never_answered import SEXUAL_CODES
from corral.data.sources import load_source
from corral.data.splits import draw_groups
from corral.models.engines.base import Engine
from corral.redteam.goals import LEFT_OUT, Goal
from corral.studies.defences.systems import requests_of
from corral.studies.drawing import draw_mixture
from corral.studies.latent_guard.templated import COMPLIANCE, REFUSAL, templated_prompts
from corral.studies.mogu.settings import MoguStudyConfig
from corral.studies.training import training_module

if TYPE_CHECKING:
    from corral.train.mogu.pairs import ResponsePair

_TEMPLATED_TRAIN: Final = 192  # templated requests that train; the others measure


@dataclass(frozen=True)
class DrawnPair:
    """Training and validation rows of one seed."""

    train: tuple[ModerationExample, ...]
    validation: tuple[ModerationExample, ...]


@dataclass(frozen=True)
class Instructions:
    """All that trains.

    Attributes:
        rows: labelled prompts, none of an evaluation set.
        account: which rows, as plain JSON.
    """

    rows: tuple[ModerationExample, ...]
    account: dict[str, Any]

    def draw(self, config: MoguStudyConfig, seed: int) -> DrawnPair:
        """As many malicious as benign prompts for training and for validation.

        Raises:
            DataError: too few of one kind.
        """
        asked, rng = config.prompts, np.random.default_rng([config.seed, seed])
        train: list[ModerationExample] = []
        held: list[ModerationExample] = []
        for malicious in (False, True):
            rows = [row for row in self.rows if bool(row.harmful) == malicious]
            if len(rows) < asked.train + asked.validation:
                raise DataError(
                    f"{len(rows)} {'malicious' if malicious else 'benign'} prompts, "
                    f"{asked.train + asked.validation} are asked for",
                    where="prompts",
                )
            order = [rows[i] for i in rng.permutation(len(rows))]
            train += order[: asked.train]
            held += order[asked.train : asked.train + asked.validation]
        return DrawnPair(tuple(train), tuple(held))


def draw_instructions(config: MoguStudyConfig) -> Instructions:
    """Draw them.

    Raises:
        NotFoundError: a source is not in the data folder.
        ConfigError: a source whose licence does not let weights ship, or an entry without rows.
    """
    if config.toy:
        rows = templated_prompts()[:_TEMPLATED_TRAIN]
    else:
        mixture = draw_mixture(
            [*config.prompts.malicious, *config.prompts.benign],
            keep_clean_of=config.prompts.keep_clean_of,
            seed=config.seed,
        )
        rows = list(_usable(mixture.rows))
    named = [[row.source, row.id, row.harmful] for row in rows]
    account = {
        "rows": len(rows),
        "malicious": sum(bool(row.harmful) for row in rows),
        "licences": {row.source: row.licence for row in rows},
        "sha256": sha256_json(named),
    }
    return Instructions(tuple(rows), account)


def account_of_file(config: MoguStudyConfig) -> dict[str, Any]:
    """Which file a user trains on."""
    path = config.prompts.pairs
    return {} if path is None else {"pairs": path.name, "sha256": sha256_file(path)}


def pairs_of(rows: Sequence[ModerationExample], config: MoguStudyConfig, engine: Engine | None) -> list[ResponsePair]:
    """Prompts with their answers: the base model's own and our refusals, or those of the template."""
    made = training_module("mogu.pairs")
    if engine is not None:
        found: list[ResponsePair] = made.answered_pairs(
            rows, engine, max_new_tokens=config.prompts.answer_tokens, seed=config.seed
        )
        return found
    return [
        made.ResponsePair(
            row.conversation,
            bool(row.harmful),
            "" if row.harmful else COMPLIANCE,
            REFUSAL,
            where=f"{row.source}/{row.id}",
        )
        for row in rows
    ]


def gate_sets(config: MoguStudyConfig) -> dict[str, tuple[ModerationExample, ...]]:
    """Held-out prompts by the set's name, each with malicious and benign ones.

    Raises:
        NotFoundError: a source is not in the data folder.
        DataError: a set with prompts of one kind only.
    """
    if config.toy:
        return {"templated": tuple(_limited(templated_prompts()[_TEMPLATED_TRAIN:], config))}
    found = {}
    for name, sources in config.gates.sets.items():
        rows = [row for source in sources for row in load_source(source)]
        found[name] = tuple(_limited(_usable(rows), config))
        if len({bool(row.harmful) for row in found[name]}) < 2:
            raise DataError("has prompts of one kind only", where=f"gates.sets.{name}")
    return found


def table_requests(config: MoguStudyConfig, kind: Literal["harmful", "benign"]) -> list[Goal]:
    """Requests of one kind for the table, drawn as for every table of defences; of a toy, templated ones.

    Raises:
        NotFoundError: a source is not there.
    """
    asked = config.defences.harmful if kind == "harmful" else config.defences.benign
    if not config.toy:
        return requests_of(asked, kind, config.seed)
    rows = [row for row in templated_prompts()[_TEMPLATED_TRAIN:] if bool(row.harmful) == (kind == "harmful")]
    once = {prompt_key(row.text): row for row in rows}
    return [Goal(f"templated/{key}", row.text, kind, source="templated") for key, row in once.items()][: asked.limit]


def source_names(config: MoguStudyConfig) -> Iterator[str]:
    """Sources that the study reads."""
    if config.toy:
        return
    if config.prompts.pairs is None:
        yield from (entry.source for entry in (*config.prompts.malicious, *config.prompts.benign))
        yield from config.prompts.keep_clean_of
    if "gates_separate_malicious" in config.claims:
        yield from (source for sources in config.gates.sets.values() for source in sources)
    if "defence_table" in config.claims:
        yield from (*config.defences.harmful.sources, *config.defences.benign.sources)


def _usable(rows: Iterable[ModerationExample]) -> Iterator[ModerationExample]:
    """Labelled single prompts, each once, none of a sexual category."""
    seen = set()
    for row in rows:
        key = prompt_key(row.text)
        single = row.target == "prompt" and row.harmful is not None and len(row.conversation.messages) == 1
        if single and key not in seen and not _is_sexual(row):
            seen.add(key)
            yield row


def _is_sexual(row: ModerationExample) -> bool:
    named = [str(row.raw.get(column, "")) for column in ("category", "topic")]
    codes = [code for code, holds in row.categories.items() if holds]
    return any(word in name.casefold() for word in LEFT_OUT for name in named) or any(
        code in SEXUAL_CODES for code in codes
    )


def _limited(rows: Iterable[ModerationExample], config: MoguStudyConfig) -> list[ModerationExample]:
    kinds: dict[bool, list[ModerationExample]] = {False: [], True: []}
    for row in rows:
        kinds[bool(row.harmful)].append(row)
    limit = config.gates.rows
    return [row for some in kinds.values() for row in draw_groups(some, limit, seed=config.seed)]
