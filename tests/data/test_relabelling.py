"""Labels of one taxonomy in another: what is violated, what is ruled out, and what stays unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corral.core.errors import NotFoundError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.relabelling import with_labels_of


def row(**labels: bool) -> ModerationExample:
    categories = {f"llama_guard_3/{code}": present for code, present in labels.items()}
    return ModerationExample(Conversation.user("a"), "prompt", harmful=True, categories=categories)


def found(example: ModerationExample) -> dict[str, bool]:
    labels = with_labels_of(example, "aegis_2").categories
    return {code: present for code, present in labels.items() if code.startswith("aegis_2/")}


def test_a_violated_category_violates_the_same_and_a_broader_one() -> None:
    assert found(row(S10=True)) == {"aegis_2/S8": True}
    assert found(row(S1=True)) == {"aegis_2/S1": True, "aegis_2/S3": True}


def test_one_that_is_not_violated_rules_out_the_same_one_only() -> None:
    assert found(row(S10=False)) == {"aegis_2/S8": False}
    assert found(row(S1=False)) == {}


def test_a_violation_counts_where_labels_differ() -> None:
    assert found(row(S3=True, S12=True)) == {"aegis_2/S2": True}


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize(("own", "other"), [(True, False), (False, True)])
def test_its_own_label_and_that_of_another_taxonomy_count_alike(own: bool, other: bool, own_first: bool) -> None:
    labels = {"aegis_2/S8": own, "llama_guard_3/S10": other}
    example = replace(row(), categories=labels if own_first else dict(reversed(labels.items())))
    assert found(example) == {"aegis_2/S8": True}


def test_its_own_labels_stay_and_nothing_is_made_up() -> None:
    example = row(S14=True)
    assert with_labels_of(example, "aegis_2") is example
    assert with_labels_of(row(S10=True), "llama_guard_3").categories == row(S10=True).categories
    with pytest.raises(NotFoundError):
        with_labels_of(row(S10=True), "nothing")
