"""Taxonomies and the crosswalks between them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.core.yaml import dump_yaml
from corral.data import taxonomy as module
from corral.data.taxonomy import (
    Category,
    Counterpart,
    Taxonomy,
    crosswalk,
    list_taxonomies,
    load_taxonomy,
    parse_code,
    qualified,
)

# Number of categories as published; the order and names of a few are pinned below.
SIZES = {
    "aegis_2": 23,
    "content_moderation": 10,
    "duoguard": 12,
    "llama_guard_1": 6,
    "llama_guard_2": 11,
    "llama_guard_3": 14,
    "openai_moderation": 13,
    "wildguard": 13,
}
CODES = [qualified(name, code) for name in SIZES for code in load_taxonomy(name).codes]


def test_the_packaged_taxonomies_are_those_published() -> None:
    assert {name: len(load_taxonomy(name).categories) for name in list_taxonomies()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_every_category_is_named_and_described_in_a_sentence_or_two(name: str) -> None:
    taxonomy = load_taxonomy(name)
    assert taxonomy.id == name
    for category in taxonomy.categories:
        assert 20 < len(category.description) < 200
        assert category.description.endswith(".")
        assert "\n" not in category.description
    assert len({category.name for category in taxonomy.categories}) == SIZES[name]


def test_codes_are_those_of_the_models_and_apis() -> None:
    assert load_taxonomy("llama_guard_1").codes == tuple(f"O{n}" for n in range(1, 7))
    assert load_taxonomy("llama_guard_2").codes == tuple(f"S{n}" for n in range(1, 12))
    assert load_taxonomy("llama_guard_3").codes == tuple(f"S{n}" for n in range(1, 15))
    assert load_taxonomy("aegis_2").codes == tuple(f"S{n}" for n in range(1, 24))
    assert "self-harm/instructions" in load_taxonomy("openai_moderation").codes


def test_the_same_code_means_different_things_in_different_versions() -> None:
    names = {version: load_taxonomy(version).category("S6").name for version in ("llama_guard_2", "llama_guard_3")}
    assert names == {"llama_guard_2": "Privacy", "llama_guard_3": "Specialized Advice"}


def test_duoguard_heads_stand_in_the_order_of_the_checkpoints() -> None:
    names = [category.name for category in load_taxonomy("duoguard").categories]
    assert names[:4] == ["Violent crimes", "Non-violent crimes", "Sex-related crimes", "Child sexual exploitation"]
    assert names[-1] == "Jailbreak prompts"


def test_wildguard_has_four_areas_and_aegis_core_and_fine_grained_categories() -> None:
    areas = [category.group for category in load_taxonomy("wildguard").categories]
    assert list(dict.fromkeys(areas)) == ["Privacy", "Misinformation", "Harmful language", "Malicious uses"]
    groups = [category.group for category in load_taxonomy("aegis_2").categories]
    assert [groups.count(group) for group in ("core", "open", "fine_grained")] == [12, 2, 9]


def test_a_category_is_found_by_bare_and_by_qualified_code() -> None:
    taxonomy = load_taxonomy("openai_moderation")
    assert taxonomy.category("hate/threatening") is taxonomy.category("openai_moderation/hate/threatening")


def test_an_unknown_category_or_taxonomy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(NotFoundError, match="no category `hat`") as error:
        load_taxonomy("duoguard").category("hat")
    assert error.value.hint == "Did you mean `hate`?"
    with pytest.raises(NotFoundError, match="no taxonomy is named `llama_guard_33`") as error:
        load_taxonomy("llama_guard_33")
    assert "`llama_guard_3`" in str(error.value.hint)
    with pytest.raises(NotFoundError):
        load_taxonomy("crosswalks")


@pytest.mark.parametrize("code", CODES)
def test_a_qualified_code_is_parsed_back(code: str) -> None:
    taxonomy, bare = parse_code(code)
    assert qualified(taxonomy, bare) == qualified(load_taxonomy(taxonomy), bare) == code


@pytest.mark.parametrize("code", ["S6", "/S6", "llama_guard_3/", ""])
def test_a_bare_code_is_refused(code: str) -> None:
    with pytest.raises(DataError, match="does not say which taxonomy"):
        parse_code(code)


def test_a_crosswalk_goes_by_meaning_and_not_by_code() -> None:
    assert crosswalk("llama_guard_3/S6", "aegis_2") == [Counterpart("aegis_2/S21", "exact")]
    assert crosswalk("llama_guard_3/S6", "llama_guard_2") == [("llama_guard_2/S5", "exact")]


def test_broader_means_that_the_other_category_covers_more() -> None:
    assert ("llama_guard_1/O1", "broader") in crosswalk("llama_guard_3/S10", "llama_guard_1")
    assert ("llama_guard_3/S10", "narrower") in crosswalk("llama_guard_1/O1", "llama_guard_3")


def test_what_a_taxonomy_lacks_has_no_counterpart_there() -> None:
    assert crosswalk("llama_guard_3/S13", "llama_guard_1") == []
    assert crosswalk("duoguard/jailbreak_prompts", "openai_moderation") == []


def test_a_category_is_exact_to_itself() -> None:
    assert crosswalk("duoguard/hate", "duoguard") == [("duoguard/hate", "exact")]


def test_a_crosswalk_from_or_to_what_is_not_known_is_refused() -> None:
    with pytest.raises(DataError):
        crosswalk("S6", "aegis_2")
    with pytest.raises(NotFoundError):
        crosswalk("llama_guard_3/S99", "aegis_2")
    with pytest.raises(NotFoundError):
        crosswalk("llama_guard_3/S6", "llama_guard_9")


@pytest.mark.parametrize(("first", "second"), list(permutations(SIZES, 2)))
def test_every_relation_holds_the_other_way_round(first: str, second: str) -> None:
    inverse = {"exact": "exact", "broader": "narrower", "narrower": "broader"}
    for code in load_taxonomy(first).codes:
        for there, relation in crosswalk(qualified(first, code), second):
            assert (qualified(first, code), inverse[relation]) in crosswalk(there, first)


@pytest.mark.parametrize("first", SIZES)
def test_counterparts_are_listed_exact_first_and_once(first: str) -> None:
    for code in load_taxonomy(first).codes:
        for second in SIZES:
            found = crosswalk(qualified(first, code), second)
            order = [("exact", "broader", "narrower").index(counterpart.relation) for counterpart in found]
            assert order == sorted(order)
            assert order.count(0) <= 1
            assert len({counterpart.code for counterpart in found}) == len(found)


@pytest.mark.parametrize("code", CODES)
def test_categories_that_are_exact_to_each_other_agree_towards_every_third_taxonomy(code: str) -> None:
    home, _ = parse_code(code)
    for other in SIZES:
        for twin, relation in crosswalk(code, other):
            for third in set(SIZES) - {home, other} if relation == "exact" else ():
                assert set(crosswalk(code, third)) == set(crosswalk(twin, third))


USER = {
    "id": "shop",
    "version": "1",
    "name": "Shop rules",
    "source": "our terms of use",
    "categories": [{"code": "ads", "name": "Advertising", "description": "Advertises another shop."}],
}


def write(path: Path, value: object) -> Path:
    path.write_text(dump_yaml(value), encoding="utf-8")
    return path


def test_a_users_taxonomy_is_read_from_its_path(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.yaml", USER)
    ads = Category("ads", "Advertising", "Advertises another shop.")
    expected = Taxonomy("shop", "1", "Shop rules", "our terms of use", (ads,))
    assert load_taxonomy(path) == load_taxonomy(str(path)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": []}, "categories"),
        ({"categories": USER["categories"] * 2}, "`ads` is given twice"),  # type: ignore[operator]
        ({"id": "Shop Rules"}, "id"),
        ({"id": "aegis_2"}, "belongs to a packaged taxonomy"),
        ({"version": None}, "version"),
        ({"colour": "red"}, "unknown setting `colour`"),
        ({"categories": [{"code": "/ads", "name": "x", "description": "x"}]}, "code"),
    ],
)
def test_a_malformed_users_taxonomy_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path / "shop.yaml", USER | change)
    with pytest.raises(ConfigError, match=message) as error:
        load_taxonomy(path)
    assert str(path) in str(error.value.where)


def test_a_users_taxonomy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_taxonomy(tmp_path / "absent.yaml")


PAIR = {
    "taxonomies": ["llama_guard_1", "llama_guard_2"],
    "relations": {
        "O1": {"narrower": ["S1", "S9"]},
        "O2": {"narrower": ["S3", "S4", "S11"]},
        "O3": {"narrower": ["S2"]},
        "O4": {"narrower": ["S8"]},
        "O6": {"exact": ["S10"]},
    },
    "none": {"llama_guard_1": ["O5"], "llama_guard_2": ["S5", "S6", "S7"]},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "no pair"),
        ({"none": {"llama_guard_1": ["O5"], "llama_guard_2": ["S5", "S6"]}}, "`S7` of `llama_guard_2` needs either"),
        ({"none": {"llama_guard_1": ["O5", "O6"], "llama_guard_2": ["S5", "S6", "S7"]}}, "`O6` of `llama_guard_1`"),
        ({"relations": {"O1": {"narrower": ["S1"], "broader": ["S1"]}}}, "related twice"),
        ({"relations": {"O1": {"wider": ["S1"]}}}, "relations"),
        ({"relations": {"O9": {"exact": ["S1"]}}}, "no category `O9`"),
        ({"relations": {"O1": {"exact": ["S99"]}}}, "no category `S99`"),
    ],
)
def test_a_malformed_crosswalk_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(module, "_packaged_yaml", lambda _: {"pairs": [PAIR | change]})
    with pytest.raises((ConfigError, NotFoundError), match=message):
        module._crosswalks.__wrapped__()


def test_a_pair_given_from_both_sides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_packaged_yaml", lambda _: {"pairs": [PAIR, PAIR]})
    with pytest.raises(ConfigError, match="is given twice"):
        module._crosswalks.__wrapped__()
