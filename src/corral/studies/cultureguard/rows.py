"""The rows of the study: what the guard learns, what is held out, and the sets in several languages.

Groups are split once, by hash, so translations and replies of one request share a side. No XSafety row is trained on:
its attack-like categories are measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.examples import ModerationExample, rows_hash
from corral.data.sources import load_source
from corral.data.splits import draw_groups
from corral.evals.tasks.eval_set import EvalSet
from corral.evals.tasks.moderation_sets import SETS
from corral.evals.tasks.scoring import RowLoader
from corral.guards.cultureguard.prompts import CategoryList
from corral.studies.cultureguard.settings import ENGLISH, CultureGuardConfig, LanguagesConfig
from corral.studies.cultureguard.templated import TAXONOMY, training_rows, translated_rows
from corral.studies.drawing import draw_split

XSAFETY: Final = "xsafety"
ATTACK_LIKE: Final = (
    "Crimes_And_Illegal_Activities",
    "Unsafe_Instruction_Topic",
    "Reverse_Exposure",
    "Role_Play_Instruction",
    "Goal_Hijacking",
    "Prompt_Leaking",
)
"""The categories of XSafety whose prompts are attacks as a rule; it has no label a row."""


@dataclass(frozen=True)
class LanguageSet:
    """One set in one language or several, and its rows."""

    eval_set: EvalSet
    rows: tuple[ModerationExample, ...]


@dataclass(frozen=True)
class StudyRows:
    """All rows of a study.

    Attributes:
        categories: in the prompt.
        train: training rows.
        held_out: rows of other groups of the same sources.
        overfit: training rows to learn by heart, whose every label is known.
        families: aligned sets by the name of the English one, English first.
        attack_like: rows of XSafety's attack-like categories; ``None`` when left out.
        drawn: by source, how many rows there were and what became of them.
    """

    categories: CategoryList
    train: tuple[ModerationExample, ...]
    held_out: tuple[ModerationExample, ...]
    overfit: tuple[ModerationExample, ...]
    families: Mapping[str, tuple[LanguageSet, ...]]
    attack_like: LanguageSet | None
    drawn: Sequence[Mapping[str, Any]]

    def account(self) -> dict[str, Any]:
        """Which rows these are, as JSON: counts, and a hash of everything that is read."""
        parts = {"train": self.train, "held_out": self.held_out, "overfit": self.overfit}
        sets = [each for members in self.families.values() for each in members]
        sets += [self.attack_like] if self.attack_like else []
        measured = {f"set {each.eval_set.name}": each.rows for each in sets}
        return {
            "rows_sha256": sha256_json([rows_hash(rows) for rows in (*parts.values(), *measured.values())]),
            "categories": list(self.categories.names),
            "drawn": list(self.drawn),
            "parts": {name: _counts(rows, self.categories) for name, rows in {**parts, **measured}.items()},
        }


def study_rows(config: CultureGuardConfig) -> StudyRows:
    """The rows that the settings ask for.

    Raises:
        ConfigError: a source may not be trained on or is measured, or gives no row.
        NotFoundError: a source is not in the data folder.
    """
    categories = CategoryList.of(TAXONOMY if config.toy else config.taxonomy)
    if config.categories:
        categories = categories.with_categories(config.categories)
    if any(entry.source == XSAFETY for entry in config.rows.mixture):
        raise ConfigError(f"`{XSAFETY}` is measured, and must not be trained on", where="rows.mixture")
    given = training_rows() if config.toy else None
    split = draw_split(config.rows, taxonomy=config.taxonomy, seed=config.seed, rows=given)
    known = [row for row in split.train if _fully_labelled(row, categories)]
    by_heart = draw_groups(known, config.overfit.rows, seed=config.seed)
    if not by_heart:
        raise ConfigError("no training row has all its labels known", where="overfit.rows")
    families = _templated_families(config.languages) if config.toy else _families(config.languages, seed=config.seed)
    attack_like = None if config.toy else _attack_like(config)
    return StudyRows(categories, split.train, split.held_out, tuple(by_heart), families, attack_like, split.drawn)


def _fully_labelled(row: ModerationExample, categories: CategoryList) -> bool:
    """Whether one answer is right: a request, safe or with a category of the list."""
    return row.target == "prompt" and (row.harmful is False or bool(row.harmful and named_codes(row, categories)))


def named_codes(row: ModerationExample, categories: CategoryList) -> frozenset[str]:
    """Qualified codes of the list that the row violates."""
    codes = {f"{categories.taxonomy.id}/{category.code}" for category in categories.categories}
    return frozenset(code for code, present in row.categories.items() if present and code in codes)


def _families(config: LanguagesConfig, *, seed: int) -> dict[str, tuple[LanguageSet, ...]]:
    loader = RowLoader(limit=config.rows, seed=seed)
    return {
        name: tuple(_loaded(loader, each) for each in (name, *(f"{name}_{language}" for language in languages)))
        for name, languages in config.families.items()
    }


def _loaded(loader: RowLoader, name: str) -> LanguageSet:
    found = SETS.get(name)
    return LanguageSet(found, loader.load(found).rows)


def _templated_families(config: LanguagesConfig) -> dict[str, tuple[LanguageSet, ...]]:
    families = {}
    for name, languages in config.families.items():
        members = []
        for language in (ENGLISH, *languages):
            rows = draw_groups(translated_rows(language), config.rows, seed=0)
            members.append(LanguageSet(_templated_set(name, language), tuple(rows)))
        families[name] = tuple(members)
    return families


def _templated_set(family: str, language: str) -> EvalSet:
    return EvalSet(
        name=f"{family}_{language}",
        source=family,
        target="prompt",
        head="harm",
        kind="mixed",
        rule="by construction",
        truth=lambda row: row.harmful,
        family=family,
        pair="pair",
    )


def _attack_like(config: CultureGuardConfig) -> LanguageSet | None:
    """The attack-like rows of XSafety, the same ids in every language."""
    wanted = config.languages
    if not wanted.attack_like:
        return None
    rows = [
        replace(row, harmful=True)
        for row in load_source(XSAFETY)
        if row.raw["category"] in ATTACK_LIKE and row.language in wanted.attack_like_languages
    ]
    kept = [
        row
        for category in ATTACK_LIKE
        for language in wanted.attack_like_languages
        for row in draw_groups(
            [each for each in rows if each.raw["category"] == category and each.language == language],
            wanted.attack_like,
            seed=config.seed,
        )
    ]
    eval_set = EvalSet(
        name="xsafety_attack_like",
        source=XSAFETY,
        target="prompt",
        head="harm",
        kind="positives",
        rule="every prompt of the six attack-like categories; no row has a label of its own",
        truth=lambda row: row.harmful,
        family=XSAFETY,
        pair="group",
    )
    return LanguageSet(eval_set, tuple(kept))


def _counts(rows: Sequence[ModerationExample], categories: CategoryList) -> dict[str, Any]:
    codes = Counter(code for row in rows for code in named_codes(row, categories))
    return {
        "rows": len(rows),
        "groups": len({row.group for row in rows}),
        "harmful": sum(row.harmful is True for row in rows),
        "responses": sum(row.target == "response" for row in rows),
        "categories": dict(sorted(codes.items())),
        "languages": dict(sorted(Counter(row.language for row in rows).items())),
    }
