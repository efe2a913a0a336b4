"""Evidence as a page."""

from __future__ import annotations

from datetime import date
from typing import Any

from corral.core.evidence import Claim, Evidence
from corral.core.evidence_page import evidence_page
from corral.core.manifest import Machine

COMPARED = {"ours": 0.61234, "baseline": 0.5, "difference": 0.1, "ci95": [0.05, 0.2], "by_seed": [0.1, None]}


def page(**changes: Any) -> str:
    values: dict[str, Any] = {
        "claim": "it_helps",
        "metric": "average precision",
        "baseline": 0.5,
        "ours": COMPARED | {"sets": {"one_set": {"against": COMPARED}}, "ladder": [{"rung": "none", "ap": {"n": 3}}]},
        "n": 30,
        "ci95": (0.05, 0.2),
        "seeds": (0, 1),
        "expected": "above zero",
        "holds": True,
        "toy": False,
        "tried": (),
    }
    machine = Machine(platform="p", python="3", processor="x", cpus=2, memory_gb=None, accelerator=None)
    return evidence_page(
        Evidence(
            system="s",
            command="corral recipes run s/small",
            versions={"torch": "2"},
            date=date(2026, 1, 31),
            machine=machine,
            claims=(Claim(**(values | changes)),),
        )
    )


def test_a_claim_shows_its_figures_and_every_comparison_behind_it() -> None:
    text = page()
    assert "| `it_helps` | yes | 0.050, 0.200 | 30 | 0, 1 |  |" in text
    assert "| the claim | 0.612 | 0.500 | 0.100 | 0.050, 0.200 | 0.100,  |" in text
    assert "| sets / one set / against | 0.612 |" in text


def test_records_become_a_table_with_their_inner_values() -> None:
    assert "**ladder**\n\n| rung | ap: n |\n| --- | --- |\n| none | 3 |" in page()


def test_a_comparison_within_a_record_is_one_cell_and_empty_columns_are_left_out() -> None:
    records = [{"name": "a", "error": None, "refusal": COMPARED | {"n": 4}}, {"name": "b", "error": None}]
    text = page(ours={"models": records})
    assert "| name | refusal (difference) |\n| --- | --- |\n| a | 0.612 (0.100 [0.050, 0.200]) |\n| b |  |" in text


def test_statistics_are_rows_and_the_outcome_in_words_stands_first() -> None:
    text = page(ours={"in_words": "It helps by a tenth.", "less": {"value": 0.25, "ci95": [0.1, 0.4], "n": 16}})
    assert text.index("**In words:** It helps by a tenth.") < text.index("| less | 0.250 | 0.100, 0.400 | 16 |")


def test_a_caveat_stands_before_the_figures_that_it_is_about() -> None:
    text = page(ours=COMPARED | {"caveat": "The set was trained on."})
    assert text.index("**Seen.**") < text.index("**Caveat:** The set was trained on.") < text.index("| the claim |")
    assert "Caveat" not in page()


def test_hundreds_of_figures_are_left_to_the_file() -> None:
    text = page(ours={str(n): {"value": 0.25, "ci95": [0.1, 0.4], "n": 16} for n in range(41)})
    assert "41 more figures with their intervals are in `evidence/s.json`." in text
    assert "0.250" not in text


def test_a_claim_that_does_not_hold_is_printed_so_with_what_was_tried() -> None:
    text = page(holds=False, tried=("twice the rows",))
    assert "**no**" in text
    assert "**Not seen.**" in text
    assert "- twice the rows" in text


def test_a_plain_figure_is_a_row_too() -> None:
    assert "| the claim | 0.700 | 0.500 |  | 0.050, 0.200 |  |" in page(ours=0.7)


def test_a_toy_is_marked() -> None:
    assert "### `it_helps` (toy)" in page(toy=True)


def test_a_statistic_within_a_record_is_one_cell() -> None:
    accuracy = {"value": 0.9, "ci95": [0.8, 0.95], "n": 30, "rule": "rows resampled"}
    undefined = {"value": None, "ci95": None, "n": 0}
    text = page(ours={"judges": [{"judge": "a", "accuracy": accuracy}, {"judge": "b", "accuracy": undefined}]})
    assert "| judge | accuracy |\n| --- | --- |\n| a | 0.900 [0.800, 0.950], n 30 |\n| b |  |" in text
