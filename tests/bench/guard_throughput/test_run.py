"""The whole benchmark with tiny sizes, its measurements in this process; and its bounds on made-up figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.bench.checks import failures
from corral.bench.guard_throughput import run
from corral.bench.guard_throughput.bounds import check_report
from corral.bench.guard_throughput.settings import ThroughputSettings
from corral.bench.isolated import MEASUREMENTS, Isolated
from corral.bench.vllm import PYTHON_VARIABLE
from corral.core.errors import CorralError
from corral.models.packed.int8 import int8_is_exact

PROMISED = {
    "ratio_vs_generate",
    "ratio_vs_vllm",
    "label_agreement",
    "max_delta_p",
    "policy_prompts_per_second",
    "default_guard_per_second",
    "default_guard_ratio_vs_transformers",
    "default_guard_p50_ms",
    "max_rss_mb",
    "machine",
    "date",
}


Asked = dict[str, list[Mapping[str, Any]]]


def measure_here(settings: ThroughputSettings, vllm: Path | None, cache: Path) -> tuple[dict[str, Any], Asked]:
    """The report, and what each measurement was asked; they run here instead of in processes of their own."""
    asked: Asked = {}

    def here(name: str, chosen: Mapping[str, Any]) -> Isolated:
        asked.setdefault(name, []).append(chosen)
        return Isolated(json.loads(json.dumps(dict(MEASUREMENTS.get(name)(chosen)))), 123.4, 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_isolated", here)
        patch.setenv("CORRAL_CACHE", str(cache))
        patch.setenv(PYTHON_VARIABLE, "" if vllm is None else str(vllm))
        return run.measure_guard_throughput(settings, lambda _: None), asked


@pytest.fixture(scope="module")
def tiny(tiny_model: str, tiny_guard: str) -> ThroughputSettings:
    return ThroughputSettings(
        model=tiny_model,
        guard_weights=tiny_guard,
        threads=1,
        requests=2,
        rounds=2,
        engine_requests=2,
        generate_requests=1,
        generate_tokens=1,
        accuracy_prompts=4,
        exact_prompts=2,
        batch_size=2,
        batches=1,
        message_tokens=8,
        mixed_tokens=(4, 12),
        singles=2,
    )


@pytest.fixture(scope="module")
def beside_vllm(
    tiny: ThroughputSettings, fake_vllm: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Asked]:
    return measure_here(tiny, fake_vllm, tmp_path_factory.mktemp("cache"))


def test_the_report_has_every_promised_key_and_is_json(beside_vllm: tuple[dict[str, Any], Asked]) -> None:
    report, _ = beside_vllm
    assert set(report) >= PROMISED
    assert json.loads(json.dumps(report, allow_nan=False))["checks"].keys() == check_report(report).keys()
    assert report["ratio_vs_vllm"] == pytest.approx(report["policy_prompts_per_second"] / report["vllm_per_second"])
    assert report["vllm"]["version"] == "fake"
    assert (report["accuracy"]["source"], report["accuracy"]["real_prompts"]) == ("self-written", 0)
    assert report["checks"]["accuracy_real_prompts"]["ok"] is False
    assert report["checks"]["seconds"]["value"] == report["seconds"]
    assert report["shared_prefix_max_delta_p"] <= 1e-4


def test_no_client_or_round_sees_a_request_twice(beside_vllm: tuple[dict[str, Any], Asked]) -> None:
    _, asked = beside_vllm
    (server,) = asked["vllm-client"]
    (ours,) = asked["policy-guard"]
    groups = [server["warm_up"], *server["rounds"], server["engine_requests"]]
    texts = [text for group in groups for text in group]
    assert len(set(texts)) == len(texts)
    assert (ours["warm_up"], ours["rounds"]) == (server["warm_up"], server["rounds"])


def test_without_vllm_there_is_a_reason_and_its_bounds_are_open(tiny: ThroughputSettings, tmp_path: Path) -> None:
    report, asked = measure_here(tiny, None, tmp_path)
    assert report["ratio_vs_vllm"] is None
    assert PYTHON_VARIABLE in report["ratio_vs_vllm_reason"]
    for name in ("ratio_vs_vllm", "openai_engine_works"):
        assert (report["checks"][name]["value"], report["checks"][name]["ok"]) == (None, None)
    assert "vllm-client" not in asked


def test_a_server_that_does_not_start_costs_its_own_figures_alone(
    tiny: ThroughputSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def failing(*_: object, **__: object) -> Iterator[str]:
        raise CorralError("the server ended with exit code 1")
        yield ""

    monkeypatch.setattr(run, "serving_vllm", failing)
    report, _ = measure_here(tiny, Path(sys.executable), tmp_path)
    assert report["ratio_vs_vllm"] is None
    assert "exit code 1" in report["ratio_vs_vllm_reason"]
    assert report["checks"]["openai_engine_works"]["ok"] is False
    assert report["max_delta_p"] is not None


def test_the_default_guard_in_8_bits_has_figures_or_a_reason(
    tiny: ThroughputSettings, beside_vllm: tuple[dict[str, Any], Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = beside_vllm
    names = {name for name in report if name.startswith("default_guard_int8_")} - {"default_guard_int8_reason"}
    assert len(names) == 7
    assert set(report["default_guard_accuracy"]) >= {"bfloat16"}
    if int8_is_exact():
        assert report["default_guard_int8_reason"] is None
        assert report["default_guard_int8_label_agreement"] >= 0.5
        near = report["default_guard_int8_max_delta_p"] <= 0.02
        assert report["default_guard_int8_agrees"] is (near and report["default_guard_int8_label_agreement"] >= 0.99)
        assert report["default_guard_int8_p50_ms"] > 0
    monkeypatch.setattr("corral.models.packed.int8.int8_is_exact", lambda: False)
    report, asked = measure_here(tiny, None, tmp_path)
    assert {report[name] for name in names} == {None}
    assert "8-bit" in report["default_guard_int8_reason"]
    assert "int8" not in {chosen["dtype"] for chosen in [*asked["default-guard"], *asked["default-guard-scores"]]}


def figures(**changes: Any) -> dict[str, Any]:
    """A report that meets every bound, with changes."""
    met = {
        "ratio_vs_generate": 22.0,
        "ratio_vs_vllm": 1.3,
        "vllm": {"exercised": {"generate": True, "stream": True}},
        "label_agreement": 0.995,
        "max_delta_p": 0.01,
        "shared_prefix_max_delta_p": 1e-6,
        "policy_tokens": 888,
        "default_guard_ratio_vs_transformers": 1.3,
        "english_guard_ratio_vs_transformers": 1.3,
        "default_guard_p50_ms": 20.0,
        "max_rss_mb": 700.0,
        "accuracy": {"real_prompts": 1000},
        "seconds": 900.0,
    }
    return met | changes


def test_a_report_within_its_bounds_has_no_failed_check() -> None:
    assert all(check.ok for check in check_report(figures()).values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratio_vs_generate", 19.9),
        ("ratio_vs_vllm", 1.24),
        ("label_agreement", 0.98),
        ("max_delta_p", 0.021),
        ("shared_prefix_max_delta_p", 2e-4),
        ("policy_tokens", 700),
        ("default_guard_ratio_vs_transformers", 1.2),
        ("english_guard_ratio_vs_transformers", 1.2),
        ("default_guard_p50_ms", 26.0),
        ("max_rss_mb", 1001.0),
        ("seconds", 1200.1),
    ],
)
def test_each_bound_fails_alone(name: str, value: float) -> None:
    assert [found for found, check in check_report(figures(**{name: value})).items() if not check.ok] == [name]


@pytest.mark.parametrize("real", [0, 999])
def test_prompts_that_are_not_real_or_too_few_fail(real: int) -> None:
    checks = check_report(figures(accuracy={"real_prompts": real}))
    assert [name for name, check in checks.items() if not check.ok] == ["accuracy_real_prompts"]


def test_what_was_not_measured_is_listed_and_has_not_failed() -> None:
    checks = check_report(figures(ratio_vs_vllm=None, vllm=None))
    assert checks.keys() == check_report(figures()).keys()
    assert {name for name, check in checks.items() if check.ok is None} == {"ratio_vs_vllm", "openai_engine_works"}
    assert failures(checks) == []


def test_an_engine_method_that_does_not_work_with_the_server_fails() -> None:
    checks = check_report(figures(vllm={"exercised": {"generate": True, "stream": False}}))
    assert not checks["openai_engine_works"].ok


@pytest.mark.parametrize("change", [{"requests": 0}, {"threads": 0}, {"no_such_size": 1}])
def test_sizes_that_measure_nothing_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ThroughputSettings.model_validate(change)
