"""Near duplicates: planted ones are found, distinct texts are not merged; similarities equal brute force."""

from __future__ import annotations

import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from corral.data.dedup import RUN_CHARS, cluster_texts, deduplicate, near_duplicates
from corral.data.examples import normalise_prompt

_SUBJECTS = ("a kettle", "the old bridge", "my neighbour's garden", "this radio", "our boat", "a stone wall")
_VERBS = ("repair", "paint", "measure", "describe", "photograph", "insulate")
_ENDS = ("before winter comes and the roads freeze", "with nothing but kitchen tools", "for a school newspaper article")


def distinct() -> list[str]:
    return [
        f"Please explain how I can {verb} {subject} {end}." for verb in _VERBS for subject in _SUBJECTS for end in _ENDS
    ]


def disguised(text: str, chance: random.Random) -> str:
    """Other case and punctuation, or a word at the end swapped with its neighbour."""
    words = text.rstrip(".").split()
    kind = chance.randrange(3)
    if kind == 0:
        return text.upper()
    if kind == 1:
        return ", ".join([words[0], " ".join(words[1:])]) + "!!"
    words[-2:] = reversed(words[-2:])
    return " ".join(words)


def brute_force(first: str, second: str) -> float:
    def runs(text: str) -> set[str]:
        plain = normalise_prompt(text)
        return {plain[i : i + RUN_CHARS] for i in range(max(1, len(plain) - RUN_CHARS + 1))}

    return len(runs(first) & runs(second)) / len(runs(first) | runs(second))


def test_planted_duplicates_are_found() -> None:
    chance = random.Random(0)
    texts = distinct()[::9]
    planted = [disguised(text, chance) for text in texts]
    found = {(pair.first, pair.second) for pair in near_duplicates([*texts, *planted], threshold=0.7)}
    hits = sum((i, i + len(texts)) in found for i in range(len(texts)))
    assert hits >= 0.95 * len(texts)


def test_pairs_are_exactly_those_that_brute_force_finds() -> None:
    texts = distinct()[:40]
    found = {(pair.first, pair.second): pair.similarity for pair in near_duplicates(texts)}
    expected = {
        (i, j): similarity
        for (i, first), (j, second) in combinations(enumerate(texts), 2)
        if (similarity := brute_force(first, second)) >= 0.8
    }
    assert found == expected


def test_distinct_texts_are_kept_and_repeats_name_their_twin() -> None:
    kept = deduplicate(["Bake bread.", "Mend a sock.", "bake BREAD!", "Sail a boat."])
    assert kept.kept == (0, 1, 3)
    assert [(pair.first, pair.second, pair.similarity) for pair in kept.removed] == [(0, 2, 1.0)]


def test_clusters_join_through_chains() -> None:
    words = [f"w{i}" for i in range(40)]
    chain = [" ".join([*words[i:], *(f"x{j}" for j in range(i))]) for i in range(0, 9, 2)]
    near = near_duplicates(chain)
    assert (0, 4) not in {(pair.first, pair.second) for pair in near}
    assert cluster_texts([*chain, "something else entirely"]) == [0, 0, 0, 0, 0, 5]


@given(st.lists(st.text(max_size=12), max_size=6), st.integers(0, 5))
def test_any_text_has_a_cluster_and_equal_texts_share_it(texts: list[str], seed: int) -> None:
    clusters = cluster_texts([*texts, *texts], seed=seed)
    assert clusters[: len(texts)] == clusters[len(texts) :]
    assert len(deduplicate([*texts, *texts]).kept) <= len(set(texts))
