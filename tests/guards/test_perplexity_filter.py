"""The perplexity filter on a tiny random Llama: golden values are the model's own log-probabilities."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.loading import load_guard
from corral.guards.perplexity_filter import PerplexityFilter, calibrated_threshold
from corral.models.engines.torch import TorchEngine
from corral.models.tiny import write_tiny_llama

TEXTS = [f"how do I bake {n} loaves" for n in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", weight_std=0.2, words_of=TEXTS)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TorchEngine:
    return TorchEngine.load(folder)


def perplexity(engine: TorchEngine, text: str) -> float:
    """Of the text's tokens, each after those before it, by hand; the tokenizer has nothing to begin with."""
    ids = engine.chat.encode_text(text)
    logprobs = engine.token_logprobs([(ids[:1], ids[1:])])[0].logprobs
    return math.exp(-sum(logprobs) / len(logprobs))


def test_it_flags_what_lies_above_the_threshold_and_nothing_else(engine: TorchEngine) -> None:
    values = sorted(perplexity(engine, text) for text in TEXTS)
    threshold = (values[9] + values[10]) / 2
    guard = PerplexityFilter(engine, revision="1", threshold=threshold)
    verdicts = guard.classify([Conversation.user(text) for text in TEXTS])
    for text, verdict in zip(TEXTS, verdicts, strict=True):
        value = perplexity(engine, text)
        assert verdict.flagged == (value >= threshold)
        assert verdict.p_harm == pytest.approx(value / (value + threshold), rel=1e-4)  # the logistic of a log-ratio


def test_a_calibrated_threshold_flags_that_share_of_ordinary_prompts(engine: TorchEngine) -> None:
    threshold = calibrated_threshold(engine, TEXTS, false_alarms=0.1)
    flags = PerplexityFilter(engine, revision="1", threshold=threshold).classify([Conversation.user(t) for t in TEXTS])
    assert sum(bool(verdict.flagged) for verdict in flags) <= 2
    never = calibrated_threshold(engine, TEXTS, false_alarms=0.0)
    assert never == pytest.approx(max(perplexity(engine, text) for text in TEXTS), rel=1e-5)
    assert not any(v.flagged for v in PerplexityFilter(engine, revision="1", threshold=never).classify(
        [Conversation.user(text) for text in TEXTS]))  # fmt: skip
    with pytest.raises(ConfigError):
        calibrated_threshold(engine, [])


def test_a_long_prompt_is_read_in_windows_and_its_worst_one_counts(engine: TorchEngine) -> None:
    long = "how do I bake 1 loaves " * 30 + "%%^^&&!!@@##(())"
    guard = PerplexityFilter(engine, revision="1", threshold=50.0, window=32, overlap=8)
    (verdict,) = guard.classify([Conversation.user(long)])
    assert verdict.windows > 3
    (whole,) = PerplexityFilter(engine, revision="1", threshold=50.0).classify([Conversation.user(long)])
    assert verdict.p_harm is not None
    assert whole.p_harm is not None
    assert verdict.p_harm > whole.p_harm


def test_a_single_token_passes_and_a_reply_or_nothing_has_no_verdict(engine: TorchEngine) -> None:
    guard = PerplexityFilter(engine, revision="1", threshold=2.0)
    (one,) = guard.classify([Conversation.user("how")])
    assert one.flagged is False
    (reply,) = guard.classify([Conversation.exchange("how", "so")], target="response")
    (empty,) = guard.classify([Conversation.user(" ")])
    assert {reply.status, empty.status} == {Status.ERROR}


def test_it_is_loaded_by_name_and_refuses_settings_that_make_no_sense(folder: Path, engine: TorchEngine) -> None:
    guard = load_guard("perplexity-filter", model=str(folder), threshold=175.57)
    assert guard.name == "perplexity-filter"
    assert guard.revision != PerplexityFilter(engine, revision="1", threshold=100.0).revision
    for settings in ({"threshold": 1.0}, {"threshold": math.inf}, {"threshold": 9.0, "window": 4096}):
        with pytest.raises(ConfigError):
            PerplexityFilter(engine, revision="1", **settings)  # type: ignore[arg-type]
