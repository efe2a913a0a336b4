"""Each measurement on a tiny random model, in this process; nothing is said about time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corral.bench.guard_throughput.default_guard import (
    measure_default_guard,
    measure_plain_transformers,
    messages,
    score_by_default_guard,
)
from corral.bench.guard_throughput.policy_guard import measure_policy_guard, score_prompts, unsafe_probabilities
from corral.bench.guard_throughput.reference import measure_generate, served_model
from corral.bench.guard_throughput.vllm_client import measure_vllm
from corral.bench.requests import benign_requests
from corral.bench.vllm import CONTEXT, SERVED_NAME, serving_vllm
from corral.core.errors import CorralError, GuardError
from corral.data.messages import Conversation
from corral.guards.base import Status, Verdict
from corral.models.loading import load_fast_tokenizer
from corral.models.packed.int8 import int8_is_exact

TEXTS = benign_requests(6)


@pytest.fixture(scope="module")
def float32_scores(tiny_model: str) -> list[float]:
    settings = {"model": tiny_model, "dtype": "float32", "threads": 1, "prompts": TEXTS}
    scores: list[float] = score_prompts(settings)["p_unsafe"]
    return scores


def test_the_policy_guard_is_timed_on_each_round_and_scores_the_first(
    tiny_model: str, float32_scores: list[float]
) -> None:
    settings = {
        "model": tiny_model,
        "dtype": "float32",
        "threads": 1,
        "warm_up": TEXTS[4:],
        "rounds": [TEXTS[:2], TEXTS[2:4]],
    }
    found = measure_policy_guard(settings)
    assert len(found["round_seconds"]) == 2
    assert found["p_unsafe"] == pytest.approx(float32_scores[:2], abs=1e-4)
    assert found["policy_tokens"] > 20
    # A request is most often a token a word here, and never less.
    assert found["tokens_per_request"] >= sum(len(text.split()) for text in TEXTS[:4]) / 4


def test_whole_prompts_through_plain_transformers_score_the_same(tiny_model: str, float32_scores: list[float]) -> None:
    found = measure_generate(
        {"model": tiny_model, "threads": 1, "max_new_tokens": 2, "requests": TEXTS[:3], "prompts": TEXTS}
    )
    assert len(found["request_seconds"]) == 2
    assert found["p_unsafe"] == pytest.approx(float32_scores, abs=1e-4)


def test_a_request_without_a_verdict_is_an_error() -> None:
    class Silent:
        def classify(self, conversations: list[Conversation]) -> list[Verdict]:
            return [Verdict.failed("prompt", "silent", "1", Status.ERROR, "out of luck") for _ in conversations]

    with pytest.raises(GuardError, match="no verdict on 2 of 2 requests: out of luck"):
        unsafe_probabilities(Silent(), TEXTS[:2])  # type: ignore[arg-type]


def test_a_server_is_given_the_same_model_in_bfloat16_and_the_same_path_each_time(
    tiny_model: str, tmp_path: Path, float32_scores: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path))
    folder = served_model({"model": tiny_model})["folder"]
    assert served_model({"model": tiny_model})["folder"] == folder
    settings = {"model": folder, "dtype": "float32", "threads": 1, "prompts": TEXTS}
    assert score_prompts(settings)["p_unsafe"] == pytest.approx(float32_scores, abs=0.02)


def test_a_server_is_asked_by_both_clients_and_every_method_is_exercised(tiny_model: str, fake_vllm: Path) -> None:
    with serving_vllm(fake_vllm, Path(tiny_model), cpus=[0]) as url:
        found = measure_vllm(
            {
                "url": url,
                "served_name": SERVED_NAME,
                "context": CONTEXT,
                "model": tiny_model,
                "warm_up": TEXTS[:1],
                "rounds": [TEXTS[1:3], TEXTS[3:4]],
                "engine_requests": TEXTS[4:],
                "compared": TEXTS[1:3],
            }
        )
    methods = ("generate", "stream", "logprobs", "labels_after_a_beginning", "error_kept_apart")
    assert found["exercised"] == dict.fromkeys(methods, True)
    assert len(found["round_seconds"]) == 2
    assert len(found["p_unsafe"]) == 2
    assert found["version"] == "fake"


@pytest.fixture
def guard_sizes(tiny_guard: str) -> dict[str, Any]:
    return {
        "weights": tiny_guard,
        "dtype": "auto",
        "threads": 1,
        "batch_size": 2,
        "batches": 2,
        "rounds": 2,
        "singles": 3,
        "seed": 0,
        "loads": {"uniform": [8, 8], "mixed": [4, 12]},
    }


def test_the_default_guard_and_its_peer_are_timed_on_the_same_loads(
    guard_sizes: dict[str, Any], tiny_model: str
) -> None:
    ours = measure_default_guard(guard_sizes)
    assert {load: len(seconds) for load, seconds in ours["round_seconds"].items()} == {"uniform": 2, "mixed": 2}
    assert len(ours["latency_ms"]) == 3
    (network,) = ours["networks"]
    assert (network["base"], network["layers"]) == (tiny_model, 2)
    assert network["dtype"] in {"float32", "bfloat16"}
    assert ours["asked_all"] == 1.0
    plain = measure_plain_transformers({**guard_sizes, **network, "tokenizer": tiny_model})
    assert {load: len(seconds) for load, seconds in plain["round_seconds"].items()} == {"uniform": 2, "mixed": 2}


def test_the_default_guard_scores_the_same_prompts_alike_in_each_dtype(tiny_guard: str) -> None:
    asked = {"weights": tiny_guard, "threads": 1, "batch_size": 2, "prompts": TEXTS}
    dtypes = ["float32", "bfloat16", *(["int8"] if int8_is_exact() else [])]
    exact, *rounded = (score_by_default_guard({**asked, "dtype": dtype})["p_harm"] for dtype in dtypes)
    assert len(exact) == len(TEXTS)
    for scores in rounded:
        assert scores == pytest.approx(exact, abs=0.02)
        assert scores != exact


@pytest.mark.skipif(not int8_is_exact(), reason="no exact 8-bit products on this machine")
def test_the_default_guard_in_8_bits_says_so_in_its_revision(guard_sizes: dict[str, Any]) -> None:
    assert measure_default_guard({**guard_sizes, "dtype": "int8"})["networks"][0]["dtype"] == "int8"


def test_messages_have_the_tokens_asked_for_and_do_not_repeat(tiny_model: str) -> None:
    tokenizer = load_fast_tokenizer(tiny_model)
    found = messages(tokenizer, 40, (6, 20), seed=3)
    counts = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in found]
    assert len(set(found)) == 40
    assert set(counts) <= set(range(6, 21))
    assert len(set(counts)) > 5


def test_a_tokenizer_that_needs_more_words_is_an_error() -> None:
    class WordPairs:
        """A token for every two words."""

        def encode(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
            return SimpleNamespace(ids=text.split()[::2])

        def decode(self, ids: list[str]) -> str:
            return " ".join(ids)

    with pytest.raises(CorralError, match="found 0 of 3 messages of 20 to 20 tokens"):
        messages(WordPairs(), 3, (20, 20), seed=0)  # type: ignore[arg-type]
