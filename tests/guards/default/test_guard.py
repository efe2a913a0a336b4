"""The default guard on a tiny random network: one pass for both targets, windows, batches, settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaModel

from corral.core.errors import ConfigError, NotFoundError
from corral.data.messages import Conversation, Message
from corral.guards.base import Guard, Status
from corral.guards.calibration import Calibration
from corral.guards.classifier import FloatArray, Span
from corral.guards.default.encoding import ConversationEncoder
from corral.guards.default.guard import GuardSettings, TrainedGuard
from corral.guards.default.network import BINARY_HEADS, GuardHeads, GuardNetwork, category_codes

WINDOW, OVERLAP, CONTEXT = 64, 12, 10
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def guard_settings(**changes: object) -> GuardSettings:
    values = {
        "base": "none",
        "base_revision": "none",
        "layers": 2,
        "categories": category_codes(),
        "window": WINDOW,
        "overlap": OVERLAP,
        "min_context": CONTEXT,
    }
    return GuardSettings.model_validate(values | changes)


@pytest.fixture
def guard(chatml_tokenizer: Tokenizer) -> TrainedGuard:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    )
    network = GuardNetwork(LlamaModel(config), GuardHeads(16, 14)).eval().requires_grad_(False)
    torch.nn.init.normal_(network.heads.binary, std=1.0)
    return TrainedGuard(network, ConversationEncoder(chatml_tokenizer), guard_settings(), revision="tiny")


def test_it_is_a_guard(guard: TrainedGuard) -> None:
    assert isinstance(guard, Guard)
    assert (guard.name, guard.taxonomy) == ("trained", "llama_guard_3")


def test_a_prompt_has_harm_and_attack_a_response_harm_and_refusal(guard: TrainedGuard) -> None:
    (both,) = guard.classify_both([Conversation.exchange("hello", "good day")])
    assert both["prompt"].p_attack is not None
    assert both["prompt"].p_refusal is None
    assert both["response"].p_refusal is not None
    assert both["response"].p_attack is None
    assert set(both["prompt"].categories) == set(category_codes())


def test_a_category_that_is_not_reported_is_in_no_verdict(guard: TrainedGuard, chatml_tokenizer: Tokenizer) -> None:
    settings = guard_settings(unreported=("llama_guard_3/S4",))
    silent = TrainedGuard(guard._network, ConversationEncoder(chatml_tokenizer), settings, revision="tiny")
    (verdict,) = silent.classify([Conversation.user("hello")])
    assert set(verdict.categories) == set(category_codes()) - {"llama_guard_3/S4"}


def test_both_targets_are_read_in_one_pass(guard: TrainedGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    forward = guard.forward

    def counting(sequences: list[tuple[int, ...]], spans: list[Span]) -> FloatArray:
        seen.extend(sequences)
        return forward(sequences, spans)

    monkeypatch.setattr(guard, "forward", counting)
    guard.classify_both([Conversation.exchange("hello", "good day")])
    assert len(seen) == 1


def test_judging_both_equals_judging_each(guard: TrainedGuard) -> None:
    conversation = Conversation.exchange("hello", "good day")
    (both,) = guard.classify_both([conversation])
    for target in ("prompt", "response"):
        (alone,) = guard.classify([conversation], target=target)
        assert both[target].p_harm == pytest.approx(alone.p_harm, abs=1e-6)


@quick
@given(texts=st.lists(st.text(alphabet="abcdefgh ", min_size=1, max_size=90).filter(str.strip), min_size=1, max_size=6))
def test_a_batch_equals_single_calls(guard: TrainedGuard, texts: list[str]) -> None:
    together = guard.classify([Conversation.user(text) for text in texts])
    for verdict, text in zip(together, texts, strict=True):
        (alone,) = guard.classify([Conversation.user(text)])
        assert verdict.status is alone.status is Status.OK
        assert verdict.p_harm == pytest.approx(alone.p_harm, abs=1e-5)
        assert verdict.windows == alone.windows


class TriggerGuard(TrainedGuard):
    """Scores a window 1 when the whole trigger stands in its judged span, else -1."""

    trigger: tuple[int, ...] = ()

    def forward(self, sequences: list[tuple[int, ...]], spans: list[Span]) -> FloatArray:  # type: ignore[override]
        scores = np.full((len(spans), len(BINARY_HEADS) + 14), -1.0)
        for row, span in enumerate(spans):
            judged = sequences[span.row][span.start : span.stop]
            if any(judged[i : i + len(self.trigger)] == self.trigger for i in range(len(judged))):
                scores[row] = 1.0
        return scores


@quick
@given(before=st.integers(0, 200), after=st.integers(0, 200), context=st.integers(0, 120))
def test_windows_find_a_trigger_planted_at_any_offset(
    guard: TrainedGuard, chatml_tokenizer: Tokenizer, before: int, after: int, context: int
) -> None:
    word = "TRIGGER"
    finder = TriggerGuard(guard._network, ConversationEncoder(chatml_tokenizer), guard_settings(), revision="t")
    finder.trigger = tuple(chatml_tokenizer.encode(word, add_special_tokens=False).ids)
    earlier = (Message.of("user", "c" * context), Message.of("assistant", "ok")) if context else ()
    planted = Conversation((*earlier, Message.of("user", "a" * before + word + "b" * after)))
    clean = Conversation((*earlier, Message.of("user", "a" * (before + after + 1))))
    found, missed = finder.classify([planted, clean])
    assert found.flagged is True
    assert missed.flagged is False


@quick
@given(length=st.integers(1, 400), context=st.integers(0, 200))
def test_windows_fit_and_what_does_not_is_reported(guard: TrainedGuard, length: int, context: int) -> None:
    conversation = Conversation(
        (Message.of("user", "c" * context or "c"), Message.of("assistant", "ok"), Message.of("user", "x" * length))
    )
    judged = guard.encode(conversation, "prompt")
    assert all(len(window.ids) <= WINDOW for window in judged.windows)
    if len(judged.windows) > 1:
        assert judged.context_dropped > 0


def test_calibration_moves_the_operating_point(guard: TrainedGuard, chatml_tokenizer: Tokenizer) -> None:
    (plain,) = guard.classify([Conversation.user("hello")])
    assert plain.p_harm is not None
    logit = float(np.log(plain.p_harm / (1 - plain.p_harm)))
    moved = guard_settings(calibration={"prompt_harm": Calibration(threshold=logit)})
    other = TrainedGuard(guard._network, ConversationEncoder(chatml_tokenizer), moved, revision="moved")
    (verdict,) = other.classify([Conversation.user("hello")])
    assert verdict.p_harm == pytest.approx(0.5, abs=1e-6)


def test_a_missing_reply_is_an_error_not_a_pass(guard: TrainedGuard) -> None:
    (verdict,) = guard.classify([Conversation.user("hello")], target="response")
    assert verdict.status is Status.ERROR
    assert verdict.flagged is None


def test_weights_of_another_taxonomy_are_refused(guard: TrainedGuard, chatml_tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="1 categories"):
        TrainedGuard(
            guard._network,
            ConversationEncoder(chatml_tokenizer),
            guard_settings(categories=("llama_guard_3/S1",)),
            revision="x",
        )


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"guard\.json"):
        TrainedGuard.load(weights=tmp_path)


def test_the_revision_tells_limits_apart(guard: TrainedGuard, chatml_tokenizer: Tokenizer) -> None:
    limited = TrainedGuard(
        guard._network, ConversationEncoder(chatml_tokenizer), guard_settings(), revision="tiny", max_chars=5
    )
    assert (guard.revision, limited.revision) == ("tiny", "tiny-max5")
