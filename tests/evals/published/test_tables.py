from __future__ import annotations

from typing import Any

import pytest
import yaml

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.evals.published.tables import load_tables, parse_table, published_cells


def table(**changes: Any) -> str:
    value: dict[str, Any] = {
        "schema_version": 1,
        "table": "T99",
        "title": "three columns",
        "unit": "percent",
        "columns": {"a": "A", "b": "B", "mean": "mean of A and B"},
        "means": [{"column": "mean", "metric": "f1", "of": ["a", "b"], "decimals": 1}],
        "cells": [cell("a", 70.0), cell("b", 80.0), cell("mean", 75.0)],
    }
    return yaml.safe_dump({**value, **changes})


def cell(column: str, value: float, **changes: Any) -> dict[str, Any]:
    return {"system": "S", "column": column, "metric": "f1", "value": value, "mark": "paper", **changes}


def test_all_eleven_tables_are_packaged_in_order() -> None:
    assert list(load_tables()) == [f"T{i}" for i in range(1, 12)]


def test_the_only_printed_mean_that_does_not_follow_from_its_cells_is_gpt4s_response_mean() -> None:
    found = [mismatch for t in load_tables().values() for mismatch in t.mean_mismatches()]
    assert [(m.system, m.column, m.printed) for m in found] == [("GPT-4", "response_mean", 82.0)]
    assert found[0].computed == pytest.approx((86.1 + 67.9 + 86.1 + 91.3) / 4)


def test_a_known_mismatch_is_noted_on_its_cell() -> None:
    (printed,) = [c for c in published_cells("T1", "response_mean") if c.system == "GPT-4"]
    assert "82.9" in printed.note


def test_a_cell_keeps_the_printed_value_and_gives_a_fraction() -> None:
    percent = published_cells("T1", "openai_moderation", "f1")[0]
    fraction = published_cells("T4", "openai_moderation", "ap")[0]
    assert (percent.system, percent.value, percent.fraction) == ("WildGuard", 72.1, pytest.approx(0.721))
    assert (fraction.system, fraction.value, fraction.fraction) == ("Llama Guard", 0.847, 0.847)


def test_milliseconds_are_not_scaled() -> None:
    (latency,) = [c for c in published_cells("T7", "latency") if c.system == "DuoGuard-0.5B"]
    assert latency.fraction == 16.0


def test_a_mean_within_rounding_of_its_cells_is_accepted() -> None:
    rounded = [cell("a", 70.0), cell("b", 80.1), cell("mean", 75.1)]  # 75.05 may print as 75.1
    assert parse_table(table(cells=rounded), where="x.yaml").mean_mismatches() == []


def test_a_mean_with_a_missing_cell_is_not_checked() -> None:
    partial = [cell("a", 70.0), cell("mean", 10.0)]
    assert parse_table(table(cells=partial), where="x.yaml").mean_mismatches() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": [cell("a", 70.0), cell("b", 80.0), cell("mean", 77.0)]}, "differ from their cells"),
        (
            {"known_mismatches": [{"system": "S", "column": "mean", "metric": "f1", "note": "no longer one"}]},
            "differ from their cells",
        ),
        ({"cells": [cell("a", 70.0), cell("a", 70.0)]}, "printed twice"),
        ({"cells": [cell("z", 70.0)]}, "not declared"),
        ({"cells": [cell("a", 170.0)]}, "not a percent"),
        ({"cells": [cell("a", 70.0, mark="hearsay")]}, "mark"),
        ({"cells": []}, "cells"),
        ({"unit": "furlong"}, "unit"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        parse_table(table(**changes), where="x.yaml")
    assert caught.value.where == "x.yaml"


def test_a_file_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse_table("cells: [", where="x.yaml")


@pytest.mark.parametrize("place", [("T12", "openai_moderation"), ("T1", "no_such_column")])
def test_an_unknown_table_or_column_is_named(place: tuple[str, str]) -> None:
    with pytest.raises(NotFoundError, match=place[0] if place[0] == "T12" else place[1]):
        published_cells(*place)
