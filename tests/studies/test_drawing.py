"""Drawing training rows."""

from __future__ import annotations

import pytest

from corral.core.errors import ConfigError, NotFoundError
from corral.data.mixture import MixtureEntry
from corral.studies.drawing import draw_mixture, source_files


@pytest.mark.parametrize("name", ["toxicchat", "self_written/benign_lookalikes"])
def test_evaluation_sets_cannot_be_drawn_from(name: str) -> None:
    with pytest.raises(ConfigError, match="evaluation only"):
        draw_mixture([MixtureEntry(source=name)], keep_clean_of=(), seed=0)


def test_a_set_to_keep_clean_of_must_be_there() -> None:
    with pytest.raises(NotFoundError, match="`toxicchat` is needed"):
        draw_mixture([MixtureEntry(source="self_written/guard_basics")], keep_clean_of=["toxicchat"], seed=0)


def test_the_same_seed_draws_the_same_rows() -> None:
    entries = [MixtureEntry(source="self_written/guard_basics", cap=5)]
    first, again = (draw_mixture(entries, keep_clean_of=(), seed=3) for _ in range(2))
    assert [row.id for row in first.rows] == [row.id for row in again.rows]
    assert len(first.rows) == 5


def test_files_are_those_of_each_public_source_once() -> None:
    found = [
        path.parts[-2:] for path in source_files(["xstest_prompts", "self_written/guard_basics", "xstest_prompts"])
    ]
    assert found == [("xstest_prompts", "xstest_prompts.jsonl")]
