"""The bounds that ``guard-throughput`` is held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from corral.bench.checks import Check, at_least, at_most, below, between

RATIO_VS_GENERATE: Final = 20.0
RATIO_VS_VLLM: Final = 1.25
LABEL_AGREEMENT: Final = 0.99
MAX_DELTA_P: Final = 0.02
SHARED_PREFIX_DELTA: Final = 1e-4
POLICY_TOKENS: Final = (800, 950)
REAL_PROMPTS: Final = 1000
DEFAULT_GUARD_RATIO: Final = 1.25
DEFAULT_GUARD_P50_MS: Final = 25.0
DEFAULT_GUARD_RSS_MB: Final = 1000.0
WHOLE_SECONDS: Final = 20 * 60.0


def check_report(report: Mapping[str, Any]) -> dict[str, Check]:
    """Which bounds hold, by the name of the figure; those on vLLM are open where it was not measured,
    and one of them fails where it was to be measured and could not be."""
    vllm = report["vllm"]
    return {
        "ratio_vs_generate": at_least(report["ratio_vs_generate"], RATIO_VS_GENERATE),
        "label_agreement": at_least(report["label_agreement"], LABEL_AGREEMENT),
        "max_delta_p": at_most(report["max_delta_p"], MAX_DELTA_P),
        "shared_prefix_max_delta_p": at_most(report["shared_prefix_max_delta_p"], SHARED_PREFIX_DELTA),
        "policy_tokens": between(report["policy_tokens"], *POLICY_TOKENS),
        "default_guard_ratio_vs_transformers": at_least(
            report["default_guard_ratio_vs_transformers"], DEFAULT_GUARD_RATIO
        ),
        "english_guard_ratio_vs_transformers": at_least(
            report["english_guard_ratio_vs_transformers"], DEFAULT_GUARD_RATIO
        ),
        "default_guard_p50_ms": at_most(report["default_guard_p50_ms"], DEFAULT_GUARD_P50_MS),
        "max_rss_mb": below(report["max_rss_mb"], DEFAULT_GUARD_RSS_MB),
        "ratio_vs_vllm": at_least(report["ratio_vs_vllm"], RATIO_VS_VLLM),
        "openai_engine_works": at_least(
            None if vllm is None else float(all(vllm["exercised"].values() or [False])), 1.0
        ),
        "accuracy_real_prompts": at_least(report["accuracy"]["real_prompts"], REAL_PROMPTS),
        "seconds": at_most(report["seconds"], WHOLE_SECONDS),
    }
