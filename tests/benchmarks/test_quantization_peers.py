"""``benchmarks/quantization_peers.py``: what is compared with what, over seeds."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("quantization_peers")
    sys.modules.pop("quantization_peers", None)


def row(library: str, perplexity: float, *, method: str = "gptq", seed: int = 0, cpu: float = 10.0) -> dict[str, Any]:
    figures = {"perplexity": perplexity, "cpu_seconds": cpu, "seconds": 2 * cpu, "max_rss_mb": 1000 + seed}
    return {"method": method, "group_size": 64, "seed": seed, "library": library, **figures}


def test_each_seed_is_compared_with_itself(peers: Any) -> None:
    rows = [row("corral", 30.0), row("a", 30.0), row("corral", 33.0, seed=1, cpu=30.0), row("a", 30.0, seed=1)]
    (found,) = peers.compared(rows)
    assert (found["method"], found["library"], found["seeds"]) == ("gptq", "a", [0, 1])
    assert found["perplexity_ratio"] == pytest.approx(math.sqrt(1.1), abs=1e-4)
    assert not found["no_worse_than_1_percent"]
    assert found["ci95"][0] < 1 < found["perplexity_ratio"] < found["ci95"][1]
    assert (found["cpu_ratio"], found["wall_ratio"], found["max_rss_mb"]) == (2.0, 2.0, [1001, 1001])


def test_one_seed_has_no_interval(peers: Any) -> None:
    (found,) = peers.compared([row("corral", 30.2), row("a", 30.0)])
    assert found["ci95"] is None
    assert found["no_worse_than_1_percent"]


def test_interval_is_students(peers: Any) -> None:
    mean, interval = peers.geometric_mean([math.exp(each) for each in (0.01, 0.02, 0.03)])
    assert mean == pytest.approx(math.exp(0.02))
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert interval == pytest.approx((math.exp(0.02 - reach), math.exp(0.02 + reach)), rel=1e-6)


def test_absent_rows_other_methods_and_seeds_of_one_library_alone_are_not_compared(peers: Any) -> None:
    gone = {"method": "gptq", "group_size": 64, "seed": 0, "library": "b", "absent": "no interpreter"}
    rows = [row("corral", 30.0), gone, row("a", 29.0, method="awq"), row("a", 28.0, seed=3)]
    assert peers.compared(rows) == []
    assert "b gptq g64: no interpreter" in peers.as_table(rows)


def test_trained_rounding_stands_beside_each_method_of_ours_and_apart_from_its_librarys_awq(peers: Any) -> None:
    own = [row("corral", 30.0), row("corral", 31.0, method="awq")]
    rows = [*own, row("auto-round", 30.0, method="signround"), row("auto-round", 31.0, method="awq")]
    found = {(each["method"], each["library"]): each["no_worse_than_1_percent"] for each in peers.compared(rows)}
    assert found == {
        ("gptq", "auto-round signround"): True,
        ("awq", "auto-round signround"): False,
        ("awq", "auto-round"): True,
    }


def test_only_the_library_that_trains_its_rounding_is_asked_for_it(peers: Any) -> None:
    class Asked:
        given = SimpleNamespace(methods=["gptq", "awq", "signround"], peers=["auto-round"])

        @staticmethod
        def row(library: str, method: str, group_size: int) -> dict[str, Any]:
            return {"asked": (library, method, group_size)}

    asked = [each["asked"] for each in peers.rows_of(Asked, 64)]
    assert asked == [
        ("corral", "gptq", 64),
        ("corral", "awq", 64),
        ("auto-round", "awq", 64),
        ("auto-round", "signround", 64),
    ]
