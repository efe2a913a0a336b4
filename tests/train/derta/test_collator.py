"""Dropping places of transition rows: how many stay, that they are drawn anew in every epoch, and padding."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.train.derta.collator import BatchesByEpoch, DertaCollator, RowsByEpoch
from corral.train.derta.rows import DertaRow
from corral.train.derta.settings import TransitionConfig
from corral.train.sampler import TokenBudgetSampler
from corral.train.sft import IGNORED

R, END = 7, 2


def row(kind: str = "rto", prompt: int = 3, answer: int = 10, row_id: str = "0/1") -> DertaRow:
    labels = [IGNORED] * prompt + [R] * answer
    return DertaRow(row_id, kind, list(range(10, 10 + prompt + answer)), labels)  # type: ignore[arg-type]


def kept(config: TransitionConfig, epoch: int, *, seed: int = 0, given_row: DertaRow | None = None) -> list[int]:
    found = DertaCollator(END, config, seed).kept_labels(given_row or row(), epoch, width=40)
    return [place for place, label in enumerate(found) if label != IGNORED]


@given(st.integers(1, 60), st.floats(0.01, 1.0))
def test_the_share_of_an_answers_places_stays_and_never_none(answer: int, rate: float) -> None:
    places = kept(TransitionConfig(keep_rate=rate), 0, given_row=row(answer=answer))
    assert len(places) == (answer if rate == 1.0 else max(1, math.ceil(answer * rate)))
    assert all(3 <= place < 3 + answer for place in places)


def test_places_are_drawn_anew_in_every_epoch_and_the_same_in_every_run() -> None:
    config = TransitionConfig(keep_rate=0.3)
    drawn = [tuple(kept(config, epoch)) for epoch in range(6)]
    assert len(set(drawn)) > 1
    assert drawn == [tuple(kept(config, epoch)) for epoch in range(6)]
    assert drawn != [tuple(kept(config, epoch, seed=1)) for epoch in range(6)]
    assert drawn != [tuple(kept(config, epoch, given_row=row(row_id="1/1"))) for epoch in range(6)]


def test_over_the_padded_row_prompt_and_padding_take_their_share_but_one_place_stays() -> None:
    """Of 40 places 5 % are 2, most of them in prompt and padding; the released code may then keep none."""
    counts = [len(kept(TransitionConfig(keep_rate=0.05, keep_over="padded_row"), epoch)) for epoch in range(200)]
    assert set(counts) == {1, 2}
    assert counts.count(2) < 40


@pytest.mark.parametrize("kind", ["help", "plain", "prefix"])
def test_other_rows_lose_no_place(kind: str) -> None:
    assert len(kept(TransitionConfig(keep_rate=0.05), 0, given_row=row(kind))) == 10


def test_rows_are_padded_by_place_even_where_padding_is_the_end_token() -> None:
    short = DertaRow("1/help", "help", [5, END], [IGNORED, END])
    batch = DertaCollator(END, TransitionConfig(), 0)([(0, row(prompt=1, answer=3)), (0, short)])
    assert batch["input_ids"].tolist() == [[10, 11, 12, 13], [5, END, END, END]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, R, R, R], [IGNORED, END, IGNORED, IGNORED]]
    assert batch["kinds"].tolist() == [3, 0]


def test_every_row_is_seen_once_an_epoch_under_its_epoch() -> None:
    sampler = TokenBudgetSampler([3, 4, 5, 6], max_tokens=8, epochs=2, seed=0)
    keys = [key for batch in BatchesByEpoch(sampler) for key in batch]
    assert sorted(keys) == [(epoch, index) for epoch in range(2) for index in range(4)]
    assert [[index for _, index in batch] for batch in BatchesByEpoch(sampler)] == list(sampler)
    rows = RowsByEpoch([row(row_id=str(i)) for i in range(4)])
    assert [rows[key][1].row_id for key in keys] == [str(index) for _, index in keys]
