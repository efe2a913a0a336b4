"""The page of our guards beside published ones: every published figure, once, in one of its two blocks."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest

from corral.core.evidence import Claim, Evidence
from corral.core.manifest import describe_machine
from corral.evals.guards_compared import guards_page, our_rows
from corral.evals.published.tables import load_tables


def evidence(system: str, *claims: tuple[str, str, Any], toy: bool = False) -> Evidence:
    made = [
        Claim(
            claim=name,
            metric=metric,
            baseline=None,
            ours=ours,
            n=1,
            ci95=None,
            seeds=(0,),
            expected="",
            holds=True,
            toy=toy,
            tried=(),
        )
        for name, metric, ours in claims
    ]
    return Evidence(
        system=system, command="", versions={}, date=date(2026, 1, 1), machine=describe_machine(), claims=tuple(made)
    )


def record(name: str, **values: Any) -> dict[str, Any]:
    return {"set": name, "n": 348, "rows_in_set": 348, "f1": 0.777, "f1_ci95": [0.7, 0.8], **values}


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n")[1].split("\n## ", maxsplit=1)[0]


@pytest.fixture
def default() -> Evidence:
    whole = record("aegis_test", ap=0.9, positives=224, flag_all_f1=0.783, floor=0.644)
    sample = record("benign_phtest", n=400, rows_in_set=2069, fpr=0.07)
    return evidence("default_guard", ("moderation_table", "all", {"sets": [whole, sample]}))


def test_ours_stands_first_with_its_interval_in_the_columns_of_published_rows(default: Evidence) -> None:
    lines = section(guards_page([default]), "aegis_test").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| system | F1 | AP | AUROC | FPR | from | caveat |"
    assert table[2].startswith("| **default guard** | 0.777 [0.700, 0.800] | 0.900 |  |  | [ours]")
    assert table[3] == (
        "| WildGuard | 0.894 |  |  |  | T1/aegis, paper | roughly: 11 of the 359 published rows are not in our copy; "
        "one label differs between the copies |"
    )
    assert "348 rows, 224 positive. Flagging all: F1 0.783. Floor of AP: 0.644." in section(
        guards_page([default]), "aegis_test"
    )


def test_every_published_figure_of_the_shown_measures_is_on_the_page(default: Evidence) -> None:
    page = guards_page([default])
    for table in load_tables().values():
        for cell in table.cells:
            beside = rf"\| {re.escape(cell.system)} \|[^\n]*{cell.fraction:.3f}[^\n]*\| {cell.table}/{cell.column},"
            apart = rf"\| {cell.table} \|[^\n]*{re.escape(cell.system)}, {cell.metric}[^\n;|]* {cell.value:g}\b"
            assert re.search(beside, page) or re.search(apart, page), cell


def test_a_sample_of_ours_is_kept_apart_with_the_reason(default: Evidence) -> None:
    page = guards_page([default])
    assert "## benign_phtest" not in page
    assert "| benign_phtest | **default guard** |" in section(page, "Not comparable: ours, on samples")
    assert "400 of 2,069 rows" in section(page, "Not comparable: ours, on samples")


def test_published_columns_of_other_sets_are_kept_apart_with_the_reason(default: Evidence) -> None:
    apart = section(guards_page([default]), "Not comparable: published")
    assert "| T10 |" in apart
    assert "a small, filtered sample of the set" in apart
    assert "no source of ours holds this set" in apart


def test_other_systems_are_read_from_lists_mappings_and_comparisons() -> None:
    compared = {"ours": 0.6, "baseline": 0.5, "difference": 0.1, "ci95": [0.0, 0.2], "n": 348}
    found = [
        *our_rows(evidence("duoguard", ("a", "F1", {"by set": [record("aegis_test", loss="zlpr")]}))),
        *our_rows(evidence("latent_guard", ("b", "AUROC of harm", {"xstest_prompts": compared}))),
        *our_rows(
            evidence("llama_guard", ("c", "AP", {"sets": {"toxicchat": {"n": 9, "against_flag_all": compared}}}))
        ),
    ]
    assert [(row.system, row.set, {m: value for m, (value, _) in row.figures.items()}) for row in found] == [
        ("duoguard (loss zlpr)", "aegis_test", {"f1": 0.777}),
        ("latent guard", "xstest_prompts", {"auroc": 0.6}),
        ("llama guard", "toxicchat", {"f1": 0.6}),
    ]


def test_translations_and_toys_are_not_shown() -> None:
    translated = record("aegis_test", language="de")
    assert list(our_rows(evidence("cultureguard", ("a", "F1", {"rows": [translated]})))) == []
    assert list(our_rows(evidence("duoguard", ("a", "F1", {"rows": [record("aegis_test")]}), toy=True))) == []


def test_without_evidence_the_page_is_of_published_rows() -> None:
    assert "**" not in guards_page([])
    assert "| WildGuard | 0.721 |" in guards_page([])
