"""Models load from folders and GGUF files; pickles do not, and code never runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from corral.core.errors import DataError, NotFoundError, UserError
from corral.models.loading import (
    load_backbone,
    load_causal_lm,
    load_fast_tokenizer,
    load_inference_decoder,
    load_sequence_classifier,
    load_tokenizer,
    weights_revision,
)

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def folder(llama, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_folder_gives_back_the_model(folder, llama):
    loaded = load_causal_lm(folder)
    assert not loaded.training
    assert torch.equal(loaded(IDS).logits, llama(IDS).logits)


def test_lower_layers_are_the_hidden_state_before_the_next_layer(folder, llama):
    hidden = llama(IDS, output_hidden_states=True).hidden_states
    for layers in (1, 2):
        backbone = load_backbone(folder, layers=layers)
        torch.testing.assert_close(backbone(IDS).last_hidden_state, hidden[layers])


def test_the_final_norm_is_dropped_unless_asked_for(folder, llama):
    normed = load_backbone(folder, final_norm=True)(IDS).last_hidden_state
    torch.testing.assert_close(normed, llama.model(IDS).last_hidden_state)
    torch.testing.assert_close(llama.model.norm(load_backbone(folder)(IDS).last_hidden_state), normed)


def test_dtype_and_layers_are_taken(folder):
    model = load_causal_lm(folder, dtype=torch.bfloat16, layers=1)
    assert model.dtype == torch.bfloat16
    assert len(model.model.layers) == 1
    with pytest.raises(DataError, match="the model has 3"):
        load_causal_lm(folder, layers=4)


def test_loading_says_nothing_and_leaves_the_librarys_logging_as_it_was(folder, capfd):
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_causal_lm(folder, layers=1)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_gguf_file_loads(gguf_file):
    path, written = gguf_file
    torch.testing.assert_close(load_causal_lm(path)(IDS).logits, written(IDS).logits, atol=1e-4, rtol=1e-4)
    assert len(load_causal_lm(path, layers=1).model.layers) == 1
    assert load_fast_tokenizer(path).token_to_id("<|im_end|>") == load_tokenizer(path).eos_token_id


def test_a_sequence_classifier_loads_with_its_head(llama, tmp_path):
    config = type(llama.config).from_dict(llama.config.to_dict() | {"num_labels": 12})
    written = LlamaForSequenceClassification(config)
    written.save_pretrained(tmp_path)
    assert torch.equal(load_sequence_classifier(tmp_path).score.weight, written.score.weight)
    with pytest.raises(UserError, match="no classification head"):
        load_sequence_classifier("embedded:smollm2-135m-instruct")


def test_pickled_weights_are_refused(folder, llama, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(NotFoundError, match="pickled weights are refused"):
        load_causal_lm(tmp_path)


def test_a_repositorys_code_is_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    with pytest.raises(NotFoundError):
        load_causal_lm(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(NotFoundError):
        load_causal_lm(tmp_path)
    with pytest.raises(NotFoundError, match=r"no tokenizer\.json"):
        load_fast_tokenizer(tmp_path)
    with pytest.raises(NotFoundError, match="no safetensors"):
        weights_revision(tmp_path)


def test_damaged_files_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    for load in (load_causal_lm, load_tokenizer, load_fast_tokenizer):
        with pytest.raises(NotFoundError, match="could not be loaded"):
            load(tmp_path)
    with pytest.raises(DataError, match="not the weights of this model"):
        load_inference_decoder(tmp_path)


def test_weights_that_are_missing_or_of_other_shapes_are_not_made_up(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    dropped = state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    for load in (load_causal_lm, load_backbone):
        with pytest.raises(DataError, match=r"no `(model\.)?layers\.1\.mlp\.up_proj\.weight` \(1 weights"):
            load(tmp_path)
    assert load_causal_lm(tmp_path, layers=1)  # the gap is above
    state["model.layers.1.mlp.up_proj.weight"] = dropped[:-1].clone()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="do not have the shapes"):
        load_causal_lm(tmp_path)


def test_a_head_that_is_tied_to_the_embeddings_is_not_missing(llama, tokenizer, tmp_path):
    config = type(llama.config).from_dict(llama.config.to_dict() | {"tie_word_embeddings": True})
    type(llama)(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_causal_lm(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_a_hub_model_that_cannot_be_reached_says_what_to_do():
    with pytest.raises(NotFoundError, match="Check the id, the network, and access"):
        load_causal_lm("no-such-owner/no-such-model")


def test_the_fast_tokenizer_neither_truncates_nor_pads(folder, tmp_path):
    tokenizer = load_fast_tokenizer(folder)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_fast_tokenizer(tmp_path)
    assert len(loaded.encode("a long text").ids) > 5
    assert len(loaded.encode("x", add_special_tokens=False).ids) == 1


def test_the_tokenizer_keeps_its_chat_template(folder, tokenizer):
    assert load_tokenizer(folder).chat_template == tokenizer.chat_template


def test_the_revision_changes_with_the_weights_only(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "README.md").write_text("a card")
    assert weights_revision(tmp_path) == weights_revision(folder)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    assert weights_revision(tmp_path) != weights_revision(folder)


def test_the_inference_decoder_needs_a_folder_or_an_embedded_model(gguf_file):
    with pytest.raises(UserError, match="load_backbone"):
        load_inference_decoder(gguf_file[0])


def test_the_light_path_does_not_import_transformers(folder):
    program = (
        "import sys; from corral.models.loading import load_fast_tokenizer, load_inference_decoder;"
        f"load_fast_tokenizer({str(folder)!r}); load_inference_decoder({str(folder)!r});"
        "assert 'transformers' not in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
