"""Latency times one request at a time, and its figures stay on their device."""

from __future__ import annotations

import time

import pytest

from corral.core.errors import ConfigError
from corral.evals.tasks import latency
from corral.evals.tasks.latency import Latency, device_of
from corral.evals.tasks.task import Subject
from corral.evals.tasks.win_rate.prompts import ComparisonPrompt
from corral.models.engines.base import Generation
from corral.models.engines.scripted import ScriptedEngine

PROMPTS = tuple(ComparisonPrompt(str(i), f"Request {i}") for i in range(3))
READING, WRITING = 0.02, 0.01


class TimedEngine(ScriptedEngine):
    """Takes a fixed time to read and for each token beyond the first, and ends by itself after four tokens."""

    def __init__(self) -> None:
        super().__init__({})
        self.calls: list[int] = []

    def generate(self, prompts, settings):
        assert len(prompts) == 1
        self.calls.append(settings.max_new_tokens)
        tokens = min(settings.max_new_tokens, 4)
        time.sleep(READING + WRITING * (tokens if settings.max_new_tokens > 4 else tokens - 1))
        reason = "length" if settings.max_new_tokens <= 4 else "stop"
        return [Generation("x" * tokens, (1,) * tokens, reason, 10)]


def test_reading_and_writing_are_told_apart(cache, progress):
    engine = TimedEngine()
    result = Latency(PROMPTS, new_tokens=8).run(Subject(engine, "timed", "1"), cache, progress)
    # One that does not count, then two a request.
    assert engine.calls == [8, *[1, 8] * 3]
    figures = result.figures
    assert figures["first_token_p50"].value == pytest.approx(1e3 * READING, rel=0.5)
    assert figures["answer_p95"].value >= figures["answer_p50"].value >= figures["first_token_p50"].value
    # Four tokens beyond the first: three, and the one that ends the answer.
    assert [sample.values["decoded_tokens"] for sample in result.samples] == [4.0] * 3
    assert figures["decode"].value == pytest.approx(1 / WRITING, rel=0.5)
    assert figures["prefill"].value == pytest.approx(10 / READING, rel=0.5)
    assert figures["peak_memory"].n == 0
    assert not any(measure.reproducible for measure in result.measures)
    assert "Batch size 1" in result.caveats[0]


def test_times_are_kept_and_no_request_is_made_again(cache, progress):
    engine = TimedEngine()
    task = Latency(PROMPTS, new_tokens=8)
    first = task.run(Subject(engine, "timed", "1"), cache, progress)
    again = task.run(Subject(engine, "timed", "1"), cache, progress)
    assert len(engine.calls) == 7
    assert first.figures == again.figures


def test_another_device_is_other_data(tiny_subject, cache, progress, monkeypatch):
    task = Latency(PROMPTS[:1], new_tokens=2)
    here = task.run(tiny_subject, cache, progress)
    assert here.figures["peak_memory"].value > 1
    assert "cpu" in here.caveats[0]
    monkeypatch.setattr(latency, "device_of", lambda engine: {**device_of(engine), "threads": 99})
    assert task.run(tiny_subject, cache, progress).data_hash != here.data_hash


def test_an_answer_that_ends_at_once_has_no_writing_speed(cache, progress):
    class Mute(ScriptedEngine):
        def generate(self, prompts, settings):
            return [Generation("", (), "stop", 5)]

    result = Latency(PROMPTS).run(Subject(Mute({}), "mute", "1"), cache, progress)
    assert result.figures["decode"].value is None
    assert result.figures["first_token_p50"].value is not None


def test_settings_out_of_range_are_refused():
    for settings in ({"prompts": ()}, {"new_tokens": 1}, {"limit": 0}):
        with pytest.raises(ConfigError):
            Latency(**settings)
