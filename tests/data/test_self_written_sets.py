"""The self-written sets of several languages: distinct, two-sided, balanced by length."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import mean

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.examples import normalise_prompt
from corral.data.mixture import MixtureEntry, build_mixture
from corral.data.self_written import self_written_rows
from corral.data.self_written.benign_controls import benign_controls
from corral.data.self_written.short_rows import example_from_short_row

OLDER = ("contrasts", "statements", "replies", "everyday", "injections")
LATER = ("neighbours", "passages", "comments", "plain", "varied", "translations")
SETS = (*OLDER, *LATER)
LANGUAGES = {"en", "de", "es", "fr", "it", "nl", "pt"}
FOUR = {"en", "de", "es", "fr"}
LANGUAGES_OF = (
    dict.fromkeys(OLDER, LANGUAGES) | dict.fromkeys(LATER, FOUR) | {"varied": {"en", "de"}, "translations": {"de"}}
)
HAZARDS = {f"llama_guard_3/S{number}" for number in range(1, 15)} - {"llama_guard_3/S4"}

ROWS = {name: list(self_written_rows(name)) for name in SETS}
ALL = [row for rows in ROWS.values() for row in rows]
PHRASES = list(self_written_rows("phrases"))


def test_no_text_is_there_twice_or_in_another_self_written_set() -> None:
    texts = Counter(normalise_prompt(row.text) for row in ALL)
    assert [text for text, count in texts.items() if count > 1] == []
    others = [*self_written_rows("guard_basics"), *self_written_rows("benign_lookalikes"), *benign_controls()]
    assert texts.keys() & {normalise_prompt(row.text) for row in others} == set()


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_every_language_and_its_own_name_and_licence(name: str) -> None:
    assert {row.language for row in ROWS[name]} == LANGUAGES_OF[name]
    assert {(row.source, row.licence) for row in ROWS[name]} == {(f"self_written/{name}", "Apache-2.0")}
    assert len({row.id for row in ROWS[name]}) == len(ROWS[name])


def test_every_contrast_has_a_harmful_side_and_a_lookalike_in_each_of_its_languages() -> None:
    sides: dict[tuple[str, str], set[bool]] = defaultdict(set)
    hazards: dict[str, set[str]] = defaultdict(set)
    for row in ROWS["contrasts"]:
        assert row.raw["lookalike"] is not row.harmful
        sides[row.group, row.language].add(row.raw["lookalike"])
        hazards[row.group].add(row.raw["category"])
    assert all(both == {True, False} for both in sides.values())
    assert all(len(categories) == 1 for categories in hazards.values())
    assert {category for categories in hazards.values() for category in categories} == HAZARDS
    groups = Counter(language for _, language in sides)
    assert groups["en"] == 260 and all(groups[language] >= 120 for language in LANGUAGES)


def test_every_injection_has_a_lookalike_that_is_none_in_each_of_its_languages() -> None:
    sides: dict[tuple[str, str], set[bool | None]] = defaultdict(set)
    for row in ROWS["injections"]:
        assert row.raw["lookalike"] is not row.attack
        sides[row.group, row.language].add(row.attack)
    assert all(both == {True, False} for both in sides.values())
    groups = Counter(language for _, language in sides)
    assert groups["en"] == 45 and groups["de"] == 30 and all(groups[language] >= 10 for language in LANGUAGES)


def test_harmful_rows_name_one_category_or_none_and_harmless_rows_deny_all() -> None:
    for row in ALL:
        if row.harmful:
            assert list(row.categories.values()) in ([True], []) and row.target == "prompt"
        else:
            assert len(row.categories) == 14 and not any(row.categories.values())
        assert (row.refusal is not None) == (row.target == "response")


@pytest.mark.parametrize(
    ("name", "language"),
    [(name, language) for name in ("contrasts", "statements", *LATER) for language in sorted(LANGUAGES_OF[name])],
)
def test_neither_length_nor_a_question_mark_tells_the_sides_apart(name: str, language: str) -> None:
    sides = {
        harmful: [row.text for row in ROWS[name] if row.language == language and row.harmful is harmful]
        for harmful in (True, False)
    }
    lengths = {harmful: mean(len(text) for text in texts) for harmful, texts in sides.items()}
    assert 0.75 < lengths[True] / lengths[False] < 1.33
    asks = {harmful: mean("?" in text for text in texts) for harmful, texts in sides.items()}
    assert abs(asks[True] - asks[False]) < 0.3


@pytest.mark.parametrize("name", LATER)
def test_most_groups_of_the_later_sets_have_both_sides_in_each_language(name: str) -> None:
    sides: dict[tuple[str, str], set[bool | None]] = defaultdict(set)
    for row in ROWS[name]:
        sides[row.group, row.language].add(row.harmful)
    plain = {key for key in sides if key[0].startswith("pl-")}  # harmless rows on their own
    assert mean(sides[key] == {True, False} for key in sides.keys() - plain) > 0.9
    assert {"llama_guard_3/S4"}.isdisjoint(str(row.raw["category"]) for row in ROWS[name])


def test_every_translation_has_the_group_hazard_and_side_of_english_rows() -> None:
    """A group is on one side of a split with all that it translates."""
    english = {
        (row.group, row.raw["category"], row.harmful)
        for name in ("passages", "comments", "plain", "varied")
        for row in ROWS[name]
        if row.language == "en"
    }
    assert {(row.group, row.raw["category"], row.harmful) for row in ROWS["translations"]} <= english


def test_phrases_are_two_sided_by_verb_distinct_and_the_same_at_every_reading() -> None:
    assert [row.text for row in PHRASES] == [row.text for row in self_written_rows("self_written/phrases")]
    texts = Counter(normalise_prompt(row.text) for row in PHRASES)
    assert max(texts.values()) == 1
    assert texts.keys() & {normalise_prompt(row.text) for row in ALL} == set()
    verbs: dict[str, set[bool | None]] = defaultdict(set)
    for row in PHRASES:
        assert row.raw["lookalike"] is not row.harmful and row.target == "prompt"
        if not str(row.id).startswith("question"):
            verbs[row.group].add(row.harmful)
    assert len(verbs) >= 50 and all(both == {True, False} for both in verbs.values())


def test_of_phrases_neither_length_nor_a_question_mark_nor_the_number_tells_the_sides_apart() -> None:
    sides = {harmful: [row.text for row in PHRASES if row.harmful is harmful] for harmful in (True, False)}
    assert 0.8 < len(sides[True]) / len(sides[False]) < 1.25
    assert 0.85 < mean(map(len, sides[True])) / mean(map(len, sides[False])) < 1.15
    asks = {harmful: mean("?" in text for text in texts) for harmful, texts in sides.items()}
    assert abs(asks[True] - asks[False]) < 0.1


def test_replies_hold_refusals_and_answers_in_every_language() -> None:
    counts = Counter((row.language, row.refusal) for row in ROWS["replies"])
    assert all(counts[language, refusal] >= 10 for language in LANGUAGES for refusal in (True, False))


def test_a_recipe_selects_by_language_category_and_side() -> None:
    where = {"language": "de", "category": "llama_guard_3/S9", "lookalike": True}
    entry = MixtureEntry(source="self_written/contrasts", where=where)
    mixture = build_mixture([entry], self_written_rows, contaminated=lambda _: False, seed=0)
    assert mixture.rows and {(row.language, row.harmful) for row in mixture.rows} == {("de", False)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"harmful": None}, "true or false"),
        ({"harmful": True, "lookalike": True}, "a look-alike is harmless"),
        ({"category": "S1"}, "unknown category `S1`"),
        ({"text": None}, "content"),
        ({"colour": "red"}, "unknown key `colour`"),
    ],
)
def test_a_malformed_short_row_says_where_and_what(change: dict[str, object], message: str) -> None:
    row = {"text": "How long do I boil an egg?", "harmful": False, "language": "en", "group": "eggs", **change}
    with pytest.raises(DataError) as error:
        example_from_short_row(row, where="eggs.jsonl:3")
    assert message in str(error.value) and "eggs.jsonl:3" in str(error.value)


@pytest.mark.parametrize("name", ["media", "", "../sources", "contrasts/../contrasts"])
def test_only_a_plain_name_of_a_set_is_read(name: str) -> None:
    with pytest.raises(NotFoundError):
        list(self_written_rows(name))
