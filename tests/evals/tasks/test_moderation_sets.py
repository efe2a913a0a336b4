from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.sources import SOURCES
from corral.evals.measures import measure
from corral.evals.published.tables import load_tables
from corral.evals.tasks.eval_set import EvalSet, PublishedColumn, by_column, harmful
from corral.evals.tasks.moderation_sets import (
    HELD_OUT,
    NOT_COMPARABLE,
    SETS,
    headline_sets,
    held_out_set,
    in_order,
)
from corral.evals.tasks.scoring import RowLoader, score_guard


def test_only_sets_that_nobody_may_train_on_are_measured() -> None:
    assert {SOURCES.get(SETS.get(name).source).use for name in in_order()} == {"evaluate_only"}


def test_the_headline_sets_are_those_of_the_gate() -> None:
    assert headline_sets() == ["openai_moderation", "toxicchat", "aegis_test", "xstest_prompts", "beavertails"]


def test_every_published_column_stands_beside_a_set_or_has_a_reason_not_to() -> None:
    linked = {(link.table, link.column) for name in in_order() for link in SETS.get(name).published}
    printed = {(cell.table, cell.column) for table in load_tables().values() for cell in table.cells}
    unspoken_for = {f"{t}/{c}" for t, c in printed - linked if not {t, f"{t}/{c}"} & set(NOT_COMPARABLE)}
    assert unspoken_for == set()


def test_links_and_reasons_name_columns_that_exist() -> None:
    tables = load_tables()
    linked = [f"{link.table}/{link.column}" for name in in_order() for link in SETS.get(name).published]
    for place in (*linked, *NOT_COMPARABLE):
        table, _, column = place.partition("/")
        assert column in {"", *tables[table].columns}, place


def test_a_link_gives_a_reason_unless_the_column_is_the_same() -> None:
    with pytest.raises(ValueError, match="reason"):
        PublishedColumn("T1", "toxicchat", "subset")
    with pytest.raises(ValueError, match="reason"):
        PublishedColumn("T1", "toxicchat", "same", "but why")


@pytest.mark.parametrize(("target", "head"), [("prompt", "refusal"), ("response", "attack")])
def test_a_question_that_no_verdict_answers_is_refused(target: str, head: str) -> None:
    with pytest.raises(ValueError, match=head):
        EvalSet("x", "aegis_test", target, head, "mixed", "rule", harmful)  # type: ignore[arg-type]


def test_families_are_read_in_one_way() -> None:
    families: dict[str, set[tuple[str, str, str]]] = {}
    for name in in_order():
        each = SETS.get(name)
        if each.family:
            families.setdefault(each.family, set()).add((each.head, each.kind, each.pair))
    assert all(len(ways) == 1 for ways in families.values())


@pytest.mark.parametrize(
    ("name", "positive", "negative"),
    [
        ("do_not_answer_refusal", {0}, {2, 3, 5}),
        ("do_not_answer_refusal_plain", {0}, {1, 2, 3, 4, 5}),
        ("do_not_answer_refusal_broad", {0, 1, 4}, {2, 3, 5}),
    ],
)
def test_the_three_readings_of_refusal(name: str, positive: set[int], negative: set[int]) -> None:
    conversation = Conversation.exchange("a question", "an answer")
    truths = {
        action: SETS.get(name).truth(ModerationExample(conversation, "response", raw={"action": action}))
        for action in range(6)
    }
    assert {action for action, truth in truths.items() if truth is True} == positive
    assert {action for action, truth in truths.items() if truth is False} == negative


def test_a_value_without_a_meaning_leaves_the_row_out() -> None:
    truth = by_column("label", {1: True, 0: False})
    assert truth(ModerationExample(Conversation.user("x"), "prompt", raw={"label": None})) is None
    assert truth(ModerationExample(Conversation.user("x"), "prompt")) is None


def test_rows_that_training_held_out_are_a_set_whatever_their_sources_call_them(
    rule_guard: Any, tmp_path: Path
) -> None:
    rows = [
        ModerationExample(Conversation.user(text), "prompt", harmful=False, source=source, id="1", group=text)
        for source, text in (("benign_nl2bash", "list files"), ("benign_tldr", "copy a TRIGGER"))
    ]
    held_out = held_out_set("some/profile", rows)
    guard = rule_guard(lambda text, target: {"p_harm": 0.9 if "TRIGGER" in text else 0.1})
    scored = score_guard(guard, [held_out], RowLoader(), tmp_path).sets[HELD_OUT]
    assert scored.scores_N.tolist() == [0.1, 0.9]
    assert [(each.value, each.fpr and each.fpr.value) for each in measure(scored, replicates=50).slices] == [
        ("benign_nl2bash", 0.0),
        ("benign_tldr", 1.0),
    ]
    other = held_out_set("some/profile", rows[:1])
    assert other.checksums != held_out.checksums
