"""Passes on a thread each: results in order, errors that arrive, and torch's number of threads left as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.models.packed.scorer import even_packs
from corral.models.packed.side_by_side import run_side_by_side


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def inside(number: int) -> tuple[int, int, bool, bool]:
    here = threading.current_thread() is threading.main_thread()
    return number, torch.get_num_threads(), torch.is_inference_mode_enabled(), here


@pytest.mark.usefixtures("two_threads")
def test_each_pass_has_a_thread_of_its_own_and_the_rest_of_the_process_keeps_its_number() -> None:
    assert run_side_by_side([partial(inside, i) for i in range(5)]) == [(i, 1, True, False) for i in range(5)]
    assert torch.get_num_threads() == 2
    found: list[int] = []
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert found == [2]


@pytest.mark.usefixtures("two_threads")
def test_a_single_pass_runs_here_with_all_threads() -> None:
    assert run_side_by_side([partial(inside, 0)]) == [(0, 2, True, True)]
    assert run_side_by_side([]) == []


def test_with_one_thread_all_run_here() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run_side_by_side([partial(inside, i) for i in range(2)]) == [(0, 1, True, True), (1, 1, True, True)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_first_error_is_raised_once_nothing_runs_any_more() -> None:
    running = threading.Semaphore(2)

    def fails() -> None:
        raise ValueError("broken")

    def works() -> None:
        with running:
            torch.zeros(8)

    with pytest.raises(ValueError, match="broken"):
        run_side_by_side([fails, works, works])
    assert all(running.acquire(blocking=False) for _ in range(2))
    assert run_side_by_side([partial(inside, i) for i in range(2)])[1][0] == 1


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1024), st.integers(1, 8))
def test_packs_hold_every_sequence_once_in_order_and_no_more_than_their_room(
    lengths: list[int], most: int, threads: int
) -> None:
    packs = even_packs(lengths, most, threads)
    assert [index for pack in packs for index in pack] == list(range(len(lengths)))
    assert all(packs)
    assert all(len(pack) == 1 or sum(lengths[i] for i in pack) <= most for pack in packs)


def test_packs_of_like_sequences_are_as_many_for_every_thread() -> None:
    packs = even_packs([131] * 64, 1024, 2)
    tokens = [131 * len(pack) for pack in packs]
    assert len(packs) % 2 == 0
    assert max(tokens) - min(tokens) <= 131
    assert max(tokens) <= 512 + 131
    assert even_packs([100] * 3, 1024, 1) == [[0, 1, 2]]
