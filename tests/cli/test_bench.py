"""`corral bench`: what it lists, prints and exits with; the measurements themselves are tested in tests/bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from corral.cli import main as cli

LOAD = {"per_second": 90.0, "transformers_per_second": 60.0, "ratio": 1.5}
REPORT: dict[str, Any] = {
    "ratio_vs_generate": 24.0,
    "policy_prompts_per_second": 12.0,
    "generate_per_second": 0.5,
    "policy_tokens": 888,
    "tokens_per_request": 60.2,
    "ratio_vs_vllm": None,
    "ratio_vs_vllm_reason": "it was not asked for",
    "vllm": None,
    "label_agreement": 0.998,
    "max_delta_p": 0.03,
    "shared_prefix_max_delta_p": 2e-6,
    "accuracy": {
        "prompts": 9,
        "real_prompts": 0,
        "source": "self-written",
        "p05": 0.1,
        "p95": 0.9,
        "near_threshold": 2,
        "unsafe": 3,
        "label_agreement_at_median": 0.97,
    },
    "default_guard_ratio_vs_transformers": 1.5,
    "default_guard_p50_ms": 21.0,
    "max_rss_mb": 640.0,
    "default_guard": {"uniform": LOAD, "asked_all": 0.25},
    "english_guard": {"uniform": LOAD},
    "default_guard_int8_per_second": None,
    "default_guard_int8_reason": "no exact products",
    "seconds": 600.0,
    "checks": {
        "ratio_vs_generate": {"value": 24.0, "bound": ">= 20", "ok": True},
        "ratio_vs_vllm": {"value": None, "bound": ">= 1.25", "ok": None},
        "openai_engine_works": {"value": None, "bound": ">= 1", "ok": None},
        "seconds": {"value": 600.0, "bound": "<= 1200", "ok": True},
    },
}
FAILED = {"max_delta_p": {"value": 0.03, "bound": "<= 0.02", "ok": False}}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Replaces the measuring with a ready report, and keeps the settings that it was given."""

    def install(**changes: Any) -> list[Any]:
        seen: list[Any] = []

        def measure(settings: Any, say: Callable[[str], None]) -> dict[str, Any]:
            seen.append(settings)
            say("measuring")
            return REPORT | changes

        monkeypatch.setattr("corral.bench.guard_throughput.run.measure_guard_throughput", measure)
        return seen

    return install


def test_help_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--help"]) == 0
    assert "guard-throughput" in capsys.readouterr().out


def test_a_benchmark_that_is_not_there_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "no-such-benchmark"]) == 2
    assert "no-such-benchmark" in capsys.readouterr().err


def test_sizes_are_passed_on(measured: Callable[..., list[Any]]) -> None:
    seen = measured()
    arguments = ["--requests", "4", "--accuracy-prompts", "8", "--threads", "1", "--model", "some/folder"]
    assert cli.main(["bench", "guard-throughput", *arguments]) == 0
    (settings,) = seen
    assert (settings.requests, settings.accuracy_prompts, settings.threads, settings.model) == (4, 8, 1, "some/folder")


def test_json_is_the_report_and_progress_is_elsewhere(
    measured: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured()
    assert cli.main(["bench", "guard-throughput", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == REPORT
    assert err == "measuring\n"


def test_the_table_shows_both_sides_the_ratio_and_the_bound(
    measured: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured()
    cli.main(["bench", "guard-throughput"])
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "generate" in line)
    assert line.split() == ["policy", "guard,", "generate", "12.00/s", "0.50/s", "24.00", ">=", "20", "yes"]
    assert "vLLM was not measured, nor our `openai` engine with it: it was not asked for." in out
    (line,) = (line for line in out.splitlines() if line.startswith("policy guard, vLLM"))
    assert line.split() == ["policy", "guard,", "vLLM", "12.00/s", "-", "-", ">=", "1.25", "not", "measured"]
    (line,) = (line for line in out.splitlines() if line.startswith("the whole command"))
    assert line.split() == ["the", "whole", "command", "600", "s", "-", "-", "<=", "1200", "yes"]
    assert "9 prompts (self-written)" in out
    assert "0.9700 keep their side of the median score" in out


def test_the_guard_in_8_bits_has_lines_where_it_was_measured(
    measured: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured()
    cli.main(["bench", "guard-throughput"])
    assert "8 bits: no exact products" in capsys.readouterr().out
    found = {"per_second": 120.0, "ratio_vs_transformers": 2.0, "p50_ms": 14.5}
    found |= {"max_delta_p": 0.125, "label_agreement": 0.977, "agrees": False}
    measured(**{f"default_guard_int8_{name}": value for name, value in found.items()}, default_guard_int8_reason=None)
    cli.main(["bench", "guard-throughput"])
    out = capsys.readouterr().out
    assert all(shown in out for shown in ("120.0/s", "14.5 ms", "0.1250"))
    assert "8 bits does NOT agree with float32 as bfloat16 has to: 97.70% same labels" in out
    assert "not the default" in out


def test_vllm_has_a_line_where_it_was_measured(
    measured: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured(vllm={}, vllm_per_second=9.0, ratio_vs_vllm=1.33, ratio_vs_vllm_reason=None)
    cli.main(["bench", "guard-throughput"])
    out = capsys.readouterr().out
    assert "9.00/s" in out
    assert "vllm was not measured" not in out.lower()


def test_a_bound_that_fails_is_named_and_exits_with_1(
    measured: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured(checks=REPORT["checks"] | FAILED)
    assert cli.main(["bench", "guard-throughput", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["checks"]["max_delta_p"]["ok"] is False
    assert "bound not met: max_delta_p is 0.03, expected <= 0.02" in err
