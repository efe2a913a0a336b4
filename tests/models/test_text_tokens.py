"""The two ways from text to token ids agree, on a tiny vocabulary and on the packaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.models.embedded import PIECES_FILE, tokenizer_directory
from corral.models.loading import load_fast_tokenizer, load_text_tokens
from corral.models.packed_bert import PackedBert, text_normalizer
from corral.models.text_tokens import FastTokens, PieceTokens

E5 = "embedded:multilingual-e5-small"
TEXTS = (
    "",
    " ",
    "   two   spaces   ",
    "\u200fمن هو كاتب القصيدة؟",
    "<s> text that spells </s> control tokens <unk> and <pad>",
    "Ｆｕｌｌ ｗｉｄｔｈ and ﬁne ligatures",
    "你好，世界",
    "a\tb\nc\x0bd\x00e",
    "👩‍👩‍👧 family",
    "\u2581 a piece's own mark \u2581\u2581",
    "a long one " * 800,
)


@pytest.fixture(scope="module")
def both() -> tuple[FastTokens, PieceTokens]:
    pieces = load_text_tokens(E5)
    assert isinstance(pieces, PieceTokens)
    return FastTokens(load_fast_tokenizer(E5)), pieces


def test_they_agree_on_odd_texts_one_by_one_and_together(both: tuple[FastTokens, PieceTokens]) -> None:
    fast, pieces = both
    together = fast.encode_batch(TEXTS)
    assert pieces.encode_batch(TEXTS) == together
    assert [pieces.encode_batch([text])[0] for text in TEXTS] == together
    assert pieces.encode_batch([]) == []


@given(text=st.text(max_size=60) | st.text("xyz01 .", max_size=60))
def test_they_agree_on_any_text_or_cut_it_equally_well(both: tuple[FastTokens, PieceTokens], text: str) -> None:
    (one,), (other,) = (tokens.encode_batch([text]) for tokens in both)
    if one != other:  # two ways to cut it are as likely as each other
        score = both[1]._pieces.GetScore
        assert sum(map(score, one)) == pytest.approx(sum(map(score, other)), abs=1e-3)


def test_control_tokens_are_known_and_other_words_are_not(both: tuple[FastTokens, PieceTokens]) -> None:
    for tokens in both:
        assert [tokens.token_to_id(name) for name in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
        assert tokens.token_to_id("no such piece") is None


def test_they_agree_on_a_tiny_vocabulary(packed_bert_file: Path, tmp_path: Path) -> None:
    packed = PackedBert(packed_bert_file)
    file = tmp_path / "pieces"
    file.write_bytes(packed.sentence_pieces())
    texts = ["hello", "  hello  there ", "zzz ñ", ""]
    assert PieceTokens(file, text_normalizer()).encode_batch(texts) == FastTokens(packed.tokenizer()).encode_batch(
        texts
    )


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "pieces").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="not a readable sentencepiece file"):
        PieceTokens(tmp_path / "pieces", text_normalizer())


def test_the_pieces_are_beside_the_tokenizer() -> None:
    assert (tokenizer_directory(E5) / PIECES_FILE).is_file()
