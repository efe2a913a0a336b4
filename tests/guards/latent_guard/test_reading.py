"""Readings do not depend on the batch, and shards survive a kill."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from corral.core.errors import CorralError, DataError, RunError, UserError
from corral.data.messages import Conversation
from corral.guards.latent_guard.fitting import read_in_memory, stream_harm_centres
from corral.guards.latent_guard.reading import refusal_score
from corral.guards.latent_guard.shards import ReadingShards
from corral.models.activations import hidden_states
from corral.models.batching import pad

PROMPTS = [Conversation.user(text) for text in ("hello", "how are you today?", "x", "one two three four five six")]


def test_a_batch_reads_what_single_prompts_read(reader, make_reader):
    alone = make_reader(share_beginning=False)
    together = reader.read(PROMPTS)
    for prompt, reading in zip(PROMPTS, together, strict=True):
        (single,) = alone.read([prompt])
        np.testing.assert_allclose(reading.inst_SD, single.inst_SD, atol=1e-5)
        np.testing.assert_allclose(reading.post_SD, single.post_SD, atol=1e-5)
        assert reading.refusal == pytest.approx(single.refusal, abs=1e-5)


def test_a_batch_without_a_shared_beginning_is_exact(make_reader):
    alone = make_reader(share_beginning=False)
    for prompt, reading in zip(PROMPTS, alone.read(PROMPTS), strict=True):
        (single,) = alone.read([prompt])
        np.testing.assert_allclose(reading.inst_SD, single.inst_SD, atol=1e-6)


def test_readings_are_the_residual_stream_at_the_two_positions(reader):
    located = reader.locate(PROMPTS[1])
    with torch.no_grad():
        expected = hidden_states(reader.engine.model.base_model, pad([located.ids], side="left"), [0, 1, 2])
    (reading,) = reader.read([PROMPTS[1]])
    for layer in range(3):
        np.testing.assert_allclose(reading.inst_SD[layer], expected[layer][0, located.t_inst], atol=1e-6)
        np.testing.assert_allclose(reading.post_SD[layer], expected[layer][0, -1], atol=1e-6)


def test_a_prompt_that_cannot_be_read_takes_no_other_with_it(reader):
    found = reader.read([PROMPTS[0], Conversation.user(" "), Conversation.user("a" * 500), PROMPTS[2]])
    assert [isinstance(each, CorralError) for each in found] == [False, True, True, False]
    assert "empty" in str(found[1])
    assert "cut off" in str(found[2])


def test_activations_that_are_not_finite_are_an_error_of_their_prompt(make_reader):
    reader = make_reader()
    with torch.no_grad():
        reader.engine.model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    (found,) = reader.read([PROMPTS[0]])
    assert isinstance(found, CorralError)
    assert "not finite" in str(found)


def test_the_refusal_score_is_the_log_odds_of_its_tokens():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]))
    expected = [math.log(0.3 / 0.7), math.log(0.5 / 0.5)]
    assert refusal_score(logits, [0, 1]).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_refusal_score_keeps_its_digits_near_certainty():
    score = refusal_score(torch.tensor([[0.0, 60.0]], dtype=torch.float64), [1])
    assert score.item() == pytest.approx(60.0)


def test_shards_hold_what_was_read_and_say_what_could_not_be(reader, tmp_path):
    prompts = [*PROMPTS, Conversation.user("")]
    shards = ReadingShards(tmp_path, prompts, reader.revision, shard_rows=2)
    shards.complete(reader)
    found = shards.all()
    direct = read_in_memory(reader, PROMPTS)
    np.testing.assert_allclose(found.inst_NSD[:4], direct.inst_NSD, atol=1e-5)
    assert found.read_N.tolist() == [True] * 4 + [False]
    assert len(list(tmp_path.glob("shard-*"))) == 3


class Killed(Exception):
    pass


class KilledAfter:
    """A reader whose process dies on its way."""

    def __init__(self, reader, calls):
        self._reader, self.calls = reader, calls

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def read(self, conversations):
        if self.calls == 0:
            raise Killed
        self.calls -= 1
        return self._reader.read(conversations)


def test_a_killed_reading_goes_on_after_its_last_whole_shard(reader, tmp_path):
    shards = ReadingShards(tmp_path, PROMPTS, reader.revision, shard_rows=1)
    with pytest.raises(Killed):
        shards.complete(KilledAfter(reader, 3))
    assert shards.missing == [3]
    with pytest.raises(RunError, match="1 shards are missing"):
        shards.all()
    again = ReadingShards(tmp_path, PROMPTS, reader.revision, shard_rows=1)
    again.complete(KilledAfter(reader, 1))
    np.testing.assert_allclose(again.all().inst_NSD, read_in_memory(reader, PROMPTS).inst_NSD, atol=1e-5)


def test_shards_of_other_prompts_or_another_model_are_not_continued(reader, tmp_path):
    ReadingShards(tmp_path, PROMPTS, reader.revision)
    for prompts, revision in ((PROMPTS[:2], reader.revision), (PROMPTS, "another")):
        with pytest.raises(UserError, match="other prompts or by another model"):
            ReadingShards(tmp_path, prompts, revision)


def test_a_damaged_shard_is_named(reader, tmp_path):
    shards = ReadingShards(tmp_path, PROMPTS[:1], reader.revision)
    shards.complete(reader)
    (tmp_path / "shard-00000.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="damaged"):
        shards.all()


def test_centres_that_stream_equal_those_of_all_rows(reader, labelled, readings, tmp_path):
    shards = ReadingShards(tmp_path, labelled.conversations, reader.revision, shard_rows=6)
    shards.complete(reader)
    harmful = np.array(labelled.harmful_N)
    streamed = stream_harm_centres(shards, harmful)
    expected = shards.all().inst_NSD[harmful].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(streamed.positive_SD, expected, atol=1e-10)


def test_no_prompts_are_refused(reader):
    with pytest.raises(DataError, match="no prompts"):
        read_in_memory(reader, [])
