"""``benchmarks/serve_load.py``: what counts as answered, and that no requirement is met by a figure that is too low."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def serve_load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("serve_load")
    for name in ("serve_load", "load_client"):
        sys.modules.pop(name, None)


@pytest.fixture
def client(serve_load: Any) -> Any:
    return sys.modules["load_client"]


def phase(**values: Any) -> dict[str, Any]:
    return {
        "failed": 0, "refused_429": 0, "p99_ms_of_429": None, "healthz_p99_ms": 9.0, "most_queued": 500.0, **values,
    }  # fmt: skip


def good() -> dict[str, Any]:
    """Figures that meet every requirement."""
    loads = {
        "open_50": phase(),
        "open_90": phase(),
        "overload": phase(refused_429=100, p99_ms_of_429=49.0),
    }
    naive = {f"same_dtype_inputs_{n}": {"median": 1.9} for n in (1, 16)}
    naive |= {f"float32_inputs_{n}": {"median": 4.1} for n in (1, 16)}
    return {
        "rounds": [{"inputs_16": phase(), "inputs_1": phase()}],
        "under_load": {"inputs_16": copy.deepcopy(loads), "inputs_1": copy.deepcopy(loads)},
        "ratio_to_offline": {"16": {"median": 0.86}, "1": {"median": 0.66}},
        "ratio_to_naive": naive,
        "server_rss_mb": [900.0, 940.0, 950.0],
        "texts_answered": 1000,
        "texts_judged_by_the_guard": 1002.0,
    }


def unmet(serve_load: Any, figures: dict[str, Any]) -> list[str]:
    return [name for name, each in serve_load.requirements(figures).items() if not each["met"]]


def test_good_figures_meet_every_requirement(serve_load: Any) -> None:
    assert unmet(serve_load, good()) == []


def test_every_requirement_can_be_missed(serve_load: Any) -> None:
    def overload(inputs: int, **values: Any) -> Callable[[dict[str, Any]], None]:
        return lambda found: found["under_load"][f"inputs_{inputs}"]["overload"].update(values)

    worse: dict[str, Callable[[dict[str, Any]], None]] = {
        "throughput_of_offline_at_16_inputs": lambda f: f["ratio_to_offline"]["16"].update(median=0.84),
        "throughput_of_offline_at_1_inputs": lambda f: f["ratio_to_offline"]["1"].update(median=0.64),
        "times_naive_same_dtype": lambda f: f["ratio_to_naive"]["same_dtype_inputs_16"].update(median=1.7),
        "times_naive_float32": lambda f: f["ratio_to_naive"].pop("float32_inputs_1"),
        "requests_that_failed": lambda f: f["rounds"][0]["inputs_1"].update(failed=1),
        "texts_judged_for_each_answered": lambda f: f.update(texts_judged_by_the_guard=900.0),
        "mb_grown_after_the_first_round": lambda f: f.update(server_rss_mb=[900.0, 940.0, 1000.0]),
        "mb_grown_after_the_first_overload": lambda f: f.update(server_rss_mb=[1000.0, 900.0, 1000.0]),
    }
    for inputs in (16, 1):
        loads = f"inputs_{inputs}"
        worse |= {
            f"refused_below_capacity_at_{inputs}_inputs": lambda f, loads=loads: f["under_load"][loads][
                "open_90"
            ].update(refused_429=1),
            f"refused_in_overload_at_{inputs}_inputs": overload(inputs, refused_429=0),
            f"p99_ms_of_429_at_{inputs}_inputs": overload(inputs, p99_ms_of_429=51.0),
            f"p99_ms_of_healthz_in_overload_at_{inputs}_inputs": overload(inputs, healthz_p99_ms=None),
            f"most_queued_in_overload_at_{inputs}_inputs": overload(inputs, most_queued=513.0),
        }
    assert set(worse) == set(serve_load.requirements(good()))
    for name, spoil in worse.items():
        figures = good()
        spoil(figures)
        assert unmet(serve_load, figures) == [name]


def test_no_text_is_made_twice(client: Any) -> None:
    texts = [client.new_text() for _ in range(5000)]
    assert len(set(texts)) == 5000
    assert {len(text.split()) - 1 for text in texts} == set(range(8, 41))


def test_an_answer_counts_for_the_texts_that_were_judged(client: Any) -> None:
    failed = {"corral": {"decisions": [{"status": "ok"}, {"status": "timeout"}]}, "results": [{}, {}]}
    assert client.judged_texts(json.dumps(failed).encode()) == 1
    assert client.judged_texts(b'{"results": [{}, {}, {}]}') == 3


def test_refusals_failures_and_late_requests_are_told_apart(client: Any) -> None:
    done = client.Phase(2)
    ok = json.dumps({"results": [{}, {}]}).encode()
    half = json.dumps({"corral": {"decisions": [{"status": "ok"}, {"status": "error"}]}}).encode()
    done.answers += [
        client.Answer(0.0, 0.2, 0.3, 200, ok),  # begun late: it took 300 ms, not 100
        client.Answer(0.0, 0.0, 0.1, 200, half),
        client.Answer(0.0, 0.0, 0.01, 429, b""),
        client.Answer(0.0, 0.0, 0.1, 503, b""),
        client.Answer(0.0, 0.0, 0.1, 0, b""),
    ]
    report = done.report(2.0, 0.5)
    assert (report["requests"], report["answered"], report["refused_429"], report["failed"]) == (5, 2, 1, 3)
    assert (report["texts"], report["texts_per_second"]) == (3, 1.5)
    assert (report["p99_ms"], report["p99_ms_of_429"], report["client_late_p99_ms"]) == (300.0, 10.0, 200.0)


@pytest.mark.slow
def test_a_short_run_measures_everything(serve_load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve_load.main(["--guard", "scripted", "--seconds", "0.2", "--rounds", "1", "--clients", "2", "--threads", "1"])
    found = json.loads(capsys.readouterr().out)
    (only,) = found["rounds"]
    assert only["offline_texts_per_second"] > 0
    for inputs in (16, 1):
        loads = found["under_load"][f"inputs_{inputs}"]
        assert only[f"inputs_{inputs}"]["texts"] >= inputs
        assert set(loads) == {"open_50", "open_90", "overload"}
        assert loads["overload"]["healthz_p99_ms"] > 0
        assert loads["overload"]["most_queued"] is not None
    assert found["requirements"]["requests_that_failed"]["met"]
    assert found["requirements"]["texts_judged_for_each_answered"]["met"]
    assert not found["requirements"]["times_naive_float32"]["met"]  # nobody was there to compare with
