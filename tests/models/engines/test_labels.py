"""Label scores of every engine are those of the completions, whichever way is the fast one.

Golden values are brute force: the torch engine's exact scores of token ids, one label at a time.
"""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import DataError, EngineError
from corral.data.messages import Conversation
from corral.models.engines.labels import LabelEngine, label_logprobs, label_logprobs_each
from corral.models.engines.openai import OpenAIEngine
from corral.models.engines.scripted import ScriptedEngine
from corral.models.engines.torch import TorchEngine

PROMPTS = [Conversation.user("tell the hills"), "hello hello", Conversation.user("tell the hill, he")]
LABELS = ["he", "hello", "t", "hell, no"]


@pytest.fixture
def engine(make_llama, chat, tokenizer):
    return TorchEngine(make_llama(vocab_size=len(tokenizer), end=tokenizer.eos_token_id), chat)


def exact(engine, prompts, labels, prefixes):
    rows = []
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        ids = engine.chat.encode_prompt(prompt) + engine.chat.encode_text(prefix)
        pairs = [(ids, engine.chat.encode_text(label)) for label in labels]
        rows.append(tuple(score.total for score in engine.token_logprobs(pairs)))
    return rows


def close(ours, expected, tolerance=1e-4):
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=tolerance)


@pytest.mark.parametrize("prefixes", [None, ["", "he", "hello, "]])
def test_the_packed_pass_gives_the_scores_of_completions(engine, prefixes):
    expected = exact(engine, PROMPTS, LABELS, prefixes or [""] * 3)
    close(label_logprobs(engine, PROMPTS, LABELS, answer_prefixes=prefixes), expected)
    assert engine._scorer() is not None


def test_a_model_that_is_no_plain_llama_takes_the_exact_way(engine):
    engine.model.model.layers[0].register_forward_hook(lambda _module, _args, output: output * 0.5)
    assert engine._scorer() is None
    close(engine.label_logprobs(PROMPTS, LABELS), exact(engine, PROMPTS, LABELS, [""] * 3))


def test_weights_that_change_between_calls_are_used(engine):
    before = engine.label_logprobs(PROMPTS, LABELS)
    with torch.no_grad():
        engine.model.model.layers[1].mlp.up_proj.weight.mul_(-1)
    after = engine.label_logprobs(PROMPTS, LABELS)
    close(after, exact(engine, PROMPTS, LABELS, [""] * 3))
    assert after[0] != pytest.approx(before[0], abs=1e-4)


def test_small_batches_change_no_score(engine, chat):
    small = TorchEngine(engine.model, chat, max_batch_tokens=8)
    close(small.label_logprobs(PROMPTS, LABELS), engine.label_logprobs(PROMPTS, LABELS), 1e-5)


def test_what_does_not_fit_the_context_is_named_by_its_index(engine):
    with pytest.raises(DataError, match="context of 160") as error:
        engine.label_logprobs(["he", "t" * 200], ["he"])
    assert error.value.where == "prompts[1]"
    with pytest.raises(DataError, match="no tokens") as error:
        engine.label_logprobs(["he"], ["he", ""])
    assert error.value.where == "labels[1]"


def test_both_engines_that_read_models_score_labels_themselves(engine):
    assert isinstance(engine, LabelEngine)
    with OpenAIEngine("http://127.0.0.1:1/v1", "m") as remote:
        assert isinstance(remote, LabelEngine)


def test_other_engines_score_completions():
    engine = ScriptedEngine(lambda _: "", logprob=lambda _, completion: -float(len(completion)))
    assert label_logprobs(engine, ["p", "q"], ["a", "bcd"]) == [(-1.0, -3.0)] * 2
    # The prefix is given: its own probability is not the label's.
    assert label_logprobs(engine, ["p"], ["a", "bcd"], answer_prefixes=["xy"]) == [(-1.0, -3.0)]


def test_an_engine_that_tells_errors_apart_is_asked_to():
    class Apart(ScriptedEngine):
        def label_logprobs_each(self, prompts, labels, *, answer_prefixes=None):
            return [EngineError("refused") if prompt == "bad" else (-1.0,) * len(labels) for prompt in prompts]

    engine = Apart(lambda _: "", logprob=lambda _prompt, _text: -2.0)
    good, bad = label_logprobs_each(engine, ["good", "bad"], ["a"])
    assert good == (-1.0,)
    assert isinstance(bad, EngineError)
    plain = ScriptedEngine(lambda _: "", logprob=lambda _prompt, _text: -2.0)
    assert label_logprobs_each(plain, ["good", "bad"], ["a"]) == [(-2.0,), (-2.0,)]
