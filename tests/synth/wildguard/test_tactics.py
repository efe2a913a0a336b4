from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, DataError
from corral.synth.wildguard.encodings import ENCODINGS
from corral.synth.wildguard.tactics import (
    FEWEST_TACTICS,
    MOST_TACTICS,
    Tactic,
    apply_tactics,
    compose,
    draw_tactics,
    load_tactics,
    split_tactics,
)

TACTICS = load_tactics()
PLAIN = tuple(tactic for tactic in TACTICS if not tactic.encoding)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


def test_there_are_thirty_tactics_in_ten_families_of_at_most_forty_words() -> None:
    assert len(TACTICS) >= 30
    assert len({tactic.family for tactic in TACTICS}) >= 10
    assert len({tactic.name for tactic in TACTICS}) == len(TACTICS)
    assert max(len(tactic.template.split()) for tactic in TACTICS) <= 30
    assert all(tactic.template and tactic.definition for tactic in TACTICS)


@given(TEXTS, st.integers(0, 10_000))
def test_a_text_stands_unchanged_in_its_wrappers(text: str, seed: int) -> None:
    assert text in compose(text, PLAIN, seed=seed)


@given(TEXTS, st.integers(0, 10_000))
def test_a_tactic_that_encodes_shows_the_encoded_text(text: str, seed: int) -> None:
    drawn = draw_tactics(TACTICS, seed=seed, key=text)
    encodings = [tactic.encoding for tactic in drawn if tactic.encoding]
    assert len(encodings) <= 1
    shown = ENCODINGS[encodings[0]](text) if encodings else text
    assert shown in compose(text, TACTICS, seed=seed)


@given(TEXTS, st.integers(0, 10_000))
def test_composing_is_deterministic(text: str, seed: int) -> None:
    assert compose(text, TACTICS, seed=seed) == compose(text, list(TACTICS), seed=seed)


@given(st.integers(0, 10_000), st.text(max_size=5))
def test_two_to_seven_different_tactics_are_drawn(seed: int, key: str) -> None:
    drawn = draw_tactics(TACTICS, seed=seed, key=key)
    assert FEWEST_TACTICS <= len(drawn) <= MOST_TACTICS
    assert len(set(drawn)) == len(drawn)


def test_every_number_of_tactics_from_two_to_seven_occurs() -> None:
    assert {len(draw_tactics(TACTICS, seed=seed)) for seed in range(100)} == set(range(2, 8))


def test_fewer_are_drawn_only_when_fewer_are_given() -> None:
    assert draw_tactics(TACTICS[:1], seed=0) == TACTICS[:1]
    with pytest.raises(ConfigError, match="no tactics"):
        draw_tactics([], seed=0)


def test_other_texts_and_other_seeds_get_other_wrappers() -> None:
    wrapped = {compose("the same text", TACTICS, seed=seed) for seed in range(20)}
    assert len(wrapped) == 20
    assert draw_tactics(TACTICS, seed=0, key="a") != draw_tactics(TACTICS, seed=0, key="b")


def test_the_first_tactic_is_innermost_and_an_encoding_goes_inside_it() -> None:
    inner, outer = Tactic("i", "f", "<{text}>"), Tactic("o", "f", "[{text}]")
    encoding = Tactic("e", "f", "({text})", encoding="leetspeak")
    assert apply_tactics("at", [inner, outer]) == "[<at>]"
    assert apply_tactics("at", [inner, outer, encoding]) == "[<(47)>]"


def test_a_slot_in_the_text_is_not_filled() -> None:
    assert apply_tactics("{text}", [Tactic("a", "f", "<{text}>"), Tactic("b", "f", "[{text}]")]) == "[<{text}>]"


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_split_has_no_family_in_common_and_loses_nothing(share: float, seed: int) -> None:
    train, held_out = split_tactics(TACTICS, share, seed)
    assert train
    assert held_out
    assert {tactic.family for tactic in train}.isdisjoint(tactic.family for tactic in held_out)
    assert sorted(train + held_out, key=TACTICS.index) == list(TACTICS)


def test_a_split_holds_out_its_share_of_families_whatever_the_order_of_tactics() -> None:
    train, held_out = split_tactics(TACTICS, 0.3, seed=1)
    families = len({tactic.family for tactic in TACTICS})
    assert len({tactic.family for tactic in held_out}) == round(0.3 * families)
    assert {t.name for t in split_tactics(TACTICS[::-1], 0.3, seed=1)[0]} == {t.name for t in train}


def test_nothing_held_out_is_the_whole() -> None:
    assert split_tactics(TACTICS, 0.0) == (TACTICS, ())


def test_a_split_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="outside"):
        split_tactics(TACTICS, 1.0)
    with pytest.raises(ConfigError, match="two families"):
        split_tactics(TACTICS[:2], 0.5)


def test_a_wildteaming_file_gives_tactics_for_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "tactics.jsonl"
    path.write_text('{"name": "calm", "definition": "ask calmly"}\n{"name": "loud", "definition": "ask loudly"}\n')
    tactics = load_tactics(path)
    assert [(tactic.name, tactic.family, tactic.definition) for tactic in tactics] == [
        ("calm", "calm", "ask calmly"),
        ("loud", "loud", "ask loudly"),
    ]
    with pytest.raises(ConfigError, match="definition only"):
        compose("text", tactics, seed=0)


def test_a_file_of_the_packaged_shape_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tactics.yaml"
    path.write_text('tactics:\n  - {name: a, family: f, template: "please: {text}"}\n')
    assert load_tactics(path) == (Tactic("a", "f", "please: {text}"),)


@pytest.mark.parametrize(
    ("content", "error", "problem"),
    [
        ('{"name": "a"}\n', DataError, "definition"),
        ('{"name": 3, "definition": "d"}\n', DataError, "not text"),
        ('{"name": "a", "definition": "d", "template": "no slot"}\n', ConfigError, "once"),
        ('{"name": "a", "definition": "d"}\n{"name": "a", "definition": "e"}\n', ConfigError, "given twice"),
        ("\n", ConfigError, "no tactics"),
    ],
)
def test_a_malformed_tactic_is_refused(tmp_path: Path, content: str, error: type[Exception], problem: str) -> None:
    path = tmp_path / "tactics.jsonl"
    path.write_text(content)
    with pytest.raises(error, match=problem):
        load_tactics(path)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("leetspeak", "H0w d0 1 b4k3 br34d?"),
        ("reversed_words", "bread? bake I do How"),
        ("hyphenated", "How do I bake br-ead?"),
        ("alternating_case", "hOw dO I BaKe bReAd?"),
    ],
)
def test_encodings_write_a_text_in_other_letters(name: str, written: str) -> None:
    assert ENCODINGS[name]("How do I bake bread?") == written
