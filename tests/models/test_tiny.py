"""The tiny random model that recipes and tests run on."""

from __future__ import annotations

from pathlib import Path

from corral.models.loading import load_tokenizer
from corral.models.tiny import write_tiny_llama

TEXTS = ("Where is the lamp of the harbour?", "Tell me about the lamp.")


def test_words_of_given_texts_are_tokens_and_other_text_still_has_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tiny_llama(tmp_path / "words", words_of=TEXTS))
    assert len(tokenizer.encode(TEXTS[0], add_special_tokens=False)) == 8  # seven words and the mark
    odd = "zq\u00e9\U0001f600"
    assert tokenizer.decode(tokenizer.encode(odd, add_special_tokens=False)) == odd


def test_without_texts_every_byte_is_a_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tiny_llama(tmp_path / "bytes"))
    assert len(tokenizer.encode(TEXTS[0], add_special_tokens=False)) == len(TEXTS[0])


def test_the_same_seed_and_texts_write_the_same_files(tmp_path: Path) -> None:
    first, second = (write_tiny_llama(tmp_path / name, words_of=TEXTS) for name in "ab")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
