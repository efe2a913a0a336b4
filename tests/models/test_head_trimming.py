"""A trimmed head gives the kept tokens' logits of the full head, and survives its trip through a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from corral.core.errors import DataError
from corral.core.files import atomic_write_json, read_json
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.llama_guard.trimming import verdict_token_ids
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import GenerationSettings
from corral.models.engines.torch import TorchEngine
from corral.models.head_trimming import HEAD_TOKENS, TrimmedHead, save_trimmed, trim_head
from corral.models.loading import load_causal_lm, load_tokenizer, weights_revision
from corral.models.tiny import write_tiny_llama

KEPT = [5, 3, 97, 3]
IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny")


@pytest.fixture
def chat(folder: Path) -> ChatTokenizer:
    return ChatTokenizer(load_tokenizer(folder))


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def test_kept_tokens_have_the_logits_of_the_full_head_and_all_others_the_lowest_number(folder: Path) -> None:
    full = logits(load_causal_lm(folder))
    trimmed = logits(trim_head(load_causal_lm(folder), KEPT))
    kept = [3, 5, 97]
    torch.testing.assert_close(trimmed[..., kept], full[..., kept], atol=1e-5, rtol=0)
    others = [i for i in range(full.shape[-1]) if i not in kept]
    assert (trimmed[..., others] == torch.finfo(torch.float32).min).all()


def test_a_trimmed_model_comes_back_from_its_directory_bit_for_bit(
    folder: Path, chat: ChatTokenizer, tmp_path: Path
) -> None:
    model = trim_head(load_causal_lm(folder), KEPT)
    saved = save_trimmed(model, chat, tmp_path / "trimmed")
    again = load_causal_lm(saved)
    assert isinstance(again.get_output_embeddings(), TrimmedHead)
    assert again.get_output_embeddings().weight.shape[0] == 3
    torch.testing.assert_close(logits(again), logits(model), atol=0, rtol=0)


def test_the_revision_covers_which_tokens_were_kept(folder: Path, chat: ChatTokenizer, tmp_path: Path) -> None:
    saved = save_trimmed(trim_head(load_causal_lm(folder), KEPT), chat, tmp_path / "trimmed")
    before = weights_revision(saved)
    listed = read_json(saved / HEAD_TOKENS)
    atomic_write_json(saved / HEAD_TOKENS, listed | {"token_ids": [4, 5, 97]})
    assert weights_revision(saved) != before


@pytest.mark.parametrize("ids", [[3, 5], [3, 5, 10**6], "all"])
def test_a_list_that_does_not_fit_the_weights_is_refused(
    folder: Path, chat: ChatTokenizer, tmp_path: Path, ids: object
) -> None:
    saved = save_trimmed(trim_head(load_causal_lm(folder), KEPT), chat, tmp_path / "trimmed")
    atomic_write_json(saved / HEAD_TOKENS, read_json(saved / HEAD_TOKENS) | {"token_ids": ids})
    with pytest.raises(DataError, match="do not fit"):
        load_causal_lm(saved)


@pytest.mark.parametrize("ids", [[], [-1], [10**6]])
def test_tokens_outside_the_vocabulary_are_refused(folder: Path, ids: list[int]) -> None:
    with pytest.raises(DataError, match="expected tokens between"):
        trim_head(load_causal_lm(folder), ids)


def test_a_whole_head_is_not_saved_as_a_trimmed_one(folder: Path, chat: ChatTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="whole"):
        save_trimmed(load_causal_lm(folder), chat, tmp_path / "trimmed")


def test_the_odds_of_two_kept_tokens_are_those_of_the_full_head(folder: Path) -> None:
    full = logits(load_causal_lm(folder)).log_softmax(-1)
    trimmed = logits(trim_head(load_causal_lm(folder), KEPT)).log_softmax(-1)
    torch.testing.assert_close(trimmed[..., 3] - trimmed[..., 5], full[..., 3] - full[..., 5], atol=1e-5, rtol=0)


def test_a_head_trimmed_to_verdicts_writes_nothing_but_their_characters(folder: Path, chat: ChatTokenizer) -> None:
    kept = verdict_token_ids(chat, PolicyPrompt.of("3", {"Fire": "", "Water": ""}))
    engine = TorchEngine(trim_head(load_causal_lm(folder), kept), chat)
    text = engine.generate(["Say:"], GenerationSettings(max_new_tokens=12))[0].text
    assert set(text) <= set("unsafeS12,\n")
