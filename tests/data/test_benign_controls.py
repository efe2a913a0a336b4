from collections import Counter, defaultdict
from statistics import mean

from corral.data.self_written.benign_controls import GENERATOR, benign_controls


def test_every_row_is_harmless_marked_synthetic_and_says_how_it_was_made() -> None:
    rows = benign_controls(seed=3)
    assert all(row.harmful is False and row.raw["synthetic"] for row in rows)
    assert {(row.raw["generator"], row.raw["seed"]) for row in rows} == {(GENERATOR, 3)}
    assert len({row.id for row in rows}) == len({row.text for row in rows}) == len(rows)
    assert not any("{" in row.text for row in rows)


def test_there_are_six_styles_and_as_many_plain_as_sensitive_texts_of_each() -> None:
    counts = Counter((row.raw["style"], row.raw["kind"]) for row in benign_controls())
    styles = {style for style, _ in counts}
    assert styles == {"news", "medical", "legal", "history", "fiction_review", "product"}
    assert all(counts[style, "plain"] == counts[style, "sensitive"] for style in styles)


def test_twins_share_their_group_and_differ_little_in_length() -> None:
    lengths: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in benign_controls():
        lengths[row.group][row.raw["kind"]].append(len(row.text))
    for group, kinds in lengths.items():
        ratio = mean(kinds["sensitive"]) / mean(kinds["plain"])
        assert 0.75 < ratio < 1.35, group


def test_a_seed_gives_the_same_rows_again_and_another_seed_other_places() -> None:
    assert benign_controls(places=2, seed=1) == benign_controls(places=2, seed=1)
    assert {row.id for row in benign_controls(places=2, seed=1)} != {
        row.id for row in benign_controls(places=2, seed=2)
    }
