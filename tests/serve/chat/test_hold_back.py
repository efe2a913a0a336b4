"""Hold-back windows: nothing leaves before its window passed, and short passages lie whole in one window."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.serve.chat.hold_back import HoldBack


def guarded(pieces: list[str], window: int, overlap: int, passes: Callable[[str], bool]) -> tuple[str, bool, list[str]]:
    """What leaves, whether the text was stopped, and what was judged."""
    text, out, judged = HoldBack(window, overlap), "", []
    for piece in pieces:
        text.push(piece)
        while (due := text.due()) is not None:
            judged.append(due)
            if not passes(due):
                return out, True, judged
            out += text.release()
    if (rest := text.rest()) is not None:
        judged.append(rest)
        if not passes(rest):
            return out, True, judged
        out += text.release_rest()
    return out, False, judged


sizes = st.integers(2, 30).flatmap(lambda window: st.tuples(st.just(window), st.integers(0, window - 1)))
texts = st.lists(st.text("abc", max_size=20), max_size=12)


@given(texts, sizes)
def test_what_passes_leaves_whole_and_in_order(pieces: list[str], size: tuple[int, int]) -> None:
    out, stopped, _ = guarded(pieces, *size, lambda _: True)
    assert not stopped
    assert out == "".join(pieces)


@given(texts, texts, sizes, st.data())
def test_no_character_of_a_passage_within_the_overlap_leaves(
    before: list[str], after: list[str], size: tuple[int, int], data: st.DataObject
) -> None:
    window, overlap = size
    passage = "X" * data.draw(st.integers(0, overlap))
    cut = data.draw(st.integers(0, len(passage)))
    pieces = [*before, passage[:cut], passage[cut:], *after]
    out, stopped, _ = guarded(pieces, window, overlap, lambda judged: passage not in judged or not passage)
    assert "X" not in out
    assert stopped is bool(passage)


@given(texts, sizes)
def test_a_growing_text_is_not_judged_from_its_start_again(pieces: list[str], size: tuple[int, int]) -> None:
    window, overlap = size
    _, _, judged = guarded(pieces, window, overlap, lambda _: True)
    length = sum(map(len, pieces))
    assert all(len(each) <= window for each in judged)
    assert len(judged) <= length // (window - overlap) + 1


def test_without_a_window_everything_waits_for_the_end() -> None:
    text = HoldBack(None)
    for _ in range(100):
        text.push("word ")
        assert text.due() is None
    assert text.rest() == "word " * 100
    assert text.release_rest() == "word " * 100
    assert text.rest() is None


def test_an_overlap_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        HoldBack(5, 5)
