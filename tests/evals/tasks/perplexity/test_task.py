"""Perplexity equals a direct computation with transformers, is cached, and says what was scored."""

from __future__ import annotations

import math

import pytest
import torch

from corral.core.errors import ConfigError
from corral.evals.tasks.perplexity.task import Perplexity
from corral.evals.tasks.perplexity.texts import Document, TextSet
from corral.evals.tasks.task import Subject
from corral.models.engines.scripted import ScriptedEngine

LINES = [f"Line {i}: the quick brown fox jumps over {i * i} lazy dogs." for i in range(12)]
TEXTS = TextSet("own", tuple(Document(str(i), line) for i, line in enumerate(LINES)))


def published_perplexity(model, ids: list[int], window: int) -> tuple[float, list[float]]:
    """The loop of the quantization papers: whole windows, shifted loss, exp of the mean over windows."""
    losses = []
    with torch.no_grad():
        for start in range(0, len(ids) // window * window, window):
            batch = torch.tensor([ids[start : start + window]])
            losses.append(model(input_ids=batch, labels=batch).loss.item())
    return math.exp(sum(losses) / len(losses)), losses


@pytest.mark.parametrize("window", [16, 64])
def test_windows_equal_the_published_loop(tiny_engine, tiny_subject, cache, progress, window):
    ids = tiny_engine.chat.encode_text(TEXTS.whole)
    expected, losses = published_perplexity(tiny_engine.model, ids, window)
    result = Perplexity((TEXTS,), window=window).run(tiny_subject, cache, progress)
    assert result.figures["perplexity"].value == pytest.approx(expected, rel=1e-5)
    assert [sample.values["nats"] / sample.values["tokens"] for sample in result.samples] == pytest.approx(
        losses, rel=1e-4
    )
    assert {sample.values["tokens"] for sample in result.samples} == {window - 1}
    # Bytes of scored tokens: one each here.
    nats = sum(losses) * (window - 1)
    scored_bytes = sum(sample.values["bytes"] for sample in result.samples)
    assert scored_bytes == len(losses) * (window - 1)
    assert result.figures["bits_per_byte"].value == pytest.approx(nats / math.log(2) / scored_bytes, rel=1e-5)
    assert progress.total == progress.done == len(losses)


def test_documents_equal_one_forward_pass_each(tiny_engine, tiny_subject, cache, progress):
    texts = TextSet("own", TEXTS.documents[:3], cut="documents")
    result = Perplexity((texts,)).run(tiny_subject, cache, progress)
    start = tiny_engine.chat.tokenizer.bos_token_id
    for document, sample in zip(texts.documents, result.samples, strict=True):
        ids = torch.tensor([[start, *tiny_engine.chat.encode_text(document.text)]])
        with torch.no_grad():
            loss = tiny_engine.model(input_ids=ids, labels=ids).loss.item()
        assert sample.values["nats"] == pytest.approx(loss * (ids.shape[1] - 1), rel=1e-5)
        assert sample.values["bytes"] == len(document.text.encode())


def test_a_second_run_asks_the_model_nothing(tiny_subject, cache, progress):
    class Silent(ScriptedEngine):
        def logprobs(self, pairs):
            raise AssertionError("asked again")

    scripted = Subject(ScriptedEngine({}, default=""), "scripted", "1")
    first = Perplexity((TEXTS,), window=64).run(scripted, cache, progress)
    again = Perplexity((TEXTS,), window=64).run(Subject(Silent({}), "scripted", "1"), cache, progress)
    assert first.figures == again.figures
    assert first.figures["bits_per_byte"].value == pytest.approx(8.0)
    assert any("does not score token ids" in caveat for caveat in first.caveats)
    # Ways of scoring are different data.
    assert first.data_hash != Perplexity((TEXTS,), window=64).run(tiny_subject, cache, progress).data_hash


def test_sets_have_figures_of_their_own_and_one_together(tiny_subject, cache, progress):
    sets = (TextSet("a", TEXTS.documents[:4], cut="documents"), TextSet("b", TEXTS.documents[4:], cut="documents"))
    task = Perplexity(sets)
    result = task.run(tiny_subject, cache, progress)
    assert [measure.name for measure in task.measures if measure.headline] == ["bits_per_byte"]
    assert set(result.figures) == {f"{m}{s}" for m in ("perplexity", "bits_per_byte") for s in ("", "/a", "/b")}
    parts = [sample.values for sample in result.samples]
    total = math.exp(sum(v["nats"] for v in parts) / sum(v["tokens"] for v in parts))
    assert result.figures["perplexity"].value == pytest.approx(total)
    assert result.figures["perplexity"].ci95 is not None


def test_a_limit_spreads_over_the_text(tiny_subject, cache, progress):
    result = Perplexity((TEXTS,), window=16, limit=3).run(tiny_subject, cache, progress)
    starts = [int(sample.id.split("/")[1].split("-")[0]) for sample in result.samples]
    assert len(starts) == 3
    assert starts[0] < len(TEXTS.whole) / 3 < starts[1] < 2 * len(TEXTS.whole) / 3 < starts[2]


def test_settings_out_of_range_are_refused():
    for settings in ({"window": 1}, {"limit": 0}, {"batch_size": 0}, {"texts": ()}, {"texts": (TEXTS, TEXTS)}):
        with pytest.raises(ConfigError):
            Perplexity(**settings)
