"""What every classifier guard does: batches, windows, limits, and failures that stay with their item."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.messages import Conversation, ImagePart, Message
from corral.guards.base import Guard, Status
from corral.guards.classifier import ClassifierGuard, Scores
from corral.guards.windows import judged_windows


class LetterGuard(ClassifierGuard):
    """One token a character; the score of a span is the number of `X` in it, or of pairs `XY` when asked for."""

    name = "letters"
    revision = "1"
    taxonomy = ""

    def __init__(self, window=8, overlap=3, **limits):
        super().__init__(**limits)
        self.window, self.overlap, self.batches = window, overlap, []

    def encode(self, conversation, target):
        index = conversation.judged_index(target)
        context = "".join(m.text for m in conversation.messages[:index])
        text = conversation.messages[index].text
        if "UNREADABLE" in text:
            raise ValueError(text)
        return judged_windows(
            [ord(c) for c in context], [ord(c) for c in text], size=self.window, overlap=self.overlap, min_context=2
        )

    def forward(self, sequences, spans):
        self.batches.append([len(s) for s in sequences])
        texts = ["".join(map(chr, s)) for s in sequences]
        if any("!" in text for text in texts):
            raise RuntimeError("the secret text " + texts[0])
        scores = [[float(texts[s.row][s.start : s.stop].count("XY")), float(s.target == "response")] for s in spans]
        if any("?" in text for text in texts):
            scores = [[np.nan if "?" in texts[s.row] else row[0], row[1]] for s, row in zip(spans, scores, strict=True)]
        return np.array(scores)

    def conclude(self, scores, target):
        p = min(1.0, scores[0])
        if p < 0:
            raise AssertionError
        return Scores(flagged=p > 0.5, p_harm=p)


def says(*texts):
    return [Conversation.user(text) for text in texts]


def test_it_is_a_guard():
    assert isinstance(LetterGuard(), Guard)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abXY", min_size=1, max_size=60), max_size=8))
def test_a_batch_says_what_single_calls_say_in_order(texts):
    guard = LetterGuard(tokens_per_batch=24)
    batch = guard.classify(says(*texts))
    single = [guard.classify(says(text))[0] for text in texts]
    assert [(v.p_harm, v.windows, v.flagged) for v in batch] == [(v.p_harm, v.windows, v.flagged) for v in single]
    assert [v.flagged for v in batch] == ["XY" in text for text in texts]


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_a_trigger_is_found_at_any_offset(before, after):
    (verdict,) = LetterGuard().classify(says("a" * before + "XY" + "a" * after))
    assert verdict.flagged


def test_one_bad_item_does_not_take_the_others_with_it():
    texts = ["aXY", "a!", "b?", "UNREADABLE", "ccc", "   ", "XY" * 40]
    guard = LetterGuard(max_chars=70)
    verdicts = guard.classify(says(*texts))
    assert [v.status is Status.OK for v in verdicts] == [True, False, False, False, True, False, False]
    assert [v.flagged for v in verdicts] == [True, None, None, None, False, None, None]
    assert all(v.latency_ms >= 0 and v.windows == 0 for v in verdicts if v.status is Status.ERROR)
    details = [v.detail for v in verdicts]
    assert "RuntimeError" in details[1]
    assert "not finite" in details[2]
    assert "ValueError" in details[3]
    assert "empty" in details[5]
    assert "80 characters" in details[6]
    assert "70" in details[6]


def test_details_never_hold_the_text():
    verdicts = LetterGuard().classify(says("a secret!", "UNREADABLE secret"))
    assert not any("secret" in v.detail for v in verdicts)


def test_forward_passes_stay_under_the_token_budget():
    guard = LetterGuard(window=10, overlap=2, tokens_per_batch=20)
    guard.classify(says(*["a" * n for n in (1, 10, 25, 7, 7, 3)]))
    assert all(max(lengths) * len(lengths) <= 20 for lengths in guard.batches)


def test_equal_windows_are_read_once():
    guard = LetterGuard()
    guard.classify(says("abc", "abc", "abc"))
    assert guard.batches == [[3]]


def test_both_targets_in_one_call():
    guard = LetterGuard(window=64)
    both = guard.classify_both([Conversation.exchange("XY", "ok"), Conversation.user("hi")])
    assert [sorted(answer) for answer in both] == [["prompt", "response"], ["prompt"]]
    assert both[0]["prompt"].flagged
    assert not both[0]["response"].flagged
    assert {v.target for v in both[0].values()} == {"prompt", "response"}


def test_a_target_that_is_not_there_is_an_error_not_a_verdict():
    (verdict,) = LetterGuard().classify(says("hello"), target="response")
    assert verdict.status is Status.ERROR
    assert verdict.flagged is None
    assert "no response" in verdict.detail


def test_content_that_it_cannot_read_is_an_error_not_a_verdict():
    message = Message("user", (*Message.of("user", "look").content, ImagePart("data:,")))
    (verdict,) = LetterGuard().classify([Conversation((message,))])
    assert verdict.flagged is None
    assert "image" in verdict.detail


def test_older_turns_that_do_not_fit_are_counted():
    turns = (Message.of("user", "b" * 20), Message.of("assistant", "c" * 20), Message.of("user", "aXY"))
    (verdict,) = LetterGuard().classify([Conversation(turns)])
    assert verdict.flagged
    assert verdict.context_dropped == 40 - 5


def test_no_conversations_give_no_verdicts():
    assert LetterGuard().classify([]) == []
    assert LetterGuard().classify_both([]) == []


def test_raw_scores_are_the_maximum_over_windows():
    scores = LetterGuard().raw_scores(says("aXY" + "a" * 20 + "XYXY", "b?"))
    assert scores[0].tolist() == [2.0, 0.0]
    assert scores[1] is None


@pytest.mark.parametrize("limit", ["max_chars", "tokens_per_batch"])
def test_limits_below_one_are_refused(limit):
    with pytest.raises(ConfigError, match=limit):
        LetterGuard(**{limit: 0})


def test_scores_of_the_wrong_shape_are_errors():
    guard = LetterGuard()
    guard.forward = lambda sequences, spans: np.zeros(3)
    assert [v.status for v in guard.classify(says("a", "b"))] == [Status.ERROR] * 2
