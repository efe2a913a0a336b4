"""Sets in attack styles: the same prompts and labels, asked the way an attacker asks."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import NotFoundError, UserError
from corral.evals.tasks.moderation import choose_sets
from corral.evals.tasks.moderation_sets import SETS, find_set
from corral.evals.tasks.scoring import RowLoader, journal_path, score_guard
from corral.evals.tasks.styled_sets import plain_id


def by_word(text: str, target: str) -> dict[str, float]:
    return {"p_harm": 0.9 if "TRIGGER" in text else 0.1}


def test_every_prompt_is_asked_in_the_style_and_keeps_its_label_and_group(aegis: Path) -> None:
    plain, styled = (RowLoader().load(find_set(name)).rows for name in ("aegis_test", "aegis_test+base64_raw"))
    assert [base64.b64decode(row.text).decode() for row in styled] == [row.text for row in plain]
    assert [(row.harmful, row.group) for row in styled] == [(row.harmful, row.group) for row in plain]
    assert [plain_id(row, "base64_raw") for row in styled] == [row.id for row in plain]
    assert all(row.attack for row in styled)


def test_a_sample_in_a_style_is_a_sample_of_the_set_as_it_is(aegis: Path) -> None:
    samples = {"aegis_test": 10, "aegis_test+leet": 10}
    plain, styled = (RowLoader(samples=samples).load(find_set(name)) for name in samples)
    assert [plain_id(row, "leet") for row in styled.rows] == [row.id for row in plain.rows]
    assert 0 < len(plain.rows) <= 10
    assert plain.total == 40


def test_published_figures_belong_to_the_set_as_it_is_alone() -> None:
    styled = find_set("aegis_test+leet+prefix_injection")
    assert styled.style == "leet+prefix_injection"
    assert SETS.get("aegis_test").published
    assert (styled.published, styled.family, styled.headline) == ((), "", False)


def test_a_style_brings_the_set_as_it_is_and_stands_behind_it() -> None:
    chosen = choose_sets(["aegis_test+zero_width", "toxicchat"])
    assert [each.name for each in chosen] == ["toxicchat", "aegis_test", "aegis_test+zero_width"]


@pytest.mark.parametrize("name", ["aegis_test+crescendo", "aegis_test+completing", "aegis_test+pair"])
def test_a_style_that_is_more_than_a_prompt_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="more than a prompt"):
        find_set(name)


@pytest.mark.parametrize("name", ["beavertails+leet", "prompt_injection_test+leet"])
def test_only_sets_that_ask_whether_prompts_are_harmful_have_styles(name: str) -> None:
    with pytest.raises(UserError, match="does not ask whether prompts are harmful"):
        find_set(name)


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(NotFoundError, match="zero_widht"):
        choose_sets(["aegis_test+zero_widht"])


def test_verdicts_in_a_style_are_kept_apart(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    sets = choose_sets(["aegis_test+reverse", "aegis_test+caesar:shift=5"])
    scored = score_guard(rule_guard(by_word), sets, RowLoader(), tmp_path)
    assert scored.sets["aegis_test"].scores_N.max() == 0.9
    assert scored.sets["aegis_test+reverse"].scores_N.max() == 0.1
    paths = {journal_path(tmp_path, each) for each in sets}
    assert len(paths) == 3
    assert all("=" not in path.name for path in paths)
    again = rule_guard(by_word)
    score_guard(again, sets, RowLoader(), tmp_path)
    assert again.judged == []
