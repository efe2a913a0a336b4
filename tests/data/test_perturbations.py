import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.perturbations import PERTURBATIONS, ZERO_WIDTH, perturbation

TEXT = "The quick brown fox jumps over the lazy dogs near Oslo."
names = st.sampled_from(sorted(PERTURBATIONS))


@given(names, st.text(max_size=60), st.integers(0, 5))
def test_strength_0_changes_nothing(name: str, text: str, seed: int) -> None:
    assert perturbation(name).apply(text, strength=0.0, seed=seed) == text


@given(names, st.text(max_size=60), st.floats(0, 1), st.integers(0, 5))
def test_the_same_arguments_give_the_same_text(name: str, text: str, strength: float, seed: int) -> None:
    first, second = (perturbation(name).apply(text, strength=strength, seed=seed) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_full_strength_changes_a_text_and_seeds_differ_at_half(name: str) -> None:
    assert perturbation(name).apply(TEXT, strength=1.0) != TEXT
    halves = {perturbation(name).apply(TEXT, strength=0.5, seed=seed) for seed in range(8)}
    assert len(halves) > 4


@pytest.mark.parametrize("name", ["case", "leet", "homoglyph"])
@given(weak=st.floats(0, 1), strong=st.floats(0, 1))
def test_a_stronger_edit_changes_what_a_weaker_one_does_and_more(name: str, weak: float, strong: float) -> None:
    weak, strong = sorted((weak, strong))
    less, more = (perturbation(name).apply(TEXT, strength=strength) for strength in (weak, strong))
    changed = [{i for i, sign in enumerate(text) if sign != TEXT[i]} for text in (less, more)]
    assert changed[0] <= changed[1]


def test_what_full_strength_does_is_known() -> None:
    def full(name: str, text: str) -> str:
        return perturbation(name).apply(text, strength=1.0)

    assert full("case", "Ab 1") == "aB 1"
    assert full("leet", "toast") == "70457"
    assert full("zero_width", "abc de") == f"a{ZERO_WIDTH}b{ZERO_WIDTH}c d{ZERO_WIDTH}e"
    assert full("spacing", "abc de") == "a b c d e"
    assert full("homoglyph", "ape") == "\u0430\u0440\u0435"
    assert sorted(full("typos", "house")) == sorted("house")
    assert full("typos", "house")[0] + full("typos", "house")[-1] == "he"


def test_unknown_names_and_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="homoglif"):
        perturbation("homoglif")
    with pytest.raises(ConfigError, match="outside"):
        perturbation("case").apply("a", strength=1.5)
